use ipnet::IpNet;
use margay_api::Metadata;
use margay_api::kinds::{NodeSpec, ReversePeering};
use margay_api::yaml;
use margay_bgp::policy::{Action, Policy, RouteView, Verdict};
use margay_bgp::wire::PathAttributes;

use std::time::Duration;

use margay_api::{Key, Kind};
use proptest::prelude::*;

use margay_bgp::{NextHopMode, PeerKind};

use super::planner::topology;
use super::*;

fn node(name: &str, address: &str, reflector: bool) -> Node {
    let bgp = margay_api::kinds::NodeBgp {
        ipv4_address: Some(address.parse().unwrap()),
        route_reflector_cluster_id: reflector.then(|| Ipv4Addr::new(10, 0, 0, 1)),
        ..Default::default()
    };
    Node::new(Metadata::named(name), NodeSpec { bgp: Some(bgp), ..NodeSpec::default() })
}

fn cluster(nodes: &[(&str, &str, bool)], text: &str) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, address, reflector) in nodes {
        cluster.put(&node(name, address, *reflector).into());
    }
    for located in yaml::parse("test.yaml", text).unwrap() {
        assert!(cluster.put(&located.value), "unexpected {:?}", located.value);
    }
    cluster
}

const THREE: &[(&str, &str, bool)] =
    &[("n1", "10.0.0.1/24", false), ("n2", "10.0.0.2/24", false), ("n3", "10.0.1.3/24", false)];

fn with_reflectors() -> Vec<(&'static str, &'static str, bool)> {
    let mut nodes = THREE.to_vec();
    nodes.extend([("rr1", "10.0.0.11/24", true), ("rr2", "10.0.0.12/24", true)]);
    nodes
}

fn sessions(topology: &Topology) -> Vec<(String, PeerKind, bool)> {
    let configs = topology.peers.values().map(|peer| &peer.config);
    configs.map(|peer| (peer.description.clone(), peer.kind, peer.passive)).collect()
}

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

#[test]
fn rules_for_interfaces_follow_the_kernels_ways() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, filters: [uplinks]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: uplinks}
spec: {exportV4: [{action: Reject, interface: 'eth*'}]}
";
    let mut cluster = cluster(THREE, text);
    let n1 = topology("n1", &cluster);
    let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
    assert_eq!(problem.object, "BGPPeer(tor)");
    assert!(problem.message.contains("BGPFilter(uplinks) has rules with `interface`"), "{}", problem.message);

    let way = |prefix: &str, metric, dev: &str| Way {
        prefix: prefix.parse().unwrap(),
        metric,
        dev: dev.to_owned(),
    };
    let ways = |cluster: &mut Cluster| {
        cluster.set_ways([
            way("0.0.0.0/0", 0, "wlan0"),
            way("10.0.0.0/24", 0, "eth0"),
            way("10.0.0.0/24", 9, "wlan0"),
            way("10.0.1.0/24", 0, "wlan0"),
            way("10.0.1.0/24", 9, "eth0"),
        ])
    };
    assert!(ways(&mut cluster) && !ways(&mut cluster), "nothing new the second time");
    let n1 = topology("n1", &cluster);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    let filter = &peer_named(&n1, "tor").unwrap().export.filters[0];
    let meant: Vec<String> = filter.rules[0]
        .next_hop
        .iter()
        .flat_map(|by| &by.networks)
        .filter(|(_, meant)| *meant)
        .map(|(network, _)| network.to_string())
        .collect();
    assert_eq!(meant, ["10.0.0.0/24"], "of two ways to a network the better counts");
    cluster.delete(&Key::cluster(Kind::BgpFilter, "uplinks"));
    assert!(ways(&mut cluster), "nobody asks any more");
    assert!(!ways(&mut cluster));
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

fn peer_named<'a>(topology: &'a Topology, name: &str) -> Option<&'a PeerConfig> {
    topology.peers.values().map(|peer| &*peer.config).find(|peer| peer.description == name)
}

#[test]
fn passwords_come_from_secrets_and_sessions_stay_down_without() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, password: {secretKeyRef: {name: bgp, key: tor}}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor2}
spec: {peerIP: 10.0.0.253, asNumber: 65000, password: {secretKeyRef: {name: bgp, key: none, optional: true}}}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeMeshPassword: {secretKeyRef: {name: mesh, key: all}}, nodeMeshMaxRestartTime: 200s}
";
    let mut cluster = cluster(THREE, text);
    let secret = |name: &str, key: &str| crate::secrets::SecretName { name: name.into(), key: key.into() };
    let wanted: Vec<_> = secrets(&cluster).into_iter().collect();
    assert_eq!(wanted, [secret("bgp", "none"), secret("bgp", "tor"), secret("mesh", "all")]);
    let password = |text: &str| margay_bgp::Password::new(text.as_bytes()).unwrap();
    let mut known = crate::secrets::Secrets::new();
    known.insert(secret("mesh", "all"), Ok(password("m")));
    known.insert(secret("bgp", "tor"), Err("/secrets/bgp/tor: No such file".to_owned()));
    known.insert(secret("bgp", "none"), Err("absent".to_owned()));
    assert!(cluster.set_secrets(known.clone()) && !cluster.set_secrets(known.clone()));
    let n1 = topology("n1", &cluster);
    assert!(peer_named(&n1, "tor").is_none(), "fail closed");
    assert_eq!(n1.problems.len(), 1);
    assert_eq!(n1.problems[0].object, "BGPPeer(tor)");
    assert!(n1.problems[0].message.contains("/secrets/bgp/tor"), "{}", n1.problems[0].message);
    assert_eq!(peer_named(&n1, "tor2").unwrap().password, None);
    let mesh = peer_named(&n1, "n2").unwrap();
    assert_eq!(mesh.password, Some(password("m")));
    assert_eq!(mesh.graceful_restart.restart_time, Duration::from_secs(200));
    known.insert(secret("bgp", "tor"), Ok(password("t")));
    cluster.set_secrets(known.clone());
    assert_eq!(peer_named(&topology("n1", &cluster), "tor").unwrap().password, Some(password("t")));
    known.insert(secret("mesh", "all"), Err("gone".to_owned()));
    cluster.set_secrets(known);
    let n1 = topology("n1", &cluster);
    assert_eq!((n1.peers.len(), n1.problems.len()), (2, 1), "one problem for the whole mesh");
}

#[test]
fn every_field_of_a_bgp_peer_reaches_its_session() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec:
  peerIP: 10.9.0.254
  asNumber: 65000
  ttlSecurity: 2
  reachableBy: 10.0.0.254
  localASNumber: 65010
  numAllowedLocalASNumbers: 3
  sourceAddress: None
  maxRestartTime: 90s
  keepaliveTime: 10s
  nextHopMode: Self
";
    let n1 = topology("n1", &cluster(THREE, text));
    let tor = peer_named(&n1, "tor").unwrap();
    assert_eq!((tor.ttl_security, tor.local_as, tor.allow_own_as), (Some(2), Some(65010), 3));
    assert_eq!((tor.local, tor.next_hop), (None, NextHopMode::SelfAddress));
    assert_eq!(tor.graceful_restart.restart_time, Duration::from_secs(90));
    assert_eq!(tor.timers.keepalive, Some(Duration::from_secs(10)));
    let gateway: (IpAddr, IpAddr) = ("10.9.0.254".parse().unwrap(), "10.0.0.254".parse().unwrap());
    assert_eq!(n1.gateways.into_iter().collect::<Vec<_>>(), [gateway]);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    // The AS shown to the router decides what kind of session it is.
    let same = text.replace("asNumber: 65000", "asNumber: 65010");
    assert_eq!(peer_named(&topology("n1", &cluster(THREE, &same)), "tor").unwrap().kind, PeerKind::Internal);
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
fn peers_that_are_special_say_so_or_keep_their_meaning() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: keep}
spec: {peerIP: 10.9.0.1, asNumber: 65000, keepOriginalNextHop: true, nodeSelector: all()}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: link}
spec: {peerIP: 'fe80::1%eth0', asNumber: 65000}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: pods}
spec: {localWorkloadSelector: 'app == \"router\"', asNumber: 65001}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: others}
spec: {peerIP: 10.9.0.2, asNumber: 65000, node: n2}
";
    let cluster = cluster(THREE, text);
    let n1 = topology("n1", &cluster);
    assert_eq!(peer_named(&n1, "keep").unwrap().next_hop, NextHopMode::Keep);
    let link = peer_named(&n1, "link").unwrap();
    assert_eq!((link.interface.as_deref(), link.local), (Some("eth0"), None));
    assert!(peer_named(&n1, "others").is_none(), "of another node");
    let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
    assert_eq!(problem.object, "BGPPeer(pods)");
    let mut reflector = Planner::new("n1").without_forwarding();
    reflector.update(&cluster, &Changes::everything());
    assert!(reflector.topology().problems.is_empty(), "it has no workloads");
    assert!(problem.message.contains("localWorkloadPeeringIPV4"), "{}", problem.message);
}

#[test]
fn every_field_of_a_filter_rule_reaches_the_policy() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, filters: [all-of-it]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: all-of-it}
spec:
  importV6: [{action: Reject}]
  exportV4:
  - action: Accept
    cidr: 10.0.0.0/8
    matchOperator: In
    prefixLength: {min: 16, max: 26}
    source: RemotePeers
    peerType: eBGP
    communities: {values: ['64512:1:2']}
    asPathPrefix: [65001, 65002]
    priority: 512
    operations:
    - addCommunity: {value: '64512:7'}
    - prependASPath: {prefix: [1, 2]}
    - setPriority: {value: 100}
";
    let n1 = topology("n1", &cluster(THREE, text));
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    let tor = peer_named(&n1, "tor").unwrap();
    let everything: IpNet = "::/0".parse().unwrap();
    let import = &tor.import.filters[0].rules;
    assert_eq!(import.len(), 1);
    assert_eq!(import[0].prefix.as_ref().map(|prefix| prefix.cidr), Some(everything), "of its family only");
    let [rule] = tor.export.filters[0].rules.as_slice() else { panic!("{:?}", tor.export) };
    let prefix = rule.prefix.as_ref().unwrap();
    assert_eq!((prefix.cidr, prefix.length.clone()), ("10.0.0.0/8".parse().unwrap(), Some(16..=26)));
    assert_eq!((rule.learned, rule.peer_type), (true, Some(margay_bgp::policy::PeerType::External)));
    assert!(matches!(rule.community, Some(margay_bgp::policy::AnyCommunity::Large(_))));
    assert_eq!((rule.as_path_prefix.as_slice(), rule.priority), ([65001, 65002].as_slice(), Some(512)));
    assert_eq!(rule.operations.len(), 3);
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
fn the_configuration_of_a_node_overrides_that_of_the_cluster() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  listenPort: 1790
  bindMode: NodeIP
  communities: [{name: rack, value: '65000:7'}, {name: big, value: '65000:1:2'}]
  prefixAdvertisements:
  - {cidr: 10.65.0.0/16, communities: [rack, big, '64512:9']}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n2}
spec:
  listenPort: 1791
  bindMode: None
  communities: [{name: nowhere, value: '65000:8'}]
  prefixAdvertisements: [{cidr: 10.66.0.0/16, communities: [nowhere]}]
";
    let mut cluster = cluster(THREE, text);
    // An object that was stored unchecked.
    cluster.configurations.get_mut("node.n2").unwrap().spec.communities.clear();
    let n1 = topology("n1", &cluster);
    assert_eq!((n1.listen_port, &n1.bind), (1790, &vec!["10.0.0.1".parse().unwrap()]));
    let [advertisement] = &n1.advertisements[..] else { panic!("{:?}", n1.advertisements) };
    assert_eq!(advertisement.cidr.to_string(), "10.65.0.0/16");
    let values: Vec<u32> = advertisement.communities.iter().map(|community| community.0).collect();
    assert_eq!(values, [65000 << 16 | 7, 64512 << 16 | 9]);
    assert_eq!(advertisement.large_communities.len(), 1);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    assert_eq!(peer_named(&n1, "n2").unwrap().port, 1791);
    let n2 = topology("n2", &cluster);
    assert_eq!((n2.listen_port, n2.bind.len()), (1791, 0));
    assert_eq!(n2.advertisements[0].communities, []);
    assert!(n2.problems[0].message.contains("nowhere"), "{:?}", n2.problems);
}

#[test]
fn what_has_no_effect_is_said() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  logSeverityScreen: Debug
  ipv4NormalRoutePriority: 512
  programClusterRoutes: Disabled
  ignoredInterfaces: [eth9]
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n1}
spec: {ignoredInterfaces: [eth9]}
";
    let problems = topology("n1", &cluster(THREE, text)).problems;
    let fields = ["default: logSeverity", "n1: programClusterRoutes"];
    assert_eq!(problems.len(), fields.len());
    for field in fields {
        let (object, field) = field.split_once(": ").unwrap();
        let said = |problem: &Problem| problem.object.contains(object) && problem.message.contains(field);
        assert!(problems.iter().any(said), "{field}: {problems:?}");
    }
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

/// `n<number>` at 10.1.x.y, and reflectors `rr0..` each of a cluster of its own.
fn large(nodes: u16, reflectors: u8) -> Cluster {
    let mut cluster = Cluster::default();
    for number in 0..nodes {
        cluster.put(&numbered(number, 1).into());
    }
    for number in 0..reflectors {
        let mut reflector = node(&format!("rr{number}"), &format!("10.0.0.{}/32", number + 1), true);
        if let Some(bgp) = &mut reflector.spec.bgp {
            bgp.route_reflector_cluster_id = Some(Ipv4Addr::new(10, 0, 0, number + 1));
        }
        cluster.put(&reflector.into());
    }
    cluster
}

fn numbered(number: u16, net: u8) -> Node {
    node(&format!("n{number}"), &format!("10.{net}.{}.{}/8", number >> 8, number & 0xff), false)
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

fn peer_spec<'a>(cluster: &'a mut Cluster, name: &str) -> &'a mut margay_api::kinds::BgpPeerSpec {
    &mut cluster.peers.get_mut(name).unwrap().spec
}

/// At the size that Margay is built for a Node that moves is two sessions, whoever looks, and says nothing of others.
#[test]
fn one_node_of_thousands_changes_its_own_session_only() {
    for (name, reflectors) in [("rr0", 2), ("n4999", 0)] {
        let mut cluster = large(5000, reflectors);
        let mut planner = Planner::new(name);
        let changed = cluster.take_changes();
        let all = planner.update(&cluster, &changed).len();
        assert!(all >= 4999, "{all}");
        for number in 0..1000 {
            let moved = numbered(number, 2);
            let addresses: Vec<IpAddr> =
                [numbered(number, 1), moved.clone()].iter().flat_map(node_addresses).collect();
            cluster.put(&moved.into());
            let changed = cluster.take_changes();
            let said: Vec<IpAddr> = planner.update(&cluster, &changed).into_keys().collect();
            assert_eq!(said, addresses);
        }
    }
}

/// A planner that follows every change must come to what one that sees the end alone comes to.
fn agrees(planner: &mut Planner, name: &str, cluster: &mut Cluster, told: &mut BTreeMap<IpAddr, Peer>) {
    let changed = cluster.take_changes();
    for (remote, change) in planner.update(cluster, &changed) {
        match change {
            Change::Want(peer) => drop(told.insert(remote, peer)),
            Change::Leave | Change::End => assert!(told.remove(&remote).is_some(), "{remote} was not there"),
        }
    }
    let fresh = topology(name, cluster);
    assert_eq!(planner.topology().peers, fresh.peers);
    assert_eq!(*told, fresh.peers, "what was told of changes adds up");
    assert_eq!(
        (&planner.topology().gateways, planner.topology().cluster_id),
        (&fresh.gateways, fresh.cluster_id)
    );
}

#[derive(Debug, Clone)]
enum Step {
    Put(u16, u8),
    Relabel(u16),
    Delete(u16),
    Reflector(u8, bool),
    Peer(u8, bool),
    Block(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // In two nets, so that addresses move; the third gives two nodes one address.
        (0u16..8, 1u8..3).prop_map(|(number, net)| Step::Put(number, net)),
        (0u16..8).prop_map(|number| Step::Put(number, 0)),
        (0u16..8).prop_map(Step::Relabel),
        (0u16..8).prop_map(Step::Delete),
        (0u8..3, any::<bool>()).prop_map(|(number, there)| Step::Reflector(number, there)),
        (0u8..4, any::<bool>()).prop_map(|(number, there)| Step::Peer(number, there)),
        (0u8..4, 0u16..8).prop_map(|(block, owner)| Step::Block(block, owner)),
    ]
}

const PEERS: [&str; 4] = [
    "{nodeSelector: has(rack), peerSelector: has(rack)}",
    "{peerIP: 10.1.0.3, asNumber: 65000, reachableBy: 10.0.0.7}",
    "{node: n2, peerSelector: \"!has(rack)\", keepaliveTime: 9s}",
    "{peerIP: 10.9.9.9, asNumber: 65000}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn following_changes_comes_to_the_same_as_beginning_anew(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = large(4, 0);
        let names = ["n1", "rr0"];
        let mut planners = names.map(|name| (Planner::new(name), BTreeMap::new()));
        for step in steps {
            match step {
                Step::Put(number, 0) => drop(cluster.put(&Node::new(
                    Metadata::named(format!("n{number}")),
                    numbered(number & 1, 1).spec,
                ).into())),
                Step::Put(number, net) => drop(cluster.put(&numbered(number, net).into())),
                Step::Relabel(number) => {
                    let Some(mut node) = cluster.nodes.get(&format!("n{number}")).cloned() else { continue };
                    if node.metadata.labels.remove("rack").is_none() {
                        node.metadata.labels.insert("rack".into(), "a".into());
                    }
                    cluster.put(&(*node).into());
                }
                Step::Delete(number) => drop(cluster.delete(&Key::cluster(Kind::Node, format!("n{number}").as_str()))),
                Step::Reflector(number, true) => {
                    cluster.put(&node(&format!("rr{number}"), &format!("10.0.0.{}/32", number + 1), true).into());
                }
                Step::Reflector(number, false) => {
                    cluster.delete(&Key::cluster(Kind::Node, format!("rr{number}").as_str()));
                }
                Step::Peer(number, true) => {
                    let spec = PEERS[usize::from(number)];
                    let text = format!("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: p{number}}}\nspec: {spec}\n");
                    cluster.put(&yaml::parse("peer.yaml", &text).unwrap()[0].value);
                }
                Step::Peer(number, false) => {
                    cluster.delete(&Key::cluster(Kind::BgpPeer, format!("p{number}").as_str()));
                }
                Step::Block(block, owner) => {
                    let text = format!(
                        "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {{name: b{block}}}\nspec: {{cidr: 10.65.{block}.0/24, affinity: 'host:n{owner}', allocations: [], unallocated: [], attributes: [], strictAffinity: true}}\n"
                    );
                    cluster.put(&yaml::parse("block.yaml", &text).unwrap()[0].value);
                }
            }
            // Each follows the same changes.
            let [first, second] = &mut planners;
            let mut copy = cluster.clone();
            agrees(&mut first.0, names[0], &mut copy, &mut first.1);
            agrees(&mut second.0, names[1], &mut cluster, &mut second.1);
        }
    }
}

const BFD: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeMeshFailureDetectionMode: BFDIfDirectlyConnected}
---
apiVersion: projectcalico.org/v3
kind: BFDConfiguration
metadata: {name: default}
spec:
  interfaces:
    - {matchPattern: 'eth*', minimumSendInterval: 250ms, multiplier: 4}
    - {matchPattern: '*', minimumRecvInterval: 20ms}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65001, failureDetectionMode: BFDIfDirectlyConnected}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: behind}
spec: {peerIP: 10.0.0.253, asNumber: 65001, reachableBy: 10.0.0.254, failureDetectionMode: BFD}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: patient}
spec: {peerIP: 10.0.0.252, asNumber: 65001, failureDetectionMode: BFDStrict}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: far}
spec: {peerIP: 192.0.2.1, asNumber: 65001, failureDetectionMode: BFDIfDirectlyConnected, restartMode: GracefulRestart}
";

#[test]
fn sessions_are_watched_where_and_as_fast_as_objects_say() {
    let mut cluster = cluster(THREE, BFD);
    let watched = |cluster: &Cluster| -> BTreeMap<String, margay_bgp::bfd::SessionConfig> {
        let peers = topology("n1", cluster).peers.into_iter();
        peers
            .filter_map(|(_, peer)| Some((peer.config.description.clone(), peer.config.bfd?.session)))
            .collect()
    };
    let sessions = watched(&cluster);
    // n3 and the far router are in other subnets.
    assert_eq!(sessions.keys().collect::<Vec<_>>(), ["behind", "n2", "patient", "tor"]);
    assert_eq!(
        sessions.values().map(|session| session.multihop).collect::<Vec<_>>(),
        [true, false, false, false]
    );
    // The interface is not known, so only `*` fits; what is absent is as documented.
    let ms = Duration::from_millis;
    let any = sessions["n2"];
    assert_eq!((any.min_rx, any.min_tx, any.idle_tx, any.multiplier), (ms(20), ms(100), ms(60_000), 5));
    let interface = margay_api::kinds::NodeInterface {
        name: "eth1".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    cluster.nodes.get_mut("n1").unwrap().spec.interfaces.push(interface);
    let eth = watched(&cluster)["tor"];
    assert_eq!((eth.min_rx, eth.min_tx, eth.multiplier), (ms(10), ms(250), 4));
    let none = "all() && has(nothing)".parse().unwrap();
    cluster.bfd.get_mut("default").unwrap().spec.node_selector = Some(none);
    assert_eq!(watched(&cluster)["n2"], margay_bgp::bfd::SessionConfig::default());
    let n1 = topology("n1", &cluster);
    let far = peer_named(&n1, "far").unwrap();
    assert_eq!(far.graceful_restart.long_lived, None);
    let strict = |name| peer_named(&n1, name).unwrap().bfd.map(|bfd| bfd.strict);
    assert_eq!(["far", "tor", "patient"].map(strict), [None, Some(false), Some(true)]);
}
