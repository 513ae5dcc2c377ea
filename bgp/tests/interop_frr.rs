//! Sessions with FRR's bgpd on loopback addresses: an external router with a password and several paths.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::{
    Originated, Password, PeerConfig, PeerKind, PeerState, RouteInfo, RouteQuery, SpeakerConfig, Timers,
};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const BGPD: &str = "/usr/lib/frr/bgpd";
const AS: u32 = 64512;
const ROUTER_AS: u32 = 65_001;
const PORT: u16 = 17_579;
const FRR_PORT: u16 = 17_580;
const PATIENCE: Duration = Duration::from_secs(40);

/// Whether FRR is there. Its absence is said aloud, and a failure where everything is required.
fn available() -> bool {
    if std::path::Path::new(BGPD).exists() {
        return true;
    }
    assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "frr is not installed");
    // Not eprintln: the test harness would keep it to itself.
    std::io::stderr().write_all(b"skipped: frr is not installed\n").unwrap();
    false
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 81, 0, last)
}

struct Frr {
    directory: PathBuf,
    child: Child,
}

impl Frr {
    /// Runs at .9.
    fn start(neighbor: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("margay-frr-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (own, peer) = (ip(9), ip(2));
        // Loopback addresses are martians as next hops.
        let config = format!(
            "router bgp {ROUTER_AS}\n bgp allow-martian-nexthop\n bgp router-id {own}\n no bgp ebgp-requires-policy\n \
             no bgp network import-check\n neighbor {peer} remote-as {AS}\n neighbor {peer} port {PORT}\n \
             neighbor {peer} timers connect 1\n neighbor {peer} update-source {own}\n \
             neighbor {peer} disable-connected-check\n neighbor {peer} ebgp-multihop 4\n{neighbor} \
             address-family ipv4 unicast\n  network 10.50.6.0/24\n  neighbor {peer} addpath-tx-all-paths\n \
             exit-address-family\n"
        );
        std::fs::write(directory.join("bgpd.conf"), config).unwrap();
        let log = directory.join("bgpd.log");
        let child = Command::new(BGPD)
            .arg("-f")
            .arg(directory.join("bgpd.conf"))
            .arg("-i")
            .arg(directory.join("bgpd.pid"))
            .args(["-p", &FRR_PORT.to_string(), "-l", &own.to_string(), "-Z", "-S", "-P", "0"])
            .arg("--vty_socket")
            .arg(&directory)
            .arg("--log")
            .arg(format!("file:{}", log.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { directory, child }
    }

    fn ask(&self, question: &str) -> String {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(&self.directory).args(["-d", "bgpd", "-c", question]);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    async fn eventually(&self, question: &str, check: impl Fn(&str) -> bool) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(question);
            if check(&answer) {
                return answer;
            }
            let log = || std::fs::read_to_string(self.directory.join("bgpd.log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < deadline, "{question}: {answer}\n{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

fn spawn() -> BgpHandle {
    let speaker = SpeakerConfig::new(ip(2), AS);
    let listen = vec![SocketAddr::from((ip(2), PORT))];
    let (handle, mut events) = BgpService::spawn(ServiceConfig { speaker, listen }).unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

async fn route(handle: &BgpHandle, prefix: &str, check: impl Fn(&RouteInfo) -> bool) -> RouteInfo {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let query = RouteQuery { prefix: Some(prefix.parse().unwrap()), ..RouteQuery::default() };
        if let Some(found) = handle.routes(query).await.unwrap().into_iter().find(&check) {
            return found;
        }
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "no such route to {prefix}: {:#?}", handle.peers().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn frr_as_external_router_with_a_password_and_without_policy() {
    if !available() {
        return;
    }
    let node = spawn();
    let block = "10.1.2.0/24".parse().unwrap();
    node.set_originated(vec![Originated::new(block, Some(IpAddr::from([10, 99, 0, 2])))]).await.unwrap();
    let strict = PeerConfig {
        port: FRR_PORT,
        local: Some(IpAddr::V4(ip(2))),
        password: Some(Password::new(b"open-sesame").unwrap()),
        add_path_receive: true,
        timers: Timers {
            connect_retry: Duration::from_millis(200),
            connect_retry_max: Duration::from_millis(500),
            ..Timers::default()
        },
        ..PeerConfig::new(ip(9).into(), ROUTER_AS, PeerKind::External)
    };
    node.set_peers(vec![strict.clone()]).await.unwrap();
    let frr = Frr::start(&format!(" neighbor {} password open-sesame\n", ip(2)));
    // RFC 8212: the session is up, the route is there and is not used, and FRR gets nothing.
    let held = route(&node, "10.50.6.0/24", |_| true).await;
    assert!(held.filtered && held.reason.contains("RFC 8212"), "{held:?}");
    assert_eq!(held.as_path, ROUTER_AS.to_string());
    let peers = node.peers().await.unwrap();
    assert_eq!(peers[0].state, PeerState::Established);
    assert!(peers[0].negotiated.as_ref().unwrap().add_path_receive, "{peers:#?}");
    let table = "show bgp ipv4 unicast";
    assert!(!frr.ask(table).contains("10.1.2.0/24"));

    node.set_peers(vec![PeerConfig { policy_required: false, ..strict }]).await.unwrap();
    route(&node, "10.50.6.0/24", |route| !route.filtered).await;
    frr.eventually(table, |answer| answer.contains("10.1.2.0/24")).await;
    assert_eq!(node.peers().await.unwrap()[0].established_count, 1, "a soft change");
    node.drain(true).await.unwrap();
    let question = "show bgp ipv4 unicast 10.1.2.0/24";
    frr.eventually(question, |answer| answer.contains("graceful-shutdown")).await;
    node.set_originated(Vec::new()).await.unwrap();
    frr.eventually(table, |answer| !answer.contains("10.1.2.0/24")).await;
}
