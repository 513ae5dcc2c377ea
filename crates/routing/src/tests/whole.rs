//! The router as a whole: its result is that of what is known, whatever the order.

use super::*;

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
    // What the peer announces is behind the gateway as well, and not where the default route leads.
    assert_eq!(router.cost(ip("172.20.9.9")), Some(1));
    router.set_bgp(BgpRoute {
        prefix: net("192.0.2.0/24"),
        next_hops: vec![ip("172.20.9.9").into()],
        stale: false,
    });
    router.take_changes();
    let via = |router: &Router| router.routes()[&net("192.0.2.0/24")].to_string();
    assert_eq!(via(&router), "192.0.2.0/24 via 172.20.0.9 dev eth0 proto 181");
    router.set_gateways(&BTreeMap::new());
    router.take_changes();
    assert_eq!(via(&router), "192.0.2.0/24 via 172.20.0.254 dev eth0 proto 181");
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
                    for hop in hops.iter() {
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
