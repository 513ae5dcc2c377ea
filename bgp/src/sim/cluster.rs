//! Clusters as Margay builds them: full mesh, or reflectors with clients, one block per node.

use super::net::{NetConfig, NodeId, Sim};
use super::thin::{Thin, VERSIONS};
use crate::config::{Originated, PeerConfig, PeerKind, SpeakerConfig};
use crate::handover::RestoreError;
use crate::io::Input;
use crate::status::{PeerState, PeerStatus, RouteQuery};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

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
    /// Nodes from this one on are thin clients.
    thin_from: usize,
    /// How often each node has started: its block's MULTI_EXIT_DISC.
    versions: Vec<u8>,
    /// As thin clients have them.
    uplinks: Vec<Arc<PeerConfig>>,
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
            thin_from: usize::MAX,
            versions: vec![0; count],
            uplinks: Vec::new(),
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

    /// Nodes from this one on are thin clients: the wire codec and the state machine without a RIB. Reflectors only.
    pub fn set_thin_from(&mut self, index: usize) {
        self.thin_from = index;
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

    /// The node whose block a prefix is.
    pub(crate) fn index_of(prefix: &IpNet) -> Option<u16> {
        let IpNet::V4(prefix) = prefix else { return None };
        let offset = u32::from(prefix.network()).checked_sub(0x0a80_0000)?;
        let block = prefix.prefix_len() == 24;
        u16::try_from(offset >> 8).ok().filter(|_| block)
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
        self.running.insert(index);
        let version = match self.versions.get_mut(index) {
            Some(version) => {
                *version = *version % VERSIONS + 1;
                *version
            }
            None => return,
        };
        if index >= self.thin_from {
            let uplinks = self.uplinks();
            let thin = Thin::new(index, self.nodes.len(), config, version, uplinks, self.sim.now());
            self.sim.start_thin(node, thin);
            return;
        }
        self.sim.start(node, config);
        if self.ungrouped
            && let Some(speaker) = self.sim.speaker_mut(node)
        {
            speaker.set_ungrouped();
        }
        let own = if self.reflects(index) {
            Vec::new()
        } else {
            let route = Originated::new(Self::block(index), Some(Self::address(index)));
            vec![Originated { med: Some(version.into()), ..route }]
        };
        self.sim.input(node, Input::SetOriginated(own));
        let peers = self.peer_list(index);
        self.sim.input(node, Input::SetPeers(peers.into_iter().map(Arc::new).collect()));
    }

    /// A new process takes over the sessions of a reflector that runs.
    ///
    /// # Errors
    /// What its state lacks.
    pub fn upgrade(&mut self, index: usize) -> Result<(), RestoreError> {
        let node = self.node(index);
        let config = SpeakerConfig { restarting: true, ..SpeakerConfig::new(Self::router_id(index), SIM_AS) };
        let mut config = SpeakerConfig { seed: self.sim.random(u64::MAX), ..config };
        (self.adjust_speaker)(&mut config);
        self.sim.upgrade(node, config)?;
        self.sim.input(node, Input::SetOriginated(Vec::new()));
        let peers = self.peer_list(index);
        self.sim.input(node, Input::SetPeers(peers.into_iter().map(Arc::new).collect()));
        Ok(())
    }

    /// The reflectors as every thin client has them.
    fn uplinks(&mut self) -> Vec<Arc<PeerConfig>> {
        if self.uplinks.is_empty() {
            let reflectors = (0..self.nodes.len()).take_while(|index| self.reflects(*index));
            self.uplinks = reflectors.map(|index| Arc::new(self.peer(usize::MAX, index))).collect();
        }
        self.uplinks.clone()
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

    /// A node leaves the cluster for good; everybody who peers with it is told.
    pub fn remove(&mut self, index: usize) {
        self.kill(index);
        self.forget(index);
    }

    /// A node that is down leaves the cluster for good.
    pub fn forget(&mut self, index: usize) {
        self.members.remove(&index);
        for other in self.partners(index) {
            self.sim.input(self.node(other), Input::RemovePeer(Self::address(index)));
        }
    }

    /// A node that left comes back.
    pub fn add(&mut self, index: usize) {
        self.members.insert(index);
        for other in self.partners(index) {
            let peer = self.peer(other, index);
            self.sim.input(self.node(other), Input::SetPeer(Arc::new(peer)));
        }
        self.start(index, false);
    }

    /// Running nodes that peer with a node.
    fn partners(&self, index: usize) -> Vec<usize> {
        self.running.iter().copied().filter(|other| self.peers_with(index, *other)).collect()
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
        if let Some(thin) = self.sim.thin(node) {
            return self.thin_fault(index, thin, &self.expected());
        }
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

    /// What is wrong with what thin client `index` is told: by every reflector that runs every running node's block as
    /// that node now originates it, its own included, and nothing of those that left.
    fn thin_fault(&self, index: usize, thin: &Thin, expected: &[Option<u8>]) -> Option<String> {
        if let Some(wrong) = thin.wrong() {
            return Some(format!("node {index}: {wrong}"));
        }
        for (reflector, known) in thin.known().enumerate().filter(|(at, _)| self.running.contains(at)) {
            for (other, (version, expected)) in known.iter().zip(expected).enumerate() {
                if let Some(expected) = expected
                    && version != expected
                {
                    return Some(format!(
                        "node {index} has {version:#x} of node {other} from reflector {reflector}, not {expected:#x}"
                    ));
                }
            }
        }
        None
    }

    /// The version of every node's block that everybody must have, 0 for none; not certain for members that are down,
    /// which are kept while stale.
    fn expected(&self) -> Vec<Option<u8>> {
        let versions = self.versions.iter().enumerate();
        versions
            .map(|(index, version)| match (self.running.contains(&index), self.members.contains(&index)) {
                _ if self.reflects(index) => Some(0),
                (true, _) => Some(*version),
                (false, true) => None,
                (false, false) => Some(0),
            })
            .collect()
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

    /// A fault of any running node. Thin clients, the later ones, are looked at first: they are quickly compared.
    #[must_use]
    pub fn any_fault(&self) -> Option<String> {
        let expected = self.expected();
        self.running.iter().rev().find_map(|index| match self.sim.thin(self.node(*index)) {
            Some(thin) => self.thin_fault(*index, thin, &expected),
            None => self.fault(*index),
        })
    }

    /// How often each of a node's sessions was established, in the order of its peers, and why those that ended did.
    #[must_use]
    pub fn establishments(&self, index: usize) -> Vec<(u64, String)> {
        let node = self.node(index);
        if let Some(thin) = self.sim.thin(node) {
            let counts = thin.sessions().map(|(_, count)| count.into());
            return counts.zip(thin.last_errors().map(str::to_owned)).collect();
        }
        let peers = self.sim.speaker(node).map(|speaker| speaker.peers()).unwrap_or_default();
        let error = |peer: &PeerStatus| peer.last_error.clone().unwrap_or_default();
        peers.iter().map(|peer| (peer.established_count, error(peer))).collect()
    }

    /// Sessions of running nodes with running nodes that are not up.
    #[must_use]
    pub fn sessions_down(&self) -> usize {
        let address_runs: BTreeSet<IpAddr> = self.running.iter().map(|index| Self::address(*index)).collect();
        let nodes = self.running.iter().map(|index| self.node(*index));
        nodes
            .map(|node| match self.sim.thin(node) {
                // What does not run has no thin client, and reflectors that are down are asked for by the caller.
                Some(thin) => thin
                    .sessions()
                    .enumerate()
                    .filter(|(at, (up, _))| self.running.contains(at) && !up)
                    .count(),
                None => self.sim.speaker(node).map_or(0, |speaker| {
                    let down = |peer: &PeerStatus| peer.state != PeerState::Established;
                    speaker.peers().iter().filter(|p| address_runs.contains(&p.remote) && down(p)).count()
                }),
            })
            .sum()
    }
}
