use margay_api::Metadata;
use margay_api::kinds::NodeSpec;
use margay_api::{Resource, yaml};
use margay_bgp::policy::{Action, RouteView, Verdict};
use margay_bgp::wire::PathAttributes;

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
        cluster.nodes.insert((*name).to_owned(), node(name, address, *reflector));
    }
    for located in yaml::parse("test.yaml", text).unwrap() {
        match located.value {
            Resource::BgpPeer(peer) => drop(cluster.peers.insert(peer.metadata.name.clone(), peer)),
            Resource::BgpFilter(filter) => drop(cluster.filters.insert(filter.metadata.name.clone(), filter)),
            Resource::BfdConfiguration(bfd) => drop(cluster.bfd.insert(bfd.metadata.name.clone(), bfd)),
            Resource::BgpConfiguration(conf) => {
                drop(cluster.configurations.insert(conf.metadata.name.clone(), conf));
            }
            Resource::IpPool(pool) => drop(cluster.pools.insert(pool.metadata.name.clone(), pool)),
            other => panic!("unexpected {other:?}"),
        }
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
    topology.peers.iter().map(|peer| (peer.description.clone(), peer.kind, peer.passive)).collect()
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
    cluster.blocks.insert("n1".into(), vec!["10.65.1.0/24".parse().unwrap()]);
    let n1 = topology("n1", &cluster);
    assert_eq!(
        sessions(&n1),
        [("rr1".into(), PeerKind::Internal, false), ("rr2".into(), PeerKind::Internal, false)]
    );
    let rr1 = topology("rr1", &cluster);
    assert_eq!(rr1.cluster_id, Some(Ipv4Addr::new(10, 0, 0, 1)));
    let clients = rr1.peers.iter().filter(|peer| peer.kind == PeerKind::InternalClient && peer.passive);
    assert_eq!(clients.count(), 3);
    let rr2 = rr1.peers.iter().find(|peer| peer.description == "rr2").unwrap();
    assert_eq!((rr2.kind, rr2.passive, &rr2.authorised_origins), (PeerKind::Internal, false, &None));
    let n1 = rr1.peers.iter().find(|peer| peer.description == "n1").unwrap();
    assert_eq!(n1.authorised_origins, Some(vec!["10.65.1.0/24".parse().unwrap()]));
    let n3 = rr1.peers.iter().find(|peer| peer.description == "n3").unwrap();
    assert_eq!(n3.authorised_origins, Some(Vec::new()), "a node without blocks may announce nothing");
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
    assert_eq!(n1.peers[0].timers.hold, Duration::from_secs(120));
    assert_eq!(sessions(&topology("rr2", &cluster)), [("n1".into(), PeerKind::InternalClient, true)]);
    assert_eq!(topology("n2", &cluster).peers.len(), 2, "others keep finding reflectors");
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
    let tor = missing.peers.iter().find(|peer| peer.description == "tor").unwrap();
    assert_eq!((tor.port, tor.remote_as, tor.kind), (1179, 65000, PeerKind::External));
    assert!(missing.problems[0].message.contains("BGPFilter(only-a) does not exist"));
    let verdict = |policy: &Policy, prefix: &str| {
        let attributes = PathAttributes::default();
        let prefix = prefix.parse().unwrap();
        let peer_type = margay_bgp::policy::PeerType::External;
        policy.apply(&RouteView { prefix, attributes: &attributes, learned: true, peer_type })
    };
    assert_eq!(verdict(&tor.import, "192.0.2.0/24"), Verdict::Reject);
    let found = topology("n1", &cluster(&with_reflectors(), &format!("{text}{filter}")));
    let tor = found.peers.iter().find(|peer| peer.description == "tor").unwrap();
    assert!(found.problems.is_empty());
    assert_eq!(verdict(&tor.import, "192.0.2.128/25"), Verdict::Accept);
    assert_eq!(verdict(&tor.import, "198.51.100.0/24"), Verdict::Reject);
    assert_eq!(verdict(&tor.export, "10.65.7.0/24"), Verdict::Accept);
    assert_eq!(verdict(&tor.export, "10.99.7.0/24"), Verdict::Reject);
    assert_eq!(tor.export.default, Action::Reject);
}

#[test]
fn rules_for_interfaces_are_a_problem_of_the_peer() {
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
    let n1 = topology("n1", &cluster(THREE, text));
    let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
    assert_eq!(problem.object, "BGPPeer(tor)");
    assert!(problem.message.contains("BGPFilter(uplinks) has rules with `interface`"), "{}", problem.message);
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
    topology.peers.iter().find(|peer| peer.description == name)
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
    cluster.secrets.insert(secret("mesh", "all"), Ok(password("m")));
    cluster.secrets.insert(secret("bgp", "tor"), Err("/secrets/bgp/tor: No such file".to_owned()));
    cluster.secrets.insert(secret("bgp", "none"), Err("absent".to_owned()));
    let n1 = topology("n1", &cluster);
    assert!(peer_named(&n1, "tor").is_none(), "fail closed");
    assert_eq!(n1.problems.len(), 1);
    assert_eq!(n1.problems[0].object, "BGPPeer(tor)");
    assert!(n1.problems[0].message.contains("/secrets/bgp/tor"), "{}", n1.problems[0].message);
    assert_eq!(peer_named(&n1, "tor2").unwrap().password, None);
    let mesh = peer_named(&n1, "n2").unwrap();
    assert_eq!(mesh.password, Some(password("m")));
    assert_eq!(mesh.graceful_restart.restart_time, Duration::from_secs(200));
    cluster.secrets.insert(secret("bgp", "tor"), Ok(password("t")));
    assert_eq!(peer_named(&topology("n1", &cluster), "tor").unwrap().password, Some(password("t")));
    cluster.secrets.insert(secret("mesh", "all"), Err("gone".to_owned()));
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
    let n1 = topology("n1", &cluster(THREE, text));
    assert_eq!(peer_named(&n1, "keep").unwrap().next_hop, NextHopMode::Keep);
    let link = peer_named(&n1, "link").unwrap();
    assert_eq!((link.interface.as_deref(), link.local), (Some("eth0"), None));
    assert!(peer_named(&n1, "others").is_none(), "of another node");
    let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
    assert_eq!(problem.object, "BGPPeer(pods)");
    assert!(problem.message.contains("local workloads"), "{}", problem.message);
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
    assert_eq!((n1.listen_port, n1.bind), (1790, vec!["10.0.0.1".parse().unwrap()]));
    let [advertisement] = &n1.advertisements[..] else { panic!("{:?}", n1.advertisements) };
    assert_eq!(advertisement.cidr.to_string(), "10.65.0.0/16");
    let values: Vec<u32> = advertisement.communities.iter().map(|community| community.0).collect();
    assert_eq!(values, [65000 << 16 | 7, 64512 << 16 | 9]);
    assert_eq!(advertisement.large_communities.len(), 1);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    assert_eq!(n1.peers.iter().find(|peer| peer.description == "n2").unwrap().port, 1791);
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
  serviceClusterIPs: [{cidr: 10.96.0.0/12}]
  logSeverityScreen: Debug
  ipv4NormalRoutePriority: 512
  localWorkloadPeeringIPV4: 192.0.2.1
  programClusterRoutes: Disabled
  ignoredInterfaces: [eth9]
";
    let problems = topology("n1", &cluster(THREE, text)).problems;
    let fields =
        ["serviceClusterIPs", "logSeverity", "NormalRoutePriority", "localWorkloadPeering", "programCluster"];
    assert_eq!(problems.len(), fields.len());
    for field in fields {
        assert!(problems.iter().any(|problem| problem.message.contains(field)), "{field}: {problems:?}");
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
metadata: {name: far}
spec: {peerIP: 192.0.2.1, asNumber: 65001, failureDetectionMode: BFDIfDirectlyConnected, restartMode: GracefulRestart}
";

#[test]
fn sessions_are_watched_where_and_as_fast_as_objects_say() {
    let mut cluster = cluster(THREE, BFD);
    let watched = |cluster: &Cluster| -> BTreeMap<String, margay_bgp::bfd::SessionConfig> {
        let peers = topology("n1", cluster).peers.into_iter();
        peers.filter_map(|peer| Some((peer.description, peer.bfd?.session))).collect()
    };
    let sessions = watched(&cluster);
    // n3 and the far router are in other subnets.
    assert_eq!(sessions.keys().collect::<Vec<_>>(), ["behind", "n2", "tor"]);
    assert_eq!(sessions.values().map(|session| session.multihop).collect::<Vec<_>>(), [true, false, false]);
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
    let far = topology("n1", &cluster).peers.into_iter().find(|peer| peer.description == "far").unwrap();
    assert_eq!(far.graceful_restart.long_lived, None);
}
