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
fn a_node_without_an_address_is_named_and_left_out() {
    let mut cluster = cluster(THREE, "");
    cluster.nodes.get_mut("n3").unwrap().spec.bgp = None;
    let n1 = topology("n1", &cluster);
    assert_eq!(sessions(&n1), [("n2".into(), PeerKind::Internal, false)]);
    assert_eq!(n1.problems[0].object, "Node(n3)");
    assert!(topology("n3", &cluster).peers.is_empty());
}
