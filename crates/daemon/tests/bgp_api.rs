//! The control API of a real speaker with a large table: streamed, in parts, while the speaker goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use margay_bgp::transport::{BgpService, ServiceConfig};
use margay_bgp::{Originated, PeerConfig, PeerKind, SpeakerConfig};
use margay_control::Client;
use margay_control::bgp::{Change, Explanation, Peer, Route};
use margay_daemon::health::Health;
use margay_daemon::{bgp, metrics};
use tokio::sync::watch;

/// As many as a full table has, by a third.
const ROUTES: u32 = 300_000;

fn originated(count: u32) -> Vec<Originated> {
    let net = |n: u32| format!("{}/24", Ipv4Addr::from_bits(0x0a00_0000 + (n << 8)));
    let route = |n| Originated::new(net(n).parse().unwrap(), Some(IpAddr::from([192, 0, 2, 1])));
    (0..count).map(route).collect()
}

/// Metric names and label values of the exposition format, checked line by line.
fn check_exposition(text: &str) {
    let mut described = std::collections::BTreeSet::new();
    let mut typed = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(described.insert(rest.split(' ').next().unwrap().to_owned()), "HELP twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.split(' ').next().unwrap().to_owned()), "TYPE twice: {line}");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let _: f64 = value.parse().unwrap();
            let name = series.split('{').next().unwrap();
            let family = name.strip_suffix("_total").unwrap_or(name);
            assert!(typed.contains(family) && described.contains(family), "before its TYPE: {line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            let labels = series.strip_prefix(name).unwrap();
            let unescaped = labels.replace("\\\\", "").replace("\\\"", "").replace("\\n", "");
            assert!(!unescaped.contains('\\'), "an escape that is none: {line}");
            assert_eq!(unescaped.matches('"').count() % 2, 0, "{line}");
        }
    }
    assert_eq!(described, typed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_tables_are_streamed_and_watched() {
    let speaker = SpeakerConfig::new(Ipv4Addr::new(127, 79, 0, 1), 64512);
    let (handle, _events) = BgpService::spawn(ServiceConfig { speaker, listen: Vec::new() }).unwrap();
    let mut peer = PeerConfig::new(IpAddr::from([127, 79, 0, 2]), 64512, PeerKind::InternalClient);
    peer.description = "a \"quoted\" \\ name".to_owned();
    handle.set_peers(vec![peer]).await.unwrap();
    handle.set_originated(originated(ROUTES)).await.unwrap();
    let (slot, receiver) = watch::channel(Some(handle.clone()));
    let socket = std::env::temp_dir().join(format!("margay-bgp-api-{}.sock", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let serving = axum::serve(listener, bgp::routes(receiver)).into_future();
    tokio::spawn(async move { serving.await.unwrap() });

    // Others ask meanwhile, and count how long they wait.
    let other = handle.clone();
    let asking = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            if other.peers().await.is_err() {
                return;
            }
            if asked.elapsed() > longest {
                longest = asked.elapsed();
                tracing::info!(?longest, "the speaker was busy");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let client = Client::new(&socket);
    let table = client.clone();
    let (count, first) = tokio::task::spawn_blocking(move || {
        let mut lines = table.lines("/v1/bgp/routes").unwrap();
        let (mut count, mut last) = (0, None);
        while let Some(route) = lines.next_value::<Route>().unwrap() {
            assert!(last.is_none_or(|last| last < route.prefix), "sorted");
            last = Some(route.prefix);
            count += 1;
        }
        let some: Vec<Route> = table.get("/v1/bgp/routes?prefix=10.0.0.0/22&limit=3").unwrap();
        (count, some)
    })
    .await
    .unwrap();
    asking.abort();
    assert_eq!(count, ROUTES);
    assert_eq!(first.len(), 3);

    let removed = IpAddr::from([127, 79, 0, 3]);
    let gone = PeerConfig::new(removed, 64512, PeerKind::InternalClient);
    // Watched: the change comes, and what is asked for before it is complete.
    let watcher = client.clone();
    let (ready, begun) = std::sync::mpsc::channel();
    let watched = tokio::task::spawn_blocking(move || {
        let mut lines = watcher.lines("/v1/bgp/watch").unwrap();
        ready.send(()).unwrap();
        loop {
            if let Some(Change::Route { prefix, paths }) = lines.next_value().unwrap() {
                let removed = loop {
                    if let Some(Change::Removed { peer }) = lines.next_value().unwrap() {
                        break peer;
                    }
                };
                return (prefix.to_string(), paths.len(), removed.to_string());
            }
        }
    });
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
    handle.set_originated(originated(ROUTES - 1)).await.unwrap();
    let last = originated(ROUTES).pop().unwrap().prefix.to_string();
    handle.set_peer(gone).await.unwrap();
    handle.remove_peer(removed).await.unwrap();
    assert_eq!(watched.await.unwrap(), (last, 0, removed.to_string()));

    let asked = client.clone();
    tokio::task::spawn_blocking(move || {
        let peers: Vec<Peer> = asked.get("/v1/bgp/peers?address=127.79.0.2").unwrap();
        assert_eq!(peers[0].name, "a \"quoted\" \\ name");
        let why: Explanation = asked.get("/v1/bgp/explain?prefix=10.0.7.9").unwrap();
        assert_eq!(why.prefix.to_string(), "10.0.7.0/24");
        assert!(!why.advertised[0].sent && why.advertised[0].reason.contains("the session is"), "{why:?}");
        for wrong in
            ["routes?family=ipx", "routes?prefix=x", "routes?peer=192.0.2.9", "peers?address=192.0.2.9"]
        {
            assert!(asked.get::<Vec<Route>>(&format!("/v1/bgp/{wrong}")).is_err(), "{wrong}");
        }
        let mut table = Vec::new();
        assert!(asked.download("/v1/bgp/dump", &mut table).unwrap() > u64::from(ROUTES) * 30);
    })
    .await
    .unwrap();

    let health = Health::new("test", "n1", &["bgp"]);
    let text = metrics::text(&health, Some(handle.clone()), true).await;
    check_exposition(&text);
    assert!(text.contains(&format!("margay_bgp_rib_prefixes {}\n", ROUTES - 1)), "{text}");
    assert!(text.contains("margay_bgp_peer_up{peer=\"127.79.0.2\"} 0\n"), "{text}");
    let sent = "margay_bgp_peer_messages_sent_total{peer=\"127.79.0.2\",type=\"notification\"} 0\n";
    assert!(text.contains(sent), "{text}");
    let sums = metrics::text(&health, Some(handle), false).await;
    check_exposition(&sums);
    assert!(!sums.contains("127.79.0.2") && sums.contains("margay_bgp_peers 1\n"), "{sums}");
    drop(slot);
    std::fs::remove_file(&socket).unwrap();
}
