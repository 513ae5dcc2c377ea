//! The whole of it on small clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::{IpPool, IpamBlock, Metadata, Node};
use proptest::prelude::*;
use serde_json::json;

use crate::{
    Backend, BgpRoute, Changes, Hop, RouteTrace, Router, Settings, Target, Tunnels, UnderlayRoute, Uplink,
};

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

#[derive(Debug, Clone, Default)]
struct Cluster {
    nodes: Vec<Node>,
    pools: Vec<IpPool>,
    blocks: Vec<IpamBlock>,
    bgp: Vec<BgpRoute>,
    pods: Vec<(IpAddr, String)>,
    underlay: BTreeSet<UnderlayRoute>,
    settings: Settings,
}

impl Cluster {
    fn node(mut self, name: &str, address: &str, vtep: Option<&str>) -> Self {
        let spec = json!({ "bgp": { "ipv4Address": address }, "ipv4VXLANTunnelAddr": vtep });
        self.nodes.push(Node::new(Metadata::named(name), serde_json::from_value(spec).unwrap()));
        self
    }

    fn pool(mut self, name: &str, cidr: &str, mode: &str) -> Self {
        let mut spec = json!({ "cidr": cidr, "natOutgoing": true });
        if let Some((encapsulation, mode)) = mode.split_once(' ') {
            spec[format!("{encapsulation}Mode")] = json!(mode);
        }
        self.pools.push(IpPool::new(Metadata::named(name), serde_json::from_value(spec).unwrap()));
        self
    }

    fn block(mut self, cidr: &str, node: &str) -> Self {
        let spec = json!({ "cidr": cidr, "affinity": format!("host:{node}") });
        let name = cidr.replace(['.', '/', ':'], "-");
        self.blocks.push(IpamBlock::new(Metadata::named(name), serde_json::from_value(spec).unwrap()));
        self
    }

    fn learned(mut self, prefix: &str, next_hops: &[&str]) -> Self {
        let next_hops = next_hops.iter().map(|n| ip(n).into()).collect();
        self.learn(BgpRoute { prefix: net(prefix), next_hops, stale: false });
        self
    }

    /// A prefix has one entry, with all its next hops.
    fn learn(&mut self, route: BgpRoute) {
        match self.bgp.iter_mut().find(|known| known.prefix == route.prefix) {
            Some(known) => known.next_hops.extend(route.next_hops),
            None => self.bgp.push(route),
        }
    }

    fn stale(mut self) -> Self {
        self.bgp.iter_mut().for_each(|route| route.stale = true);
        self
    }

    fn pod(mut self, address: &str, interface: &str) -> Self {
        self.pods.push((ip(address), interface.to_owned()));
        self
    }

    /// `172.20.0.0/24` on eth0, everything else through its router.
    fn lan(mut self) -> Self {
        let route = |prefix: &str, gateway: Option<&str>| UnderlayRoute {
            prefix: net(prefix),
            gateway: gateway.map(ip),
            dev: "eth0".to_owned(),
            metric: 0,
            onlink: false,
        };
        let routes = [route("172.20.0.0/24", None), route("0.0.0.0/0", Some("172.20.0.254"))];
        self.underlay = BTreeSet::from(routes);
        self
    }

    fn router(&self) -> Router {
        let mut router = Router::new("n1", self.settings.clone());
        router.set_uplink(Some(Uplink { name: "eth0".to_owned(), mtu: 1500 }));
        router.set_nodes(&self.nodes.iter().collect::<Vec<_>>());
        router.set_pools(&self.pools);
        self.blocks.iter().for_each(|block| router.set_block(block));
        self.bgp.iter().for_each(|route| router.set_bgp(route.clone()));
        self.pods.iter().for_each(|(address, interface)| router.add_pod(*address, interface));
        router.set_underlay(self.underlay.clone());
        router.take_changes();
        router
    }

    fn tunnels(&self) -> Tunnels {
        self.router().tunnels().clone()
    }

    fn explain(&self, address: &str) -> RouteTrace {
        self.router().explain(ip(address))
    }

    /// Routes as `ip route` writes them, problems as `! object: message`.
    fn text(&self) -> Vec<String> {
        let router = self.router();
        let routes = router.routes().values().map(ToString::to_string);
        let problems = router.problems();
        routes.chain(problems.iter().map(|p| format!("! {}: {}", p.object, p.message))).collect()
    }
}

/// n1 and n2 in one subnet, n3 behind a router.
fn three_nodes(mode: &str) -> Cluster {
    Cluster::default()
        .node("n1", "172.20.0.1/24", Some("10.65.1.0"))
        .node("n2", "172.20.0.2/24", Some("10.65.2.0"))
        .node("n3", "172.21.0.3/24", Some("10.65.3.0"))
        .pool("default", "10.65.0.0/16", mode)
        .block("10.65.1.0/24", "n1")
        .block("10.65.2.0/24", "n2")
        .block("10.65.3.0/24", "n3")
        .learned("10.65.2.0/24", &["172.20.0.2"])
        .learned("10.65.3.0/24", &["172.21.0.3"])
        .pod("10.65.1.7", "mgyaaa")
        .lan()
}

const OWN: [&str; 2] = ["blackhole 10.65.1.0/24 proto 181", "10.65.1.7/32 dev mgyaaa scope link proto 180"];

#[test]
fn plain_pools_follow_bgp() {
    assert_eq!(
        three_nodes("").text(),
        [
            OWN[0],
            OWN[1],
            "10.65.2.0/24 via 172.20.0.2 dev eth0 proto 181",
            "10.65.3.0/24 via 172.20.0.254 dev eth0 proto 181",
        ]
    );
    let mut nothing = three_nodes("");
    nothing.bgp.clear();
    assert_eq!(nothing.text(), OWN);
    assert!(nothing.explain("10.65.2.9").to_string().contains("BGP has not learned it"));
}

#[test]
fn vxlan_cross_subnet_tunnels_only_across_the_router() {
    let cluster = three_nodes("vxlan CrossSubnet");
    let expected = [
        OWN[0],
        OWN[1],
        "10.65.2.0/24 via 172.20.0.2 dev eth0 proto 181",
        "10.65.3.0/24 via 10.65.3.0 dev vxlan.mgy onlink proto 181",
    ];
    assert_eq!(cluster.text(), expected);
    // The datastore alone gives the same routes: a VXLAN cluster needs no BGP.
    let mut without_bgp = cluster.clone();
    without_bgp.bgp.clear();
    assert_eq!(without_bgp.text(), expected);
    let trace = |c: &Cluster| c.explain("10.65.2.9").to_string();
    assert!(trace(&cluster).contains("by BGP; IPPool(default) is CrossSubnet and the node is in our subnet"));
    assert!(trace(&without_bgp).contains("by its block in the datastore"));
}

#[test]
fn vxlan_always_tunnels_to_everybody_with_static_entries() {
    let router = three_nodes("vxlan Always").router();
    for (block, vtep) in [("10.65.2.0/24", "10.65.2.0"), ("10.65.3.0/24", "10.65.3.0")] {
        let Target::Via(hops) = &router.routes()[&net(block)].target else { panic!("{block}") };
        assert_eq!(
            (hops[0].gateway, hops[0].dev.as_str(), hops[0].onlink),
            (Some(ip(vtep)), "vxlan.mgy", true)
        );
    }
    let desired = router.tunnels();
    let device = &desired.vxlan[&crate::Family::V4];
    assert_eq!(device.address, net("10.65.1.0/32"));
    assert_eq!((device.vni, device.port, device.mtu), (4096, 4789, 1450));
    assert_eq!(device.local, ip("172.20.0.1"));
    assert_eq!(desired.pod_mtu, 1450);
    let fdb: Vec<String> = desired.fdb.iter().map(|f| format!("{} {}", f.mac, f.destination)).collect();
    let mac = |n| crate::vtep_mac(n, crate::Family::V4);
    let mut expected = vec![format!("{} 172.20.0.2", mac("n2")), format!("{} 172.21.0.3", mac("n3"))];
    expected.sort();
    assert_eq!(fdb, expected);
    assert!(desired.neighbours.iter().any(|n| n.address == ip("10.65.3.0") && n.mac == mac("n3")));
    assert_eq!(desired.neighbours.len(), 2);
}

#[test]
fn without_bgp_only_vxlan_reaches_other_nodes() {
    let with = |backend, mode| {
        let mut cluster = three_nodes(mode);
        cluster.bgp.clear();
        cluster.settings.backend = backend;
        cluster
    };
    let routes = |cluster: Cluster| cluster.router().routes().len();
    assert_eq!(routes(with(Backend::Vxlan, "vxlan Always")), 4);
    assert_eq!(routes(with(Backend::Vxlan, "vxlan CrossSubnet")), 4);
    for mode in ["", "ipip Always"] {
        let cluster = with(Backend::Vxlan, mode);
        let text = cluster.text();
        assert_eq!(
            (&text[0], &text[1], text.len()),
            (&OWN[0].to_owned(), &OWN[1].to_owned(), 4),
            "{text:#?}"
        );
        assert!(text[2].contains("IPPool(default) needs BGP") && text[2].contains("vxlan"), "{text:#?}");
        assert_eq!((cluster.tunnels().ipip, cluster.tunnels().pod_mtu), (None, 1500));
    }
    for mode in ["", "ipip Always", "vxlan Always"] {
        let cluster = with(Backend::None, mode);
        assert_eq!(cluster.text(), OWN, "and no problem");
        assert!(cluster.tunnels().vxlan.is_empty() && cluster.tunnels().fdb.is_empty());
        assert!(cluster.explain("10.65.2.9").to_string().contains("backend is none"));
    }
}

#[test]
fn ipip_follows_bgp_through_the_tunnel() {
    let always = three_nodes("ipip Always").text();
    assert!(
        always.contains(&"10.65.2.0/24 via 172.20.0.2 dev ipip.mgy onlink proto 181".to_owned()),
        "{always:?}"
    );
    let cross = three_nodes("ipip CrossSubnet");
    let text = cross.text();
    assert!(text.contains(&"10.65.2.0/24 via 172.20.0.2 dev eth0 proto 181".to_owned()), "{text:?}");
    assert!(
        text.contains(&"10.65.3.0/24 via 172.21.0.3 dev ipip.mgy onlink proto 181".to_owned()),
        "{text:?}"
    );
    let desired = cross.tunnels();
    assert_eq!(desired.ipip.map(|d| (d.local, d.mtu)), Some(("172.20.0.1".parse().unwrap(), 1480)));
    assert_eq!(desired.pod_mtu, 1480);
}

#[test]
fn an_owner_that_is_unknown_or_has_no_address_is_named() {
    let mut cluster = three_nodes("vxlan Always")
        .block("10.65.4.0/24", "n4")
        .block("10.65.5.0/24", "n5")
        .block("10.65.6.0/24", "n6")
        .node("n6", "172.22.0.6/24", None);
    cluster.nodes.push(Node::new(Metadata::named("n5"), serde_json::from_value(json!({})).unwrap()));
    let text = cluster.text();
    for part in [
        "! 10.65.4.0/24: no route: its owner Node(n4) does not exist",
        "! 10.65.5.0/24: no route: its owner Node(n5) has no IPv4 address",
        "! 10.65.6.0/24: no route: its owner Node(n6) has no IPv4 VXLAN tunnel address yet",
    ] {
        assert!(text.iter().any(|line| line.starts_with(part)), "{part}: {text:#?}");
    }
    assert_eq!(cluster.router().routes().len(), 4, "the others are not affected");
    let plain = three_nodes("").block("10.65.4.0/24", "n4").text();
    assert!(plain.iter().any(|l| l.contains("Node(n4) does not exist")), "{plain:#?}");
}

#[test]
fn a_node_without_tunnel_address_of_its_own_says_so() {
    let mut cluster = three_nodes("vxlan CrossSubnet");
    cluster.nodes[0].spec.ipv4_vxlan_tunnel_addr = None;
    let text = cluster.text();
    let plain = |l: &String| l.starts_with("10.65.3.0/24 via ") && !l.contains("vxlan.mgy");
    assert!(text.iter().any(plain), "the way it had is better than none: {text:#?}");
    assert!(
        text.iter().any(|l| l.starts_with("! 10.65.3.0/24: to node n3") && l.contains("until both nodes"))
    );
    let mut without_bgp = three_nodes("vxlan CrossSubnet");
    without_bgp.nodes[0].spec.ipv4_vxlan_tunnel_addr = None;
    without_bgp.bgp.clear();
    let none = without_bgp.text();
    assert!(
        none.iter()
            .any(|l| l.starts_with("! 10.65.3.0/24: no route: this node has no IPv4 address or no VXLAN")),
        "{none:#?}"
    );
    assert!(text.iter().any(|l| l.starts_with("10.65.2.0/24 via 172.20.0.2")));
    assert!(cluster.tunnels().vxlan.is_empty() && cluster.tunnels().fdb.is_empty());
}

#[test]
fn nobody_overrides_own_blocks_and_pods() {
    let cluster = three_nodes("")
        .learned("10.65.1.0/24", &["172.20.0.2"])
        .learned("10.65.1.7/32", &["172.20.0.2"])
        .learned("10.65.1.128/25", &["172.20.0.2"]);
    let text = cluster.text();
    assert!(text.contains(&OWN[0].to_owned()) && text.contains(&OWN[1].to_owned()), "{text:#?}");
    assert!(
        text.iter().any(|l| l.starts_with("! 10.65.1.128/25: refused: it is inside this node's own block"))
    );
    assert!(!text.iter().any(|l| l.starts_with("10.65.1.128/25")));
}

#[test]
fn prefixes_outside_the_pools_are_taken_as_they_are() {
    let cluster = three_nodes("vxlan Always")
        .learned("192.0.2.0/24", &["172.20.0.9", "172.20.0.8", "172.20.0.9"])
        .learned("10.65.0.0/16", &["172.20.0.2"])
        .learned("0.0.0.0/0", &["172.20.0.254"]);
    let text = cluster.text();
    for route in [
        "192.0.2.0/24 nexthop via 172.20.0.8 dev eth0 nexthop via 172.20.0.9 dev eth0 proto 181",
        "0.0.0.0/0 via 172.20.0.254 dev eth0 proto 181",
        "10.65.0.0/16 via 10.65.2.0 dev vxlan.mgy onlink proto 181",
    ] {
        assert!(text.contains(&route.to_owned()), "{route}: {text:#?}");
    }
}

#[test]
fn unreachable_own_and_stale_next_hops() {
    let mut cluster = three_nodes("")
        .learned("192.0.2.0/24", &["fd00::1"])
        .learned("198.51.100.0/24", &["172.20.0.1", "172.20.0.9"]);
    cluster.nodes.retain(|n| n.metadata.name != "n3");
    let text = cluster.clone().stale().text();
    assert!(text.iter().any(|l| l.contains("no kernel route leads to next hop fd00::1")), "{text:#?}");
    assert!(text.contains(&"198.51.100.0/24 via 172.20.0.9 dev eth0 proto 181".to_owned()), "{text:#?}");
    assert!(
        !text.iter().any(|l| l.starts_with("10.65.3.0/24 via")),
        "n3 is gone, only a stale route is left"
    );
    assert!(text.iter().any(|l| l.starts_with("10.65.2.0/24 via")), "stale, but its node exists");
    let fabric = three_nodes("").learned("10.65.2.0/24", &["172.20.0.253"]).stale();
    let both = "10.65.2.0/24 nexthop via 172.20.0.2 dev eth0 nexthop via 172.20.0.253 dev eth0 proto 181";
    assert!(fabric.text().contains(&both.to_owned()), "a router that restarts: {:#?}", fabric.text());
    assert!(cluster.text().iter().any(|l| l.starts_with("10.65.3.0/24 via")), "not stale: BGP knows better");
}

#[test]
fn a_router_on_the_link_is_used_by_its_link_local_address() {
    let mut cluster = three_nodes("");
    let hop = |address: &str| crate::NextHop {
        address: ip(address),
        link_local: Some(("fe80::9".parse().unwrap(), "eth1".to_owned())),
    };
    for (prefix, address) in [("2001:db8:1::/48", "2001:db8::9"), ("2001:db8:2::/48", "fe80::9")] {
        let route = BgpRoute { prefix: net(prefix), next_hops: vec![hop(address)], stale: false };
        cluster.bgp.push(route);
    }
    let text = cluster.text();
    for prefix in ["2001:db8:1::/48", "2001:db8:2::/48"] {
        assert!(text.contains(&format!("{prefix} via fe80::9 dev eth1 proto 181")), "{text:#?}");
    }
}

#[test]
fn blocks_of_full_length_overlapping_pools_and_shared_addresses() {
    let cluster = three_nodes("vxlan CrossSubnet")
        .block("10.65.9.9/32", "n1")
        .pool("second", "10.65.128.0/17", "")
        .node("n7", "172.20.0.2/24", Some("10.65.3.0"))
        .pod("10.65.1.7", "mgybbb");
    let text = cluster.text();
    assert!(!text.iter().any(|l| l.starts_with("blackhole 10.65.9.9")));
    for part in [
        "! IPPool(second): 10.65.128.0/17 overlaps",
        "! Node(n7): address 172.20.0.2 is also that of Node(n2)",
        "! Node(n7): VXLAN tunnel address 10.65.3.0",
        "! 10.65.1.7/32: two pod interfaces",
    ] {
        assert!(text.iter().any(|l| l.starts_with(part)), "{part}: {text:#?}");
    }
    assert!(text.contains(&OWN[1].to_owned()));
}

/// Next hops with the number of routes that use each.
fn hops(router: &Router) -> BTreeMap<Hop, usize> {
    let mut hops = BTreeMap::new();
    for route in router.routes().values() {
        if let Target::Via(list) = &route.target {
            list.iter().for_each(|hop| *hops.entry(hop.clone()).or_insert(0) += 1);
        }
    }
    hops
}

#[test]
fn all_blocks_of_a_node_share_one_next_hop_which_stays_when_the_node_moves() {
    let mut cluster = three_nodes("vxlan CrossSubnet");
    for i in 0..100 {
        cluster = cluster.block(&format!("10.65.{}.0/24", 100 + i), if i % 2 == 0 { "n2" } else { "n3" });
    }
    let before = hops(&cluster.router());
    assert_eq!(before.values().copied().collect::<Vec<_>>(), [51, 51], "{before:?}");
    let keys = |hops: &BTreeMap<Hop, usize>| hops.keys().map(|hop| hop.key.clone()).collect::<Vec<_>>();
    // n2 goes to another subnet, n3 to another address, and later the tunnel is used everywhere.
    cluster.nodes[1].spec.bgp.as_mut().unwrap().ipv4_address = Some("172.22.0.2/24".parse().unwrap());
    cluster.nodes[2].spec.ipv4_vxlan_tunnel_addr = Some("10.65.103.0".parse().unwrap());
    let moved = hops(&cluster.router());
    cluster.pools[0].spec.vxlan_mode = Some(margay_api::kinds::EncapMode::Always);
    let always = hops(&cluster.router());
    assert_eq!((keys(&moved), keys(&always)), (keys(&before), keys(&before)));
    assert!(moved.keys().all(|hop| hop.dev == "vxlan.mgy"), "{moved:?}");
}

#[test]
fn equally_good_ways_to_a_node_are_all_used() {
    let mut cluster = three_nodes("");
    let second = UnderlayRoute {
        prefix: net("0.0.0.0/0"),
        gateway: Some(ip("172.30.0.254")),
        dev: "eth1".to_owned(),
        metric: 0,
        onlink: false,
    };
    cluster.underlay.insert(second);
    let both = "10.65.3.0/24 nexthop via 172.20.0.254 dev eth0 nexthop via 172.30.0.254 dev eth1 proto 181";
    assert!(cluster.text().contains(&both.to_owned()), "{:#?}", cluster.text());
}

#[test]
fn ipv4_by_way_of_an_ipv6_next_hop() {
    let mut cluster = three_nodes("").learned("10.65.4.0/24", &["fd00:20::4"]);
    cluster.underlay.insert(UnderlayRoute {
        prefix: net("fd00:20::/64"),
        gateway: None,
        dev: "eth0".to_owned(),
        metric: 256,
        onlink: false,
    });
    assert!(cluster.text().contains(&"10.65.4.0/24 via fd00:20::4 dev eth0 proto 181".to_owned()));
}

#[test]
fn one_change_is_decided_alone() {
    let mut cluster = three_nodes("");
    for i in 0..60 {
        cluster = cluster.learned(&format!("10.65.{}.0/24", 100 + i), &["172.20.0.2"]);
    }
    let mut router = cluster.router();
    assert_eq!(router.take_changes(), Changes::default());
    router.add_pod(ip("10.65.1.8"), "mgybbb");
    let changes = router.take_changes();
    assert_eq!(changes.routes.keys().copied().collect::<Vec<_>>(), [net("10.65.1.8/32")]);
    router.remove_pod(ip("10.65.1.8"), "mgybbb");
    let gone = router.take_changes();
    assert_eq!(gone.routes, BTreeMap::from([(net("10.65.1.8/32"), None)]));
    // A route to a peer by way of a gateway, unless there is a better reason for one.
    let gateways = [("172.20.9.9", "172.20.0.9"), ("10.65.1.7", "172.20.0.9")];
    router.set_gateways(&gateways.map(|(peer, gateway)| (ip(peer), ip(gateway))).into());
    let text: Vec<String> =
        router.take_changes().routes.values().flatten().map(ToString::to_string).collect();
    assert_eq!(text, ["172.20.9.9/32 via 172.20.0.9 dev eth0 proto 181"]);
}

#[test]
fn dual_stack_uses_one_device_per_family() {
    let mut cluster = three_nodes("vxlan Always").pool("six", "fd00:65::/48", "vxlan Always");
    for (n, node) in cluster.nodes.iter_mut().enumerate() {
        let n = n + 1;
        let bgp = node.spec.bgp.as_mut().unwrap();
        bgp.ipv6_address = Some(format!("fd00:20::{n}/64").parse().unwrap());
        node.spec.ipv6_vxlan_tunnel_addr = Some(format!("fd00:65::{n}:0").parse().unwrap());
    }
    let cluster =
        cluster.block("fd00:65::2:0/122", "n2").block("fd00:65::1:0/122", "n1").pod("fd00:65::1:5", "mgyaaa");
    let text = cluster.text();
    for route in [
        "fd00:65::2:0/122 via fe80::64c8:2aff:fea8:7f8b dev vxlan-v6.mgy onlink proto 181",
        "blackhole fd00:65::1:0/122 proto 181",
        "fd00:65::1:5/128 dev mgyaaa scope link proto 180",
    ] {
        assert!(text.contains(&route.to_owned()), "{route}: {text:#?}");
    }
    let desired = cluster.tunnels();
    assert_eq!(desired.vxlan.len(), 2);
    assert_eq!((desired.vxlan[&crate::Family::V6].mtu, desired.pod_mtu), (1430, 1430));
    assert_eq!(desired.nat_outgoing.masquerade, BTreeSet::from([net("10.65.0.0/16"), net("fd00:65::/48")]));
}

#[test]
fn explain_names_pool_block_owner_and_route() {
    let trace = three_nodes("vxlan CrossSubnet").explain("10.65.3.44");
    assert_eq!(
        trace.to_string(),
        "10.65.3.0/24 via 10.65.3.0 dev vxlan.mgy onlink proto 181\n  \
         10.65.3.0/24: VXLAN to node n3 by its block in the datastore; IPPool(default) is CrossSubnet and the node is \
         in another subnet"
    );
    assert_eq!((trace.pool.as_deref(), trace.owner.as_deref()), (Some("default"), Some("n3")));
    assert_eq!(trace.block, Some(net("10.65.3.0/24")));
    let own = three_nodes("").explain("10.65.1.9").to_string();
    assert!(own.contains("this node's block: addresses without a pod are dropped here"), "{own}");
    let unclaimed = three_nodes("").explain("10.65.77.1").to_string();
    assert!(
        unclaimed.contains("IPPool(default) has the address, but no node claimed its block"),
        "{unclaimed}"
    );
    let outside = three_nodes("").explain("8.8.8.8").to_string();
    assert!(outside.contains("in no IPPool, block or BGP route"), "{outside}");
}

fn arbitrary_cluster() -> impl Strategy<Value = Cluster> {
    let mode = prop_oneof![
        Just(""),
        Just("vxlan Always"),
        Just("vxlan CrossSubnet"),
        Just("ipip Always"),
        Just("ipip CrossSubnet")
    ];
    (
        mode.clone(),
        mode,
        proptest::collection::vec((1u8..6, 0u8..2, 1u8..6, proptest::option::of(1u8..6)), 0..6),
        proptest::collection::vec((0u8..8, 24u8..=32, 1u8..7), 0..10),
        proptest::collection::vec(
            (0u8..12, 22u8..=32, proptest::collection::vec(1u8..8, 0..4), any::<bool>()),
            0..10,
        ),
        proptest::collection::vec((0u8..8, 0u8..4, 0u8..3), 0..6),
        any::<bool>(),
    )
        .prop_map(|(mode_a, mode_b, nodes, blocks, bgp, pods, lan)| {
            let mut c =
                Cluster::default().pool("a", "10.65.0.0/22", mode_a).pool("b", "10.65.4.0/22", mode_b);
            for (name, subnet, host, vtep) in nodes {
                let vtep = vtep.map(|v| format!("10.65.{v}.0"));
                let address = format!("172.2{subnet}.0.{host}/24");
                // Names are unique in a datastore.
                if c.nodes.iter().all(|n| n.metadata.name != format!("n{name}")) {
                    c = c.node(&format!("n{name}"), &address, vtep.as_deref());
                }
            }
            for (third, len, node) in blocks {
                let cidr = net(&format!("10.65.{third}.0/{len}")).trunc().to_string();
                if c.blocks.iter().all(|b| b.spec.cidr.to_string() != cidr) {
                    c = c.block(&cidr, &format!("n{node}"));
                }
            }
            for (third, len, hops, stale) in bgp {
                let prefix = net(&format!("10.65.{third}.0/{len}")).trunc();
                let next_hops = hops.into_iter().map(|h| ip(&format!("172.20.0.{h}")).into()).collect();
                c.learn(BgpRoute { prefix, next_hops, stale });
            }
            for (third, host, interface) in pods {
                c = c.pod(&format!("10.65.{third}.{host}"), &format!("mgy{interface}"));
            }
            if lan { c.lan() } else { c }
        })
}

/// Makes `router` know what `to` holds instead of what `from` holds, in one of many orders.
fn move_to(router: &mut Router, from: &Cluster, to: &Cluster, backwards: bool) {
    type Step<'a> = Box<dyn Fn(&mut Router) + 'a>;
    let mut steps: Vec<Step<'_>> = Vec::new();
    steps.push(Box::new(|r| r.set_nodes(&to.nodes.iter().collect::<Vec<_>>())));
    steps.push(Box::new(|r| r.set_pools(&to.pools)));
    steps.push(Box::new(|r| r.set_underlay(to.underlay.clone())));
    for old in from.blocks.iter().filter(|old| to.blocks.iter().all(|b| b.metadata.name != old.metadata.name))
    {
        steps.push(Box::new(|r| r.remove_block(&old.metadata.name)));
    }
    for block in &to.blocks {
        steps.push(Box::new(|r| r.set_block(block)));
    }
    for old in from.bgp.iter().filter(|old| to.bgp.iter().all(|new| new.prefix != old.prefix)) {
        steps.push(Box::new(|r| r.set_bgp(BgpRoute { next_hops: Vec::new(), ..old.clone() })));
    }
    for route in &to.bgp {
        steps.push(Box::new(|r| r.set_bgp(route.clone())));
    }
    for (address, interface) in from.pods.iter().filter(|pod| !to.pods.contains(pod)) {
        steps.push(Box::new(|r| r.remove_pod(*address, interface)));
    }
    for (address, interface) in &to.pods {
        steps.push(Box::new(|r| r.add_pod(*address, interface)));
    }
    if backwards {
        steps.reverse();
    }
    for (n, step) in steps.iter().enumerate() {
        step(router);
        if n % 3 == 0 {
            router.take_changes();
        }
    }
}

/// All that comes out.
fn state(router: &Router) -> (BTreeMap<IpNet, crate::Route>, Tunnels, BTreeSet<crate::Problem>) {
    (router.routes().clone(), router.tunnels().clone(), router.problems())
}

proptest! {
    #[test]
    fn the_order_of_the_input_never_matters(cluster in arbitrary_cluster(), rotate in 0usize..10) {
        let mut other = cluster.clone();
        fn shuffle<T>(list: &mut [T], by: usize) {
            list.reverse();
            if !list.is_empty() {
                let by = by % list.len();
                list.rotate_left(by);
            }
        }
        shuffle(&mut other.nodes, rotate);
        shuffle(&mut other.pools, rotate);
        shuffle(&mut other.blocks, rotate);
        shuffle(&mut other.bgp, rotate);
        shuffle(&mut other.pods, rotate);
        for route in &mut other.bgp {
            shuffle(&mut route.next_hops, rotate);
        }
        prop_assert_eq!(state(&cluster.router()), state(&other.router()));
        prop_assert_eq!(cluster.explain("10.65.1.1"), other.explain("10.65.1.1"));
    }

    /// However a state was reached, it is the same; and the changes add up to it.
    #[test]
    fn piece_by_piece_is_the_same_as_at_once(
        from in arbitrary_cluster(), to in arbitrary_cluster(), backwards in any::<bool>(),
    ) {
        let mut router = from.router();
        let mut kernel = router.routes().clone();
        move_to(&mut router, &from, &to, backwards);
        router.take_changes();
        prop_assert_eq!(state(&router), state(&to.router()));
        let mut told = from.router();
        told.set_pools(&to.pools);
        told.set_nodes(&to.nodes.iter().collect::<Vec<_>>());
        for (prefix, route) in told.take_changes().routes {
            match route {
                Some(route) => kernel.insert(prefix, route),
                None => kernel.remove(&prefix),
            };
        }
        prop_assert_eq!(&kernel, told.routes());
    }

    #[test]
    fn routes_keep_their_rules(cluster in arbitrary_cluster()) {
        let desired = cluster.router();
        let own: Vec<IpNet> = cluster.blocks.iter()
            .filter(|b| b.spec.affinity.as_ref().unwrap().to_string() == "host:n1")
            .map(|b| b.spec.cidr).collect();
        let mut keys = BTreeMap::new();
        for (prefix, route) in desired.routes() {
            prop_assert_eq!(prefix, &route.prefix);
            match &route.target {
                Target::Link { dev } => prop_assert!(cluster.pods.iter().any(|(address, interface)| *address == prefix.addr() && interface == dev)),
                Target::Blackhole => {
                    let lent = cluster.blocks.iter().any(|b| b.spec.cidr.contains(prefix) && b.spec.cidr != *prefix);
                    prop_assert!(own.contains(prefix) && (prefix.prefix_len() < 32 || lent));
                }
                Target::Via(hops) => {
                    prop_assert!(!hops.is_empty() && hops.is_sorted());
                    let borrowed = cluster.blocks.iter().any(|b| b.spec.cidr == *prefix);
                    prop_assert!(borrowed || !own.iter().any(|block| block.contains(prefix)), "{} overrides", prefix);
                    for hop in hops {
                        prop_assert_eq!(keys.entry(hop.key.clone()).or_insert_with(|| hop.clone()), hop);
                        let tunnel = hop.dev == "vxlan.mgy";
                        prop_assert!(!tunnel || desired.tunnels().neighbours.iter().any(|n| Some(n.address) == hop.gateway));
                    }
                }
            }
        }
        // Every local pod is reachable: whatever else is wrong.
        for (address, _) in &cluster.pods {
            let target = &desired.routes()[&IpNet::from(*address)].target;
            prop_assert!(matches!(target, Target::Link { .. }), "{:?}", target);
        }
        // What explain says is what is programmed.
        for prefix in desired.routes().keys() {
            let trace = cluster.explain(&prefix.addr().to_string());
            let best = desired.routes().values().filter(|r| r.prefix.contains(&prefix.addr())).max_by_key(|r| r.prefix.prefix_len());
            prop_assert_eq!(trace.route.as_ref(), best);
        }
    }
}
