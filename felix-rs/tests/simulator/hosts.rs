//! The same with host endpoints: named interfaces, `*` and addresses, policies of every mode, failsafe ports, packets
//! through the node, to it and from it, and destinations that are rewritten.

use std::net::IpAddr;
use std::sync::Arc;

use felix_rs::model::*;
use felix_rs::rules::Family;
use felix_rs::verdict::{Packet, Passage, Verdict, pass};
use proptest::prelude::*;

use crate::iptables::Kernel;
use crate::way::Filter as _;
use crate::{PODS, address, any_policy, any_state, beside, interface, nft};

/// Where a packet can be from and go to: pods, hosts behind each uplink, the node's address on each uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Pod(u8),
    Outside(u8),
    Node(u8),
}

impl Spot {
    fn address(self, family: Family) -> IpAddr {
        let number = match self {
            Self::Pod(number) => number,
            Self::Outside(0) => 0,
            Self::Outside(number) => 16 + number,
            Self::Node(number) => 32 + number,
        };
        address(family, number)
    }

    /// `None`: the node itself.
    fn interface(self) -> Option<Arc<str>> {
        match self {
            Self::Pod(number) => Some(interface(number)),
            Self::Outside(number) => Some(format!("uplink{number}").into()),
            Self::Node(_) => None,
        }
    }
}

fn any_spot() -> impl Strategy<Value = Spot> {
    prop_oneof![
        2 => (1..PODS).prop_map(Spot::Pod),
        4 => (0..2u8).prop_map(Spot::Outside),
        2 => (0..2u8).prop_map(Spot::Node)
    ]
}

fn any_failsafe() -> impl Strategy<Value = FailsafePort> {
    let net = proptest::sample::select(vec![
        None,
        None,
        Some("10.0.0.0/30"),
        Some("fd00::/126"),
        Some("10.0.0.17/32"),
    ]);
    (proptest::sample::select(vec![6, 17]), 1..32u16, net).prop_map(|(protocol, port, net)| FailsafePort {
        protocol,
        port,
        net: net.map(|net| net.parse().unwrap()),
    })
}

fn any_host() -> impl Strategy<Value = LocalEndpoint> {
    let interface = proptest::sample::select(vec!["uplink0", "uplink1", "*", "*", ""]);
    // A mode of most host endpoints has no policy.
    let tiers = || {
        let none = Just(EndpointPolicy::default());
        let some = any_policy().prop_map(|policy| EndpointPolicy { profiles: Vec::new(), ..policy });
        prop_oneof![2 => none, 1 => some].prop_map(Arc::new)
    };
    (interface, 0..2u8, any_policy(), tiers(), tiers(), tiers()).prop_map(
        |(interface, own, policy, untracked, pre_dnat, forward)| LocalEndpoint {
            id: EndpointId::Host { name: "".into() },
            interface: interface.into(),
            addresses: Family::ALL.map(|family| Spot::Node(own).address(family)).into(),
            allowed_sources: [].into(),
            policy: Arc::new(policy),
            untracked,
            pre_dnat,
            forward,
        },
    )
}

fn any_node() -> impl Strategy<Value = EnforcedState> {
    let failsafes = || proptest::collection::vec(any_failsafe(), 0..4);
    let to_host = proptest::sample::select(vec![
        EndpointToHostAction::Drop,
        EndpointToHostAction::Accept,
        EndpointToHostAction::Return,
    ]);
    let hosts = proptest::collection::vec(any_host(), 0..4);
    let mask = proptest::sample::select(vec![0xffff_0000, 0x0000_0a00]);
    let felix = (to_host, mask, any::<[bool; 4]>());
    (any_state(), hosts, failsafes(), failsafes(), felix).prop_map(
        |(mut state, hosts, failsafe_inbound, failsafe_outbound, felix)| {
            let (endpoint_to_host, mark_mask, [rejects, pods_send_vxlan, pods_send_ipip, ipvs]) = felix;
            for (number, mut host) in hosts.into_iter().enumerate() {
                host.id = EndpointId::Host { name: format!("host-{number}").into() };
                state.endpoints.insert(host.id.clone(), Arc::new(host));
            }
            let settings = Arc::make_mut(&mut state.settings);
            settings.failsafe_inbound = failsafe_inbound;
            settings.failsafe_outbound = failsafe_outbound;
            settings.endpoint_to_host = endpoint_to_host;
            settings.iptables = WriterSettings { mark_mask, rejects, appends: false };
            settings.nftables = settings.iptables;
            settings.ipvs = ipvs;
            settings.pods_send_vxlan = pods_send_vxlan;
            settings.pods_send_ipip = pods_send_ipip;
            settings.host_addresses = (0..2u8)
                .map(|own| {
                    let addresses = Family::ALL.map(|family| Spot::Node(own).address(family));
                    (format!("uplink{own}").into(), addresses.into())
                })
                .collect();
            state
        },
    )
}

fn any_passage() -> impl Strategy<Value = Passage> {
    let protocol = proptest::sample::select(vec![6, 6, 17, 132, 1, 47, 4]);
    let icmp = proptest::sample::select(vec![8, 3, 135, 134, 130]);
    let rewritten = prop_oneof![2 => Just(None), 1 => (any_spot(), 1..32u16).prop_map(Some)];
    let spots = (any_spot(), any_spot(), rewritten);
    let port = prop_oneof![7 => 1..32u16, 1 => Just(4789)];
    (spots, any::<bool>(), protocol, 1..32u16, port, icmp)
        .prop_filter(
            "the node's packets to itself stay in it, pods' to themselves in the pod",
            |(spots, ..)| {
                let (from, to, rewritten) = spots;
                let is_node = |spot: &Spot| matches!(spot, Spot::Node(_));
                let stays = |to: &Spot| from == to || is_node(from) && is_node(to);
                !stays(to) && !rewritten.as_ref().is_some_and(|(to, _)| stays(to))
            },
        )
        .prop_map(|((from, to, rewritten), v6, protocol, source_port, destination_port, kind)| {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let ported = matches!(protocol, 6 | 17 | 132);
            let packet = Packet {
                source: from.address(family),
                destination: to.address(family),
                protocol: if protocol == 1 && v6 { 58 } else { protocol },
                source_port: if ported { source_port } else { 0 },
                destination_port: if ported { destination_port } else { 0 },
                icmp: (protocol == 1).then_some((if v6 && kind == 8 { 128 } else { kind }, 0)),
            };
            let rewritten = rewritten.filter(|_| ported).map(|(to, destination_port)| {
                (Packet { destination: to.address(family), destination_port, ..packet }, to.interface())
            });
            Passage { packet, incoming: from.interface(), outgoing: to.interface(), rewritten }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn rules_decide_as_the_evaluator(state in any_node(), passages in proptest::collection::vec(any_passage(), 40)) {
        let [v4, v6] = Family::ALL.map(|family| {
            // What others let through once our rules have seen it.
            let mut others = Kernel::default();
            others.restore("*filter\n-A INPUT -j ACCEPT\n-A FORWARD -j ACCEPT\n-A OUTPUT -j ACCEPT\nCOMMIT\n");
            (beside(others, &state, family), nft(&state, family))
        });
        for passage in passages {
            let passed = pass(&state, &passage);
            let (kernel, nft) = if passage.packet.source.is_ipv4() { &v4 } else { &v6 };
            let wanted = passed.verdict == Verdict::Allow;
            prop_assert_eq!(kernel.passes(&passage), wanted, "{:?}\n{:#?}\n{:#?}", passage, passed, kernel);
            prop_assert_eq!(nft.passes(&passage), wanted, "{:?}\n{:#?}\n{:#?}", passage, passed, nft);
        }
    }
}
