//! Fields of FelixConfiguration, and what runs beside us, that say how rules are written.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use felix_rs::model::BackendChoice;

use crate::change::guarded_udp;
use crate::lab::{Lab, OUTSIDE, Pod};
use crate::objects::Cluster;
use crate::states::Build as _;
use crate::{Node, Scenario, dump, infix};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("denied_senders_are_told", denied_senders_are_told),
    ("bits_of_the_mark_move", bits_of_the_mark_move),
    ("packets_of_no_socket", packets_of_no_socket),
];
pub(crate) const IPTABLES: &[Scenario] = &[("rules_of_others_may_go_before", rules_of_others_may_go_before)];

fn felix(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    )
}

/// `b` takes nothing but TCP 80.
const GUARD: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: guard, namespace: b}
spec: {ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}
";

fn denied_senders_are_told(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut cluster = Cluster::of(&lab);
    cluster.take(GUARD);
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    assert!(a.tcp(b.v4, 80) && !a.tcp(b.v4, 8080) && !a.tcp(b.v6, 8080));
    node.delta(&cluster.take(&felix("iptablesFilterDenyAction: Reject, nftablesFilterDenyAction: Reject")));
    assert!(a.tcp(b.v4, 80) && a.tcp(b.v6, 80), "allowed as before");
    let patience = Duration::from_secs(60);
    for to in [b.v4, b.v6] {
        let asked = a.netns.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, 8080), patience)).unwrap();
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}: nobody waits");
    }
    let host = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h, labels: {role: edge}}
spec: {node: node, interfaceName: '*'}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec: {selector: role == 'edge', preDNAT: true, applyOnForward: true, ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}]}
";
    let report = node.delta(&cluster.take(host));
    assert!(!report.live.is_empty() && a.tcp(b.v4, 80), "the kernel knows no REJECT before routing");
    let written = dump(&lab, backend);
    node.recheck();
    assert_eq!(strip(&written), strip(&dump(&lab, backend)), "nothing left to do");
}

/// Without counters.
fn strip(dump: &str) -> Vec<String> {
    let words = |line: &str| {
        line.split_whitespace().filter(|word| !word.starts_with('[')).collect::<Vec<_>>().join(" ")
    };
    dump.lines()
        .filter(|line| line.contains("mgy-"))
        .map(words)
        .filter(|line| line.starts_with("-A"))
        .collect()
}

/// Somebody else uses Calico's bits.
fn bits_of_the_mark_move(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut cluster = Cluster::of(&lab);
    cluster.take(GUARD);
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    let marks = || {
        let dump = dump(&lab, backend);
        let has = |bit: u32| {
            [format!("{bit:#x}/"), format!("& {bit:#010x}")].iter().any(|text| dump.contains(text))
        };
        [0x1_0000, 0x40].map(has)
    };
    assert_eq!(marks(), [true, false]);
    node.delta(&cluster.take(&felix("iptablesMarkMask: 0xc0, nftablesMarkMask: 0xc0")));
    assert_eq!(marks(), [false, true]);
    let v = infix(backend);
    lab.node.sh(&format!(
        "for f in ip ip6; do $f''tables-{v} -t mangle -A PREROUTING -j MARK --or-mark 0x30000; done"
    ));
    assert!(a.tcp(b.v4, 80) && a.tcp(b.v6, 80), "others' bits mean nothing");
    assert!(!a.tcp(b.v4, 8080) && !a.tcp(b.v6, 8080));
}

fn rules_of_others_may_go_before(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let v = infix(backend);
    lab.node.sh(&format!("iptables-{v} -A FORWARD -s {} -j ACCEPT", b.v4));
    let mut cluster = Cluster::of(&lab);
    cluster.take(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {types: [Ingress, Egress]}
",
    );
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    assert!(!b.tcp(OUTSIDE, 80) && !a.tcp(OUTSIDE, 80), "ours go before");
    node.delta(&cluster.take(&felix("chainInsertMode: Append")));
    assert!(b.tcp(OUTSIDE, 80), "what others accept ours do not see");
    assert!(!a.tcp(OUTSIDE, 80) && !a.tcp(b.v4, 80), "the rest they do");
    assert!(!node.recheck().wrote(), "and stay where they are");
    node.delta(&cluster.take(&felix("chainInsertMode: Insert")));
    assert!(!b.tcp(OUTSIDE, 80));
}

/// A packet that leaves the node for a pod and was sent by no socket of it is somebody else's, as with IPVS; a copy is one.
fn packets_of_no_socket(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let v = infix(backend);
    lab.node.sh(&format!(
        "iptables-{v} -t mangle -A PREROUTING -p udp --dport 9999 -j TEE --gateway {}
         iptables-{v} -t mangle -A PREROUTING -p udp --dport 9999 -j DROP",
        b.v4
    ));
    let ear = b.netns.run(|| UdpSocket::bind((b.v4, 9999))).unwrap().unwrap();
    ear.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let numbers = Cell::new(0u32);
    let heard = |from: &Pod| {
        from.asks(|| {
            let number = numbers.replace(numbers.get() + 1).to_be_bytes();
            let mouth = from.netns.run(|| UdpSocket::bind((from.v4, 0))).unwrap().unwrap();
            mouth.send_to(&number, (b.v4, 9999)).unwrap();
            let mut octets = [0; 4];
            std::iter::from_fn(|| ear.recv(&mut octets).ok().map(|_| octets)).any(|heard| heard == number)
        })
    };
    let mut node = Node::start(&lab, backend);
    let state = guarded_udp(&lab, &["a"]);
    node.apply(&state);
    assert!(heard(a) && heard(c), "without IPVS everything that leaves the node is the node's");
    node.apply(&state.with_settings(|settings| settings.ipvs = true));
    assert!(heard(a), "policy allows it");
    assert!(!heard(c), "policy denies it");
    assert!(lab.node.tcp(b.v4, 80) && lab.node.tcp(b.v6, 80), "the node still reaches its pods");
}
