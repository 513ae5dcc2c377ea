//! What is let through and what is not.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use felix_rs::model::BackendChoice;
use felix_rs::model::{
    EndpointToHostAction, EnforcedState, PeerMatch, PortRange, RuleAction, SourceNat, TierDefault,
};
use felix_rs::rules::Owner;
use margay_netlink::conntrack::{Conntrack, Detail, Flow};

use crate::lab::{Lab, NODE, NODE_UPLINK, OUTSIDE, UDP_PORT};
use crate::states::{Build as _, endpoint, in_set, open, policy, policy_id, ports, rule, tier};
use crate::{Node, Scenario, infix};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("unknown_endpoints_fail_closed", unknown_endpoints_fail_closed),
    ("ingress_policy", ingress_policy),
    ("egress_policy", egress_policy),
    ("tiers_pass_and_deny", tiers_pass_and_deny),
    ("spoofed_sources_are_dropped", spoofed_sources_are_dropped),
    ("pod_to_node", pod_to_node),
    ("nat_outgoing", nat_outgoing),
    ("nat_outgoing_as_asked", nat_outgoing_as_asked),
    ("tunnel_packets", tunnel_packets),
    ("service_loops", service_loops),
    ("many_ports_and_networks", many_ports_and_networks),
    ("many_groups", many_groups),
];

/// What only iptables can do: accept for good in everybody's chain.
pub(crate) const IPTABLES: &[Scenario] = &[("foreign_drop_policy", foreign_drop_policy)];

fn unknown_endpoints_fail_closed(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    // A machine under load may take its time.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(a.tcp(b.v4, 80) && a.tcp(b.v6, 80) && a.tcp(NODE, 80)) {
        assert!(Instant::now() < deadline, "the lab itself works");
    }
    let mut node = Node::start(&lab, backend);
    node.apply(&EnforcedState::default());
    assert!(!a.tcp(b.v4, 80) && !a.tcp(b.v6, 80), "pod to pod");
    assert!(!a.tcp(NODE, 80) && !a.udp(NODE) && !a.ping(NODE), "pod to node");
    assert!(!lab.outside.tcp(a.v4, 80), "outside to pod");
    assert!(!a.udp(OUTSIDE), "pod to outside");
    assert!(lab.outside.tcp(NODE_UPLINK, 80), "the node's own traffic is nobody's business");
}

fn ingress_policy(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    let from_a = |protocol, port: &[u16]| {
        let mut allow = rule(RuleAction::Allow);
        allow.protocol = Some(protocol);
        allow.source = in_set("a");
        allow.destination = ports(port);
        allow
    };
    let state = open(&lab)
        .with_set("a", &[a])
        .with_policy(policy("b-in", vec![from_a(6, &[80]), from_a(17, &[UDP_PORT])], vec![]))
        .with_endpoint(endpoint(b, vec![tier("default", TierDefault::Deny, &["b-in"], &[])]));
    let report = node.apply(&state);
    assert_eq!(report.live, state.endpoints.keys().cloned().collect());
    for to in [b.v4, b.v6] {
        assert!(a.tcp(to, 80), "allowed port from an allowed pod to {to}");
        assert!(a.udp(to), "allowed UDP to {to}");
        assert!(!a.tcp(to, 8080), "another port to {to}");
        assert!(!a.ping(to), "ICMP is not allowed to {to}");
        assert!(!c.tcp(to, 80) && !c.udp(to), "from another pod to {to}");
    }
    assert!(!lab.outside.tcp(b.v4, 80), "from outside");
    assert!(lab.node.tcp(b.v4, 8080) && lab.node.ping(b.v4), "the node reaches its own pods");
    for from in [c.v4, c.v6] {
        assert!(
            b.tcp(from, 80) && b.udp(from) && b.ping(from),
            "egress of b is untouched, replies come back"
        );
    }
    assert!(a.tcp(c.v4, 80) && c.ping(a.v4), "pods without policy");
}

fn egress_policy(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut node = Node::start(&lab, backend);
    let mut ping = rule(RuleAction::Allow);
    ping.protocol = Some(1);
    ping.icmp = Some(felix_rs::model::IcmpMatch { kind: Some(8), code: Some(0) });
    let mut ping6 = rule(RuleAction::Allow);
    ping6.protocol = Some(58);
    ping6.icmp = Some(felix_rs::model::IcmpMatch { kind: Some(128), code: None });
    let mut web = rule(RuleAction::Allow);
    web.protocol = Some(6);
    web.destination = PeerMatch { not_ports: ports(&[8080]).ports.clone(), ..PeerMatch::default() }.into();
    let mut to_node = rule(RuleAction::Deny);
    to_node.destination.nets = vec!["10.99.0.1/32".parse().unwrap()];
    let state = open(&lab)
        .with_settings(|settings| settings.endpoint_to_host = EndpointToHostAction::Accept)
        .with_policy(policy("a-out", vec![], vec![to_node, ping, ping6, web]))
        .with_endpoint(endpoint(a, vec![tier("default", TierDefault::Deny, &[], &["a-out"])]));
    node.apply(&state);
    for to in [b.v4, b.v6] {
        assert!(a.tcp(to, 80) && a.ping(to), "allowed to {to}");
        assert!(!a.tcp(to, 8080) && !a.udp(to), "denied to {to}");
    }
    assert!(!a.tcp(NODE, 80), "egress policy comes before pod to node");
    assert!(a.tcp(NODE_UPLINK, 80), "pod to node: Accept");
    assert!(b.tcp(a.v4, 8080) && b.udp(a.v6), "ingress of a is untouched");
}

fn tiers_pass_and_deny(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    let mut pass = rule(RuleAction::Pass);
    pass.source = in_set("a");
    let mut deny = rule(RuleAction::Deny);
    deny.protocol = Some(17);
    let staged = {
        let mut staged = policy("staged", vec![rule(RuleAction::Deny)], vec![]);
        staged.staged = true;
        staged
    };
    let state = open(&lab)
        .with_set("a", &[a])
        .with_policy(staged)
        .with_policy(policy("first", vec![pass], vec![]))
        .with_policy(policy("second", vec![deny], vec![]))
        .with_endpoint(endpoint(
            b,
            vec![
                tier("only-staged", TierDefault::Deny, &["staged"], &[]),
                tier("platform", TierDefault::Deny, &["first"], &[]),
                tier("passing", TierDefault::Pass, &["second"], &[]),
            ],
        ));
    node.apply(&state);
    assert!(a.tcp(b.v4, 80), "passed by the first tier and by the second's default, allowed by the profile");
    assert!(!a.udp(b.v4), "denied by the second tier");
    assert!(!c.tcp(b.v4, 80), "end of the first tier");
    let counted = node.run(|applier| applier.counters()).unwrap();
    let by_staged = counted.iter().filter(|(origin, _)| origin.owner == Owner::Policy(policy_id("staged")));
    assert!(by_staged.map(|(_, count)| count.packets).sum::<u64>() > 2, "counted, and it decides nothing");

    let state = state.with_endpoint(endpoint(b, vec![tier("t", TierDefault::Deny, &["nowhere"], &[])]));
    node.apply(&state);
    assert!(!a.tcp(b.v4, 80), "a policy nobody knows fails closed");
}

fn spoofed_sources_are_dropped(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    lab.node.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
    a.sh(&format!("ip address add {}/32 dev lo; ip -6 address add {}/128 dev lo nodad", b.v4, b.v6));
    a.sh("ip address add 172.16.0.1/32 dev lo");
    // The answer to a spoofed packet would go to b: what c hears is what counts.
    let heard = |from| {
        let (ear, at) = c
            .netns
            .run(|| {
                let ear = std::net::UdpSocket::bind("[::]:0").unwrap();
                ear.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let at = ear.local_addr().unwrap().port();
                (ear, at)
            })
            .unwrap();
        let target = if IpAddr::is_ipv4(&from) { c.v4 } else { c.v6 };
        a.netns
            .run(|| std::net::UdpSocket::bind((from, 0)).unwrap().send_to(b"spoof", (target, at)).unwrap())
            .unwrap();
        ear.recv_from(&mut [0; 16]).is_ok()
    };
    assert!(heard(b.v4) && heard(b.v6), "without rules spoofing works here");
    let mut node = Node::start(&lab, backend);
    node.apply(&open(&lab));
    assert!(heard(a.v4) && heard(a.v6), "own addresses");
    assert!(!heard(b.v4) && !heard(b.v6), "another pod's address");
    assert!(!heard("172.16.0.1".parse().unwrap()), "an address of nobody");
    let mut free = endpoint(a, vec![]);
    free.allowed_sources = ["172.16.0.0/24".parse().unwrap()].into();
    node.apply(&open(&lab).with_endpoint(free));
    assert!(heard("172.16.0.1".parse().unwrap()), "an allowed prefix");
    assert!(!heard(b.v4), "still not another pod's address");
    node.apply(&open(&lab));
    assert!(!heard("172.16.0.1".parse().unwrap()), "no longer");
    assert!(heard(a.v4) && !node.recheck().wrote());
}

fn pod_to_node(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let a = lab.pod("a");
    let node_v6 = "fd99::1".parse().unwrap();
    let mut node = Node::start(&lab, backend);
    for (action, open_node, closed_node) in [
        (EndpointToHostAction::Drop, false, false),
        (EndpointToHostAction::Accept, true, true),
        (EndpointToHostAction::Return, true, false),
    ] {
        let state = open(&lab).with_settings(|settings| settings.endpoint_to_host = action);
        node.apply(&state);
        assert_eq!(a.tcp(NODE, 80), open_node, "{action:?}");
        assert_eq!(a.tcp(node_v6, 80), open_node, "{action:?}");
        let v = infix(backend);
        lab.node.sh(&format!("iptables-{v} -A INPUT -p tcp --dport 80 -j DROP"));
        // What nftables accepts in our table goes on to everybody else's.
        let accepted = closed_node && backend != BackendChoice::Nftables;
        assert_eq!(a.tcp(NODE, 80), accepted, "{action:?} with a rule of the node's own");
        lab.node.sh(&format!("iptables-{v} -D INPUT -p tcp --dport 80 -j DROP"));
        assert!(lab.node.tcp(a.v4, 80), "node to pod: the answers are part of the connection");
    }
}

fn nat_outgoing(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut node = Node::start(&lab, backend);
    node.apply(&open(&lab));
    assert_eq!(a.udp_from(None, OUTSIDE, UDP_PORT), Some(a.v4), "routed as it is");
    let nat = open(&lab).with_settings(|settings| {
        settings.nat_outgoing = ["10.0.0.0/16".parse().unwrap()].into();
    });
    node.apply(&nat);
    assert_eq!(a.udp_from(None, OUTSIDE, UDP_PORT), Some(NODE_UPLINK), "masqueraded");
    assert_eq!(a.udp_from(None, b.v4, UDP_PORT), Some(a.v4), "not inside the pools");
    assert_eq!(a.udp_from(None, b.v6, UDP_PORT), Some(a.v6), "not the other family");
    node.apply(&open(&lab));
    assert_eq!(a.udp_from(None, OUTSIDE, UDP_PORT), Some(a.v4), "and not any more");
    assert!(!crate::dump(&lab, backend).contains("POSTROUTING -m comment"), "the jump is gone");
}

/// Address, ports, exclusions and interface of FelixConfiguration, in both families.
fn nat_outgoing_as_asked(backend: BackendChoice) {
    const EXTRA: &str = "192.0.2.77";
    let lab = Lab::new(&["a"]);
    let a = lab.pod("a");
    let (uplink, outside): (IpAddr, IpAddr) =
        ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    lab.node.sh(&format!(
        "ip -6 address add {uplink}/64 dev uplink0 nodad; ip address add {EXTRA}/32 dev uplink0"
    ));
    lab.outside.sh(&format!(
        "ip -6 address add {outside}/64 dev uplink0 nodad; ip -6 route add fd00::/64 via {uplink}"
    ));
    let seen = |to| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match a.udp_seen(None, to, UDP_PORT) {
                Some(seen) => return seen,
                None => assert!(Instant::now() < deadline, "{to} does not answer"),
            }
        }
    };
    let mut node = Node::start(&lab, backend);
    let mut apply = |source_nat: SourceNat| {
        node.apply(&open(&lab).with_settings(|settings| {
            settings.nat_outgoing = ["10.0.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()].into();
            settings.node_addresses = [OUTSIDE, outside].into();
            settings.source_nat = source_nat.clone();
        }));
    };

    apply(SourceNat::default());
    assert_eq!((seen(OUTSIDE).ip(), seen(outside).ip()), (NODE_UPLINK, uplink));

    let ports = PortRange { first: 61_000, last: 61_009 };
    apply(SourceNat { ports: Some(ports), ..SourceNat::default() });
    for _ in 0..8 {
        for (to, source) in [(OUTSIDE, NODE_UPLINK), (outside, uplink)] {
            let seen = seen(to);
            assert!(seen.ip() == source && (61_000..=61_009).contains(&seen.port()), "{seen}");
        }
    }
    assert!(a.ping(OUTSIDE) && a.ping(outside), "protocols without ports");

    let one = PortRange { first: 62_000, last: 62_000 };
    let address = Some(EXTRA.parse().unwrap());
    apply(SourceNat { address, ports: Some(one), ..SourceNat::default() });
    assert_eq!(seen(OUTSIDE).to_string(), format!("{EXTRA}:62000"));
    // Once only: the port is taken until the kernel forgets the connection.
    let seen_v6 = seen(outside);
    assert_eq!((seen_v6.ip(), seen_v6.port()), (uplink, 62_000), "an IPv4 address says nothing of IPv6");
    assert!(a.ping(OUTSIDE));
    apply(SourceNat { address, ..SourceNat::default() });
    assert_eq!(seen(OUTSIDE).ip().to_string(), EXTRA);

    apply(SourceNat { spares_nodes: true, ..SourceNat::default() });
    assert_eq!((seen(OUTSIDE).ip(), seen(outside).ip()), (a.v4, a.v6), "nodes see who it was");

    apply(SourceNat { interface: Some("other+".into()), ..SourceNat::default() });
    assert_eq!((seen(OUTSIDE).ip(), seen(outside).ip()), (a.v4, a.v6), "another interface");
    apply(SourceNat { interface: Some("upl+".into()), ..SourceNat::default() });
    assert_eq!((seen(OUTSIDE).ip(), seen(outside).ip()), (NODE_UPLINK, uplink));
}

/// Packets to advertised ranges that no service took are not sent back to the router that sent them.
fn service_loops(backend: BackendChoice) {
    const SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 9));
    let lab = Lab::new(&["a"]);
    let a = lab.pod("a");
    lab.node.sh(&format!("ip route add 10.96.0.0/16 via {OUTSIDE}"));
    lab.outside
        .sh(&format!("ip address add {SERVICE}/32 dev lo; ip route add 10.96.0.0/16 via {NODE_UPLINK}"));
    let mut node = Node::start(&lab, backend);
    let with = |rejects| {
        open(&lab).with_settings(|settings| {
            settings.service_ranges = ["10.96.0.0/16".parse().unwrap(), "fd96::/112".parse().unwrap()].into();
            settings.service_loop_rejects = rejects;
        })
    };
    node.apply(&open(&lab));
    assert!(a.udp(SERVICE), "nothing is said of it");
    node.apply(&with(false));
    assert!(!a.udp(SERVICE), "from a pod");

    // From the router, which has another address of the range not: what it is told tells what became of the packet.
    let told = |to: &str| {
        let ask = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((to, UDP_PORT)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 16]).map_err(|error| error.kind())
        };
        lab.outside.netns.run(ask).unwrap()
    };
    let counted = || {
        let rules = crate::dump(&lab, backend);
        let line = rules.lines().find(|line| line.contains("10.96.0.0/16")).unwrap().to_owned();
        assert!(line.contains("no such service"), "{line}");
        line
    };
    let (before, deadline) = (counted(), Instant::now() + Duration::from_secs(60));
    while counted() == before {
        assert_eq!(told("10.96.0.10"), Err(std::io::ErrorKind::WouldBlock), "dropped");
        assert!(Instant::now() < deadline, "not by this rule: {before}");
    }
    node.apply(&with(true));
    while told("10.96.0.10") != Err(std::io::ErrorKind::ConnectionRefused) {
        assert!(Instant::now() < deadline, "not rejected: {}", counted());
    }

    // What a service proxy takes has the address of a pod.
    let v = infix(backend);
    lab.node.sh(&format!(
        "iptables-{v} -t nat -A PREROUTING -p tcp -d 10.96.0.11 -j DNAT --to-destination {}:80",
        a.v4
    ));
    assert!(lab.outside.tcp("10.96.0.11".parse().unwrap(), 80), "a service");
}

fn tunnel_packets(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let a = lab.pod("a");
    // The echo server on the node's VXLAN port stands for its device: what it answers was let in.
    let ear = lab.node.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:4789").unwrap()).unwrap();
    ear.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let heard = |from: &crate::lab::Host, to: IpAddr| {
        from.netns
            .run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"vxlan", (to, 4789)).unwrap())
            .unwrap();
        ear.recv_from(&mut [0; 16]).is_ok()
    };
    let mut node = Node::start(&lab, backend);
    let state = open(&lab).with_settings(|settings| {
        settings.endpoint_to_host = EndpointToHostAction::Accept;
        settings.vxlan_port = Some(4789);
        settings.ipip = true;
        settings.wireguard_ports = [51_820].into();
    });
    node.apply(&state);
    let rules = crate::dump(&lab, backend);
    assert!(rules.contains("WireGuard of a node") && rules.contains("WireGuard of a stranger"), "{rules}");
    assert!(!heard(&lab.outside, NODE_UPLINK), "a stranger's tunnel packet");
    assert!(!heard(a, NODE), "a pod's tunnel packet to its node");
    // Whoever tracks nothing must be seen to, or the test is of a kernel without connection tracking.
    let tracked = || {
        let of_tunnels =
            |flow: &Flow| matches!(flow.original.detail, Detail::Ports { destination: 4789, .. });
        lab.node.netns.run(|| Conntrack::open().unwrap().flows(false, of_tunnels).unwrap().len()).unwrap()
    };
    node.apply(&state.clone().with_settings(|settings| settings.vxlan_port = None));
    assert!(heard(&lab.outside, NODE_UPLINK), "nobody's tunnel packet");
    assert_eq!(tracked(), 1);
    lab.node.netns.run(|| Conntrack::open().unwrap().forget(false, |_| true).unwrap()).unwrap();
    node.apply(&state.clone().with_settings(|settings| {
        settings.node_addresses.extend([OUTSIDE, NODE_UPLINK]);
    }));
    assert!(heard(&lab.outside, NODE_UPLINK), "a node's tunnel packet");
    let send = || std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"vxlan", (OUTSIDE, 4789)).unwrap();
    lab.node.netns.run(send).unwrap();
    assert_eq!(tracked(), 0, "neither what comes from a node nor what goes to one");
    assert!(!heard(a, NODE), "still not a pod's");
    node.apply(&state);
    assert!(
        !heard(&lab.outside, NODE_UPLINK),
        "no node any more, and what was let in has left nothing behind"
    );
}

fn many_ports_and_networks(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    let mut allow = rule(RuleAction::Allow);
    allow.protocol = Some(6);
    let mut many: Vec<u16> = (2000..2040).collect();
    many.push(80);
    allow.destination = ports(&many);
    allow.source.nets = vec!["10.0.0.0/24".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
    allow.source.not_nets = vec![c.v4.into(), "10.0.0.128/25".parse().unwrap()];
    let state = open(&lab)
        .with_policy(policy("b-in", vec![allow], vec![]))
        .with_endpoint(endpoint(b, vec![tier("default", TierDefault::Deny, &["b-in"], &[])]));
    node.apply(&state);
    assert!(a.tcp(b.v4, 80) && lab.outside.tcp(b.v4, 80), "in the networks");
    assert!(!a.tcp(b.v4, 8080), "not one of the ports");
    assert!(!c.tcp(b.v4, 80), "in the excluded networks");
    assert!(!a.tcp(b.v6, 80), "a rule for IPv4 networks says nothing about IPv6");

    let mut deny = rule(RuleAction::Deny);
    deny.protocol = Some(6);
    deny.destination.not_ports = many.iter().map(|port| PortRange { first: *port, last: *port }).collect();
    let state = open(&lab)
        .with_policy(policy("b-in", vec![deny, rule(RuleAction::Allow)], vec![]))
        .with_endpoint(endpoint(b, vec![tier("default", TierDefault::Deny, &["b-in"], &[])]));
    node.apply(&state);
    assert!(a.tcp(b.v4, 80) && a.ping(b.v4), "one of many ports that are not denied");
    assert!(!a.tcp(b.v4, 8080), "none of them");
}

/// More groups than are searched one after the other.
fn many_groups(backend: BackendChoice) {
    const NAMES: [&str; 24] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t",
        "u", "v", "w", "x",
    ];
    let lab = Lab::new(&NAMES);
    let mut node = Node::start(&lab, backend);
    let mut state = open(&lab);
    let mut web = rule(RuleAction::Allow);
    web.protocol = Some(6);
    web.destination = ports(&[80]);
    for pod in &lab.pods[1..] {
        let own = format!("{}-in", pod.name);
        state = state
            .with_policy(policy(&own, vec![web.clone()], vec![]))
            .with_endpoint(endpoint(pod, vec![tier("default", TierDefault::Deny, &[&own], &[])]));
    }
    node.apply(&state);
    for pod in &lab.pods[1..] {
        assert!(lab.pod("a").tcp(pod.v4, 80) && pod.tcp(lab.pod("a").v6, 8080), "{}", pod.name);
    }
    for pod in &lab.pods[20..] {
        assert!(!lab.pod("a").tcp(pod.v4, 8080), "{}", pod.name);
    }
    // Half of the pods go to groups that are new: wherever that breaks off, they are found in the old or the new one.
    let mut moved = state.clone().with_policy(policy("more", vec![web], vec![]));
    for pod in lab.pods[1..].iter().step_by(2) {
        let own = format!("{}-in", pod.name);
        let tiers = vec![tier("default", TierDefault::Deny, &["more", &own], &[])];
        moved = moved.with_endpoint(endpoint(pod, tiers));
    }
    for stop_after in 0.. {
        let mut seen = 0;
        node.applier.observe(move |_| {
            seen += 1;
            if seen > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let stopped = node.try_apply(&moved).is_err();
        for pod in &lab.pods[1..] {
            assert!(lab.pod("a").tcp(pod.v4, 80), "{} after step {stop_after}", pod.name);
        }
        node = Node::start(&lab, backend);
        node.apply(&state);
        if !stopped {
            break;
        }
    }
    // Back to few groups: the tree is gone.
    node.apply(&open(&lab));
    assert!(!crate::dump(&lab, backend).contains("mgy-ti-"));
    assert!(lab.pod("a").tcp(lab.pod("x").v4, 8080));
}

/// Docker's `FORWARD DROP` does not reach what policy accepted.
fn foreign_drop_policy(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let v = infix(backend);
    lab.node
        .sh(&format!("iptables-{v} -P FORWARD DROP; iptables-{v} -A FORWARD -s 198.51.100.0/24 -j ACCEPT"));
    assert!(!a.tcp(b.v4, 80));
    let mut node = Node::start(&lab, backend);
    node.apply(&open(&lab));
    assert!(a.tcp(b.v4, 80) && lab.outside.tcp(a.v4, 80) && a.udp(OUTSIDE));
}
