//! What a pool's encapsulation, a backend and a node's blocks decide.

use super::*;

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

/// A speaker that begins anew (another AS, port or address) withdraws nothing of what it was told before.
#[test]
fn what_a_new_speaker_does_not_tell_again_is_gone() {
    let cluster = three_nodes("");
    let mut router = cluster.router();
    let again = cluster.bgp.first().unwrap();
    router.doubt_bgp();
    router.set_bgp(again.clone());
    router.take_changes();
    assert!(cluster.bgp.iter().all(|route| router.routes().contains_key(&route.prefix)), "not yet");
    router.trust_bgp();
    router.take_changes();
    for route in &cluster.bgp {
        assert_eq!(router.routes().contains_key(&route.prefix), route.prefix == again.prefix);
    }
    router.trust_bgp();
    router.take_changes();
    assert!(router.routes().contains_key(&again.prefix));
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
