//! The rendered rules decide as the evaluator does, on random states and packets.
//!
//! Left out, because the evaluator and the rules differ there on purpose: references to policies, profiles and
//! sets that don't exist (the calculation makes none; the rules fail closed) and ports without a protocol
//! (validation refuses them).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod hosts;
mod iptables;
mod nftables;
#[path = "../truth/mod.rs"]
mod truth;
mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felix_rs::calc::Calculator;
use felix_rs::model::*;
use felix_rs::render;
use felix_rs::rules::{Compiler, DispatchBy, Family, Member, Rule, SetName, SetUpdate};
use felix_rs::verdict::{Packet, Passage, Verdict, explain};
use iptables::Kernel;
use nftables::Nft;
use proptest::prelude::*;
use way::Filter as _;

/// How a chain ends for a packet.
enum Outcome {
    Decided(bool),
    Return,
}

/// The words of a line; what is quoted is one.
fn tokens(line: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            tokens.push(part.to_owned());
        } else {
            tokens.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    tokens
}

const PODS: u8 = 4;
const POLICIES: u8 = 5;

fn address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => [10, 0, 0, number].into(),
        Family::V6 => [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
    }
}

fn policy_id(number: u8) -> PolicyId {
    PolicyId { kind: "NetworkPolicy".into(), namespace: Some("ns".into()), name: format!("p{number}").into() }
}

fn net_set(number: u8) -> SetId {
    SetId(format!("net-{number}").into())
}

fn port_set(number: u8) -> SetId {
    SetId(format!("ports-{number}").into())
}

fn any_net() -> impl Strategy<Value = IpNetText> {
    let texts = vec![
        "10.0.0.1/32",
        "10.0.0.2/32",
        "10.0.0.2/31",
        "10.0.0.0/30",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "192.0.2.0/24",
        "fd00::1/128",
        "fd00::2/127",
        "fd00::/126",
        "::/0",
        "2001:db8::/32",
    ];
    proptest::sample::select(texts)
}

type IpNetText = &'static str;

fn ranges() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (1..30u16, 0..3u16).prop_map(|(first, more)| PortRange { first, last: first + more });
    prop_oneof![3 => Just(Vec::new()), 2 => proptest::collection::vec(range.clone(), 1..4), 1 => proptest::collection::vec(range, 14..25)]
}

fn any_peer() -> impl Strategy<Value = SharedPeer> {
    let nets = || prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(any_net().prop_map(|n| n.parse().unwrap()), 1..4)];
    let few = |id: fn(u8) -> SetId| prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec((0..3u8).prop_map(id), 1..3)];
    let service = prop_oneof![5 => Just(None), 1 => (0..3u8).prop_map(|n| Some(port_set(n)))];
    (nets(), nets(), few(net_set), few(net_set), ranges(), few(port_set), ranges(), few(port_set), service)
        .prop_map(
            |(nets, not_nets, sets, not_sets, ports, named_ports, not_ports, not_named_ports, service)| {
                SharedPeer::from(PeerMatch {
                    nets,
                    not_nets,
                    sets,
                    not_sets,
                    ports,
                    named_ports,
                    not_ports,
                    not_named_ports,
                    service,
                })
            },
        )
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    use RuleAction::{Allow, Deny, Log, Pass};
    let action = proptest::sample::select(vec![Allow, Allow, Deny, Pass, Log]);
    let version = proptest::sample::select(vec![None, None, None, Some(4), Some(6)]);
    let protocol = proptest::sample::select(vec![
        None,
        None,
        None,
        Some(6),
        Some(6),
        Some(17),
        Some(132),
        Some(1),
        Some(58),
    ]);
    let not_protocol = proptest::sample::select(vec![None, None, Some(6), Some(17)]);
    let icmp = || {
        let kind = proptest::sample::select(vec![None, Some(8), Some(128), Some(3)]);
        let code = proptest::sample::select(vec![None, Some(0), Some(1)]);
        proptest::option::of((kind, code).prop_map(|(kind, code)| IcmpMatch { kind, code: kind.and(code) }))
    };
    // Most rules match much, or no packet would come far.
    let peer = || prop_oneof![3 => Just(SharedPeer::default()), 2 => any_peer()];
    (action, version, protocol, not_protocol, icmp(), icmp(), peer(), peer()).prop_map(
        |(action, ip_version, protocol, not_protocol, icmp, not_icmp, mut source, mut destination)| {
            if protocol.is_none() {
                for peer in [&mut source, &mut destination] {
                    peer.ports.clear();
                    peer.not_ports.clear();
                }
            }
            let is_icmp = matches!(protocol, Some(1 | 58));
            PolicyRule {
                index: 0,
                action,
                ip_version,
                protocol,
                not_protocol,
                icmp: icmp.filter(|_| is_icmp),
                not_icmp: not_icmp.filter(|_| is_icmp),
                source,
                destination,
                annotations: BTreeMap::new(),
            }
        },
    )
}

/// What decides the packets of an endpoint of [`any_state`].
fn any_policy() -> impl Strategy<Value = EndpointPolicy> {
    let ids = || proptest::collection::vec((0..POLICIES).prop_map(policy_id), 0..4);
    let tier = (ids(), ids(), any::<bool>()).prop_map(|(ingress, egress, deny)| EndpointTier {
        name: "tier".into(),
        default: if deny { TierDefault::Deny } else { TierDefault::Pass },
        ingress,
        egress,
    });
    let profile = (0..2u8).prop_map(|number| ProfileId(format!("profile-{number}").into()));
    (proptest::collection::vec(tier, 0..3), proptest::collection::vec(profile, 0..3))
        .prop_map(|(tiers, profiles)| EndpointPolicy { tiers, profiles })
}

fn any_state() -> impl Strategy<Value = EnforcedState> {
    let rules = || proptest::collection::vec(any_rule(), 0..4);
    let policies =
        proptest::collection::vec((rules(), rules(), proptest::bool::weighted(0.15)), usize::from(POLICIES));
    let profiles = proptest::collection::vec((rules(), rules()), 2);
    let net_sets = proptest::collection::vec(
        proptest::collection::btree_set(any_net().prop_map(|net| SetMember::Net(net.parse().unwrap())), 0..4),
        3,
    );
    let port = (0..PODS, any::<bool>(), proptest::sample::select(vec![6, 17, 132]), 1..10u16);
    let port_sets = proptest::collection::vec(
        proptest::collection::btree_set(
            port.prop_map(|(pod, v6, protocol, port)| {
                let family = if v6 { Family::V6 } else { Family::V4 };
                SetMember::IpPort(address(family, pod), protocol, port)
            }),
            0..12,
        ),
        3,
    );
    let endpoints = proptest::collection::vec(any_policy(), usize::from(PODS) - 1);
    (policies, profiles, net_sets, port_sets, endpoints).prop_map(
        |(policies, profiles, net_sets, port_sets, endpoints)| {
            let mut state = EnforcedState::default();
            Arc::make_mut(&mut state.settings).workload_interfaces = [interface(3)].into();
            for (number, (ingress, egress, staged)) in (0..).zip(policies) {
                let id = policy_id(number);
                let policy = ActivePolicy {
                    id: id.clone(),
                    tier: "tier".into(),
                    staged,
                    ingress,
                    egress,
                    do_not_track: false,
                    pre_dnat: false,
                    apply_on_forward: false,
                    invalid: None,
                };
                state.policies.insert(id, Arc::new(policy));
            }
            for (number, (ingress, egress)) in profiles.into_iter().enumerate() {
                let id = ProfileId(format!("profile-{number}").into());
                state.profiles.insert(id.clone(), Arc::new(ActiveProfile { id, ingress, egress }));
            }
            for (number, members) in (0..).zip(net_sets) {
                let networks = members.iter().any(SetMember::is_network);
                state
                    .sets
                    .insert(net_set(number), (if networks { SetKind::Net } else { SetKind::Host }, members));
            }
            for (number, members) in (0..).zip(port_sets) {
                state.sets.insert(port_set(number), (SetKind::IpPort, members));
            }
            // Pod 0 is somewhere else.
            for (number, policy) in (1..).zip(endpoints) {
                let id =
                    EndpointId::Workload { namespace: "ns".into(), name: format!("pod-{number}").into() };
                let endpoint = LocalEndpoint {
                    id: id.clone(),
                    interface: interface(number),
                    addresses: Family::ALL.map(|family| address(family, number)).into(),
                    allowed_sources: BTreeSet::new(),
                    policy: Arc::new(policy),
                    untracked: Arc::default(),
                    pre_dnat: Arc::default(),
                    forward: Arc::default(),
                };
                state.endpoints.insert(id, Arc::new(endpoint));
            }
            state
        },
    )
}

fn interface(pod: u8) -> Arc<str> {
    match pod {
        0 => "uplink0".into(),
        // Not of our plugin's making.
        3 => "tap3".into(),
        _ => format!("mgy{pod}").into(),
    }
}

fn any_packet() -> impl Strategy<Value = (u8, u8, Packet)> {
    let protocol = proptest::sample::select(vec![6, 6, 17, 132, 1, 47]);
    let icmp = proptest::sample::select(vec![(8, 0), (3, 1), (0, 0)]);
    (0..PODS, 1..PODS, any::<bool>(), protocol, 1..32u16, 1..32u16, icmp).prop_map(
        |(from, step, v6, protocol, source_port, destination_port, icmp)| {
            let to = (from + step) % PODS;
            let family = if v6 { Family::V6 } else { Family::V4 };
            let ported = matches!(protocol, 6 | 17 | 132);
            let icmp6 = |(kind, code)| (if kind == 8 { 128 } else { kind }, code);
            let packet = Packet {
                source: address(family, from),
                destination: address(family, to),
                protocol: if protocol == 1 && v6 { 58 } else { protocol },
                source_port: if ported { source_port } else { 0 },
                destination_port: if ported { destination_port } else { 0 },
                icmp: (protocol == 1).then_some(if v6 { icmp6(icmp) } else { icmp }),
            };
            (from, to, packet)
        },
    )
}

/// A packet on its way through the node.
pub(crate) struct Passing<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) incoming: &'a str,
    pub(crate) outgoing: &'a str,
}

fn through(packet: Packet, incoming: Arc<str>, outgoing: Arc<str>) -> Passage {
    Passage { packet, incoming: Some(incoming), outgoing: Some(outgoing), rewritten: None }
}

/// Members of the sets of one family.
fn sets(changes: BTreeMap<(SetName, Family), SetUpdate>, family: Family) -> Vec<(String, BTreeSet<Member>)> {
    let own = changes.into_iter().filter(|((_, own), _)| *own == family);
    own.map(|((name, _), update)| {
        let SetUpdate::Whole { kind, members } = update else { panic!("a new compiler makes whole sets") };
        let is_host = |member: &Member| match member {
            Member::Net(net) | Member::NetIface(net, _) | Member::Dispatch(net, ..) => {
                net.prefix_len() == net.max_prefix_len()
            }
            Member::IpPort(..) => true,
        };
        assert!(kind.has_networks() || members.iter().all(is_host), "{name:?}: {members:?}");
        (name.kernel_name(family), members)
    })
    .collect()
}

/// The kernel of one family with a state's rules and sets, through their text.
fn kernel(state: &EnforcedState, family: Family) -> Kernel {
    beside(Kernel::default(), state, family)
}

/// The same beside rules that are there.
fn beside(mut kernel: Kernel, state: &EnforcedState, family: Family) -> Kernel {
    let (compiler, changes) = Compiler::new(DispatchBy::Sets, state);
    for ((_, id), table) in compiler.tables().iter().filter(|((own, _), _)| *own == family) {
        kernel.restore(&render::iptables::table(family, *id, table));
    }
    for (set, members) in sets(changes.sets, family) {
        kernel.create(set.clone());
        for member in members {
            let text = match member {
                Member::Net(net) => net.to_string(),
                Member::IpPort(address, protocol, port) => format!("{address},{protocol}:{port}"),
                Member::NetIface(net, interface) | Member::Dispatch(net, interface, _) => {
                    format!("{net},{interface}")
                }
            };
            kernel.add(set.clone(), text);
        }
    }
    kernel
}

/// The same for nftables.
fn nft(state: &EnforcedState, family: Family) -> Nft {
    use render::nftables::{BaseChain, base_rules, chain, chain_name, element};
    let (compiler, changes) = Compiler::new(DispatchBy::Map, state);
    let mut nft = Nft::default();
    for ((_, id), table) in compiler.tables().iter().filter(|((own, _), _)| *own == family) {
        let mut add = |name: String, rules: &[Rule]| {
            let text = chain(family, *id, &name, rules).into_iter().map(|(_, text)| text);
            nft.chain(&name, text);
        };
        for (name, rules) in &table.chains {
            add(chain_name(*id, name), rules);
        }
        for (hook, base) in &table.base {
            add(BaseChain::name(*id, *hook), &base_rules(base));
        }
    }
    for (set, members) in sets(changes.sets, family) {
        nft.set(&set, members.iter().map(element));
    }
    nft
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn rules_decide_as_the_evaluator(state in any_state(), packets in proptest::collection::vec(any_packet(), 40)) {
        let [v4, v6] = Family::ALL.map(|family| (kernel(&state, family), nft(&state, family)));
        for (from, to, packet) in packets {
            let explained = explain(&state, &packet);
            let (kernel, nft) = if packet.source.is_ipv4() { &v4 } else { &v6 };
            let passage = through(packet, interface(from), interface(to));
            let wanted = explained.verdict == Verdict::Allow;
            prop_assert_eq!(kernel.passes(&passage), wanted, "{:?}\n{:#?}\n{:#?}", packet, explained, kernel);
            prop_assert_eq!(nft.passes(&passage), wanted, "{:?}\n{:#?}\n{:#?}", packet, explained, nft);
        }
    }
}

/// cyclonus' truth table, decided by the text of the rules.
#[test]
fn rules_decide_every_probe_of_every_case() {
    let mut cluster = truth::Cluster::new(Calculator::new("node"), truth::Pod::endpoint);
    let mut probes = 0;
    for case in truth::cases() {
        for step in &case.steps {
            cluster.go_to(step);
            let interfaces: BTreeMap<IpAddr, String> =
                step.pods.iter().map(|pod| (pod.ip, pod.interface())).collect();
            let kernel = kernel(&cluster.state, Family::V4);
            let nft = nft(&cluster.state, Family::V4);
            for (probe, packet) in step.probes() {
                let [incoming, outgoing] =
                    [packet.source, packet.destination].map(|at| interfaces[&at].as_str());
                let passage = through(packet, incoming.into(), outgoing.into());
                let decided = (kernel.passes(&passage), nft.passes(&passage));
                let case = format!("case {} ({}): {packet:?}", case.id, case.description);
                assert_eq!(decided, (probe.allowed, probe.allowed), "{case}");
                probes += 1;
            }
        }
    }
    assert!(probes > 100_000, "{probes} probes");
}
