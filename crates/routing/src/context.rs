//! The input, checked and indexed once, so that a decision about one prefix is a few look-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::desired::{Encapsulation, Problem};
use crate::input::{Family, Input, NextHop, Settings, Underlay};
use crate::read;
use margay_api::kinds::disjoint_pools;
use margay_api::types::MacAddr;

/// The tunnel end of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vtep {
    pub(crate) address: IpAddr,
    pub(crate) mac: MacAddr,
}

/// A node as far as routing sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Addresses with the mask of their subnet.
    pub(crate) addresses: BTreeMap<Family, IpNet>,
    /// VXLAN tunnel ends.
    pub(crate) vteps: BTreeMap<Family, Vtep>,
    /// IPIP tunnel address.
    pub(crate) ipip: Option<Ipv4Addr>,
}

impl Peer {
    pub(crate) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.get(&family).map(IpNet::addr)
    }
}

/// A pool as far as routing sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) cidr: IpNet,
    pub(crate) encapsulation: Encapsulation,
    /// Only between subnets.
    pub(crate) cross_subnet: bool,
    pub(crate) nat_outgoing: bool,
    /// Pods may have its addresses (it isn't for load balancers only).
    pub(crate) for_pods: bool,
}

/// What BGP says of one prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) next_hops: BTreeSet<NextHop>,
    pub(crate) stale: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Context<'a> {
    pub(crate) node: &'a str,
    pub(crate) own: Peer,
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) by_address: BTreeMap<IpAddr, String>,
    /// Sorted by prefix; pools don't overlap.
    pub(crate) pools: Vec<Pool>,
    /// Owner of each block; absent when no node owns it (load balancers, given-back blocks).
    pub(crate) blocks: BTreeMap<IpNet, Option<String>>,
    pub(crate) own_blocks: BTreeSet<IpNet>,
    pub(crate) pods: BTreeMap<IpNet, String>,
    pub(crate) bgp: BTreeMap<IpNet, Learned>,
    pub(crate) underlay: Underlay<'a>,
    pub(crate) settings: &'a Settings,
    pub(crate) problems: BTreeSet<Problem>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(input: &Input<'a>) -> Self {
        let mut context = Self {
            node: input.node,
            own: Peer::default(),
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            pools: Vec::new(),
            blocks: BTreeMap::new(),
            own_blocks: BTreeSet::new(),
            pods: BTreeMap::new(),
            bgp: BTreeMap::new(),
            underlay: input.underlay,
            settings: input.settings,
            problems: BTreeSet::new(),
        };
        context.add_pools(input);
        context.add_nodes(input);
        context.add_blocks(input);
        context.add_pods(input);
        for route in input.bgp {
            let learned = context
                .bgp
                .entry(route.prefix.trunc())
                .or_insert_with(|| Learned { next_hops: BTreeSet::new(), stale: true });
            learned.next_hops.extend(route.next_hops.iter().cloned());
            learned.stale &= route.stale;
        }
        context
    }

    pub(crate) fn problem(&mut self, object: impl ToString, message: impl Into<String>) {
        self.problems.insert(Problem { object: object.to_string(), message: message.into() });
    }

    fn add_pools(&mut self, input: &Input<'_>) {
        let (in_force, clashes) = disjoint_pools(input.pools.iter().copied());
        self.pools = in_force.into_iter().map(read::pool).collect();
        self.pools.sort_by(|a, b| (a.cidr, &a.name).cmp(&(b.cidr, &b.name)));
        for (pool, other) in clashes {
            let message = format!(
                "{} overlaps {} of IPPool({}), which is used: delete one of them",
                pool.spec.cidr, other.spec.cidr, other.metadata.name
            );
            self.problem(format!("IPPool({})", pool.metadata.name), message);
        }
    }

    fn add_nodes(&mut self, input: &Input<'_>) {
        let mut found_own = false;
        // By name, so that of two nodes with one address the same one wins everywhere.
        let nodes: BTreeMap<&str, _> = input.nodes.iter().map(|n| (n.metadata.name.as_str(), *n)).collect();
        let mut vteps: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut macs: BTreeMap<(Family, MacAddr), String> = BTreeMap::new();
        for (name, node) in nodes {
            let object = format!("Node({name})");
            let (mut peer, complaints) = read::node(node);
            for complaint in complaints {
                self.problem(&object, complaint);
            }
            let mut clashes = Vec::new();
            peer.addresses.retain(|_, net| {
                let first = self.by_address.entry(net.addr()).or_insert_with(|| name.to_owned());
                let unique = first == name;
                if !unique {
                    clashes.push(format!(
                        "address {} is also that of Node({first}), which keeps it",
                        net.addr()
                    ));
                }
                unique
            });
            peer.vteps.retain(|family, vtep| {
                let first = vteps.entry(vtep.address).or_insert_with(|| name.to_owned());
                let first_mac = macs.entry((*family, vtep.mac)).or_insert_with(|| name.to_owned());
                let unique = first == name && first_mac == name;
                if !unique {
                    clashes.push(format!(
                        "VXLAN tunnel address {} or MAC {} is also that of another node ({first}, {first_mac}), which keeps it",
                        vtep.address, vtep.mac
                    ));
                }
                unique
            });
            for clash in clashes {
                self.problem(&object, clash);
            }
            if name == input.node {
                found_own = true;
                self.own = peer.clone();
            }
            self.peers.insert(name.to_owned(), peer);
        }
        if !found_own {
            self.problem(
                format!("Node({})", input.node),
                "this node is not in the datastore: routes through tunnels wait until it is registered",
            );
        }
    }

    fn add_blocks(&mut self, input: &Input<'_>) {
        for block in input.blocks {
            if let Some((cidr, owner)) = read::block(block) {
                if owner.as_deref() == Some(input.node) {
                    self.own_blocks.insert(cidr);
                }
                self.blocks.insert(cidr, owner);
            }
        }
    }

    fn add_pods(&mut self, input: &Input<'_>) {
        for pod in input.pods.iter().collect::<BTreeSet<_>>() {
            let prefix = IpNet::from(pod.address);
            if let Some(first) = self.pods.get(&prefix) {
                let message = format!(
                    "two pod interfaces have this address, {first} keeps it and {} gets no traffic: delete that pod",
                    pod.interface
                );
                self.problem(prefix, message);
            } else {
                self.pods.insert(prefix, pod.interface.clone());
            }
        }
    }

    /// The pool that contains the prefix as a whole.
    pub(crate) fn pool_of(&self, prefix: &IpNet) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.cidr.contains(prefix))
    }

    /// The block that contains the prefix as a whole, the most specific one.
    pub(crate) fn block_of(&self, prefix: &IpNet) -> Option<(&IpNet, Option<&str>)> {
        self.blocks
            .iter()
            .filter(|(cidr, _)| cidr.contains(prefix))
            .max_by_key(|(cidr, _)| cidr.prefix_len())
            .map(|(cidr, owner)| (cidr, owner.as_deref()))
    }

    /// Every destination there is something to decide about.
    pub(crate) fn prefixes(&self) -> BTreeSet<IpNet> {
        self.pods.keys().chain(self.blocks.keys()).chain(self.bgp.keys()).copied().collect()
    }
}
