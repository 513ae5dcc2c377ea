//! Sessions with routers and workloads, and what they are told.

use super::*;

#[test]
fn routers_come_on_top_with_filters_that_fail_closed() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: '10.0.0.254:1179', asNumber: 65000, node: n1, filters: [only-a]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16}
";
    let filter = "\
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: only-a}
spec: {importV4: [{action: Accept, cidr: 192.0.2.0/24, matchOperator: In}, {action: Reject}]}
";
    let missing = topology("n1", &cluster(&with_reflectors(), text));
    let tor = peer_named(&missing, "tor").unwrap();
    assert_eq!((tor.port, tor.remote_as, tor.kind), (1179, 65000, PeerKind::External));
    assert_eq!(tor.max_prefix.unwrap().limit, 100_000);
    assert!(missing.problems[0].message.contains("BGPFilter(only-a) does not exist"));
    let verdict = |policy: &Policy, prefix: &str| {
        let attributes = PathAttributes::default();
        let prefix = prefix.parse().unwrap();
        let peer_type = margay_bgp::policy::PeerType::External;
        policy.apply(&RouteView { prefix, next_hop: None, attributes: &attributes, learned: true, peer_type })
    };
    assert_eq!(verdict(&tor.import, "192.0.2.0/24"), Verdict::Reject);
    let found = topology("n1", &cluster(&with_reflectors(), &format!("{text}{filter}")));
    let tor = peer_named(&found, "tor").unwrap();
    assert!(found.problems.is_empty());
    assert_eq!(verdict(&tor.import, "192.0.2.128/25"), Verdict::Accept);
    assert_eq!(verdict(&tor.import, "198.51.100.0/24"), Verdict::Reject);
    assert_eq!(verdict(&tor.export, "10.65.7.0/24"), Verdict::Accept);
    assert_eq!(verdict(&tor.export, "10.99.7.0/24"), Verdict::Reject);
    assert_eq!(tor.export.default, Action::Reject);
}

#[test]
fn a_router_may_announce_as_many_prefixes_as_its_object_says() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor, annotations: {margay.io/max-prefixes: '1200000'}}
spec: {peerIP: 10.0.0.254, asNumber: 65000, node: n1}
";
    let mut cluster = cluster(THREE, text);
    let limit = |topology: &Topology| peer_named(topology, "tor").unwrap().max_prefix.unwrap().limit;
    assert_eq!(limit(&topology("n1", &cluster)), 1_200_000);
    for wrong in ["0", "-1", "many", "4294967296"] {
        let annotations = &mut cluster.peers.get_mut("tor").unwrap().metadata.annotations;
        annotations.insert("margay.io/max-prefixes".into(), wrong.into());
        let n1 = topology("n1", &cluster);
        assert_eq!(limit(&n1), 100_000);
        assert!(n1.problems[0].message.contains(wrong), "{:?}", n1.problems);
    }
}

/// Next hop self needs an address of either family, whichever the session runs over.
#[test]
fn a_router_hears_of_both_addresses() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 10.0.0.1/24, ipv6Address: 'fd00::1/64'}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: four}
spec: {peerIP: 10.0.0.254, asNumber: 65000}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: six}
spec: {peerIP: 'fd00::fe', asNumber: 65000}
";
    let n1 = topology("n1", &cluster(&[], text));
    let addresses: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let [four, six] = ["four", "six"].map(|name| peer_named(&n1, name).unwrap());
    assert_eq!([four.local, four.local_other], addresses.map(Some));
    assert_eq!([six.local_other, six.local], addresses.map(Some));
}

#[test]
fn workloads_of_this_node_are_peers_where_they_are_selected() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: virtual-routers}
spec: {nodeSelector: all(), localWorkloadSelector: role == 'router', asNumber: 65010, keepaliveTime: 7s, sourceAddress: None}
";
    let mut cluster = cluster(THREE, text);
    let endpoint = |name: &str, role: &str, addresses: &[&str]| {
        let mut metadata = Metadata::namespaced("shop", name);
        metadata.labels.insert("role".to_owned(), role.to_owned());
        let spec = margay_api::kinds::WorkloadEndpointSpec {
            ip_networks: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            allow_spoofed_source_prefixes: vec!["10.99.0.0/24".parse().unwrap()],
            ..Default::default()
        };
        margay_api::WorkloadEndpoint::new(metadata, spec)
    };
    let router = endpoint("r", "router", &["10.65.0.5/32", "fd65::5/128"]);
    assert!(cluster.put_workload(&router) && !cluster.put_workload(&router));
    assert!(cluster.put_workload(&endpoint("web", "web", &["10.65.0.6/32"])));
    let without = topology("n1", &cluster);
    assert_eq!((without.peers.len(), without.problems.len()), (2, 1), "{:?}", without.problems);
    assert!(without.problems[0].message.contains("localWorkloadPeeringIPV4"));

    let address = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {localWorkloadPeeringIPV4: 169.254.0.179}\n";
    cluster.put(&yaml::parse("default.yaml", address).unwrap()[0].value);
    let mut planner = Planner::new("n1");
    let changes = cluster.take_changes();
    planner.update(&cluster, &changes);
    let n1 = planner.topology();
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    let local: IpAddr = "169.254.0.179".parse().unwrap();
    assert_eq!(n1.workload_peering, [local].into());
    let peer = peer_named(n1, "r").unwrap();
    assert_eq!((peer.remote_as, peer.kind, peer.local), (65010, PeerKind::External, Some(local)));
    assert_eq!((&peer.families[..], peer.expected), (&[Family::Ipv4][..], false));
    assert_eq!((peer.timers.keepalive, peer.on_host), (Some(Duration::from_secs(7)), true));
    assert_eq!(n1.peers.len(), 3, "IPv6 has no address to peer with, and web is not selected");

    let mut alone = router.clone();
    alone.spec.allow_spoofed_source_prefixes.clear();
    assert!(cluster.put_workload(&alone));
    let said = &topology("n1", &cluster).problems;
    assert!(said.len() == 1 && said[0].message.contains("allowSpoofedSourcePrefixes"), "{said:?}");

    assert!(cluster.delete_workload(&router.key()));
    let changes = cluster.take_changes();
    let gone = planner.update(&cluster, &changes);
    assert_eq!(gone, BTreeMap::from([("10.65.0.5".parse().unwrap(), Change::End)]));

    assert!(cluster.put_workload(&router));
    let both = address.replace(".179}", ".179, localWorkloadPeeringIPV6: 'fd00::179'}");
    cluster.put(&yaml::parse("default.yaml", &both).unwrap()[0].value);
    let n1 = topology("n1", &cluster);
    let local6: IpAddr = "fd00::179".parse().unwrap();
    assert_eq!((&n1.workload_peering, n1.peers.len()), (&[local, local6].into(), 4));
    let six = &n1.peers[&"fd65::5".parse::<IpAddr>().unwrap()].config;
    assert_eq!((six.local, &six.families[..]), (Some(local6), &[Family::Ipv6][..]));
}

#[test]
fn the_way_to_a_workload_is_its_interface_and_its_node_listens_for_it() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: virtual-routers}
spec: {nodeSelector: all(), localWorkloadSelector: has(router), asNumber: 65010, filters: [pods]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: pods}
spec: {importV4: [{action: Accept, interface: 'mgy*'}, {action: Reject}]}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {localWorkloadPeeringIPV4: 169.254.0.179, bindMode: NodeIP}
";
    let mut cluster = cluster(THREE, text);
    let bound = |cluster: &Cluster| topology("n1", cluster).bind;
    let without = bound(&cluster);
    assert_eq!(without, ["10.0.0.1", "169.254.0.179"].map(|address| address.parse::<IpAddr>().unwrap()));
    let mut reflector = Planner::new("n1").without_forwarding();
    reflector.update(&cluster, &Changes::everything());
    assert_eq!(reflector.topology().bind, without[..1]);
    let mut metadata = Metadata::namespaced("shop", "r");
    metadata.labels.insert("router".to_owned(), String::new());
    let spec = margay_api::kinds::WorkloadEndpointSpec {
        ip_networks: vec!["10.65.0.5/32".parse().unwrap()],
        interface_name: "mgy5".to_owned(),
        ..Default::default()
    };
    assert!(cluster.put_workload(&margay_api::WorkloadEndpoint::new(metadata, spec)));
    assert_eq!(bound(&cluster), without, "for a workload the speaker need not start anew");
    let n1 = topology("n1", &cluster);
    let import = |next_hop: &str| {
        let attributes = PathAttributes::default();
        let route = RouteView {
            prefix: "10.99.0.0/24".parse().unwrap(),
            next_hop: Some(next_hop.parse().unwrap()),
            attributes: &attributes,
            learned: true,
            peer_type: margay_bgp::policy::PeerType::External,
        };
        peer_named(&n1, "r").unwrap().import.apply(&route)
    };
    assert_eq!((import("10.65.0.5"), import("10.65.0.6")), (Verdict::Accept, Verdict::Reject));
}

#[test]
fn services_are_told_by_their_own_node_and_by_reflectors() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/20}], serviceLoadBalancerIPs: [{cidr: 192.0.2.1/32}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000}
";
    let cluster = cluster(&with_reflectors(), text);
    let exports = |node: &str, learned: bool, prefix: &str| {
        let topology = topology(node, &cluster);
        let attributes = PathAttributes::default();
        let route = RouteView {
            prefix: prefix.parse().unwrap(),
            next_hop: None,
            attributes: &attributes,
            learned,
            peer_type: margay_bgp::policy::PeerType::External,
        };
        peer_named(&topology, "tor").unwrap().export.apply(&route) == Verdict::Accept
    };
    for prefix in ["10.96.0.0/20", "10.96.0.7/32", "192.0.2.1/32"] {
        assert!(exports("n1", false, prefix), "{prefix} of this node");
        assert!(!exports("n1", true, prefix), "{prefix} of another one");
        assert!(exports("rr1", true, prefix), "{prefix} by a reflector");
    }
    assert!(!exports("n1", false, "10.96.16.1/32"));
    let rr1 = topology("rr1", &cluster);
    let client = peer_named(&rr1, "n1").unwrap();
    let origins = client.authorised_origins.as_ref().unwrap();
    assert!(
        origins.covers(&"10.96.0.7/32".parse().unwrap()) && origins.covers(&"192.0.2.1/32".parse().unwrap())
    );
    assert_eq!(client.max_prefix.unwrap().limit, 1024 + 4096 + 1);
}

/// Calico runs a session's filters before it rejects what is in a pool with `disableBGPExport`, and rejects it on all
/// sessions, those of reflectors among them.
#[test]
fn a_pool_without_export_is_told_to_those_whose_filter_says_so() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: open}
spec: {cidr: 10.65.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: kept}
spec: {cidr: 10.66.0.0/16, disableBGPExport: true}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: kept}
spec: {exportV4: [{action: Accept, cidr: 10.66.0.0/16, matchOperator: In}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: lab}
spec: {peerIP: 10.0.0.253, asNumber: 65000, filters: [kept]}
";
    let exports = |node: &str, to: &str, cluster: &Cluster| {
        let topology = topology(node, cluster);
        let export = &peer_named(&topology, to).unwrap().export;
        ["10.65.1.0/24", "10.66.1.0/24", "10.66.1.7/32"].map(|prefix| {
            let attributes = PathAttributes::default();
            let route = RouteView {
                prefix: prefix.parse().unwrap(),
                next_hop: None,
                attributes: &attributes,
                learned: false,
                peer_type: margay_bgp::policy::PeerType::Internal,
            };
            export.apply(&route) == Verdict::Accept
        })
    };
    let mesh = cluster(THREE, text);
    assert_eq!(exports("n1", "tor", &mesh), [true, false, false]);
    assert_eq!(exports("n1", "lab", &mesh), [true, true, true]);
    assert_eq!(exports("n1", "n2", &mesh), [true, false, false]);
    // What another IPAM plugin gives addresses out of needs no pool, but goes by the one that holds it.
    let mut ranged = cluster(THREE, "");
    let ranges = &mut ranged.nodes.get_mut("n1").unwrap().status.pod_cidrs;
    ranges.extend(["10.65.1.0/24", "10.66.0.0/16"].map(str::to_owned));
    assert_eq!(exports("n1", "n2", &ranged), [true, true, true]);
    assert_eq!(exports("n2", "n1", &ranged), [false; 3], "another node's");
    ranged.pools.insert("kept".to_owned(), mesh.pools["kept"].clone());
    assert_eq!(exports("n1", "n2", &ranged), [true, false, false]);
    let mut reflected = cluster(&with_reflectors(), text);
    for (node, to) in [("n1", "rr1"), ("rr1", "n1"), ("rr1", "rr2"), ("rr1", "tor")] {
        assert_eq!(exports(node, to, &reflected), [true, false, false], "{node} to {to}");
    }
    assert_eq!(exports("rr1", "lab", &reflected), [true, true, true]);
    reflected.pools.remove("kept");
    let rr1 = topology("rr1", &reflected);
    assert!(peer_named(&rr1, "n1").unwrap().export.is_transparent(), "all clients share what is told");
}

fn ranges(text: &str) -> Vec<ListenRange> {
    let known: Result<ListenRanges, _> = serde_saphyr::from_str(text);
    known.unwrap_or_else(|error| panic!("{error}")).0
}

#[test]
fn whoever_comes_out_of_a_range_is_as_if_a_bgp_peer_named_it() {
    let mut cluster = cluster(&[("rr1", "10.0.0.21/24", true)], "");
    cluster.set_ranges(ranges(
        "
- {prefix: 192.0.2.0/24, asNumber: 65001, password: {name: racks, key: one}, filters: [none-such], ttlSecurity: 2}
- {prefix: 10.0.0.128/25, families: [ipv4-unicast], maxPrefixes: 7, maxPeers: 3}
- {prefix: 'fd00::/64', client: false}
",
    ));
    let topology = topology("rr1", &cluster);
    let prefixes = |topology: &Topology| -> Vec<String> {
        topology.ranges.iter().map(|range| range.prefix.to_string()).collect()
    };
    assert_eq!(prefixes(&topology), ["10.0.0.128/25", "fd00::/64"], "one has no password yet");
    assert!(topology.problems.iter().any(|problem| problem.object == "listenRanges(192.0.2.0/24)"));
    let secret = crate::secrets::SecretName { name: "racks".into(), key: "one".into() };
    let password = margay_bgp::Password::new(b"open sesame").unwrap();
    assert!(secrets(&cluster).contains(&secret));
    cluster.set_secrets([(secret, Ok(password.clone()))].into());

    let topology = super::topology("rr1", &cluster);
    let [racks, hosts, v6] = topology.ranges.as_slice() else { panic!("{:?}", prefixes(&topology)) };
    let template = &racks.template;
    assert_eq!((template.remote_as, template.kind), (65_001, PeerKind::External));
    assert_eq!((&template.password, template.ttl_security), (&Some(password), Some(2)));
    assert!(!template.policy_required && !template.expected, "the range is the policy of RFC 8212");
    assert_ne!(template.import, v6.template.import, "a filter that does not exist lets nothing through");
    let named = |problem: &Problem| problem.object == "listenRanges(192.0.2.0/24)";
    assert!(topology.problems.iter().any(|problem| named(problem) && problem.message.contains("none-such")));
    let template = &hosts.template;
    assert_eq!((template.remote_as, template.kind), (64_512, PeerKind::InternalClient));
    assert_eq!((template.max_prefix.map(|max| max.limit), hosts.max), (Some(7), 3));
    assert_eq!(
        (template.families.as_slice(), template.description.as_str()),
        (&[Family::Ipv4][..], "range 10.0.0.128/25")
    );
    assert_eq!((v6.template.kind, v6.template.families.len()), (PeerKind::Internal, 2));
    assert_eq!(v6.template.local_other, Some([10, 0, 0, 21].into()));
}

/// One that connects before its Node is known would be a stranger's session, and begin anew when it is.
#[test]
fn a_range_with_nodes_in_it_is_named() {
    let mut cluster = cluster(&[("rr1", "10.0.0.21/24", true), ("n1", "10.0.1.1/24", false)], "");
    cluster.set_ranges(ranges("[{prefix: 10.0.0.0/24}, {prefix: 192.0.2.0/24}]"));
    let mut planner = Planner::new("rr1").without_forwarding();
    let mut said = |cluster: &mut Cluster| {
        let changed = cluster.take_changes();
        planner.update(cluster, &changed);
        let problems = planner.topology().problems.iter();
        problems.map(|problem| problem.object.clone()).collect::<Vec<String>>()
    };
    assert_eq!(said(&mut cluster), Vec::<String>::new(), "it is no neighbour of its own");
    cluster.put(&node("n2", "192.0.2.2/24", false).into());
    cluster.put(&node("n3", "192.0.2.3/24", false).into());
    assert_eq!(said(&mut cluster), ["listenRanges(192.0.2.0/24)"]);
    for name in ["n2", "n3"] {
        cluster.delete(&Key::cluster(Kind::Node, name));
    }
    assert_eq!(said(&mut cluster), Vec::<String>::new());
}

#[test]
fn a_range_that_cannot_be_is_named() {
    for (text, named) in [
        ("{prefix: 10.0.0.1/24}", "10.0.0.0/24"),
        ("{prefix: 10.0.0.0/24, families: []}", "families"),
        ("{prefix: 10.0.0.0/24, password: {name: racks}}", "NAME/KEY"),
        ("{prefix: 10.0.0.0/24, maxPeers: 0}", "maxPeers"),
        ("{asNumber: 1}", "prefix"),
    ] {
        let wrong: Result<ListenRange, _> = serde_saphyr::from_str(text);
        let error = wrong.unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    let twice = "[{prefix: 10.0.0.0/8}, {prefix: 10.0.0.0/24}, {prefix: 10.0.0.0/8}]";
    let error = serde_saphyr::from_str::<ListenRanges>(twice).unwrap_err().to_string();
    assert!(error.contains("10.0.0.0/8"), "{error}");
    assert_eq!(ranges("[{prefix: 10.0.0.0/8}, {prefix: 10.0.0.0/24}]").len(), 2);
}
