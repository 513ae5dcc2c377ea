//! A real BIRD on loopback addresses, for what the matrix (package margay-tests, `interop`) does not ask: GTSM, peers
//! from a range, several paths of one speaker.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::{
    Originated, Password, PeerConfig, PeerKind, PeerRange, RouteInfo, RouteQuery, SpeakerConfig, Timers,
};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const AS: u32 = 64512;
const PORT: u16 = 17_279;
const BIRD_PORT: u16 = 17_280;
/// What may take a restarted BIRD's timers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether BIRD is there. Its absence is said aloud, and a failure where everything is required.
fn available() -> bool {
    let found = Command::new("bird").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "bird is not installed");
    // Not eprintln: the test harness would keep it to itself.
    std::io::stderr().write_all(b"skipped: bird is not installed\n").unwrap();
    false
}

/// 127.78.net.last: every test has a net of its own.
fn ip(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 78, net, last)
}

struct Bird {
    directory: PathBuf,
    child: Child,
}

impl Bird {
    /// Runs at .9 of the net, with these protocol blocks.
    fn start(net: u8, protocols: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("margay-bird-{}-{net}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let own = ip(net, 9);
        let config = format!(
            "router id {own};\nlog \"{log}\" all;\nprotocol device {{}}\n\
             protocol static origin4 {{ ipv4; route 10.50.{net}.0/24 blackhole; }}\n\
             protocol static origin6 {{ ipv6; route fd00:50:{net}::/64 blackhole; }}\n\
             template bgp peer {{\n local {own} port {BIRD_PORT} as {AS};\n strict bind yes;\n multihop;\n\
             graceful restart on;\n connect delay time 1;\n connect retry time 1;\n error wait time 1,2;\n\
             ipv4 {{ import all; export all; }};\n\
             ipv6 {{ import all; export filter {{ bgp_next_hop = fd00::9; accept; }}; }};\n}}\n{protocols}\n",
            log = directory.join("bird.log").display(),
        );
        std::fs::write(directory.join("bird.conf"), config).unwrap();
        let child = Self::run(&directory);
        Self { directory, child }
    }

    fn run(directory: &Path) -> Child {
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(directory.join("bird.conf"));
        command.arg("-s").arg(directory.join("bird.ctl"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn ask(&self, question: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.directory.join("bird.ctl"))
            .arg(question)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("bird.log")).unwrap_or_default()
    }

    async fn eventually(&self, question: &str, check: impl Fn(&str) -> bool) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(question);
            if check(&answer) {
                return answer;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{question}: {answer}\n{}\n{}", self.ask("show protocols all"), self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

fn spawn(net: u8, last: u8) -> BgpHandle {
    let speaker = SpeakerConfig::new(ip(net, last), AS);
    let listen = vec![SocketAddr::from((ip(net, last), PORT))];
    let (handle, mut events) = BgpService::spawn(ServiceConfig { speaker, listen }).unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

fn peer(net: u8, own: u8, remote: u8, kind: PeerKind) -> PeerConfig {
    PeerConfig {
        port: if remote == 9 { BIRD_PORT } else { PORT },
        local: Some(IpAddr::V4(ip(net, own))),
        timers: Timers {
            connect_retry: Duration::from_millis(200),
            connect_retry_max: Duration::from_millis(500),
            error_wait: Duration::from_millis(200),
            error_wait_max: Duration::from_millis(500),
            ..Timers::default()
        },
        ..PeerConfig::new(IpAddr::V4(ip(net, remote)), AS, kind)
    }
}

fn own_routes(last: u8) -> Vec<Originated> {
    vec![
        Originated::new(format!("10.1.{last}.0/24").parse().unwrap(), Some(IpAddr::from([10, 99, 0, last]))),
        Originated::new(
            format!("fd00:1:{last}::/64").parse().unwrap(),
            Some(format!("fd00::{last}").parse().unwrap()),
        ),
    ]
}

async fn route(handle: &BgpHandle, prefix: &str, check: impl Fn(&RouteInfo) -> bool) -> RouteInfo {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let query = RouteQuery { prefix: Some(prefix.parse().unwrap()), best: true, ..RouteQuery::default() };
        if let Some(found) = handle.routes(query).await.unwrap().into_iter().next().filter(&check) {
            return found;
        }
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "no such route to {prefix}: {:#?}", handle.peers().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn bird_with_a_password_and_ttl_security() {
    if !available() {
        return;
    }
    let net = 4;
    let node = spawn(net, 2);
    node.set_originated(own_routes(2)).await.unwrap();
    let config = PeerConfig {
        password: Some(Password::new(b"open sesame").unwrap()),
        ttl_security: Some(2),
        ..peer(net, 2, 9, PeerKind::Internal)
    };
    // BIRD listens where it also dials from, so its key must fit in both directions.
    for (passive, bird_passive) in [(false, "yes"), (true, "no")] {
        node.set_peers(vec![PeerConfig { passive, ..config.clone() }]).await.unwrap();
        let protocol = format!(
            "protocol bgp safe from peer {{ neighbor {} port {PORT} as {AS}; passive {bird_passive}; \
             multihop 2; ttl security on; password \"open sesame\"; }}",
            ip(net, 2)
        );
        let bird = Bird::start(net, &protocol);
        bird.eventually("show protocols safe", |answer| answer.contains("Established")).await;
        route(&node, "10.50.4.0/24", |route| !route.stale).await;
        bird.eventually("show route 10.1.2.0/24", |answer| answer.contains("10.1.2.0/24")).await;
        node.set_peers(Vec::<PeerConfig>::new()).await.unwrap();
    }
}

#[tokio::test]
async fn bird_in_a_range_sends_several_paths_and_drains() {
    if !available() {
        return;
    }
    let net = 5;
    let node = spawn(net, 2);
    node.set_originated(own_routes(2)).await.unwrap();
    node.set_peers(Vec::<PeerConfig>::new()).await.unwrap();
    let template = PeerConfig { add_path_receive: true, ..peer(net, 2, 9, PeerKind::Internal) };
    let range = PeerRange { prefix: "127.78.5.8/29".parse().unwrap(), template, max: 10 };
    node.set_ranges(vec![range]).await.unwrap();
    let statics: String = [1, 2]
        .map(|last| {
            format!(
                "protocol static s{last} {{ ipv4 {{ preference {}; }}; route 10.51.0.0/24 blackhole {{\n\
                 bgp_community.add((64512, {last})); }}; }}\n",
                100 + last
            )
        })
        .concat();
    let protocol = format!(
        "{statics}protocol bgp many {{ local {} port {BIRD_PORT} as {AS}; strict bind yes; multihop; \
         neighbor {} port {PORT} as {AS}; connect delay time 1; graceful restart on; \
         ipv4 {{ import all; add paths tx; next hop self; \
         export filter {{ if net = 10.50.5.0/24 then bgp_community.add((65535, 0)); accept; }}; }}; }}",
        ip(net, 9),
        ip(net, 2)
    );
    let bird = Bird::start(net, &protocol);
    let leaving = route(&node, "10.50.5.0/24", |_| true).await;
    assert_eq!(leaving.communities, ["graceful-shutdown"]);
    assert_eq!(leaving.local_pref, Some(0), "RFC 8326");
    route(&node, "10.51.0.0/24", |_| true).await;
    let query = RouteQuery { prefix: Some("10.51.0.0/24".parse().unwrap()), ..RouteQuery::default() };
    let paths = node.routes(query).await.unwrap();
    let mut communities: Vec<String> = paths.iter().flat_map(|path| path.communities.clone()).collect();
    communities.sort_unstable();
    assert_eq!(communities, ["64512:1", "64512:2"], "{paths:#?}\n{}", bird.log());
    assert!(node.peers().await.unwrap()[0].negotiated.as_ref().unwrap().add_path_receive);
    node.drain(true).await.unwrap();
    let shown = bird.eventually("show route 10.1.2.0/24 all", |answer| answer.contains("(65535,0)")).await;
    assert!(shown.contains("BGP.local_pref: 0"), "{shown}");
}
