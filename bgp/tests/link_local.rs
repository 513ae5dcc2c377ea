//! Link-local neighbours and next hops (RFC 2545) with a real BIRD on a real link: two network namespaces that the test
//! makes itself, and which end with it.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use margay_bgp::transport::{BgpService, ServiceConfig};
use margay_bgp::{Event, Originated, PeerConfig, PeerKind, RouteChange, SpeakerConfig};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const AS: u32 = 64512;
const PATIENCE: Duration = Duration::from_secs(30);
/// Set in the process that is in the namespace.
const INSIDE: &str = "MARGAY_TEST_INSIDE";

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that outlives a failed test for a moment must not hold its output.
fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}

fn has(program: &str, argument: &str) -> bool {
    let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a test of this file in a network namespace of its own; true inside of it.
fn enter(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let possible =
        Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success());
    if !possible || !has("bird", "--version") {
        assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "root and bird are needed");
        // Not eprintln: the test harness would keep it to itself.
        std::io::stderr().write_all(b"skipped: needs root and bird\n").unwrap();
        return false;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(std::env::current_exe().unwrap()).args([test, "--exact"]);
    run(command.env(INSIDE, "1"));
    false
}

/// The other end: BIRD in a namespace of its own, behind the interface `left`.
struct Bird {
    directory: PathBuf,
    /// Keeps the namespace.
    holder: Child,
    bird: Option<Child>,
}

impl Bird {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("margay-link-local-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let holder = quiet(Command::new("unshare").args(["--net", "sleep", "600"])).spawn().unwrap();
        Self { directory, holder, bird: None }
    }

    fn within(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holder.id().to_string(), program]);
        command
    }

    /// Connects the namespaces; with global addresses or without.
    fn connect(&self, global: bool) {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = Path::new("/proc").join(self.holder.id().to_string()).join("ns/net");
        let deadline = Instant::now() + PATIENCE;
        while std::fs::read_link(&theirs).unwrap() == own {
            assert!(Instant::now() < deadline, "`unshare` does not get there");
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = self.holder.id().to_string();
        let ip = |words: &str| run(Command::new("ip").args(words.split(' ')));
        ip(&format!("link add left type veth peer name right netns {pid}"));
        for (last, name) in [(1, "left"), (2, "right")] {
            let ip = |words: &str| match last {
                1 => ip(words),
                _ => run(self.within("ip").args(words.split(' '))),
            };
            ip(&format!("link set {name} addrgenmode none up"));
            ip(&format!("address add fe80::{last}/64 dev {name} nodad"));
            if global {
                ip(&format!("address add 2001:db8::{last}/64 dev {name} nodad"));
            }
        }
    }

    fn start(&mut self, global: bool, options: &str) {
        let session = if global {
            format!("local 2001:db8::2 as {AS}; neighbor 2001:db8::1 as {AS};")
        } else {
            format!("local fe80::2 as {AS}; neighbor fe80::1%'right' as {AS};")
        };
        let config = format!(
            "router id 10.0.0.2;\nlog \"{log}\" all;\nprotocol device {{}}\n\
             protocol static {{ ipv6; route 2001:db8:b::/48 blackhole; }}\n\
             protocol bgp margay {{ {session} direct; {options}\n\
             connect delay time 1; connect retry time 1; error wait time 1,2;\n\
             ipv6 {{ import all; export all; next hop self; }}; }}\n",
            log = self.directory.join("bird.log").display(),
        );
        std::fs::write(self.directory.join("bird.conf"), config).unwrap();
        let mut command = self.within("bird");
        command.arg("-f").arg("-c").arg(self.directory.join("bird.conf"));
        command.arg("-s").arg(self.directory.join("bird.ctl"));
        self.bird = Some(quiet(&mut command).spawn().unwrap());
    }

    fn ask(&self, question: &str) -> String {
        let socket = self.directory.join("bird.ctl");
        let output = Command::new("birdc").arg("-s").arg(socket).arg(question).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn eventually(&self, question: &str, wanted: &[&str]) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(question);
            if wanted.iter().all(|wanted| answer.contains(wanted)) {
                return;
            }
            let log = || std::fs::read_to_string(self.directory.join("bird.log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < deadline, "{question}: {answer}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        for child in self.bird.iter_mut().chain([&mut self.holder]) {
            child.kill().ok();
            child.wait().ok();
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

async fn meet(global: bool, passive: bool, options: &str) {
    let mut bird = Bird::new();
    bird.connect(global);
    let speaker = SpeakerConfig::new(Ipv4Addr::new(10, 0, 0, 1), AS);
    let listen = vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 179))];
    let (handle, mut events) = BgpService::spawn(ServiceConfig { speaker, listen }).unwrap();
    handle.set_originated(vec![Originated::new("2001:db8:a::/48".parse().unwrap(), None)]).await.unwrap();
    let link_local: Ipv6Addr = "fe80::2".parse().unwrap();
    let remote = if global { "2001:db8::2".parse().unwrap() } else { link_local };
    let peer = PeerConfig {
        interface: (!global).then(|| "left".to_owned()),
        passive,
        ..PeerConfig::new(IpAddr::V6(remote), AS, PeerKind::Internal)
    };
    handle.set_peer(peer).await.unwrap();
    bird.start(global, options);
    let change = loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("a route from BIRD").unwrap();
        if let Event::RouteChanges(changes) = event {
            let wanted = |change: &RouteChange| !change.next_hops.is_empty();
            break changes.into_iter().find(wanted).unwrap();
        }
    };
    assert_eq!(change.prefix, "2001:db8:b::/48".parse().unwrap());
    assert_eq!(change.next_hops.len(), 1);
    assert_eq!(change.next_hops[0].address, IpAddr::V6(remote));
    assert_eq!(change.next_hops[0].link_local, Some((link_local, "left".into())));
    let wanted = if global { "BGP.next_hop: 2001:db8::1 fe80::1" } else { "via fe80::1 on right" };
    bird.eventually("show route 2001:db8:a::/48 all", &[wanted]).await;
}

#[tokio::test]
async fn neighbours_tell_both_their_addresses() {
    if enter("neighbours_tell_both_their_addresses") {
        meet(true, false, "passive;").await;
    }
}

#[tokio::test]
async fn a_link_local_neighbour_without_global_addresses_that_dials() {
    if enter("a_link_local_neighbour_without_global_addresses_that_dials") {
        meet(false, true, "").await;
    }
}
