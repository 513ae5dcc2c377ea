//! What is particular to etcd: several endpoints, TLS, users.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use margay_datastore::raw::{Cursor, Datastore, Prefix, Watch};
use margay_datastore::{Backend, Error, EtcdConfig, Revision, StoreConfig};

use crate::setup::{EtcdServer, PATIENCE, etcd_trial, etcd_trial_with, eventually, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("etcd::nobody_listening_is_unavailable_at_once", nobody_listening_is_unavailable_at_once),
        trial("etcd::silence_is_bounded_by_the_timeout", silence_is_bounded_by_the_timeout),
        trial("etcd::bad_settings_are_refused", bad_settings_are_refused),
        etcd_trial("etcd::other_endpoints_stand_in", other_endpoints_stand_in),
        etcd_trial("etcd::a_restart_ends_watches_and_resuming_loses_nothing", a_restart_ends_watches),
        etcd_trial("etcd::another_cluster_ends_old_positions", another_cluster_ends_old_positions),
        etcd_trial("etcd::a_full_disk_quota_is_reported", a_full_disk_quota_is_reported),
        etcd_trial("etcd::users_need_their_password", users_need_their_password),
        etcd_trial("etcd::a_watch_logs_in_again_when_its_token_is_gone", a_watch_logs_in_again),
        etcd_trial("etcd::three_members_lose_one_and_no_write", three_members_lose_one_and_no_write),
        etcd_trial_with(&["openssl"], "etcd::tls_with_client_certificates", tls_with_client_certificates),
    ]
}

async fn connect(config: &EtcdConfig) -> Result<Backend, Error> {
    Backend::connect(&StoreConfig::Etcd(config.clone())).await
}

/// An endpoint where nobody listens.
fn closed() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{port}")
}

async fn nobody_listening_is_unavailable_at_once() {
    let config = EtcdConfig::new([closed(), closed()]);
    let store = connect(&config).await.unwrap();
    let start = Instant::now();
    for error in [
        store.get("/t/a").await.unwrap_err(),
        store.create("/t/a", Vec::new()).await.unwrap_err(),
        store.list(&[Prefix::new("/t")]).await.unwrap_err(),
        store.watch(Cursor::at([Prefix::new("/t")], Revision(0))).await.unwrap_err(),
    ] {
        // Not "uncertain", for the write either: it was never sent.
        assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("refused")), "{error}");
        assert!(config.endpoints.iter().all(|e| error.to_string().contains(e)), "{error}");
        assert!(error.is_retryable());
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

async fn silence_is_bounded_by_the_timeout() {
    // Accepts connections (the kernel does) and never says a word; and an address that nobody has.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    for (endpoint, write_was_sent) in [(silent.0.as_str(), true), ("http://192.0.2.1:2379", false)] {
        let mut config = EtcdConfig::new([endpoint]);
        config.timeout_ms = 500;
        let store = connect(&config).await.unwrap();
        let start = Instant::now();
        let read = store.get("/t/a").await.unwrap_err();
        assert!(matches!(read, Error::Unavailable(_)), "{read}");
        let watch = store.watch(Cursor::at([Prefix::new("/t")], Revision(0))).await.unwrap_err();
        assert!(matches!(watch, Error::Unavailable(_)), "{watch}");
        let write = store.create("/t/a", Vec::new()).await.unwrap_err();
        assert_eq!(matches!(write, Error::Uncertain(_)), write_was_sent, "{endpoint}: {write}");
        assert!(write.is_retryable());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

async fn bad_settings_are_refused() {
    let good = EtcdConfig::new(["http://127.0.0.1:2379"]);
    let some = |text: &str| Some(text.to_owned());
    let cases = [
        (EtcdConfig { endpoints: Vec::new(), ..good.clone() }, "at least one endpoint"),
        (EtcdConfig::new(["127.0.0.1:2379"]), "http://"),
        (EtcdConfig::new(["https://127.0.0.1:2379"]), "caFile"),
        (EtcdConfig::new(["http://127.0.0.1:1", "https://127.0.0.1:2"]), "partly"),
        (EtcdConfig { username: some("u"), ..good.clone() }, "password"),
        (EtcdConfig { timeout_ms: 0, ..good.clone() }, "timeoutMs"),
        (
            EtcdConfig {
                ca_file: Some("/nowhere/ca.pem".into()),
                ..EtcdConfig::new(["https://127.0.0.1:2379"])
            },
            "/nowhere/ca.pem",
        ),
        (EtcdConfig { key_file: Some("/k".into()), ..good }, "certFile"),
    ];
    for (config, says) in cases {
        let error = connect(&config).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(reason) if reason.contains(says)), "{says}: {error}");
    }
}

async fn other_endpoints_stand_in() {
    let server = EtcdServer::started();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut config = EtcdConfig::new([closed(), silent_endpoint, server.endpoint.clone()]);
    config.timeout_ms = 3000;
    let store = connect(&config).await.unwrap();
    // A read may be sent again, so it finds the one that works; from then on that one is asked first.
    let from = eventually("a working endpoint is found", || async { store.revision().await.ok() }).await;
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], from)).await.unwrap();
    let start = Instant::now();
    for i in 0..10 {
        store.create(&format!("/t/{i}"), Vec::new()).await.unwrap();
    }
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "the silent endpoint is asked again: {:?}",
        start.elapsed()
    );
    assert_eq!(watch.next().await.unwrap()[0].key, "/t/0");
}

async fn a_restart_ends_watches() {
    let mut server = EtcdServer::started();
    let store = Backend::connect(&server.config()).await.unwrap();
    let from = eventually("etcd is up", || async { store.revision().await.ok() }).await;
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], from)).await.unwrap();
    store.create("/t/before", Vec::new()).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].key, "/t/before");
    server.stop();
    let ended =
        tokio::time::timeout(PATIENCE / 3, watch.next()).await.expect("the watch must end").unwrap_err();
    assert!(matches!(ended, Error::Unavailable(_)), "{ended}");
    let down = store.create("/t/down", Vec::new()).await.unwrap_err();
    assert!(down.is_retryable(), "{down}");
    assert!(server.start());
    eventually("etcd is back", || async { store.revision().await.ok() }).await;
    let created = store.create("/t/after", Vec::new()).await.unwrap();
    let mut resumed = store.watch(watch.cursor()).await.unwrap();
    let changes = resumed.next().await.unwrap();
    assert_eq!((changes[0].key.as_str(), changes[0].revision), ("/t/after", created));
}

async fn another_cluster_ends_old_positions() {
    let mut server = EtcdServer::started();
    let store = Backend::connect(&server.config()).await.unwrap();
    eventually("etcd is up", || async { store.revision().await.ok() }).await;
    for i in 0..20 {
        store.create(&format!("/t/{i}"), Vec::new()).await.unwrap();
    }
    let position = store.list(&[Prefix::new("/t")]).await.unwrap().cursor;
    server.stop();
    std::fs::remove_dir_all(server.folder.path().join("data")).unwrap();
    assert!(server.start());
    eventually("etcd is back", || async { store.revision().await.ok() }).await;
    let ended = store.watch(position).await.unwrap_err();
    assert!(matches!(ended, Error::Compacted(_)), "{ended}");
    assert_eq!(store.list(&[Prefix::new("/t")]).await.unwrap().entries, []);
}

async fn a_full_disk_quota_is_reported() {
    // The quota is held against what was committed to disk: by default up to 100 ms and 10,000 writes behind.
    let quota = ["--quota-backend-bytes", "4000000", "--backend-batch-limit", "1"];
    let mut server = EtcdServer::stopped().with(&quota, false);
    assert!(server.start());
    let store = Backend::connect(&server.config()).await.unwrap();
    eventually("etcd is up", || async { store.revision().await.ok() }).await;
    let mut written = 0;
    let full = loop {
        match store.create(&format!("/t/{written}"), vec![b'x'; 500_000]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 30, "the quota never ends");
    };
    assert!(matches!(&full, Error::Unavailable(reason) if reason.contains("space")), "{full}");
    assert_eq!(store.list(&[Prefix::new("/t")]).await.unwrap().entries.len(), written);
}

/// Turns on etcd's users: `margay` with password `secret2` may use `/t/`. Returns a client without a user.
async fn enable_users(server: &EtcdServer) -> Backend {
    let open = Backend::connect(&server.config()).await.unwrap();
    eventually("etcd is up", || async { open.revision().await.ok() }).await;
    let mut admin = etcd_client::Client::connect([&server.endpoint], None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.role_add("root").await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.user_add("margay", "secret2", None).await.unwrap();
    admin.role_add("margay").await.unwrap();
    let allowed = etcd_client::Permission::read_write("/t/").with_prefix();
    admin.role_grant_permission("margay", allowed).await.unwrap();
    admin.user_grant_role("margay", "margay").await.unwrap();
    admin.auth_enable().await.unwrap();
    open
}

fn as_user(server: &EtcdServer, password: &str) -> EtcdConfig {
    let mut config = EtcdConfig::new([server.endpoint.clone()]);
    (config.username, config.password) = (Some("margay".to_owned()), Some(password.to_owned()));
    config
}

async fn users_need_their_password() {
    let server = EtcdServer::started();
    let open = enable_users(&server).await;
    let nobody = open.get("/t/a").await.unwrap_err();
    assert!(matches!(nobody, Error::Denied(_)), "{nobody}");
    let wrong = connect(&as_user(&server, "wrong")).await.unwrap().get("/t/a").await.unwrap_err();
    assert!(matches!(wrong, Error::Denied(_)), "{wrong}");
    let store = connect(&as_user(&server, "secret2")).await.unwrap();
    let at = store.create("/t/a", Vec::new()).await.unwrap();
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], at)).await.unwrap();
    store.update("/t/a", b"2".to_vec(), at).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].value.as_deref(), Some(&b"2"[..]));
    let elsewhere = store.create("/other/a", Vec::new()).await.unwrap_err();
    assert!(matches!(elsewhere, Error::Denied(_)), "{elsewhere}");
    let elsewhere = store.watch(Cursor::at([Prefix::new("/other")], at)).await.unwrap_err();
    assert!(matches!(elsewhere, Error::Denied(_)), "{elsewhere}");
}

async fn a_watch_logs_in_again() {
    let mut server = EtcdServer::stopped().with(&["--auth-token-ttl", "1"], false);
    assert!(server.start());
    enable_users(&server).await;
    let store = connect(&as_user(&server, "secret2")).await.unwrap();
    let at = store.create("/t/a", Vec::new()).await.unwrap();
    // The token ends by not being used for its time, so there is nothing to poll.
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Only watches from here on, no other request that would log in.
    let resume = || async { store.watch(Cursor::at([Prefix::new("/t")], at)).await.ok() };
    let mut watch = eventually("a watch is accepted again", resume).await;
    store.update("/t/a", b"2".to_vec(), at).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].value.as_deref(), Some(&b"2"[..]));
}

/// Three members that know each other.
fn cluster() -> Vec<EtcdServer> {
    let members: Vec<_> = (0..3).map(|_| EtcdServer::stopped()).collect();
    let peers: Vec<_> = members.iter().enumerate().map(|(i, m)| format!("m{i}={}", m.peer)).collect();
    let peers = peers.join(",");
    let mut started = Vec::new();
    for (i, member) in members.into_iter().enumerate() {
        let mut member = member.with(&["--name", &format!("m{i}"), "--initial-cluster", &peers], false);
        assert!(member.start());
        started.push(member);
    }
    started
}

/// Which member leads.
async fn leader(members: &[EtcdServer]) -> usize {
    for (i, member) in members.iter().enumerate() {
        let mut client = etcd_client::Client::connect([&member.endpoint], None).await.unwrap();
        let status = client.status().await.unwrap();
        if status.header().unwrap().member_id() == status.leader() {
            return i;
        }
    }
    panic!("no leader");
}

/// Follows from `from`, resuming after losses, until `count` changes came.
async fn follow(store: Backend, from: Cursor, count: u64) -> Vec<u64> {
    let (mut cursor, mut seen) = (from, Vec::new());
    while (seen.len() as u64) < count {
        let Ok(mut watch) = store.watch(cursor.clone()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while (seen.len() as u64) < count
            && let Ok(changes) = watch.next().await
        {
            seen.extend(changes.into_iter().map(|change| change.revision.0));
            cursor = watch.cursor();
        }
    }
    seen
}

async fn three_members_lose_one_and_no_write() {
    const WRITES: usize = 150;
    let mut members = cluster();
    let config = EtcdConfig::new(members.iter().map(|m| m.endpoint.clone()));
    let store = connect(&config).await.unwrap();
    let from = eventually("the cluster is up", || async { store.revision().await.ok() }).await;
    let first = leader(&members).await;
    let mut acknowledged = std::collections::BTreeMap::new();
    for i in 0..WRITES {
        if i == WRITES / 2 {
            members[first].stop();
        }
        // One that was lost is written again under the same name: whoever comes second finds it there.
        loop {
            match store.create(&format!("/t/{i}"), Vec::new()).await {
                Ok(revision) => {
                    acknowledged.insert(revision.0, i);
                    break;
                }
                Err(Error::AlreadyExists { .. }) => break,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    }
    assert!(acknowledged.len() >= WRITES - 1, "only the write in flight may be uncertain");
    let listing = store.list(&[Prefix::new("/t")]).await.unwrap();
    assert_eq!(listing.entries.len(), WRITES);
    for entry in listing.entries {
        let written = acknowledged.get(&entry.revision.0).is_none_or(|i| entry.key == format!("/t/{i}"));
        assert!(written, "{} at {}", entry.key, entry.revision);
    }
    let seen = follow(store, Cursor::at([Prefix::new("/t")], from), WRITES as u64).await;
    assert_eq!(seen, (from.0 + 1..=from.0 + WRITES as u64).collect::<Vec<_>>());
}

/// An authority and what it signed, made by openssl.
fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let status = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "openssl {arguments}");
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"));
    std::fs::write(
        folder.join("san"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile san"
        ));
    }
    openssl(&format!("req -x509 {new} -keyout other.key -out other.pem -days 2 -subj /CN=other"));
}

async fn tls_with_client_certificates() {
    let server = EtcdServer::stopped();
    let folder = server.folder.path().to_owned();
    certificates(&folder);
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let arguments =
        ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let mut server = server.with(&arguments, true);
    assert!(server.start());

    let mut config = EtcdConfig::new([server.endpoint.clone()]);
    config.ca_file = Some(ca.into());
    config.cert_file = Some(folder.join("client.pem"));
    config.key_file = Some(folder.join("client.key"));
    let store = connect(&config).await.unwrap();
    eventually("etcd answers over TLS", || async { store.revision().await.ok() }).await;
    let at = store.create("/t/a", b"1".to_vec()).await.unwrap();
    let mut watch = store.watch(Cursor::at([Prefix::new("/t")], Revision(at.0 - 1))).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].revision, at);

    // An authority that didn't sign etcd's certificate: refused by us, nothing sent.
    config.ca_file = Some(folder.join("other.pem"));
    let refused = connect(&config).await.unwrap().create("/t/b", Vec::new()).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(reason) if reason.contains("certificate")), "{refused}");
    assert_eq!(store.get("/t/b").await.unwrap(), None);
    // No certificate of our own: refused by etcd.
    let anonymous =
        EtcdConfig { ca_file: Some(file("ca.pem").into()), cert_file: None, key_file: None, ..config };
    assert!(connect(&anonymous).await.unwrap().get("/t/a").await.is_err());
}
