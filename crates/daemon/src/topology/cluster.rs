//! What the topology follows from, and what of it has changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{Affinity, BgpConfigurationSpec, disjoint_pools};
use margay_api::{
    BfdConfiguration, BgpConfiguration, BgpFilter, BgpPeer, IpPool, Key, Kind, Node, Resource,
    WorkloadEndpoint,
};

use super::ListenRange;
use super::services::Services;
use crate::secrets::Secrets;

/// What the topology follows from.
#[derive(Debug, Default, Clone)]
pub struct Cluster {
    /// Nodes by name, reflectors among them.
    pub nodes: BTreeMap<String, Box<Node>>,
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
    pub blocks: BTreeMap<String, BTreeSet<IpNet>>,
    /// Owner and range of each IPAMBlock, by its name.
    owners: BTreeMap<String, (String, IpNet)>,
    pub(super) services: Services,
    pub(super) ways: BTreeSet<Way>,
    pub(super) workloads: BTreeMap<Key, Workload>,
    ranges: Vec<ListenRange>,
    secrets: Secrets,
    changes: Changes,
}

/// A workload of this node, as far as BGP may be spoken with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) addresses: Vec<IpAddr>,
    /// The host's end of its interface.
    pub(super) interface: String,
    /// Policy knows it by these addresses alone: nothing behind it is let through.
    pub(super) alone: bool,
}

/// A route of this node's kernel, as far as BGPFilters ask: where, and by which interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The destination.
    pub prefix: IpNet,
    /// Lower is preferred.
    pub metric: u32,
    /// Interface.
    pub dev: String,
}

/// What has changed since [`Cluster::take_changes`] was last asked.
#[derive(Debug, Default, Clone)]
pub struct Changes {
    /// Something that may concern every session.
    pub(super) everything: bool,
    /// Nodes as they were before.
    pub(super) nodes: BTreeMap<String, Option<Box<Node>>>,
    /// Nodes with other blocks.
    pub(super) blocks: BTreeSet<String>,
}

impl Changes {
    /// Nothing is known of what was before.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }
}

impl Cluster {
    /// Takes an object in; true if it is one of these kinds and says something new.
    pub fn put(&mut self, resource: &Resource) -> bool {
        let name = resource.metadata().name.as_str();
        let changed = match resource {
            Resource::Node(object) => {
                let old = self.nodes.get(name);
                let changed = old.is_none_or(|old| **old != *object);
                if changed {
                    let old = self.nodes.insert(name.to_owned(), Box::new(object.clone()));
                    self.changes.nodes.entry(name.to_owned()).or_insert(old);
                }
                return changed;
            }
            Resource::IpamBlock(object) => {
                return match &object.spec.affinity {
                    Some(Affinity::Host(node)) => self.own(name, Some((node.clone(), object.spec.cidr))),
                    _ => self.own(name, None),
                };
            }
            Resource::Service(object) => return self.services.put(object),
            Resource::EndpointSlice(object) => return self.services.put_slice(object),
            Resource::IpPool(object) => insert(&mut self.pools, name, object),
            Resource::BgpConfiguration(object) => insert(&mut self.configurations, name, object),
            Resource::BgpPeer(object) => insert(&mut self.peers, name, object),
            Resource::BfdConfiguration(object) => insert(&mut self.bfd, name, object),
            Resource::BgpFilter(object) => insert(&mut self.filters, name, object),
            _ => false,
        };
        self.changes.everything |= changed;
        changed
    }

    /// Takes an object out; true if it was there.
    pub fn delete(&mut self, key: &Key) -> bool {
        let name = key.name.as_str();
        let changed = match key.kind {
            Kind::Node => {
                let old = self.nodes.remove(name);
                let changed = old.is_some();
                if changed {
                    self.changes.nodes.entry(name.to_owned()).or_insert(old);
                }
                return changed;
            }
            Kind::IpamBlock => return self.own(name, None),
            Kind::Service => return self.services.delete(key),
            Kind::EndpointSlice => return self.services.delete_slice(key),
            Kind::IpPool => self.pools.remove(name).is_some(),
            Kind::BgpConfiguration => self.configurations.remove(name).is_some(),
            Kind::BgpPeer => self.peers.remove(name).is_some(),
            Kind::BfdConfiguration => self.bfd.remove(name).is_some(),
            Kind::BgpFilter => self.filters.remove(name).is_some(),
            _ => false,
        };
        self.changes.everything |= changed;
        changed
    }

    /// The cluster's own settings of BGP.
    #[must_use]
    pub fn settings(&self) -> Option<&BgpConfigurationSpec> {
        self.configurations.get("default").map(|object| &object.spec)
    }

    /// Ranges of neighbours that no object names.
    #[must_use]
    pub fn ranges(&self) -> &[ListenRange] {
        &self.ranges
    }

    /// Takes them in; true if they are new.
    pub fn set_ranges(&mut self, ranges: Vec<ListenRange>) -> bool {
        let changed = self.ranges != ranges;
        self.ranges = ranges;
        self.changes.everything |= changed;
        changed
    }

    /// What [`super::secrets`] names, read.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Takes in what was read; true if it is new.
    pub fn set_secrets(&mut self, secrets: Secrets) -> bool {
        let changed = self.secrets != secrets;
        self.secrets = secrets;
        self.changes.everything |= changed;
        changed
    }

    /// Takes a workload of this node in; true if sessions with workloads are wanted and it says something new.
    pub fn put_workload(&mut self, endpoint: &WorkloadEndpoint) -> bool {
        let addresses = endpoint.spec.ip_networks.iter().map(IpNet::addr).collect();
        let alone = endpoint.spec.allow_spoofed_source_prefixes.is_empty();
        let (labels, interface) = (endpoint.metadata.labels.clone(), endpoint.spec.interface_name.clone());
        let workload = Workload { labels, addresses, interface, alone };
        let before = self.workloads.insert(endpoint.key(), workload.clone());
        self.workloads_changed(before != Some(workload))
    }

    /// Takes a workload out; true if sessions with workloads are wanted and it was there.
    pub fn delete_workload(&mut self, key: &Key) -> bool {
        let changed = self.workloads.remove(key).is_some();
        self.workloads_changed(changed)
    }

    fn workloads_changed(&mut self, changed: bool) -> bool {
        let wanted = || self.peers.values().any(|peer| peer.spec.local_workload_selector.is_some());
        let changed = changed && wanted();
        self.changes.everything |= changed;
        changed
    }

    /// Takes in the ways that this node's kernel knows to next hops; true if a BGPFilter matches by `interface` and they
    /// are new.
    pub fn set_ways(&mut self, ways: impl IntoIterator<Item = Way>) -> bool {
        let asked =
            self.filters.values().any(|filter| filter.spec.rules().any(|rule| rule.interface.is_some()));
        let ways: BTreeSet<Way> = ways.into_iter().filter(|_| asked).collect();
        let changed = self.ways != ways;
        self.ways = ways;
        self.changes.everything |= changed;
        changed
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The pools that count: one that overlaps an older one does not.
    #[must_use]
    pub fn pools_in_force(&self) -> Vec<&IpPool> {
        disjoint_pools(self.pools.values()).0
    }

    fn own(&mut self, block: &str, owner: Option<(String, IpNet)>) -> bool {
        if self.owners.get(block) == owner.as_ref() {
            return false;
        }
        let old = match &owner {
            Some(owner) => self.owners.insert(block.to_owned(), owner.clone()),
            None => self.owners.remove(block),
        };
        if let Some((node, cidr)) = old {
            if let Some(blocks) = self.blocks.get_mut(&node) {
                blocks.remove(&cidr);
                if blocks.is_empty() {
                    self.blocks.remove(&node);
                }
            }
            self.changes.blocks.insert(node);
        }
        if let Some((node, cidr)) = owner {
            self.blocks.entry(node.clone()).or_default().insert(cidr);
            self.changes.blocks.insert(node);
        }
        true
    }
}

/// The equally good ones of the ways to an address.
pub(super) fn best_ways(ways: &BTreeSet<Way>, address: IpAddr) -> impl Iterator<Item = &Way> {
    let leads = move |way: &&Way| way.prefix.contains(&address);
    let rank = |way: &Way| (Reverse(way.prefix.prefix_len()), way.metric);
    let best = ways.iter().filter(leads).map(rank).min();
    ways.iter().filter(leads).filter(move |way| Some(rank(way)) == best)
}

fn insert<T: PartialEq + Clone>(map: &mut BTreeMap<String, T>, name: &str, object: &T) -> bool {
    let changed = map.get(name) != Some(object);
    if changed {
        map.insert(name.to_owned(), object.clone());
    }
    changed
}
