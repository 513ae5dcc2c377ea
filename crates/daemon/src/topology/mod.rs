//! Who peers with whom: from Nodes, BGPConfiguration, BGPPeers and BGPFilters to the sessions of one node.
//!
//! Reflectors are found, not configured: a Node with `routeReflectorClusterID` is one, and every other node peers
//! with it, or with some if there are many. While there is none the nodes form a full mesh. BGPPeers with a
//! `peerSelector` that are for a node replace its sessions with reflectors; those with a `peerIP` come on top.
//! [`Planner`] says what is wanted, [`Sessions`] how to get there without losing a route.
//!
//! Pure: values in, values out, the same for any order of the input.

mod adjust;
mod assign;
mod beside;
mod bfd;
mod builder;
mod cluster;
mod filters;
mod limits;
mod outside;
mod planner;
mod ranges;
mod selecting;
mod services;
mod sessions;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use margay_api::types::AsNumber;
use margay_api::{BgpPeer, Node, Selector};
use margay_bgp::{Family, PeerConfig, PeerRange};
use margay_control::status::Problem;

pub(crate) use beside::copy_pod_addresses;
pub use beside::{pod_addresses, with_pod_addresses};
pub use cluster::{Changes, Cluster, Way};
pub use planner::{Change, Planner};
pub use ranges::{ListenRange, ListenRanges};
pub use services::{service_ranges, service_routes};
pub use sessions::{Op, PATIENCE, Sessions};
pub use settings::{Advertisement, secrets, unknown_configuration};

/// A session that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// As the speaker is told.
    pub config: Arc<PeerConfig>,
    /// The Node it is with; absent for a router.
    pub node: Option<String>,
    /// That Node is a reflector: it tells routes of others.
    pub reflector: bool,
}

/// BGP as one node should run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Its BGP identifier; absent for a node without an address, which cannot run BGP.
    pub router_id: Option<Ipv4Addr>,
    /// Its AS.
    pub local_as: u32,
    /// TCP port it listens on.
    pub listen_port: u16,
    /// Addresses it listens on; empty means all.
    pub bind: Vec<IpAddr>,
    /// Its reflector's cluster id, if it is a reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its sessions, by address of the peer.
    pub peers: BTreeMap<IpAddr, Peer>,
    /// Where neighbours may come from that no object names.
    pub ranges: Vec<PeerRange>,
    /// Gateways that peers are to be reached by (`reachableBy`).
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    /// Addresses of this node that its workloads peer with.
    pub workload_peering: BTreeSet<IpAddr>,
    /// Communities of its own routes.
    pub advertisements: Vec<Advertisement>,
    /// Objects that could not be used.
    pub problems: Vec<Problem>,
}

/// The AS of a node: its own, else the cluster's, else 64512.
fn as_of(node: &Node, cluster: &Cluster) -> u32 {
    let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
    let default = || cluster.settings().and_then(|spec| spec.as_number);
    own.or_else(default).unwrap_or(AsNumber::DEFAULT).0
}

/// The reflector's cluster id of a node that is one.
fn cluster_id(node: &Node) -> Option<Ipv4Addr> {
    node.spec.bgp.as_ref().and_then(|bgp| bgp.route_reflector_cluster_id)
}

/// The addresses two nodes peer by: IPv4 when both have it.
fn addresses(here: &Node, there: &Node) -> Option<(IpAddr, IpAddr)> {
    let (here, there) = (here.spec.bgp.as_ref()?, there.spec.bgp.as_ref()?);
    let v4 = here.ipv4_address.zip(there.ipv4_address).map(|(a, b)| (a.addr().into(), b.addr().into()));
    let v6 = || here.ipv6_address.zip(there.ipv6_address).map(|(a, b)| (a.addr().into(), b.addr().into()));
    v4.or_else(v6)
}

/// A node's own addresses, IPv4 first.
pub fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> + use<> {
    let bgp = node.spec.bgp.as_ref();
    let v4 = bgp.and_then(|bgp| bgp.ipv4_address).map(|net| net.addr().into());
    let v6 = bgp.and_then(|bgp| bgp.ipv6_address).map(|net| net.addr().into());
    v4.into_iter().chain(v6)
}

/// Ranges that another IPAM plugin gives a node's pods addresses out of (`status.podCIDRs`).
fn pod_cidrs(node: &Node) -> impl Iterator<Item = ipnet::IpNet> {
    node.status.pod_cidrs.iter().filter_map(|range| range.parse().ok())
}

/// A node's BGP identifier: its IPv4 address, or one folded from its IPv6 address, never 0.0.0.0.
#[must_use]
pub fn router_id(node: &Node) -> Option<Ipv4Addr> {
    let address = match node_addresses(node).next()? {
        IpAddr::V4(address) => return Some(address),
        IpAddr::V6(address) => address,
    };
    let folded = address.octets().chunks(4).fold([0u8; 4], |mut id, part| {
        for (byte, other) in id.iter_mut().zip(part) {
            *byte ^= other;
        }
        id
    });
    Some(if folded == [0; 4] { Ipv4Addr::new(0, 0, 0, 1) } else { folded.into() })
}

/// The families both nodes can forward.
fn families(here: &Node, there: &Node) -> Vec<Family> {
    let has = |node: &Node, family: Family| {
        node.spec.bgp.as_ref().is_some_and(|bgp| match family {
            Family::Ipv4 => bgp.ipv4_address.is_some(),
            Family::Ipv6 => bgp.ipv6_address.is_some(),
        })
    };
    Family::ALL.into_iter().filter(|family| has(here, *family) && has(there, *family)).collect()
}

/// Whether a BGPPeer is for a node.
fn concerns(peer: &BgpPeer, name: &str, node: &Node) -> bool {
    match (&peer.spec.node, &peer.spec.node_selector) {
        (Some(only), _) => only == name,
        (None, Some(selector)) => matches(selector, node),
        (None, None) => true,
    }
}

fn matches(selector: &Selector, node: &Node) -> bool {
    selector.matches(&node.metadata.labels)
}

fn problem(object: String, message: impl Into<String>) -> Problem {
    Problem { object, message: message.into() }
}
