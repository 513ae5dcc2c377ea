//! Who peers with whom: from Nodes, BGPConfiguration, BGPPeers and BGPFilters to the sessions of one node.
//!
//! Reflectors are found, not configured: a Node with `routeReflectorClusterID` is one, and every other node peers
//! with it. Before any is registered the nodes form a full mesh. BGPPeers with a `peerSelector` that concern a node
//! replace what it would do by itself; BGPPeers with a `peerIP` (a router) come on top.
//!
//! Pure: values in, values out, the same for any order of the input.

mod bfd;
mod filters;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use margay_api::kinds::NextHopMode as ApiNextHopMode;
use margay_api::kinds::{
    FailureDetectionMode, RestartMode, ReversePeering, SecretRef, SourceAddress, disjoint_pools,
};
use margay_api::types::{AsNumber, PeerAddress};
use margay_api::{BfdConfiguration, BgpConfiguration, BgpFilter, BgpPeer, IpPool, Node, Selector};
use margay_bgp::policy::Policy;
use margay_bgp::{Family, MaxPrefix, NextHopMode, PeerConfig, PeerKind};
use margay_control::status::Problem;

pub use settings::{Advertisement, secrets};

use crate::secrets::Secrets;
use settings::{Settings, secret_name};

/// What the topology follows from.
#[derive(Debug, Default, Clone)]
pub struct Cluster {
    /// Nodes by name, reflectors among them.
    pub nodes: BTreeMap<String, Node>,
    /// BGPConfigurations by name: `default` and `node.<name>`.
    pub configurations: BTreeMap<String, BgpConfiguration>,
    /// BGPPeers by name.
    pub peers: BTreeMap<String, BgpPeer>,
    /// BGPFilters by name.
    pub filters: BTreeMap<String, BgpFilter>,
    /// BFDConfigurations by name.
    pub bfd: BTreeMap<String, BfdConfiguration>,
    /// IPPools by name.
    pub pools: BTreeMap<String, IpPool>,
    /// Blocks by the node that owns them.
    pub blocks: BTreeMap<String, Vec<IpNet>>,
    /// What [`secrets`] names, read.
    pub secrets: Secrets,
}

impl Cluster {
    /// The pools that count: one that overlaps an older one does not.
    #[must_use]
    pub fn pools_in_force(&self) -> Vec<&IpPool> {
        disjoint_pools(self.pools.values()).0
    }
}

/// BGP as one node should run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Its AS.
    pub local_as: u32,
    /// TCP port it listens on.
    pub listen_port: u16,
    /// Addresses it listens on; empty means all.
    pub bind: Vec<IpAddr>,
    /// Its reflector's cluster id, if it is a reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its sessions, by address of the peer.
    pub peers: Vec<PeerConfig>,
    /// Gateways that peers are to be reached by (`reachableBy`).
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    /// Communities of its own routes.
    pub advertisements: Vec<Advertisement>,
    /// Objects that could not be used.
    pub problems: Vec<Problem>,
}

/// The sessions `node` should have; a node without a Node object or without an address has none.
#[must_use]
pub fn topology(node: &str, cluster: &Cluster) -> Topology {
    Builder::new(node, cluster).build()
}

/// The AS of a node: its own, else the cluster's, else 64512.
fn as_of(node: &Node, cluster: &Cluster) -> u32 {
    let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
    let default = || cluster.configurations.get("default").and_then(|conf| conf.spec.as_number);
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

struct Builder<'a> {
    name: &'a str,
    cluster: &'a Cluster,
    me: Option<&'a Node>,
    settings: Settings<'a>,
    import_all: Arc<Policy>,
    export_pools: Arc<Policy>,
    peers: BTreeMap<IpAddr, PeerConfig>,
    gateways: BTreeMap<IpAddr, IpAddr>,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn new(name: &'a str, cluster: &'a Cluster) -> Self {
        Self {
            name,
            cluster,
            me: cluster.nodes.get(name),
            settings: Settings::of(name, cluster),
            import_all: Arc::default(),
            export_pools: Arc::new(filters::export_pools(cluster.pools_in_force())),
            peers: BTreeMap::new(),
            gateways: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn build(mut self) -> Topology {
        let default = self.settings.mesh();
        let mut bind = Vec::new();
        let mut local_as = default.and_then(|conf| conf.as_number).unwrap_or(AsNumber::DEFAULT).0;
        let mut id = None;
        if let Some(me) = self.me {
            local_as = as_of(me, self.cluster);
            id = cluster_id(me);
            if self.settings.binds_to_node() {
                bind = node_addresses(me);
            }
            let manual = self.manual(me);
            if !manual {
                let mesh = default.and_then(|conf| conf.node_to_node_mesh_enabled).unwrap_or(true);
                self.automatic(me, mesh);
            }
        }
        for (name, node) in &self.cluster.nodes {
            let addressed = node
                .spec
                .bgp
                .as_ref()
                .is_some_and(|bgp| bgp.ipv4_address.is_some() || bgp.ipv6_address.is_some());
            if !addressed {
                let message = "it has no address, so nobody peers with it and its blocks are unreachable: \
                               set spec.bgp.ipv4Address or ipv6Address, with the mask of its subnet";
                self.problems.push(problem(format!("Node({name})"), message));
            }
        }
        let advertisements = self.settings.advertisements(&mut self.problems);
        self.settings.without_effect(self.name, &mut self.problems);
        self.gateways.retain(|remote, _| self.peers.contains_key(remote));
        Topology {
            local_as,
            listen_port: self.settings.listen_port(),
            bind,
            cluster_id: id,
            peers: self.peers.into_values().collect(),
            gateways: self.gateways,
            advertisements,
            problems: self.problems,
        }
    }

    /// Reflectors when there are any, else the mesh.
    fn automatic(&mut self, me: &Node, mesh: bool) {
        let reflectors = self.cluster.nodes.values().any(|node| cluster_id(node).is_some());
        for (name, there) in &self.cluster.nodes {
            let wanted = match (cluster_id(me), cluster_id(there)) {
                (None, None) => !reflectors && mesh,
                _ => true,
            };
            if name != self.name && wanted {
                self.add_node(me, name, there, None);
            }
        }
    }

    /// What BGPPeers say; true if they decide how this node peers inside the cluster.
    fn manual(&mut self, me: &'a Node) -> bool {
        let mut decides = false;
        for (name, peer) in &self.cluster.peers {
            let spec = &peer.spec;
            let here = concerns(peer, self.name, me);
            if let Some(address) = &spec.peer_ip {
                if here {
                    self.add_router(me, name, peer, address);
                }
                continue;
            }
            let Some(selector) = &spec.peer_selector else {
                if here {
                    let message = "peering with local workloads is not supported yet: it has no effect";
                    self.problems.push(problem(format!("BGPPeer({name})"), message));
                }
                continue;
            };
            let reverse =
                spec.reverse_peering.unwrap_or_default() == ReversePeering::Auto && matches(selector, me);
            decides |= here || reverse;
            for (other, there) in &self.cluster.nodes {
                let forward = here && matches(selector, there);
                if other != self.name && (forward || reverse && concerns(peer, other, there)) {
                    self.add_node(me, other, there, Some(peer));
                }
            }
        }
        decides
    }

    /// A session with another node of the cluster.
    fn add_node(&mut self, me: &Node, name: &str, there: &Node, peer: Option<&BgpPeer>) {
        let Some((local, remote)) = addresses(me, there) else { return };
        let (mut own_as, mut their_as) = (as_of(me, self.cluster), as_of(there, self.cluster));
        // `localASNumber` is that of the nodes the BGPPeer is for; the selected ones see it as the peer's.
        let mut local_as = None;
        if let Some(number) = peer.and_then(|peer| peer.spec.local_as_number) {
            if peer.is_some_and(|peer| concerns(peer, self.name, me)) {
                own_as = number.0;
                local_as = Some(number.0);
            }
            if peer.is_some_and(|peer| concerns(peer, name, there)) {
                their_as = number.0;
            }
        }
        let (own_id, their_id) = (cluster_id(me), cluster_id(there));
        let kind = match own_id {
            _ if own_as != their_as => PeerKind::External,
            // Reflectors of one cluster do not serve each other (RFC 4456 section 7).
            Some(_) if their_id.is_none() || their_id != own_id && peer.is_some() => PeerKind::InternalClient,
            _ => PeerKind::Internal,
        };
        let mut config = PeerConfig::new(remote, their_as, kind);
        config.local = Some(local);
        config.local_as = local_as;
        config.port = self.listen_port_of(name);
        config.description = name.to_owned();
        // One side dials, so that there are no collisions: nodes dial reflectors, else the lower address does.
        config.passive = match (own_id.is_some(), their_id.is_some()) {
            (true, false) => true,
            (false, true) => false,
            _ => local > remote,
        };
        config.families = families(me, there);
        if own_id.is_some() {
            // A reflector accepts from a node what the datastore says is the node's.
            if their_id.is_none() {
                let blocks = self.cluster.blocks.get(name).cloned().unwrap_or_default();
                config.max_prefix = Some(prefix_limit(blocks.len()));
                config.authorised_origins = Some(blocks);
            }
            config.import = Arc::clone(&self.import_all);
        } else {
            config.export = Arc::clone(&self.export_pools);
        }
        let usable = match peer {
            Some(peer) => self.adjust(&mut config, peer),
            None => self.adjust_mesh(&mut config),
        };
        if usable {
            self.insert(config);
        }
    }

    /// A session with something that is no node: a top-of-rack router, a foreign reflector.
    fn add_router(&mut self, me: &Node, name: &str, peer: &BgpPeer, address: &PeerAddress) {
        let remote = address.ip;
        // The address may be a node's all the same.
        let node = self.cluster.nodes.iter().find(|(_, node)| {
            node.spec.bgp.as_ref().is_some_and(|bgp| match remote {
                IpAddr::V4(address) => bgp.ipv4_address.is_some_and(|net| net.addr() == address),
                IpAddr::V6(address) => bgp.ipv6_address.is_some_and(|net| net.addr() == address),
            })
        });
        if let Some((node_name, there)) = node {
            if node_name != self.name {
                self.add_node(me, node_name, there, Some(peer));
            }
            return;
        }
        let local_as = peer.spec.local_as_number.map(|number| number.0);
        let own_as = local_as.unwrap_or_else(|| as_of(me, self.cluster));
        let their_as = peer.spec.as_number.map_or(own_as, |number| number.0);
        let kind = match cluster_id(me) {
            _ if their_as != own_as => PeerKind::External,
            Some(_) => PeerKind::InternalClient,
            None => PeerKind::Internal,
        };
        let mut config = PeerConfig::new(remote, their_as, kind);
        config.port = address.port.unwrap_or(margay_bgp::BGP_PORT);
        config.local_as = local_as;
        config.description = name.to_owned();
        config.export = Arc::clone(&self.export_pools);
        config.interface.clone_from(&address.zone);
        config.local = me.spec.bgp.as_ref().and_then(|bgp| match remote {
            // Of a link, the system knows the right one.
            _ if address.zone.is_some() => None,
            IpAddr::V4(_) => bgp.ipv4_address.map(|net| net.addr().into()),
            IpAddr::V6(_) => bgp.ipv6_address.map(|net| net.addr().into()),
        });
        if let Some(gateway) = peer.spec.reachable_by {
            self.gateways.entry(remote).or_insert(gateway);
        }
        if self.adjust(&mut config, peer) {
            self.insert(config);
        }
    }

    /// Applies the cluster's settings to a session that nodes have by themselves; false if it cannot be used.
    fn adjust_mesh(&mut self, config: &mut PeerConfig) -> bool {
        // Nodes of one cluster may be of several ASes; the pools are the policy between them.
        config.policy_required = false;
        let Some(spec) = self.settings.mesh() else { return true };
        if let Some(time) = spec.node_mesh_max_restart_time {
            config.graceful_restart.restart_time = time.into();
        }
        self.watch(config, spec.node_mesh_failure_detection_mode, true);
        let object = "BGPConfiguration(default)";
        self.password(config, spec.node_mesh_password.as_ref(), object, "nodeMeshPassword")
    }

    /// Sets the password that an object refers to; false if there is one and it cannot be had.
    fn password(
        &mut self,
        config: &mut PeerConfig,
        reference: Option<&SecretRef>,
        object: &str,
        field: &str,
    ) -> bool {
        let Some(reference) = reference else { return true };
        let optional = reference.secret_key_ref.as_ref().is_some_and(|key| key.optional == Some(true));
        let found = secret_name(reference).map(|name| self.cluster.secrets.get(&name));
        let reason = match found {
            Some(Some(Ok(password))) => {
                config.password = Some(password.clone());
                return true;
            }
            _ if optional => return true,
            Some(Some(Err(reason))) => reason.as_str(),
            Some(None) => "it has not been read yet",
            None => "there is no secretKeyRef",
        };
        let message = format!("spec.{field}: {reason}. Until the password is there these sessions stay down");
        let problem = problem(object.to_owned(), message);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
        false
    }

    /// Applies the fields of a BGPPeer to a session; false if it cannot be used.
    fn adjust(&mut self, config: &mut PeerConfig, peer: &BgpPeer) -> bool {
        let spec = &peer.spec;
        let object = format!("BGPPeer({})", peer.metadata.name);
        // Import accepts by default in Calico; the BGPPeer is the explicit policy that RFC 8212 asks for.
        config.policy_required = false;
        config.ttl_security = spec.ttl_security;
        if spec.source_address == Some(SourceAddress::None) {
            config.local = None;
        }
        if let Some(keepalive) = spec.keepalive_time {
            let keepalive: Duration = keepalive.into();
            config.timers.keepalive = Some(keepalive);
            config.timers.hold = config.timers.hold.max(keepalive * 3);
        }
        if let Some(time) = spec.max_restart_time {
            config.graceful_restart.restart_time = time.into();
        }
        if spec.restart_mode == Some(RestartMode::GracefulRestart) {
            config.graceful_restart.long_lived = None;
        }
        self.watch(config, spec.failure_detection_mode, spec.reachable_by.is_none());
        config.allow_own_as =
            spec.num_allowed_local_as_numbers.map_or(0, |n| u8::try_from(n).unwrap_or(u8::MAX));
        config.next_hop = match spec.next_hop_mode {
            Some(ApiNextHopMode::Self_) => NextHopMode::SelfAddress,
            Some(ApiNextHopMode::Keep) => NextHopMode::Keep,
            Some(ApiNextHopMode::Auto) => NextHopMode::Auto,
            None if spec.keep_original_next_hop && config.kind == PeerKind::External => NextHopMode::Keep,
            None => NextHopMode::Auto,
        };
        if !spec.filters.is_empty() {
            let compiled =
                filters::compile(&spec.filters, &self.cluster.filters, &config.import, &config.export);
            config.import = Arc::new(compiled.import);
            config.export = Arc::new(compiled.export);
            for message in compiled.problems {
                self.problems.push(problem(object.clone(), message));
            }
        }
        self.password(config, spec.password.as_ref(), &object, "password")
    }

    fn watch(&self, config: &mut PeerConfig, mode: Option<FailureDetectionMode>, direct: bool) {
        config.bfd = self.me.and_then(|me| bfd::watch(self.cluster, me, config, mode, direct));
    }

    /// The first of two sessions with the same address wins: BGPPeers are taken in the order of their names.
    fn insert(&mut self, config: PeerConfig) {
        self.peers.entry(config.remote).or_insert(config);
    }

    fn listen_port_of(&self, node: &str) -> u16 {
        Settings::of(node, self.cluster).listen_port()
    }
}

/// Whether a BGPPeer is for a node.
fn concerns(peer: &BgpPeer, name: &str, node: &Node) -> bool {
    match (&peer.spec.node, &peer.spec.node_selector) {
        (Some(only), _) => only == name,
        (None, Some(selector)) => matches(selector, node),
        (None, None) => true,
    }
}

/// What a node with so many blocks may announce: its blocks, single addresses in them, and blocks that it has claimed
/// and the datastore has not told yet. All that is refused counts too, so this bounds what a node can make us keep.
fn prefix_limit(blocks: usize) -> MaxPrefix {
    MaxPrefix::new(u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(256).saturating_add(1024))
}

/// A node's own addresses.
fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let Some(bgp) = &node.spec.bgp else { return Vec::new() };
    let v4 = bgp.ipv4_address.map(|net| net.addr().into());
    v4.into_iter().chain(bgp.ipv6_address.map(|net| net.addr().into())).collect()
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

fn matches(selector: &Selector, node: &Node) -> bool {
    selector.matches(&node.metadata.labels)
}

fn problem(object: String, message: impl Into<String>) -> Problem {
    Problem { object, message: message.into() }
}
