//! Sessions between nodes, reflectors among them.

use super::*;

#[test]
fn without_reflectors_nodes_form_a_mesh_in_which_one_side_dials() {
    let cluster = cluster(THREE, "");
    let n2 = topology("n2", &cluster);
    assert_eq!(
        sessions(&n2),
        [("n1".into(), PeerKind::Internal, true), ("n3".into(), PeerKind::Internal, false)]
    );
    assert_eq!(n2.local_as, 64512);
    let off = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {nodeToNodeMeshEnabled: false, asNumber: 65001}\n";
    let n2 = topology("n2", &self::cluster(THREE, off));
    assert!(n2.peers.is_empty());
    assert_eq!(n2.local_as, 65001);
}

#[test]
fn nodes_find_reflectors_and_reflectors_serve_nodes() {
    let mut cluster = cluster(&with_reflectors(), "");
    cluster.blocks.insert("n1".into(), ["10.65.1.0/24".parse().unwrap()].into());
    let n1 = topology("n1", &cluster);
    assert_eq!(
        sessions(&n1),
        [("rr1".into(), PeerKind::Internal, false), ("rr2".into(), PeerKind::Internal, false)]
    );
    let rr1 = topology("rr1", &cluster);
    assert_eq!(rr1.cluster_id, Some(Ipv4Addr::new(10, 0, 0, 1)));
    let clients =
        sessions(&rr1).into_iter().filter(|(_, kind, passive)| *kind == PeerKind::InternalClient && *passive);
    assert_eq!(clients.count(), 3);
    let rr2 = peer_named(&rr1, "rr2").unwrap();
    assert_eq!((rr2.kind, rr2.passive, &rr2.authorised_origins), (PeerKind::Internal, false, &None));
    let n1 = peer_named(&rr1, "n1").unwrap();
    assert_eq!(n1.authorised_origins, Some(vec!["10.65.1.0/24".parse().unwrap()].into()));
    let n3 = peer_named(&rr1, "n3").unwrap();
    assert_eq!(n3.authorised_origins, Some(Vec::new().into()), "a node without blocks may announce nothing");
    let limit = |peer: &PeerConfig| peer.max_prefix.map(|max| max.limit);
    assert_eq!((limit(n1), limit(n3), limit(rr2)), (Some(1280), Some(1024), None));
    cluster.nodes.get_mut("n3").unwrap().status.pod_cidrs = vec!["10.244.3.0/24".to_owned()];
    let n3 = peer_named(&topology("rr1", &cluster), "n3").unwrap().authorised_origins.clone();
    assert_eq!(n3, Some(vec!["10.244.3.0/24".parse().unwrap()].into()), "host-local's");
    let n3 = cluster.nodes.get_mut("n3").unwrap();
    n3.metadata.annotations.insert("margay.io/pod-addresses".into(), "10.65.250.7,10.65.0.0/16".into());
    let n3 = peer_named(&topology("rr1", &cluster), "n3").unwrap().clone();
    let may = |prefix: &str| n3.authorised_origins.as_ref().unwrap().covers(&prefix.parse().unwrap());
    assert!(may("10.65.250.7/32") && may("10.244.3.0/24"), "what its agent says its pods have");
    assert!(!may("10.65.250.8/32") && !may("10.65.1.0/24"), "single addresses alone");
    assert_eq!(limit(&n3), Some(1025));
}

#[test]
fn a_peer_selector_decides_instead_and_works_both_ways() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {nodeSelector: \"has(rack)\", peerSelector: \"has(hub)\", keepaliveTime: 40s}
";
    let mut cluster = cluster(&with_reflectors(), text);
    cluster.nodes.get_mut("n1").unwrap().metadata.labels.insert("rack".into(), "a".into());
    cluster.nodes.get_mut("rr2").unwrap().metadata.labels.insert("hub".into(), String::new());
    let n1 = topology("n1", &cluster);
    assert_eq!(sessions(&n1), [("rr2".into(), PeerKind::Internal, false)]);
    assert_eq!(peer_named(&n1, "rr2").unwrap().timers.hold, Duration::from_secs(120));
    let rr2 = topology("rr2", &cluster);
    assert_eq!(peer_named(&rr2, "n1").unwrap().timers.hold, Duration::from_secs(120));
    assert_eq!(rr2.peers.len(), 4, "it serves the others all the same");
    assert!(peer_named(&topology("rr1", &cluster), "n1").is_none());
    assert_eq!(topology("n2", &cluster).peers.len(), 2, "others keep finding reflectors");
    // `Manual`: the other end is somebody else's to configure.
    cluster.peers.get_mut("rack").unwrap().spec.reverse_peering = Some(ReversePeering::Manual);
    assert_eq!(sessions(&topology("n1", &cluster)).len(), 1);
    assert_eq!(peer_named(&topology("rr2", &cluster), "n1").map(|peer| peer.timers.hold), None);
}

#[test]
fn a_node_without_an_address_is_named_and_left_out() {
    let mut cluster = cluster(THREE, "");
    cluster.nodes.get_mut("n3").unwrap().spec.bgp = None;
    let n1 = topology("n1", &cluster);
    assert_eq!(sessions(&n1), [("n2".into(), PeerKind::Internal, false)]);
    assert_eq!(n1.problems[0].object, "Node(n3)");
    assert!(topology("n3", &cluster).peers.is_empty());
}

/// A machine that was installed anew under another name while its old Node is still there.
#[test]
fn a_node_with_our_own_address_is_named_and_not_dialled() {
    for text in [
        "",
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: all}\nspec: {peerSelector: all()}\n",
    ] {
        let mut cluster = cluster(THREE, text);
        let mut planner = Planner::new("n1");
        let mut follow = |cluster: &mut Cluster| {
            let changed = cluster.take_changes();
            planner.update(cluster, &changed);
            planner.topology().clone()
        };
        assert!(follow(&mut cluster).problems.is_empty());
        cluster.put(&node("old", "10.0.0.1/24", false).into());
        let n1 = follow(&mut cluster);
        assert_eq!(n1.peers.len(), 2, "{:?}", sessions(&n1));
        let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
        assert_eq!(problem.object, "Node(old)");
        assert!(problem.message.contains("10.0.0.1") && problem.message.contains("n1"), "{problem:?}");
        cluster.delete(&Key::cluster(Kind::Node, "old"));
        assert!(follow(&mut cluster).problems.is_empty());
    }
}

#[test]
fn a_local_as_between_nodes_is_seen_from_both_ends() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {node: n1, peerSelector: \"has(hub)\", localASNumber: 65010}
";
    let mut cluster = cluster(THREE, text);
    cluster.nodes.get_mut("n2").unwrap().metadata.labels.insert("hub".into(), String::new());
    let (n1, n2) = (topology("n1", &cluster), topology("n2", &cluster));
    let (there, here) = (peer_named(&n1, "n2").unwrap(), peer_named(&n2, "n1").unwrap());
    assert_eq!((there.local_as, there.remote_as, there.kind), (Some(65010), 64512, PeerKind::External));
    assert_eq!((here.local_as, here.remote_as, here.kind), (None, 65010, PeerKind::External));
}

#[test]
fn both_ends_agree_on_every_session() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {nodeSelector: \"has(rack)\", peerSelector: \"has(hub)\"}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: racks-other}
spec: {nodeSelector: \"rack == 'b'\", peerSelector: \"rack == 'c'\", keepaliveTime: 7s}
";
    let mut all = large(24, 5);
    for (name, peer) in cluster(&[], text).peers {
        all.peers.insert(name, peer);
    }
    for (at, name) in (0..24).map(|number| format!("n{number}")).enumerate() {
        let labels = &mut all.nodes.get_mut(&name).unwrap().metadata.labels;
        if let Some(rack) = ["a", "b", "c", "", "", ""].get(at % 6).filter(|rack| !rack.is_empty()) {
            labels.insert("rack".into(), (*rack).to_owned());
        }
        if at % 8 == 0 {
            labels.insert("hub".into(), String::new());
        }
    }
    let topologies: BTreeMap<&String, Topology> =
        all.nodes.keys().map(|name| (name, topology(name, &all))).collect();
    let mut dialled = 0;
    for (name, one) in &topologies {
        for peer in one.peers.values().filter(|peer| !peer.config.passive) {
            let other = &topologies[peer.node.as_ref().unwrap()];
            let back = peer_named(other, name)
                .unwrap_or_else(|| panic!("{} does not expect {name}", peer.config.description));
            assert!(back.passive && back.timers == peer.config.timers && back.expected, "{name}: {back:?}");
            dialled += 1;
        }
    }
    assert!(dialled > 60, "{dialled}");
}

#[test]
fn more_than_three_reflectors_share_the_nodes() {
    let all = large(40, 6);
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..40 {
        let own = topology(&format!("n{number}"), &all);
        assert_eq!(own.peers.len(), 3, "{:?}", sessions(&own));
        for peer in own.peers.into_values() {
            *served.entry(peer.config.description.clone()).or_default() += 1;
        }
    }
    for (name, count) in served {
        let reflector = topology(&name, &all);
        assert_eq!(reflector.peers.len(), 45, "whoever the datastore names may come");
        let expected = reflector.peers.values().filter(|peer| peer.config.expected);
        assert_eq!(expected.count(), count + 5, "its own and the other reflectors are waited for");
    }
}

#[test]
fn of_two_peers_for_a_session_the_more_precise_wins_and_the_other_is_named() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: all}
spec: {peerIP: 10.0.0.254, asNumber: 65000}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: zone}
spec: {nodeSelector: all(), peerIP: 10.0.0.254, asNumber: 65001}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: zz-this}
spec: {node: n1, peerIP: 10.0.0.254, asNumber: 65002}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: a}
spec: {peerSelector: has(hub), keepaliveTime: 5s}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: b}
spec: {peerSelector: has(hub), keepaliveTime: 6s}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: same-as-a}
spec: {peerSelector: has(hub), keepaliveTime: 5s}
";
    let mut cluster = cluster(THREE, text);
    cluster.nodes.get_mut("n3").unwrap().metadata.labels.insert("hub".into(), String::new());
    let (n1, n2) = (topology("n1", &cluster), topology("n2", &cluster));
    let router: IpAddr = "10.0.0.254".parse().unwrap();
    assert_eq!((n1.peers[&router].config.remote_as, n2.peers[&router].config.remote_as), (65002, 65001));
    for (one, keepalive) in [(&n1, 5), (&n2, 5), (&topology("n3", &cluster), 5)] {
        for peer in one.peers.values().filter(|peer| peer.node.as_deref() == Some("n3")) {
            assert_eq!(peer.config.timers.keepalive, Some(Duration::from_secs(keepalive)));
        }
    }
    let losers =
        |one: &Topology| one.problems.iter().map(|problem| problem.object.clone()).collect::<Vec<_>>();
    assert_eq!(losers(&n1), ["BGPPeer(zone)", "BGPPeer(all)", "BGPPeer(b)"]);
    assert_eq!(losers(&n2), ["BGPPeer(all)", "BGPPeer(b)"], "who says the same is no conflict");
    assert!(n1.problems[2].message.contains("BGPPeer(a)"), "{:?}", n1.problems[2]);
}

/// As in Calico's guides: reflectors are told to peer with each other, before or after the nodes are told anything.
#[test]
fn reflectors_told_to_peer_go_on_to_serve() {
    let text = "
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: reflectors}
spec: {nodeSelector: has(hub), peerSelector: has(hub), keepaliveTime: 9s}
";
    let mut cluster = cluster(&with_reflectors(), text);
    let before = peer_named(&topology("n1", &cluster), "rr1").is_some();
    for name in ["rr1", "rr2"] {
        cluster.nodes.get_mut(name).unwrap().metadata.labels.insert("hub".into(), String::new());
    }
    let (n1, rr1) = (topology("n1", &cluster), topology("rr1", &cluster));
    assert!(before && peer_named(&n1, "rr1").is_some() && peer_named(&rr1, "n1").is_some());
    assert_eq!(peer_named(&rr1, "rr2").unwrap().timers.keepalive, Some(Duration::from_secs(9)));
    // One that names nodes, too, decides.
    peer_spec(&mut cluster, "reflectors").peer_selector = Some("has(hub) || has(other)".parse().unwrap());
    cluster.nodes.get_mut("n2").unwrap().metadata.labels.insert("other".into(), String::new());
    assert!(peer_named(&topology("n1", &cluster), "rr1").is_none());
    assert!(peer_named(&topology("rr1", &cluster), "n2").is_some());
}

/// Who is of another AS is told of the node that has the block, not of a machine that forwards nothing.
#[test]
fn a_reflector_that_forwards_nothing_is_nobodys_next_hop() {
    let text = "
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router}
spec: {peerIP: 10.0.0.254, asNumber: 64999}
";
    let mut cluster = cluster(&with_reflectors(), text);
    cluster.nodes.get_mut("n1").unwrap().spec.bgp.as_mut().unwrap().as_number = Some(AsNumber(65001));
    let router: IpAddr = "10.0.0.254".parse().unwrap();
    let next_hops = |topology: &Topology| {
        let node = peer_named(topology, "n1").unwrap();
        assert_eq!(node.kind, PeerKind::External);
        [node.next_hop, topology.peers[&router].config.next_hop]
    };
    let mut reflector = Planner::new("rr1").without_forwarding();
    reflector.update(&cluster, &Changes::everything());
    assert_eq!(next_hops(reflector.topology()), [NextHopMode::Keep; 2]);
    assert_eq!(
        next_hops(&topology("rr1", &cluster)),
        [NextHopMode::Auto; 2],
        "a node that is a reflector, too"
    );
}

#[test]
fn a_node_reflects_what_its_clients_own() {
    let mut cluster = cluster(&with_reflectors(), "");
    let limit = |cluster: &Cluster| {
        let rr1 = topology("rr1", cluster);
        let n1 = peer_named(&rr1, "n1").unwrap().clone();
        (n1.authorised_origins.unwrap().len(), n1.max_prefix.unwrap().limit)
    };
    assert_eq!(limit(&cluster), (0, 1024));
    let block = |name: &str, node: &str, cidr: &str| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, affinity: 'host:{node}', allocations: [], unallocated: [], attributes: [], strictAffinity: true}}\n"
        );
        yaml::parse("block.yaml", &text).unwrap().remove(0).value
    };
    assert!(cluster.put(&block("a", "n1", "10.65.1.0/24")) && cluster.put(&block("b", "n1", "10.65.2.0/24")));
    assert_eq!(limit(&cluster), (2, 1536));
    assert!(!cluster.put(&block("b", "n1", "10.65.2.0/24")), "nothing new");
    assert!(cluster.put(&block("b", "n2", "10.65.2.0/24")));
    assert_eq!(limit(&cluster), (1, 1280));
    assert!(cluster.delete(&Key::cluster(Kind::IpamBlock, "a")));
    assert_eq!(limit(&cluster), (0, 1024));
    assert_eq!(cluster.blocks.keys().collect::<Vec<_>>(), ["n2"]);
}

#[test]
fn a_node_may_tell_a_reflector_what_its_filters_let_out() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: reflectors}
spec: {nodeSelector: all(), peerSelector: has(hub), nextHopMode: Self, filters: [of-pods, missing]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: of-pods}
spec:
  exportV4:
    - {action: Accept, cidr: 10.123.0.0/16, matchOperator: In, source: RemotePeers}
    - {action: Reject, cidr: 10.99.0.0/16, matchOperator: In}
  importV4: [{action: Accept, cidr: 10.77.0.0/16, matchOperator: In}]
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: anything}
spec: {exportV6: [{action: Accept, cidr: 'fd00::/8', matchOperator: NotIn}]}
";
    let mut cluster = cluster(&with_reflectors(), text);
    cluster.nodes.get_mut("rr1").unwrap().metadata.labels.insert("hub".into(), String::new());
    let allowed = |cluster: &Cluster, prefix: &str| {
        let rr1 = topology("rr1", cluster);
        let n1 = peer_named(&rr1, "n1").unwrap();
        (
            n1.authorised_origins.as_ref().unwrap().covers(&prefix.parse().unwrap()),
            n1.max_prefix.unwrap().limit,
        )
    };
    assert_eq!(allowed(&cluster, "10.123.7.0/24"), (true, 101_024));
    let mut reflector = Planner::new("rr1").without_forwarding();
    reflector.update(&cluster, &Changes::everything());
    let next_hop = |topology: &Topology, name: &str| peer_named(topology, name).unwrap().next_hop;
    assert_eq!(next_hop(&topology("n1", &cluster), "rr1"), NextHopMode::SelfAddress);
    assert_eq!(next_hop(reflector.topology(), "n1"), NextHopMode::Auto, "it forwards no packets");
    for prefix in ["10.99.0.0/24", "10.77.0.0/24", "fd65::/64"] {
        assert!(!allowed(&cluster, prefix).0, "{prefix}");
    }
    peer_spec(&mut cluster, "reflectors").filters = vec!["anything".to_owned()];
    assert!(allowed(&cluster, "2001:db8::/32").0, "what a rule means by exclusion is not taken apart");
    assert!(!allowed(&cluster, "10.123.7.0/24").0, "of the other family");
    // The node alone names the reflector, by its address.
    let address = node_addresses(&cluster.nodes["rr1"]).next().unwrap();
    let peer = peer_spec(&mut cluster, "reflectors");
    (peer.peer_selector, peer.node_selector) = (None, None);
    (peer.peer_ip, peer.node) = (Some(address.to_string().parse().unwrap()), Some("n1".to_owned()));
    assert!(allowed(&cluster, "2001:db8::/32").0);
    peer_spec(&mut cluster, "reflectors").node = Some("n2".to_owned());
    assert_eq!(allowed(&cluster, "2001:db8::/32"), (false, 1024), "that lets out what another node tells");
}
