//! Labs and probes in the real kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use margay_netlink::{Address, AddressOptions, Netlink, Netns};

use crate::probe::{Outcome, Protocol, Responder, Stream, reach};
use crate::{Error, Lab, Topology};

fn permitted() -> bool {
    match Netns::new() {
        Err(error) if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
            eprintln!("skipped: {error}");
            false
        }
        made => made.map(|_| true).unwrap(),
    }
}

fn build(text: &str) -> crate::Result<Lab> {
    Lab::build(&Topology::parse("test.clab.yml", text, &BTreeMap::new())?, &mut |_| {})
}

const TWO: &str = r#"
name: two
topology:
  nodes:
    a: {kind: linux, exec: ["ip address add fd00:9::1/64 dev eth1 nodad"], env: {COLOUR: red}}
    b: {kind: linux, exec: ["ip address add fd00:9::2/64 dev eth1 nodad"]}
  links:
    - {endpoints: ["a:eth1", "b:eth1"], mtu: 1400, ipv4: [10.9.0.1/24, 10.9.0.2/24]}
"#;

const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_example_routes_between_its_subnets() {
    if !permitted() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/labs/three-nodes.clab.yml");
    let mut steps = Vec::new();
    let lab = Lab::build(&Topology::load(&path).unwrap(), &mut |step| steps.push(step.to_owned())).unwrap();
    assert!(steps.iter().any(|step| step == "link r1:eth2 - node3:eth1"), "{steps:?}");
    let to = Responder::start(lab.node("node3").unwrap().netns(), &[7000]).unwrap();
    for (name, own) in [("node1", "172.30.1.11"), ("rr2", "172.30.1.22")] {
        let from = lab.node(name).unwrap().netns();
        for protocol in [Protocol::Tcp(7000), Protocol::Udp(7000), Protocol::Icmp] {
            let outcome = reach(from, ip("172.30.2.2"), protocol, Some(&to), 3 * SECOND).unwrap();
            assert_eq!(outcome.source(), Some(ip(own)), "{name} {protocol}: {outcome:?}");
        }
    }
}

#[test]
fn probes_tell_source_refusal_and_silence_apart() {
    if !permitted() {
        return;
    }
    let lab = build(TWO).unwrap();
    let (a, b) = (lab.node("a").unwrap().netns(), lab.node("b").unwrap().netns());
    let link = Netlink::open_in(a).unwrap().link("eth1").unwrap().unwrap();
    assert_eq!((link.mtu, link.up), (1400, true));
    let responder = Responder::start(b, &[80, 81]).unwrap();
    for (target, source) in [("10.9.0.2", "10.9.0.1"), ("fd00:9::2", "fd00:9::1")] {
        for protocol in [Protocol::Tcp(81), Protocol::Udp(80), Protocol::Icmp] {
            let outcome = reach(a, ip(target), protocol, Some(&responder), 3 * SECOND).unwrap();
            assert_eq!(outcome.source(), Some(ip(source)), "{target} {protocol}: {outcome:?}");
        }
        for protocol in [Protocol::Tcp(82), Protocol::Udp(82)] {
            let outcome = reach(a, ip(target), protocol, None, 3 * SECOND).unwrap();
            assert!(matches!(outcome, Outcome::Refused(_)), "{target} {protocol}: {outcome:?}");
        }
    }
    // Nobody has this address, and nobody has a route to that one.
    let outcome = reach(a, ip("10.9.0.77"), Protocol::Udp(80), None, Duration::from_millis(200)).unwrap();
    assert_eq!(outcome, Outcome::TimedOut);
    let outcome = reach(a, ip("192.0.2.1"), Protocol::Tcp(80), None, SECOND).unwrap();
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn streams_account_for_every_loss() {
    if !permitted() {
        return;
    }
    let lab = build(TWO).unwrap();
    let (a, b) = (lab.node("a").unwrap().netns(), lab.node("b").unwrap().netns());
    let _responder = Responder::start(b, &[80]).unwrap();
    let every = Duration::from_millis(2);
    let streams = [
        Stream::start(a, ip("10.9.0.2"), Protocol::Udp(80), every).unwrap(),
        Stream::start(a, ip("10.9.0.2"), Protocol::Icmp, every).unwrap(),
        Stream::start(a, ip("fd00:9::2"), Protocol::Icmp, every).unwrap(),
    ];
    until("answers", || streams.iter().all(|stream| stream.received() >= 50));
    for stream in streams {
        let report = stream.stop().unwrap();
        assert_eq!(
            (report.lost.len(), report.duplicates, report.sent),
            (0, 0, report.received),
            "{report:?}"
        );
        assert_eq!(report.longest_gap, Duration::ZERO);
    }

    let stream = Stream::start(a, ip("10.9.0.2"), Protocol::Icmp, every).unwrap();
    until("answers", || stream.received() >= 20);
    // Without its address the far end drops what arrives. (Taking its link down would only make the near end queue.)
    let mut far = Netlink::open_in(b).unwrap();
    let index = far.link_index("eth1").unwrap();
    let address = Address { index, net: "10.9.0.2/24".parse().unwrap() };
    far.delete_address(&address).unwrap();
    let (silent, before) = (stream.received(), stream.sent());
    until("a gap", || stream.sent() >= before + 10);
    far.add_address(&address, AddressOptions::default()).unwrap();
    until("answers again", || stream.received() >= silent + 20);
    let report = stream.stop().unwrap();
    assert!(report.lost.len() >= 5 && report.longest_gap >= 5 * every, "{report:?}");
    assert_eq!(report.sent, report.received + report.lost.len() as u64);
}

#[test]
fn processes_run_in_their_node_and_end_with_their_group() {
    if !permitted() {
        return;
    }
    let lab = build(TWO).unwrap();
    let log = std::env::temp_dir().join(format!("margay-lab-{}.log", std::process::id()));
    let node = lab.node("a").unwrap();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "readlink /proc/self/ns/net; echo $COLOUR; trap '' TERM; sleep 1000 & echo child $!; wait; wait",
    ]);
    let mut process = node.spawn("stubborn", command, &log).unwrap();
    until("its output", || process.log_text().contains("child"));
    let text = process.log_text();
    assert!(text.contains(&format!("net:[{}]", node.netns().id().unwrap().1)), "{text}");
    assert!(text.contains("red"), "{text}");
    let child = text.lines().find_map(|line| line.strip_prefix("child ")).unwrap().to_owned();
    assert!(process.is_running().unwrap());
    let status = process.stop(Duration::from_millis(50)).unwrap();
    assert_eq!(crate::process::describe(status), "SIGKILL");
    // Orphans are reaped by somebody else: gone or a zombie both mean ended.
    until("the child's end", || {
        std::fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();

    let mut quick = Command::new("sh");
    quick.args(["-c", "exit 3"]);
    let status = node.spawn("quick", quick, &log).unwrap().wait(10 * SECOND).unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
    let missing = node.spawn("missing", Command::new("/no/such/program"), &log).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    std::fs::remove_file(log).unwrap();
}

#[test]
fn failing_steps_name_their_node() {
    if !permitted() {
        return;
    }
    let one = |node: &str| format!("name: x\ntopology:\n  nodes:\n    n1: {{kind: linux, {node}}}\n");
    let error = build(&one("exec: ['ip address add 10.0.0.1/24 dev nothing0']")).unwrap_err();
    assert!(
        matches!(&error, Error::Exec { node, reason, .. } if node == "n1" && reason.contains("nothing0")),
        "{error}"
    );
    let error = build(&one("exec: ['there-is-no-such-program']")).unwrap_err();
    assert!(error.to_string().contains("there-is-no-such-program"), "{error}");
    let error = build(&one("sysctls: {kernel.panic: 1}")).unwrap_err();
    assert!(error.to_string().contains("only net.*"), "{error}");
    let error = build(&one("sysctls: {net.ipv4.nothing: 1}")).unwrap_err();
    assert!(error.to_string().contains("net/ipv4/nothing"), "{error}");
}
