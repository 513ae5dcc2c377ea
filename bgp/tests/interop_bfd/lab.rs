//! Our namespace, the other's, and the daemons in it.

use margay_bgp::bfd::SessionConfig;
use margay_bgp::{BfdConfig, PeerConfig, PeerKind, Timers};
use margay_netlink::Netns;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const AS: u32 = 64512;
pub(crate) const ROUTER_AS: u32 = 65_001;
/// Far less than the hold time, which is what would end a session without BFD, and far more than BFD needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const HOLD: Duration = Duration::from_secs(90);

/// Whether a test can run here. What is missing is said aloud, and a failure where everything is required.
pub(crate) fn possible(program: &str) -> bool {
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
pub(crate) enum Hops {
    One,
    Two,
}

/// Our namespace and the other's, side by side or with a router between them.
pub(crate) struct Lab {
    pub(crate) ours: Netns,
    pub(crate) theirs: Netns,
    pub(crate) router: Option<Netns>,
    pub(crate) addresses: [IpAddr; 2],
}

impl Lab {
    pub(crate) fn new(hops: Hops, ipv6: bool) -> Self {
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
    pub(crate) fn cut(&self) {
        let hooks = if self.router.is_some() { &["forward"][..] } else { &["input", "output"] };
        let at = self.router.as_ref().unwrap_or(&self.theirs);
        in_namespace(at, "nft add table inet cut");
        for hook in hooks {
            let chain = format!("{{ type filter hook {hook} priority 0 ; policy drop ; }}");
            in_namespace(at, &format!("nft add chain inet cut {hook} {chain}"));
        }
    }

    pub(crate) fn mend(&self) {
        in_namespace(self.router.as_ref().unwrap_or(&self.theirs), "nft delete table inet cut");
    }

    /// Runs a test in our namespace.
    pub(crate) fn run(&self, test: impl AsyncFnOnce() + Send) {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.ours.run(|| runtime().block_on(test())).unwrap();
    }

    pub(crate) fn peer(&self, hops: Hops, interval: u64) -> PeerConfig {
        peer(self.addresses, hops, interval)
    }
}

pub(crate) fn peer([local, remote]: [IpAddr; 2], hops: Hops, interval: u64) -> PeerConfig {
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
pub(crate) struct Daemons {
    folder: PathBuf,
    children: Vec<Child>,
}

impl Daemons {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("margay-bfd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // FRR's daemons give root up.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { folder, children: Vec::new() }
    }

    pub(crate) fn start(&mut self, netns: &Netns, command: &mut Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children.push(netns.spawn(command).unwrap());
    }

    pub(crate) fn bird(lab: &Lab, name: &str, hops: Hops) -> Self {
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

    pub(crate) fn ask_bird(&self, question: &str) -> String {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(self.folder.join("bird.ctl")).arg(question);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// zebra is there for the two others to find each other.
    pub(crate) fn frr(lab: &Lab, name: &str, hops: Hops) -> Self {
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

    pub(crate) fn ask_frr(&self, daemon: &str, questions: &[&str]) -> String {
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
