//! WireGuard: which destinations are encrypted, and the devices and peers this takes.
//!
//! A prefix of a pool that belongs to a node with a key goes to that node's device, whatever the pool's encapsulation. A peer may
//! have, and send from, exactly what is routed to it: cryptokey routing is the routing table read the other way. A node
//! without a key is reached as if there were no WireGuard, as with Calico, and is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::context::{Context, Learned, Pool};
use crate::desired::{
    Encapsulation, Hop, HopKey, Problem, Route, Target, WireguardDevice, WireguardNodes, WireguardPeer,
};
use crate::input::Family;
use crate::reason::{Reason, Source};
use crate::tunnels::Mtus;

/// Mark of encrypted packets where the mask of ours has no room: Calico's by default.
const FOREIGN_MARK: u32 = 0x10_0000;

/// The encrypted way to a prefix, if there is one.
pub(crate) fn hop(
    cx: &Context,
    prefix: &IpNet,
    pool: &Pool,
    learned: Option<&Learned>,
) -> Option<(Hop, Reason)> {
    let family = Family::of(prefix);
    let device = cx.settings.wireguard.families.get(&family)?;
    // Others encrypt for us from the moment they know our key; so do we.
    cx.own.wireguard.get(&family)?;
    let by_datastore = cx.blocks.get(prefix).and_then(Option::as_ref).map(|node| (node, Source::Datastore));
    // A prefix that is no block (a single borrowed address) is at the node BGP names. No two peers can have it.
    let by_bgp = || {
        let mut nodes = learned?.next_hops.iter().filter_map(|hop| cx.by_address.get(&hop.address));
        nodes.find(|node| is_peer(cx, node, family)).map(|node| (node, Source::Bgp))
    };
    let (node, source) = by_datastore.or_else(by_bgp)?;
    if !is_peer(cx, node, family) {
        return None;
    }
    let key = HopKey::Node { node: node.clone(), pool: Some(pool.name.clone()), family, way: 0 };
    let hop = Hop { key, gateway: None, dev: device.device.clone(), onlink: false };
    let why = Reason::Encrypted { node: node.clone(), source };
    Some((hop, why))
}

/// Another node with a key and an address.
fn is_peer(cx: &Context, node: &str, family: Family) -> bool {
    let peer = cx.peers.get(node).filter(|_| node != cx.node);
    peer.is_some_and(|peer| peer.wireguard.contains_key(&family) && peer.addresses.contains_key(&family))
}

/// The route goes through a device of ours: what its peer may have depends on it.
pub(crate) fn encrypts(cx: &Context, route: Option<&Route>) -> bool {
    route.is_some_and(|route| peer_of(cx, route).is_some())
}

fn peer_of<'a>(cx: &Context, route: &'a Route) -> Option<&'a str> {
    let device = cx.settings.wireguard.families.get(&Family::of(&route.prefix))?;
    match &route.target {
        Target::Via(hops) => {
            hops.iter().find(|hop| hop.dev == device.device).and_then(|hop| match &hop.key {
                HopKey::Node { node, .. } => Some(node.as_str()),
                HopKey::Gateway { .. } => None,
            })
        }
        Target::Link { .. } | Target::Blackhole => None,
    }
}

/// The devices, with every node that has a key as their peers.
pub(crate) fn devices(
    cx: &Context,
    routes: &BTreeMap<IpNet, Route>,
    mtus: &Mtus,
) -> BTreeMap<Family, WireguardDevice> {
    let settings = &cx.settings.wireguard;
    let mut allowed: BTreeMap<(&str, Family), BTreeSet<IpNet>> = BTreeMap::new();
    for route in routes.values() {
        if let Some(node) = peer_of(cx, route) {
            allowed.entry((node, Family::of(&route.prefix))).or_default().insert(route.prefix);
        }
    }
    let mut devices = BTreeMap::new();
    for (family, device) in &settings.families {
        let Some(local) = cx.own.address(*family) else { continue };
        let peers = cx.peers.iter().filter(|(name, _)| is_peer(cx, name, *family));
        let peers = peers.filter_map(|(name, peer)| {
            let (key, address) = (peer.wireguard.get(family)?, peer.address(*family)?);
            let mut allowed = allowed.remove(&(name.as_str(), *family)).unwrap_or_default();
            if settings.encrypts_nodes {
                allowed.insert(IpNet::from(address));
            }
            let endpoint = SocketAddr::new(address, device.port);
            Some((
                *key,
                WireguardPeer { node: name.clone(), endpoint, keepalive: settings.keepalive, allowed },
            ))
        });
        let desired = WireguardDevice {
            name: device.device.clone(),
            port: device.port,
            address: cx.own.wireguard_addresses.get(family).copied().map(IpNet::from),
            mtu: mtus.wireguard(*family),
            mark: settings.mark.unwrap_or(FOREIGN_MARK),
            peers: peers.collect(),
            // Only when others can answer in the same way.
            nodes: (settings.encrypts_nodes && cx.own.wireguard.contains_key(family))
                .then_some(WireguardNodes { source: local, rule_priority: settings.rule_priority }),
        };
        devices.insert(*family, desired);
    }
    devices
}

/// WireGuard as an encapsulation, for the MTU.
pub(crate) fn used(cx: &Context) -> impl Iterator<Item = (Encapsulation, Family)> {
    let families = cx.settings.wireguard.families.keys();
    families
        .filter(|family| cx.own.addresses.contains_key(family))
        .map(|family| (Encapsulation::Wireguard, *family))
}

/// The nodes whose packets are not encrypted, and a mask that is too small.
pub(crate) fn problems(cx: &Context) -> impl Iterator<Item = Problem> {
    let nodes = cx.peers.iter().flat_map(|(name, peer)| {
        let families = cx.settings.wireguard.families.keys();
        let plain = families
            .filter(|family| peer.addresses.contains_key(family) && !peer.wireguard.contains_key(family));
        plain.map(move |family| (name, family))
    });
    let settings = &cx.settings.wireguard;
    let narrow = !settings.families.is_empty() && settings.mark.is_none();
    let narrow = narrow.then(|| Problem {
        object: "FelixConfiguration".to_owned(),
        message: format!(
            "iptablesMarkMask (nftablesMarkMask with nftablesMode: Enabled) has no bit for WireGuard, which marks packets with {FOREIGN_MARK:#x}: \
             set at least three bits that nobody else uses"
        ),
    });
    let plain = nodes.map(|(name, family)| Problem {
        object: format!("Node({name})"),
        message: format!(
            "has no WireGuard key for {family}: packets between its pods and other nodes are not encrypted; see `margay status` there"
        ),
    });
    narrow.into_iter().chain(plain)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use margay_api::types::WireguardKey;
    use margay_api::{IpPool, IpamBlock, Metadata, Node};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::settings::{Settings, WireguardFamily};
    use crate::{BgpRoute, Router, UnderlayRoute};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn node(number: u8, key: Option<u8>) -> Node {
        let spec = json!({
            "bgp": { "ipv4Address": format!("192.0.2.{number}/24") },
            "wireguard": { "interfaceIPv4Address": format!("10.65.{number}.0") },
        });
        let mut node =
            Node::new(Metadata::named(format!("n{number}")), serde_json::from_value(spec).unwrap());
        node.status.wireguard_public_key = key.map(|key| WireguardKey([key; 32]).to_string());
        node
    }

    fn block(cidr: &str, owner: u8) -> IpamBlock {
        let spec = json!({ "cidr": cidr, "affinity": format!("host:n{owner}") });
        let name = cidr.replace(['.', '/'], "-");
        IpamBlock::new(Metadata::named(name), serde_json::from_value(spec).unwrap())
    }

    fn settings(encrypts_nodes: bool) -> Settings {
        let mut settings = Settings::default();
        let device = WireguardFamily { device: "wireguard.mgy".to_owned(), port: 51820, mtu: None };
        settings.wireguard.families.insert(Family::V4, device);
        settings.wireguard.encrypts_nodes = encrypts_nodes;
        settings
    }

    /// Node 1 among others, each with a block that BGP has told of too, in a pool of this mode.
    fn router(nodes: &[Node], settings: Settings, mode: &str) -> Router {
        let mut router = Router::new("n1", settings);
        let pool = json!({ "cidr": "10.65.0.0/16", "vxlanMode": mode });
        let pool = IpPool::new(Metadata::named("pods"), serde_json::from_value(pool).unwrap());
        router.set_pools([&pool]);
        router.set_nodes(&nodes.iter().collect::<Vec<_>>());
        router.set_underlay(BTreeSet::from([UnderlayRoute {
            prefix: net("192.0.2.0/24"),
            gateway: None,
            dev: "eth0".to_owned(),
            metric: 0,
            onlink: false,
        }]));
        for number in 1..=u8::try_from(nodes.len()).unwrap() {
            let cidr = format!("10.65.{number}.0/24");
            router.set_block(&block(&cidr, number));
            let next_hop = IpAddr::from([192, 0, 2, number]);
            router.set_bgp(BgpRoute { prefix: net(&cidr), next_hops: vec![next_hop.into()], stale: false });
        }
        router.take_changes();
        router
    }

    fn device_to(router: &Router, prefix: &str) -> String {
        match &router.routes()[&net(prefix)].target {
            Target::Via(hops) => hops[0].dev.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_node_with_a_key_is_sent_nothing_plain() {
        let nodes = [node(1, Some(1)), node(2, Some(2)), node(3, None)];
        let mut router = router(&nodes, settings(false), "Never");
        assert_eq!(device_to(&router, "10.65.2.0/24"), "wireguard.mgy");
        assert_eq!(device_to(&router, "10.65.3.0/24"), "eth0", "a node without a key is reached as it was");
        let problems: Vec<String> = router.problems().into_iter().map(|problem| problem.object).collect();
        assert_eq!(problems, ["Node(n3)"], "and that is said");
        let device = &router.tunnels().wireguard[&Family::V4];
        let peer = &device.peers[&WireguardKey([2; 32])];
        assert_eq!((device.address, device.mtu), (Some(net("10.65.1.0/32")), 1440));
        assert_eq!(peer.allowed, BTreeSet::from([net("10.65.2.0/24")]));
        assert_eq!(peer.endpoint, "192.0.2.2:51820".parse().unwrap());
        assert_eq!(router.tunnels().pod_mtu, 1440);
        assert!(router.explain("10.65.2.7".parse().unwrap()).to_string().contains("WireGuard to node n2"));

        // A single address of n3's block that BGP knows at n2.
        router.set_bgp(BgpRoute {
            prefix: net("10.65.3.9/32"),
            next_hops: vec![IpAddr::from([192, 0, 2, 2]).into()],
            stale: false,
        });
        assert!(router.take_changes().tunnels);
        let peer = &router.tunnels().wireguard[&Family::V4].peers[&WireguardKey([2; 32])];
        assert_eq!(peer.allowed, BTreeSet::from([net("10.65.2.0/24"), net("10.65.3.9/32")]));

        // Another key of n2, and n3 gets one.
        let renewed = [node(1, Some(1)), node(2, Some(9)), node(3, Some(3))];
        router.set_nodes(&renewed.iter().collect::<Vec<_>>());
        let changes = router.take_changes();
        assert!(changes.tunnels && changes.problems);
        assert_eq!(changes.routes.keys().copied().collect::<Vec<_>>(), [net("10.65.3.0/24")]);
        let device = &router.tunnels().wireguard[&Family::V4];
        assert_eq!(
            device.peers.keys().copied().collect::<Vec<_>>(),
            [3, 9].map(|key| WireguardKey([key; 32]))
        );

        // n2 goes: its key and its addresses with it.
        router.set_nodes(&[&renewed[0], &renewed[2]]);
        router.take_changes();
        assert_eq!(router.tunnels().wireguard[&Family::V4].peers.len(), 1);
    }

    #[test]
    fn a_mask_without_room_is_told_of() {
        let mut settings = settings(true);
        settings.wireguard.mark = Some(0x80);
        let nodes = [node(1, Some(1)), node(2, Some(2))];
        let mut router = router(&nodes, settings.clone(), "Never");
        assert_eq!(router.tunnels().wireguard[&Family::V4].mark, 0x80);
        assert!(router.problems().is_empty());
        settings.wireguard.mark = None;
        router.set_settings(settings);
        assert!(router.take_changes().tunnels);
        assert_eq!(router.tunnels().wireguard[&Family::V4].mark, FOREIGN_MARK);
        assert!(router.problems().iter().any(|problem| problem.message.contains("iptablesMarkMask")));
    }

    #[test]
    fn without_an_own_key_nobody_could_answer() {
        let router = router(&[node(1, None), node(2, Some(2))], settings(true), "Never");
        assert_eq!(device_to(&router, "10.65.2.0/24"), "eth0");
        let device = &router.tunnels().wireguard[&Family::V4];
        assert!(device.nodes.is_none() && device.peers.len() == 1, "the device has to be there for a key");
    }

    #[test]
    fn it_comes_before_the_pools_own_encapsulation_and_goes_with_its_setting() {
        let nodes = [node(1, Some(1)), node(2, Some(2))];
        let mut router = router(&nodes, settings(true), "Always");
        assert_eq!(device_to(&router, "10.65.2.0/24"), "wireguard.mgy");
        let device = &router.tunnels().wireguard[&Family::V4];
        let allowed = &device.peers[&WireguardKey([2; 32])].allowed;
        assert!(allowed.contains(&net("192.0.2.2/32")), "packets between nodes too");
        assert_eq!(device.nodes.as_ref().unwrap().source, IpAddr::from([192, 0, 2, 1]));
        router.set_settings(Settings::default());
        assert!(router.take_changes().tunnels);
        assert!(
            router.tunnels().wireguard.is_empty() && router.problems().iter().all(|p| p.object != "Node(n2)")
        );
    }

    #[test]
    fn of_two_nodes_with_one_key_the_first_keeps_it() {
        let router =
            router(&[node(1, Some(1)), node(2, Some(2)), node(3, Some(2))], settings(false), "Never");
        assert_eq!(device_to(&router, "10.65.2.0/24"), "wireguard.mgy");
        assert_eq!(device_to(&router, "10.65.3.0/24"), "eth0");
        assert!(router.problems().iter().any(|problem| problem.message.contains("also that of Node(n2)")));
    }

    proptest! {
        /// What is routed into the device is what its peer may have, at one peer only, whatever the order of events.
        #[test]
        fn allowed_addresses_are_the_routes(
            keys in proptest::collection::vec(proptest::option::of(2..20_u8), 1..6),
            borrowed in proptest::collection::btree_map((2..8_u8, 1..9_u8), 2..8_u8, 0..12),
            late: bool,
        ) {
            let mut nodes = vec![node(1, Some(1))];
            nodes.extend((2..).zip(&keys).map(|(number, key)| node(number, *key)));
            let mut router = if late {
                let mut router = router(&nodes[..1], settings(false), "Never");
                router.set_nodes(&nodes.iter().collect::<Vec<_>>());
                router
            } else {
                router(&nodes, settings(false), "Never")
            };
            for ((block, host), at) in borrowed {
                router.set_bgp(BgpRoute {
                    prefix: net(&format!("10.65.{block}.{host}/32")),
                    next_hops: vec![IpAddr::from([192, 0, 2, at]).into()],
                    stale: false,
                });
            }
            router.take_changes();
            let device = &router.tunnels().wireguard[&Family::V4];
            let mut routed: BTreeMap<String, BTreeSet<IpNet>> = BTreeMap::new();
            for route in router.routes().values() {
                if let Target::Via(hops) = &route.target && hops[0].dev == "wireguard.mgy" {
                    let HopKey::Node { node, .. } = &hops[0].key else { panic!() };
                    routed.entry(node.clone()).or_default().insert(route.prefix);
                }
            }
            for peer in device.peers.values() {
                prop_assert_eq!(&peer.allowed, &routed.remove(&peer.node).unwrap_or_default());
            }
            prop_assert!(routed.is_empty());
        }
    }
}
