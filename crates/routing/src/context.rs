//! What is known, checked and indexed, so that a decision about one prefix is a few look-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use margay_api::kinds::disjoint_pools;
use margay_api::types::{MacAddr, WireguardKey};
use margay_api::{IpPool, Node};

use crate::desired::{Encapsulation, Problem};
use crate::input::{Family, NextHop, UnderlayRoute, Uplink};
use crate::read;
use crate::settings::Settings;

/// The tunnel end of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vtep {
    pub(crate) address: IpAddr,
    pub(crate) mac: MacAddr,
}

impl Vtep {
    /// What routes and neighbours call it. For IPv6 that is the link-local address of its device (RFC 4291, appendix A): Linux takes
    /// no other gateway that a route leads to elsewhere, as that of the block does before the tunnel is there.
    pub(crate) fn gateway(&self) -> IpAddr {
        let [a, b, c, d, e, f] = self.mac.0;
        match self.address {
            IpAddr::V4(_) => self.address,
            IpAddr::V6(_) => {
                let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
                let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                octets[8..].copy_from_slice(&interface);
                IpAddr::from(octets)
            }
        }
    }
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
    /// Public keys of its WireGuard devices.
    pub(crate) wireguard: BTreeMap<Family, WireguardKey>,
    /// Their addresses.
    pub(crate) wireguard_addresses: BTreeMap<Family, IpAddr>,
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
    /// Sorted, each once.
    pub(crate) next_hops: Vec<NextHop>,
    pub(crate) stale: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) node: String,
    pub(crate) own: Peer,
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) by_address: BTreeMap<IpAddr, String>,
    /// Sorted by prefix; pools don't overlap.
    pub(crate) pools: Vec<Pool>,
    /// Owner of each block; absent when no node owns it (load balancers, given-back blocks).
    pub(crate) blocks: BTreeMap<IpNet, Option<String>>,
    pub(crate) own_blocks: BTreeSet<IpNet>,
    /// Interfaces that claim the address; the first has it.
    pub(crate) pods: BTreeMap<IpNet, BTreeSet<String>>,
    pub(crate) bgp: BTreeMap<IpNet, Learned>,
    pub(crate) underlay: BTreeSet<UnderlayRoute>,
    pub(crate) uplinks: BTreeMap<Family, Uplink>,
    pub(crate) workload_peering: BTreeSet<IpAddr>,
    pub(crate) settings: Settings,
    pub(crate) node_problems: BTreeSet<Problem>,
    pub(crate) pool_problems: BTreeSet<Problem>,
}

impl Context {
    pub(crate) fn new(node: &str, settings: Settings) -> Self {
        let mut context = Self {
            node: node.to_owned(),
            own: Peer::default(),
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            pools: Vec::new(),
            blocks: BTreeMap::new(),
            own_blocks: BTreeSet::new(),
            pods: BTreeMap::new(),
            bgp: BTreeMap::new(),
            underlay: BTreeSet::new(),
            uplinks: BTreeMap::new(),
            workload_peering: BTreeSet::new(),
            settings,
            node_problems: BTreeSet::new(),
            pool_problems: BTreeSet::new(),
        };
        context.set_nodes(&[]);
        context
    }

    pub(crate) fn set_pools<'a>(&mut self, pools: impl IntoIterator<Item = &'a IpPool>) {
        let (in_force, clashes) = disjoint_pools(pools);
        self.pools = in_force.into_iter().map(read::pool).collect();
        self.pools.sort_by(|a, b| (a.cidr, &a.name).cmp(&(b.cidr, &b.name)));
        let problem = |(pool, other): (&IpPool, &IpPool)| Problem {
            object: format!("IPPool({})", pool.metadata.name),
            message: format!(
                "{} overlaps {} of IPPool({}), which is used: delete one of them",
                pool.spec.cidr, other.spec.cidr, other.metadata.name
            ),
        };
        self.pool_problems = clashes.into_iter().map(problem).collect();
    }

    pub(crate) fn set_nodes(&mut self, nodes: &[&Node]) {
        self.peers.clear();
        self.by_address.clear();
        self.node_problems.clear();
        self.own = Peer::default();
        // By name, so that of two nodes with one address the same one wins everywhere.
        let nodes: BTreeMap<&str, _> = nodes.iter().map(|n| (n.metadata.name.as_str(), *n)).collect();
        let mut vteps: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut macs: BTreeMap<(Family, MacAddr), &str> = BTreeMap::new();
        let mut keys: BTreeMap<WireguardKey, &str> = BTreeMap::new();
        for (name, node) in nodes {
            let (mut peer, mut complaints) = read::node(node);
            peer.addresses.retain(|_, net| {
                let first = self.by_address.entry(net.addr()).or_insert_with(|| name.to_owned());
                let unique = first == name;
                if !unique {
                    complaints.push(format!(
                        "address {} is also that of Node({first}), which keeps it",
                        net.addr()
                    ));
                }
                unique
            });
            peer.vteps.retain(|family, vtep| {
                let first = *vteps.entry(vtep.address).or_insert(name);
                let first_mac = *macs.entry((*family, vtep.mac)).or_insert(name);
                let unique = first == name && first_mac == name;
                if !unique {
                    complaints.push(format!(
                        "VXLAN tunnel address {} or MAC {} is also that of another node ({first}, {first_mac}), which keeps it",
                        vtep.address, vtep.mac
                    ));
                }
                unique
            });
            peer.wireguard.retain(|_, key| {
                let first = *keys.entry(*key).or_insert(name);
                if first != name {
                    complaints.push(format!(
                        "WireGuard key {key} is also that of Node({first}), which keeps it: remove the key's file here and restart the agent"
                    ));
                }
                first == name
            });
            let object = format!("Node({name})");
            let problems = complaints.into_iter().map(|message| Problem { object: object.clone(), message });
            self.node_problems.extend(problems);
            if name == self.node {
                self.own = peer.clone();
            }
            self.peers.insert(name.to_owned(), peer);
        }
        if !self.peers.contains_key(&self.node) {
            self.node_problems.insert(Problem {
                object: format!("Node({})", self.node),
                message:
                    "this node is not in the datastore: routes through tunnels wait until it is registered"
                        .to_owned(),
            });
        }
    }

    /// What the owner of a pod's address must know: two interfaces have it.
    pub(crate) fn pod_problem(&self, prefix: &IpNet) -> Option<String> {
        let mut interfaces = self.pods.get(prefix)?.iter();
        let first = interfaces.next()?;
        let others: Vec<&str> = interfaces.map(String::as_str).collect();
        (!others.is_empty()).then(|| {
            format!(
                "two pod interfaces have this address, {first} keeps it and {} gets no traffic: delete that pod",
                others.join(", ")
            )
        })
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

    /// Every destination there is something to decide about, some of them more than once.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.pods.keys().chain(self.blocks.keys()).chain(self.bgp.keys()).copied()
    }

    /// There is something to decide about it.
    pub(crate) fn knows(&self, prefix: &IpNet) -> bool {
        self.pods.contains_key(prefix) || self.blocks.contains_key(prefix) || self.bgp.contains_key(prefix)
    }
}
