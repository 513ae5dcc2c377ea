//! Clusters as Margay builds them: full mesh, or reflectors with clients, one block per node.

use super::net::{NetConfig, NodeId, Sim};
use crate::config::{Originated, PeerConfig, PeerKind, SpeakerConfig};
use crate::io::Input;
use crate::speaker::Speaker;
use crate::status::{PeerState, RouteQuery};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// The AS of simulated clusters.
pub const SIM_AS: u32 = 64512;

/// How the nodes peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Everybody with everybody.
    Mesh,
    /// The first so many nodes reflect for all others.
    Reflectors(usize),
}

/// A simulated cluster. Node 0 is 10.0.0.1 and so on; node `i` originates 10.128.x.y/24 of its own, reflectors nothing.
#[derive(Debug)]
pub struct Cluster {
    /// The world.
    pub sim: Sim,
    shape: Shape,
    nodes: Vec<NodeId>,
    /// Nodes that are part of the cluster.
    members: BTreeSet<usize>,
    /// Nodes whose process runs.
    running: BTreeSet<usize>,
    /// Changes each peer's configuration.
    adjust: fn(&mut PeerConfig),
    /// Changes each speaker's configuration.
    adjust_speaker: fn(&mut SpeakerConfig),
    ungrouped: bool,
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Cluster {
    /// A cluster of `count` nodes, nothing running yet.
    #[must_use]
    pub fn new(seed: u64, net: NetConfig, shape: Shape, count: usize) -> Self {
        let mut sim = Sim::new(seed, net);
        let nodes = (0..count).map(|index| sim.add_node(Self::address(index))).collect();
        Self {
            sim,
            shape,
            nodes,
            members: (0..count).collect(),
            running: BTreeSet::new(),
            adjust: |_| (),
            adjust_speaker: |_| (),
            ungrouped: false,
        }
    }

    /// Changes every peer's configuration, before nodes start.
    pub fn adjust_peers(&mut self, adjust: fn(&mut PeerConfig)) {
        self.adjust = adjust;
    }

    /// Changes every speaker's configuration, before nodes start.
    pub fn adjust_speakers(&mut self, adjust: fn(&mut SpeakerConfig)) {
        self.adjust_speaker = adjust;
    }

    /// One update group per peer.
    pub fn set_ungrouped(&mut self) {
        self.ungrouped = true;
    }

    /// Address of a node.
    #[must_use]
    pub fn address(index: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + number(index)))
    }

    /// BGP identifier of a node.
    #[must_use]
    pub fn router_id(index: usize) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0001 + number(index))
    }

    /// The block of a node.
    ///
    /// # Panics
    /// Never: 24 is a prefix length.
    #[must_use]
    pub fn block(index: usize) -> IpNet {
        IpNet::new(IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + (number(index) << 8))), 24).unwrap_or_default()
    }

    /// Number of a node in the simulation.
    #[must_use]
    pub fn node(&self, index: usize) -> NodeId {
        self.nodes.get(index).copied().unwrap_or(NodeId(usize::MAX))
    }

    /// Whether a node reflects.
    #[must_use]
    pub fn reflects(&self, index: usize) -> bool {
        matches!(self.shape, Shape::Reflectors(count) if index < count)
    }

    /// Whether two nodes peer.
    fn peers_with(&self, a: usize, b: usize) -> bool {
        a != b && (self.shape == Shape::Mesh || self.reflects(a) || self.reflects(b))
    }

    fn peer(&self, own: usize, other: usize) -> PeerConfig {
        let kind = if self.reflects(own) && !self.reflects(other) {
            PeerKind::InternalClient
        } else {
            PeerKind::Internal
        };
        let mut peer = PeerConfig::new(Self::address(other), SIM_AS, kind);
        peer.passive = kind == PeerKind::InternalClient;
        (self.adjust)(&mut peer);
        peer
    }

    fn peer_list(&self, own: usize) -> Vec<PeerConfig> {
        self.members
            .iter()
            .filter(|other| self.peers_with(own, **other))
            .map(|other| self.peer(own, *other))
            .collect()
    }

    /// Starts a node's process.
    pub fn start(&mut self, index: usize, restarting: bool) {
        let node = self.node(index);
        let mut config = SpeakerConfig { restarting, ..SpeakerConfig::new(Self::router_id(index), SIM_AS) };
        config.seed = self.sim.random(u64::MAX);
        (self.adjust_speaker)(&mut config);
        self.sim.start(node, config);
        if self.ungrouped
            && let Some(speaker) = self.sim.speaker_mut(node)
        {
            speaker.set_ungrouped();
        }
        self.running.insert(index);
        let own = if self.reflects(index) {
            Vec::new()
        } else {
            vec![Originated::new(Self::block(index), Some(Self::address(index)))]
        };
        self.sim.input(node, Input::SetOriginated(own));
        let peers = self.peer_list(index);
        self.sim.input(node, Input::SetPeers(peers));
    }

    /// Starts every member.
    pub fn start_all(&mut self) {
        for index in self.members.clone() {
            self.start(index, false);
        }
    }

    /// A node's process dies.
    pub fn kill(&mut self, index: usize) {
        self.running.remove(&index);
        self.sim.kill(self.node(index));
    }

    /// A node's machine loses power.
    pub fn crash(&mut self, index: usize) {
        self.running.remove(&index);
        self.sim.crash(self.node(index));
    }

    /// A node leaves the cluster for good; everybody is told.
    pub fn remove(&mut self, index: usize) {
        self.kill(index);
        self.members.remove(&index);
        for other in self.running.clone() {
            let peers = self.peer_list(other);
            self.sim.input(self.node(other), Input::SetPeers(peers));
        }
    }

    /// A node that left comes back.
    pub fn add(&mut self, index: usize) {
        self.members.insert(index);
        for other in self.running.clone() {
            let peers = self.peer_list(other);
            self.sim.input(self.node(other), Input::SetPeers(peers));
        }
        self.start(index, false);
    }

    /// Nodes whose process runs.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        self.running.iter().copied().collect()
    }

    /// What is wrong with what node `index` knows: it must forward to every running node's block, and to nothing else
    /// but blocks of members that are down.
    #[must_use]
    pub fn fault(&self, index: usize) -> Option<String> {
        let node = self.node(index);
        let fib = self.sim.fib(node);
        let expected: BTreeMap<IpNet, usize> = self
            .members
            .iter()
            .filter(|other| **other != index && !self.reflects(**other))
            .map(|other| (Self::block(*other), *other))
            .collect();
        for (prefix, other) in &expected {
            match fib.get(prefix) {
                None if self.running.contains(other) => {
                    return Some(format!("node {index} has no route to {prefix} of node {other}"));
                }
                Some(next_hops) if *next_hops != [Self::address(*other)] => {
                    return Some(format!("node {index} sends {prefix} to {next_hops:?}"));
                }
                _ => {}
            }
        }
        if let Some(extra) = fib.keys().find(|prefix| !expected.contains_key(prefix)) {
            return Some(format!("node {index} has a route to {extra}, which is nobody's"));
        }
        self.attribute_fault(index)
    }

    fn attribute_fault(&self, index: usize) -> Option<String> {
        let speaker = self.sim.speaker(self.node(index))?;
        for route in speaker.routes(&RouteQuery { best: true, ..RouteQuery::default() }) {
            let Some(IpAddr::V4(next_hop)) = route.next_hop else {
                return Some(format!("node {index}: {} without next hop", route.prefix));
            };
            let crate::status::RouteSource::Peer(from) = route.source else { continue };
            let reflected = IpAddr::V4(next_hop) != from;
            let originator_fits = route.originator_id == reflected.then_some(next_hop);
            let clusters_fit = route.cluster_list.len() == usize::from(reflected)
                && route.cluster_list.iter().all(|cluster| IpAddr::V4(*cluster) == from);
            if !originator_fits || !clusters_fit || route.local_pref != Some(100) {
                return Some(format!("node {index}: wrong attributes: {route:?}"));
            }
        }
        None
    }

    /// The first fault of any running node.
    #[must_use]
    pub fn any_fault(&self) -> Option<String> {
        self.running.iter().find_map(|index| self.fault(*index))
    }

    /// Sessions of running nodes with running nodes that are not up.
    #[must_use]
    pub fn sessions_down(&self) -> usize {
        let address_runs: BTreeSet<IpAddr> = self.running.iter().map(|index| Self::address(*index)).collect();
        let speakers = self.running.iter().filter_map(|index| self.sim.speaker(self.node(*index)));
        speakers
            .flat_map(Speaker::peers)
            .filter(|peer| address_runs.contains(&peer.remote) && peer.state != PeerState::Established)
            .count()
    }
}
