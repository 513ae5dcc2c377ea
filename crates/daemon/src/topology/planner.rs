//! What is wanted, kept up to date: a change of one Node is a change of one session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use margay_api::Node;
use margay_api::types::AsNumber;
use margay_control::status::Problem;

use super::assign::Reflectors;
use super::builder::{Builder, Outcome};
use super::selecting::Selecting;
use super::settings::Settings;
use super::{Changes, Cluster, Peer, Topology, as_of, cluster_id, node_addresses, problem, router_id};

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is wanted, or wanted otherwise.
    Want(Peer),
    /// It is not wanted any more and stays until others have replaced it.
    Leave,
    /// It must end now: the peer is gone, or may not be spoken to.
    End,
}

/// Follows the cluster for one node.
#[derive(Debug)]
pub struct Planner {
    name: String,
    /// The node forwards packets and may have workloads.
    forwards: bool,
    reflectors: Reflectors,
    selecting: Selecting,
    topology: Topology,
    /// Problems of the objects that concern all, and what comes of each Node.
    general: Vec<Problem>,
    of_nodes: BTreeMap<String, Vec<Problem>>,
    /// The addresses by which the nodes are wanted.
    addresses: BTreeMap<String, IpAddr>,
    /// Addresses of Nodes that were deleted, for routes nobody needs to replace.
    departed: BTreeSet<IpAddr>,
    /// Nodes have addresses of others: who has which is a question of all.
    contested: bool,
    fresh: bool,
}

impl Planner {
    /// For the node of this name; nothing is wanted before the first update.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let topology = Topology {
            router_id: None,
            local_as: AsNumber::DEFAULT.0,
            listen_port: margay_bgp::BGP_PORT,
            bind: Vec::new(),
            cluster_id: None,
            peers: BTreeMap::new(),
            ranges: Vec::new(),
            gateways: BTreeMap::new(),
            workload_peering: BTreeSet::new(),
            advertisements: Vec::new(),
            problems: Vec::new(),
        };
        Self {
            name: name.to_owned(),
            forwards: true,
            reflectors: Reflectors::default(),
            selecting: Selecting::default(),
            topology,
            general: Vec::new(),
            of_nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            departed: BTreeSet::new(),
            contested: false,
            fresh: true,
        }
    }

    /// For a node that tells routes and forwards no packets, a reflector without workloads.
    #[must_use]
    pub fn without_forwarding(self) -> Self {
        Self { forwards: false, ..self }
    }

    /// What is wanted.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Addresses of Nodes that have been deleted.
    #[must_use]
    pub fn departed(&self) -> &BTreeSet<IpAddr> {
        &self.departed
    }

    /// Forgets the deleted Nodes: nothing is being replaced.
    pub fn settled(&mut self) {
        self.departed.clear();
    }

    /// Takes changes in and says what they mean for the sessions.
    pub fn update(&mut self, cluster: &Cluster, changes: &Changes) -> BTreeMap<IpAddr, Change> {
        for (name, before) in &changes.nodes {
            self.departed.extend(before.iter().flat_map(|node| node_addresses(node)));
            for address in cluster.nodes.get(name).into_iter().flat_map(|node| node_addresses(node)) {
                self.departed.remove(&address);
            }
        }
        let touched = changes.nodes.keys().chain(&changes.blocks);
        let all = self.concerns_all(cluster, changes);
        let all = self.selecting.update(cluster, changes, all) || all;
        let out = match cluster.nodes.get(&self.name).filter(|_| !all) {
            Some(me) => self.update_some(me, cluster, touched),
            None => self.update_all(cluster),
        };
        self.topology.problems = self.problems();
        out
    }

    /// What several Nodes bring out in one object is said once.
    fn problems(&self) -> Vec<Problem> {
        let mut said = BTreeSet::new();
        let all = self.general.iter().chain(self.of_nodes.values().flatten());
        all.filter(|problem| said.insert((&problem.object, &problem.message))).cloned().collect()
    }

    /// Whether more than the sessions with the changed Nodes may follow from the changes.
    fn concerns_all(&self, cluster: &Cluster, changes: &Changes) -> bool {
        let named = |node: &Node| {
            node_addresses(node).any(|address| {
                cluster
                    .peers
                    .values()
                    .any(|peer| peer.spec.peer_ip.as_ref().is_some_and(|named| named.ip == address))
            })
        };
        let weighty = |node: &Node| cluster_id(node).is_some() || named(node);
        self.fresh
            || self.contested
            || changes.everything
            || changes.nodes.iter().any(|(name, before)| {
                *name == self.name
                    || before.as_ref().is_some_and(|node| weighty(node))
                    || cluster.nodes.get(name).is_some_and(|node| weighty(node))
            })
    }

    fn update_some<'a>(
        &mut self,
        me: &Node,
        cluster: &Cluster,
        touched: impl Iterator<Item = &'a String>,
    ) -> BTreeMap<IpAddr, Change> {
        let (own_name, reflectors) = (self.name.clone(), std::mem::take(&mut self.reflectors));
        let selecting = std::mem::take(&mut self.selecting);
        let decisive = (&reflectors, &selecting);
        let mut builder = Builder::new(&own_name, me, cluster, decisive, self.forwards);
        // Of objects: known since the beginning.
        builder.problems.clear();
        let mut out = BTreeMap::new();
        let mut contested = false;
        for name in touched {
            let outcome = match cluster.nodes.get(name) {
                Some(there) => builder.with_node(name, there),
                None => Outcome::None,
            };
            let found = std::mem::take(&mut builder.problems);
            note_node(&mut self.of_nodes, name, cluster.nodes.get(name).map(Box::as_ref), found);
            contested |= self.place(name, outcome, cluster, &mut out);
        }
        (self.reflectors, self.selecting) = (reflectors, selecting);
        if contested {
            out.extend(self.update_all(cluster));
        }
        out
    }

    /// Puts in place what came of one node; true if another session has its address.
    fn place(
        &mut self,
        name: &str,
        outcome: Outcome,
        cluster: &Cluster,
        out: &mut BTreeMap<IpAddr, Change>,
    ) -> bool {
        let remote = match &outcome {
            Outcome::Session(peer, _) => Some(peer.config.remote),
            _ => None,
        };
        if let Some(old) = self.addresses.get(name).copied().filter(|old| Some(*old) != remote) {
            self.addresses.remove(name);
            self.topology.gateways.remove(&old);
            if let Some(peer) = self.topology.peers.remove(&old) {
                let usable = !matches!(outcome, Outcome::Unusable);
                out.insert(old, leave(&peer, cluster, usable));
            }
            if self.addresses.values().any(|address| *address == old) {
                return true;
            }
        }
        let Outcome::Session(peer, gateway) = outcome else { return false };
        let remote = peer.config.remote;
        if self.topology.peers.get(&remote).is_some_and(|old| old.node.as_deref() != Some(name)) {
            return true;
        }
        self.addresses.insert(name.to_owned(), remote);
        match gateway {
            Some(gateway) => drop(self.topology.gateways.insert(remote, gateway)),
            None => drop(self.topology.gateways.remove(&remote)),
        }
        if self.topology.peers.get(&remote) != Some(&peer) {
            self.topology.peers.insert(remote, peer.clone());
            out.insert(remote, Change::Want(peer));
        }
        false
    }

    /// From the beginning; says what is different from before.
    fn update_all(&mut self, cluster: &Cluster) -> BTreeMap<IpAddr, Change> {
        self.fresh = false;
        self.contested = false;
        let reflectors =
            cluster.nodes.iter().filter_map(|(name, node)| Some((name.clone(), cluster_id(node)?)));
        let reflectors = Reflectors(reflectors.collect());
        self.of_nodes.clear();
        for (name, node) in &cluster.nodes {
            note_node(&mut self.of_nodes, name, Some(node), Vec::new());
        }
        let settings = Settings::of(&self.name, cluster);
        let default_as = settings.mesh().and_then(|conf| conf.as_number).unwrap_or(AsNumber::DEFAULT).0;
        let mut problems = Vec::new();
        let mut topology = Topology {
            router_id: None,
            local_as: default_as,
            listen_port: settings.listen_port(),
            bind: Vec::new(),
            cluster_id: None,
            peers: BTreeMap::new(),
            ranges: Vec::new(),
            gateways: BTreeMap::new(),
            workload_peering: BTreeSet::new(),
            advertisements: settings.advertisements(&mut problems),
            problems: Vec::new(),
        };
        settings.without_effect(&self.name, &mut problems);
        self.addresses.clear();
        let mut unusable = BTreeSet::new();
        if let Some(me) = cluster.nodes.get(&self.name) {
            topology.router_id = router_id(me);
            topology.local_as = as_of(me, cluster);
            topology.cluster_id = cluster_id(me);
            if settings.binds_to_node() {
                // Workloads' too while none is to peer: with another list the speaker would start anew.
                let peering = [true, false].into_iter().filter(|_| self.forwards);
                let peering = peering.filter_map(|v4| settings.workload_peering(v4));
                topology.bind = node_addresses(me).chain(peering).collect();
            }
            let decisive = (&reflectors, &self.selecting);
            let mut builder = Builder::new(&self.name, me, cluster, decisive, self.forwards);
            let mut wanted = |name: Option<&String>, outcome: Outcome| match (outcome, name) {
                (Outcome::None, _) | (Outcome::Unusable, None) => {}
                (Outcome::Unusable, Some(name)) => drop(unusable.insert(name.clone())),
                (Outcome::Session(peer, gateway), name) => {
                    let remote = peer.config.remote;
                    // Of two Nodes with one address the first by name has it.
                    if let Some(first) = topology.peers.get(&remote) {
                        self.contested = true;
                        let first = first.node.as_ref().unwrap_or(&first.config.description);
                        let message =
                            format!("its address {remote} is that of {first}, too: nobody peers with it");
                        problems.push(problem(format!("Node({})", peer.config.description), message));
                        return;
                    }
                    self.addresses.extend(name.map(|name| (name.clone(), remote)));
                    topology.gateways.extend(gateway.map(|gateway| (remote, gateway)));
                    topology.peers.insert(remote, peer);
                }
            };
            topology.workload_peering = builder.workload_peering();
            topology.ranges = builder.ranges();
            for outcome in builder.routers().into_iter().chain(builder.workloads()) {
                wanted(None, outcome);
            }
            let of_objects = std::mem::take(&mut builder.problems);
            for (name, there) in &cluster.nodes {
                wanted(Some(name), builder.with_node(name, there));
                let found = std::mem::take(&mut builder.problems);
                note_node(&mut self.of_nodes, name, Some(there), found);
            }
            problems.extend(of_objects);
        }
        self.general = problems;
        self.reflectors = reflectors;
        let before = std::mem::replace(&mut self.topology, topology);
        let mut out = BTreeMap::new();
        for (remote, peer) in &self.topology.peers {
            if before.peers.get(remote) != Some(peer) {
                out.insert(*remote, Change::Want(peer.clone()));
            }
        }
        for (remote, peer) in &before.peers {
            if !self.topology.peers.contains_key(remote) {
                let usable = !peer.node.as_ref().is_some_and(|name| unusable.contains(name));
                out.insert(*remote, leave(peer, cluster, usable));
            }
        }
        out
    }
}

/// What came to light with a Node, beside what is wrong with itself.
fn note_node(
    of_nodes: &mut BTreeMap<String, Vec<Problem>>,
    name: &str,
    node: Option<&Node>,
    mut found: Vec<Problem>,
) {
    if node.is_some_and(|node| node_addresses(node).next().is_none()) {
        let message = "it has no address, so nobody peers with it and its blocks are unreachable: \
                       set spec.bgp.ipv4Address or ipv6Address, with the mask of its subnet";
        found.push(problem(format!("Node({name})"), message));
    }
    if found.is_empty() {
        of_nodes.remove(name);
    } else {
        of_nodes.insert(name.to_owned(), found);
    }
}

/// How a session that is not wanted any more ends.
fn leave(peer: &Peer, cluster: &Cluster, usable: bool) -> Change {
    match &peer.node {
        // What a reflector told is other nodes' and still needed when it is gone.
        Some(name) if usable && (peer.reflector || cluster.nodes.contains_key(name)) => Change::Leave,
        _ => Change::End,
    }
}

/// What a node wants in a cluster.
#[cfg(test)]
pub(super) fn topology(name: &str, cluster: &Cluster) -> Topology {
    let mut planner = Planner::new(name);
    planner.update(cluster, &Changes::everything());
    planner.topology
}
