//! BFD with real BIRD and FRR in network namespaces: one hop and several, IPv4 and IPv6, a link that is cut and comes
//! back, an administrator, other timers.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use margay_bgp::bfd::{SessionConfig, State};
use margay_bgp::transport::{BgpHandle, BgpService, Monitoring, ServiceConfig, StopMode};
use margay_bgp::{BfdConfig, PeerConfig, PeerKind, PeerState, PeerStatus, SpeakerConfig, Timers};
use margay_netlink::Netns;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const AS: u32 = 64512;
const ROUTER_AS: u32 = 65_001;
/// Far less than the hold time, which is what would end a session without BFD, and far more than BFD needs.
const PATIENCE: Duration = Duration::from_secs(30);
const HOLD: Duration = Duration::from_secs(90);

/// Whether a test can run here. What is missing is said aloud, and a failure where everything is required.
fn possible(program: &str) -> bool {
    let installed =
        ["/usr/sbin", "/usr/bin", "/usr/lib/frr"].iter().any(|d| Path::new(d).join(program).exists());
    let missing = match (installed, Netns::new()) {
        (false, _) => format!("{program} is not installed"),
        (true, Err(error)) => error.to_string(),
        (true, Ok(_)) => return true,
    };
    assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "{missing}");
    // Not eprintln: the test harness would keep it to itself.
    std::io::stderr().write_all(format!("skipped: {missing}\n").as_bytes()).unwrap();
    false
}

fn in_namespace(netns: &Netns, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = Command::new(words[0]);
    let status = netns.spawn(command.args(&words[1..])).unwrap().wait().unwrap();
    assert!(status.success(), "{line}");
}

#[derive(Clone, Copy, PartialEq)]
enum Hops {
    One,
    Two,
}

/// Our namespace and the other's, side by side or with a router between them.
struct Lab {
    ours: Netns,
    theirs: Netns,
    router: Option<Netns>,
    addresses: [IpAddr; 2],
}

impl Lab {
    fn new(hops: Hops, ipv6: bool) -> Self {
        let (ours, theirs) = (Netns::new().unwrap(), Netns::new().unwrap());
        let addresses = |text: [&str; 2]| text.map(|address| address.parse().unwrap());
        for netns in [&ours, &theirs] {
            in_namespace(netns, "ip link set lo up");
        }
        let (ip, nodad) = if ipv6 { ("ip -6", " nodad") } else { ("ip", "") };
        let connect = |a: &Netns, a_name: &str, a_address: &str, b: &Netns, b_name: &str, b_address: &str| {
            let path = b.path();
            let path = path.display();
            in_namespace(a, &format!("ip link add {a_name} type veth peer name {b_name} netns {path}"));
            for (netns, name, address) in [(a, a_name, a_address), (b, b_name, b_address)] {
                in_namespace(netns, &format!("ip address add {address} dev {name}{nodad}"));
                in_namespace(netns, &format!("ip link set dev {name} up"));
            }
        };
        let (mask, via) =
            if ipv6 { (64, ["fd00:1::9", "fd00:2::9"]) } else { (24, ["192.0.2.9", "198.51.100.9"]) };
        let (mut router, mut ends) =
            (None, if ipv6 { ["fd00:1::1", "fd00:1::2"] } else { ["192.0.2.1", "192.0.2.2"] });
        if hops == Hops::One {
            connect(
                &ours,
                "left",
                &format!("{}/{mask}", ends[0]),
                &theirs,
                "right",
                &format!("{}/{mask}", ends[1]),
            );
        } else {
            let middle = Netns::new().unwrap();
            middle
                .run(|| {
                    for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                        std::fs::write(format!("/proc/sys/net/{family}"), "1").unwrap();
                    }
                })
                .unwrap();
            ends[1] = if ipv6 { "fd00:2::2" } else { "198.51.100.2" };
            for (netns, name, near, end, via) in
                [(&ours, "left", "l", ends[0], via[0]), (&theirs, "right", "r", ends[1], via[1])]
            {
                connect(netns, name, &format!("{end}/{mask}"), &middle, near, &format!("{via}/{mask}"));
                in_namespace(netns, &format!("{ip} route add default via {via}"));
            }
            router = Some(middle);
        }
        Self { ours, theirs, router, addresses: addresses(ends) }
    }

    /// Drops everything between the two, without a link going down.
    fn cut(&self) {
        let hooks = if self.router.is_some() { &["forward"][..] } else { &["input", "output"] };
        let at = self.router.as_ref().unwrap_or(&self.theirs);
        in_namespace(at, "nft add table inet cut");
        for hook in hooks {
            let chain = format!("{{ type filter hook {hook} priority 0 ; policy drop ; }}");
            in_namespace(at, &format!("nft add chain inet cut {hook} {chain}"));
        }
    }

    fn mend(&self) {
        in_namespace(self.router.as_ref().unwrap_or(&self.theirs), "nft delete table inet cut");
    }

    /// Runs a test in our namespace.
    fn run(&self, test: impl AsyncFnOnce() + Send) {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.ours.run(|| runtime().block_on(test())).unwrap();
    }

    fn peer(&self, hops: Hops, interval: u64) -> PeerConfig {
        peer(self.addresses, hops, interval)
    }
}

fn peer([local, remote]: [IpAddr; 2], hops: Hops, interval: u64) -> PeerConfig {
    let interval = Duration::from_millis(interval);
    let session = SessionConfig {
        multihop: hops == Hops::Two,
        min_tx: interval,
        min_rx: interval,
        ..SessionConfig::default()
    };
    PeerConfig {
        local: Some(local),
        bfd: Some(BfdConfig { session, strict: false }),
        policy_required: false,
        timers: Timers {
            hold: HOLD,
            connect_retry: Duration::from_millis(200),
            connect_retry_max: Duration::from_millis(500),
            error_wait: Duration::from_millis(200),
            error_wait_max: Duration::from_millis(500),
            ..Timers::default()
        },
        ..PeerConfig::new(remote, ROUTER_AS, PeerKind::External)
    }
}

/// Processes in a namespace, with their files in one folder.
struct Daemons {
    folder: PathBuf,
    children: Vec<Child>,
}

impl Daemons {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("margay-bfd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // FRR's daemons give root up.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { folder, children: Vec::new() }
    }

    fn start(&mut self, netns: &Netns, command: &mut Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children.push(netns.spawn(command).unwrap());
    }

    fn bird(lab: &Lab, name: &str, hops: Hops) -> Self {
        let mut daemons = Self::new(name);
        let [us, bird] = lab.addresses;
        let family = if us.is_ipv4() { "ipv4" } else { "ipv6" };
        let way = if hops == Hops::Two { "multihop" } else { "direct" };
        let timers = "min rx interval 100 ms; min tx interval 100 ms; idle tx interval 1 s; multiplier 3;";
        let config = format!(
            "router id 192.0.2.2;\nprotocol device {{ scan time 1; }}\n\
             protocol bfd {{ interface \"*\" {{ {timers} }}; multihop {{ {timers} }}; }}\n\
             protocol bgp node {{ local {bird} as {ROUTER_AS}; neighbor {us} as {AS}; {way}; bfd on; hold time 90;\n\
             connect delay time 1; connect retry time 1; error wait time 1,2; {family} {{ import all; export all; }}; }}\n"
        );
        std::fs::write(daemons.folder.join("bird.conf"), config).unwrap();
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(daemons.folder.join("bird.conf"));
        command.arg("-s").arg(daemons.folder.join("bird.ctl"));
        daemons.start(&lab.theirs, &mut command);
        daemons
    }

    fn ask_bird(&self, question: &str) -> String {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(self.folder.join("bird.ctl")).arg(question);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// zebra is there for the two others to find each other.
    fn frr(lab: &Lab, name: &str, hops: Hops) -> Self {
        let mut daemons = Self::new(name);
        let [us, _] = lab.addresses;
        let multihop =
            if hops == Hops::Two { format!(" neighbor {us} ebgp-multihop 5\n") } else { String::new() };
        let family = if us.is_ipv4() { "ipv4" } else { "ipv6" };
        let timers = "  transmit-interval 100\n  receive-interval 100\n  detect-multiplier 3\n";
        let bgpd = format!(
            "router bgp {ROUTER_AS}\n bgp router-id 192.0.2.2\n no bgp ebgp-requires-policy\n \
             no bgp network import-check\n neighbor {us} remote-as {AS}\n{multihop} neighbor {us} timers connect 1\n \
             neighbor {us} timers 30 90\n neighbor {us} bfd\n neighbor {us} bfd profile quick\n \
             address-family {family} unicast\n  neighbor {us} activate\n exit-address-family\n"
        );
        let files = [
            ("zebra", String::new()),
            ("bfdd", format!("bfd\n profile quick\n{timers} exit\nexit\n")),
            ("bgpd", bgpd),
        ];
        for (daemon, config) in files {
            let file = |suffix: &str| daemons.folder.join(format!("{daemon}.{suffix}"));
            std::fs::write(file("conf"), config).unwrap();
            let mut command = Command::new(format!("/usr/lib/frr/{daemon}"));
            command.arg("-f").arg(file("conf")).arg("-i").arg(file("pid"));
            command.arg("-z").arg(daemons.folder.join("zserv.api")).args(["-P", "0"]);
            command.arg("--vty_socket").arg(&daemons.folder);
            command.arg("--log").arg(format!("file:{}", file("log").display()));
            if daemon == "bfdd" {
                command.arg("--bfdctl").arg(daemons.folder.join("bfdd.sock"));
            }
            daemons.start(&lab.theirs, &mut command);
            // Who finds no zebra at first tries again after ten seconds.
            let deadline = std::time::Instant::now() + PATIENCE;
            while !daemons.folder.join("zserv.api").exists() {
                assert!(std::time::Instant::now() < deadline, "zebra does not start");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        daemons
    }

    fn ask_frr(&self, daemon: &str, questions: &[&str]) -> String {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(&self.folder).args(["-d", daemon]);
        for question in questions {
            command.args(["-c", question]);
        }
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

async fn until<T>(what: &str, mut state: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match state().await {
            Ok(value) => return value,
            Err(now) => assert!(tokio::time::Instant::now() < deadline, "not {what}: {now}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Our speaker, in the namespace of the calling thread.
struct Node(BgpHandle, ServiceConfig);

impl Node {
    async fn start(id: u8, peer: PeerConfig) -> Self {
        let speaker = SpeakerConfig::new(Ipv4Addr::new(192, 0, 2, id), AS);
        let listen =
            peer.local.map(|local| SocketAddr::new(local, margay_bgp::BGP_PORT)).into_iter().collect();
        let config = ServiceConfig { speaker, listen };
        let (handle, mut events) = BgpService::spawn(config.clone()).unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        handle.set_originated(Vec::new()).await.unwrap();
        handle.set_peers(vec![peer]).await.unwrap();
        Self(handle, config)
    }

    /// Another speaker takes over, again and again, and is watched for a while: nobody notices.
    async fn changes_hands(&mut self) {
        let before = self.both_up().await;
        for _ in 0..5 {
            let frozen = self.0.freeze().await.unwrap().unwrap();
            let (go, may_go) = tokio::sync::oneshot::channel();
            let next = BgpService::take_over(self.1.clone(), Monitoring::default(), frozen, may_go);
            let (next, mut events) = next.unwrap();
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            go.send(()).unwrap();
            // The one before ends with its handle.
            self.0 = next;
            self.both_up().await;
        }
        tokio::time::sleep(before.bfd.unwrap().detection_time * 3).await;
        let after = self.both_up().await;
        assert_eq!(after.established_count, before.established_count);
        assert_eq!(after.bfd.unwrap().failures, before.bfd.unwrap().failures);
    }

    async fn until(&self, what: &str, check: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        until(what, async || {
            let peer = self.0.peers().await.unwrap().remove(0);
            if check(&peer) { Ok(peer) } else { Err(format!("{peer:#?}")) }
        })
        .await
    }

    async fn both_up(&self) -> PeerStatus {
        self.until("both up", |peer| {
            peer.state == PeerState::Established && peer.bfd.is_some_and(|bfd| bfd.state == State::Up)
        })
        .await
    }
}

const WAYS: [(Hops, bool); 4] =
    [(Hops::One, false), (Hops::One, true), (Hops::Two, false), (Hops::Two, true)];

/// Up, cut, found, mended, up. Returns how often BGP was up and BFD failed; neighbours may need two attempts at first.
async fn survives_a_cut(lab: &Lab, node: &Node, theirs: impl Fn() -> bool) -> (u64, u64) {
    node.both_up().await;
    until("up over there", async || if theirs() { Ok(()) } else { Err(String::new()) }).await;
    let up = node.both_up().await;
    let (times, failures) = (up.established_count, up.bfd.unwrap().failures);
    lab.cut();
    let cut = tokio::time::Instant::now();
    let lost = node.until("lost", |peer| peer.state != PeerState::Established).await;
    assert!(cut.elapsed() < HOLD / 3 * 2, "that was the hold timer");
    assert!(lost.last_error.unwrap().contains("BFD failed"));
    assert_eq!(lost.bfd.unwrap().failures, failures + 1);
    until("down over there", async || if theirs() { Err(String::new()) } else { Ok(()) }).await;
    lab.mend();
    let again = node.both_up().await;
    assert_eq!((again.established_count, again.bfd.unwrap().failures), (times + 1, failures + 1));
    until("up over there again", async || if theirs() { Ok(()) } else { Err(String::new()) }).await;
    (times + 1, failures + 1)
}

#[test]
fn bird() {
    if !possible("bird") {
        return;
    }
    for (n, (hops, ipv6)) in WAYS.into_iter().enumerate() {
        let lab = Lab::new(hops, ipv6);
        let bird = Daemons::bird(&lab, &format!("bird{n}"), hops);
        lab.run(async || {
            let mut node = Node::start(1, lab.peer(hops, 100)).await;
            let sessions = || bird.ask_bird("show bfd sessions");
            let theirs =
                || sessions().contains("Up") && bird.ask_bird("show protocols node").contains("Established");
            let (times, failures) = survives_a_cut(&lab, &node, theirs).await;
            node.changes_hands().await;
            // Other timers: BIRD, which sends every 100 ms, now waits three times our 700.
            node.0.set_peer(lab.peer(hops, 700)).await.unwrap();
            until("renegotiated", async || {
                let shown = sessions();
                if shown.contains("2.100") { Ok(()) } else { Err(shown) }
            })
            .await;
            let peer = node.until("renegotiated", |peer| {
                peer.bfd.is_some_and(|bfd| bfd.tx_interval == Duration::from_millis(700))
            });
            let bfd = peer.await.bfd.unwrap();
            assert_eq!((bfd.detection_time, bfd.failures), (Duration::from_millis(2100), failures));
            assert_eq!(node.both_up().await.established_count, times);
            node.0.stop(StopMode::Restart).await.unwrap();
        });
    }
}

#[test]
fn frr() {
    if !possible("bfdd") {
        return;
    }
    for (n, (hops, ipv6)) in WAYS.into_iter().enumerate() {
        let lab = Lab::new(hops, ipv6);
        let frr = Daemons::frr(&lab, &format!("frr{n}"), hops);
        lab.run(async || {
            let mut node = Node::start(1, lab.peer(hops, 100)).await;
            let status = || frr.ask_frr("bfdd", &["show bfd peers"]);
            let up = || status().contains("Status: up");
            let (times, failures) = survives_a_cut(&lab, &node, up).await;
            node.changes_hands().await;
            // Their administrator takes BFD down, and up again: BGP does not care.
            let profile = ["configure terminal", "bfd", "profile quick"];
            frr.ask_frr("bfdd", &[&profile[..], &["shutdown"]].concat());
            let down = |peer: &PeerStatus| peer.bfd.is_some_and(|bfd| bfd.state == State::Down);
            let peer = node.until("down by them", down).await;
            assert_eq!((peer.state, peer.established_count), (PeerState::Established, times));
            assert_eq!(peer.bfd.unwrap().failures, failures);
            frr.ask_frr("bfdd", &[&profile[..], &["no shutdown"]].concat());
            assert_eq!(node.both_up().await.established_count, times);
            // And their timers.
            frr.ask_frr("bfdd", &[&profile[..], &["transmit-interval 400"]].concat());
            let slow = node.until("slower", |peer| {
                peer.bfd.is_some_and(|bfd| bfd.detection_time == Duration::from_millis(1200))
            });
            assert_eq!(slow.await.established_count, times);
            node.0.stop(StopMode::Restart).await.unwrap();
        });
    }
}

#[test]
fn a_packet_that_was_forwarded_is_none_of_a_single_hop_session() {
    if !possible("ip") {
        return;
    }
    for ipv6 in [false, true] {
        let lab = Lab::new(Hops::Two, ipv6);
        let [us, them] = lab.addresses;
        let internal = |ends, hops, passive| PeerConfig {
            remote_as: AS,
            kind: PeerKind::Internal,
            passive,
            ..peer(ends, hops, 50)
        };
        let ours = |hops| internal([us, them], hops, false);
        let theirs = |hops| internal([them, us], hops, true);
        let (go, gone) = tokio::sync::oneshot::channel();
        let (done, both_done) = tokio::sync::oneshot::channel();
        let (seen, was_seen) = tokio::sync::oneshot::channel();
        std::thread::scope(|scope| {
            let lab = &lab;
            scope.spawn(move || {
                let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let other = async move || {
                    let node = Node::start(2, theirs(Hops::One)).await;
                    // Until the first half of the test is over.
                    gone.await.unwrap();
                    node.0.set_peer(theirs(Hops::Two)).await.unwrap();
                    node.both_up().await;
                    done.send(()).unwrap();
                    // (BIRD 2.0 and FRR 8.4 take a peer's administrator for a failure and end BGP.)
                    let left = |peer: &PeerStatus| peer.bfd.is_some_and(|bfd| bfd.state == State::Down);
                    let peer = node.until("taken down by the administrator", left).await;
                    assert_eq!((peer.state, peer.established_count), (PeerState::Established, 1));
                    seen.send(()).unwrap();
                    node.until("stopped", |peer| peer.state != PeerState::Established).await
                };
                let last = lab.theirs.run(|| runtime().block_on(other())).unwrap();
                assert_eq!(last.bfd.unwrap().failures, 0);
            });
            lab.run(async || {
                let node = Node::start(1, ours(Hops::One)).await;
                let up = |peer: &PeerStatus| peer.state == PeerState::Established;
                node.until("BGP up", up).await;
                // Packets of both sides cross the router all the time, and count for nothing.
                let crossed = async || {
                    let router = lab.router.as_ref().unwrap();
                    let file =
                        if ipv6 { "/proc/thread-self/net/snmp6" } else { "/proc/thread-self/net/snmp" };
                    let text = router.run(|| std::fs::read_to_string(file).unwrap()).unwrap();
                    forwarded(&text, ipv6)
                };
                let before = crossed().await;
                until("8 packets forwarded", async || {
                    let now = crossed().await;
                    if now > before + 8 { Ok(()) } else { Err(now.to_string()) }
                })
                .await;
                let bfd = node.0.peers().await.unwrap()[0].bfd.unwrap();
                assert_eq!((bfd.state, bfd.remote_state), (State::Down, State::Down));
                go.send(()).unwrap();
                node.0.set_peer(ours(Hops::Two)).await.unwrap();
                node.both_up().await;
                both_done.await.unwrap();
                node.0.set_peer(PeerConfig { bfd: None, ..ours(Hops::Two) }).await.unwrap();
                was_seen.await.unwrap();
                node.0.stop(StopMode::Restart).await.unwrap();
            });
        });
    }
}

/// `ForwDatagrams` of the kernel's counters.
fn forwarded(text: &str, ipv6: bool) -> u64 {
    if ipv6 {
        let line = text.lines().find(|line| line.starts_with("Ip6OutForwDatagrams")).unwrap();
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "ForwDatagrams").unwrap().1.parse().unwrap()
}
