//! Which next hops a route has, and what becomes of them.

use super::*;

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
