//! Helpers of the tests of each theme.

mod fields;
mod follow;
mod nodes;
mod outside;

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

fn peer_named<'a>(topology: &'a Topology, name: &str) -> Option<&'a PeerConfig> {
    topology.peers.values().map(|peer| &*peer.config).find(|peer| peer.description == name)
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

fn peer_spec<'a>(cluster: &'a mut Cluster, name: &str) -> &'a mut margay_api::kinds::BgpPeerSpec {
    &mut cluster.peers.get_mut(name).unwrap().spec
}
