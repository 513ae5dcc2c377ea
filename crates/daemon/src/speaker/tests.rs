use margay_api::Metadata;
use std::net::Ipv4Addr;

use margay_api::kinds::{NodeBgp, NodeSpec};

use super::*;

#[test]
fn what_a_deleted_reflector_told_is_held_over_an_upgrade() {
    let mut cluster = Cluster::default();
    for (name, address, cluster_id) in
        [("n1", "10.0.0.1/24", None), ("rr2", "10.0.0.12/24", Some(Ipv4Addr::BROADCAST))]
    {
        let bgp = NodeBgp {
            ipv4_address: Some(address.parse().unwrap()),
            route_reflector_cluster_id: cluster_id,
            ..NodeBgp::default()
        };
        let spec = NodeSpec { bgp: Some(bgp), ..NodeSpec::default() };
        cluster.put(&Node::new(Metadata::named(name), spec).into());
    }
    let config = |last: u8, kind| PeerConfig {
        description: format!("was {last}"),
        ..PeerConfig::new(Ipv4Addr::new(10, 0, 0, last).into(), 64512, kind)
    };
    let configured = [
        config(1, PeerKind::InternalClient),
        config(2, PeerKind::InternalClient),
        config(12, PeerKind::Internal),
        config(13, PeerKind::Internal),
        config(254, PeerKind::External),
    ];
    let peers = peers_of(configured.into_iter(), &cluster);
    let told: Vec<_> = peers.iter().map(|peer| (peer.node.as_deref().unwrap(), peer.reflector)).collect();
    assert_eq!(told, [("n1", false), ("rr2", true), ("was 13", true)]);
    let mut sessions = Sessions::default();
    sessions.adopt(Duration::ZERO, peers);
    assert_eq!(sessions.gone(|name| cluster.nodes.contains_key(name)), []);
    assert_eq!(sessions.held().len(), 3);
}
