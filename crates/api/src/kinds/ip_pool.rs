//! Address pools and reservations.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    IpPool, Kind, NoStatus, Object, Spec,
    error::Invalid,
    path::{Problems, SPEC},
    selector::{self, Labels, Selector},
    types::{self, net, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// When traffic between nodes is encapsulated.
    #[derive(Default)]
    pub enum EncapMode {
        /// Plain routing.
        #[default]
        Never = "Never",
        /// Between all nodes.
        Always = "Always",
        /// Only between nodes of different subnets.
        CrossSubnet = "CrossSubnet",
    }
}

string_enum! { exact
    /// What a pool's addresses are for.
    pub enum AllowedUse {
        /// Pods.
        Workload = "Workload",
        /// Tunnel devices of nodes.
        Tunnel = "Tunnel",
        /// Services of type LoadBalancer.
        LoadBalancer = "LoadBalancer",
    }
}

string_enum! { exact
    /// Whether addresses are handed out without being asked for by name.
    #[derive(Default)]
    pub enum AssignmentMode {
        /// Yes.
        #[default]
        Automatic = "Automatic",
        /// Only on explicit request.
        Manual = "Manual",
    }
}

/// Addresses for pods, cut into blocks that nodes claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolSpec {
    /// The pool's addresses; immutable, no host bits.
    #[serde(deserialize_with = "net::cidr")]
    pub cidr: IpNet,
    /// Prefix length of a block; immutable. Margay's default is [`IpPoolSpec::DEFAULT_BLOCK_V4`] and [`IpPoolSpec::DEFAULT_BLOCK_V6`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// IP in IP; IPv4 only, not together with VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<EncapMode>,
    /// VXLAN; not together with IPIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<EncapMode>,
    /// Masquerade traffic that leaves the pools.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub nat_outgoing: bool,
    /// No new addresses.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub disabled: bool,
    /// Don't advertise it.
    #[serde(rename = "disableBGPExport", default, skip_serializing_if = "types::is_false")]
    pub disable_bgp_export: bool,
    /// Nodes that may claim blocks; absent means all.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// Namespaces whose pods may use it; absent means all.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Empty means workloads and tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_uses: Vec<AllowedUse>,
    /// Absent means `Automatic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<AssignmentMode>,
}

/// Addresses that are never handed out automatically.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpReservationSpec {
    /// The addresses.
    #[serde(
        rename = "reservedCIDRs",
        default,
        deserialize_with = "net::nets",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub reserved_cidrs: Vec<IpNet>,
}

impl Spec for IpPoolSpec {
    const KIND: Kind = Kind::IpPool;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::ip_pool::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::ip_pool::check(object, problems);
    }
}

impl Spec for IpReservationSpec {
    const KIND: Kind = Kind::IpReservation;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::ip_pool::check_reservation(object, problems);
    }
}

impl IpPoolSpec {
    /// Block size of IPv4 pools that give none: one /24 per node. Margay's one deliberate difference from Calico (26).
    pub const DEFAULT_BLOCK_V4: u8 = 24;
    /// Block size of IPv6 pools that give none; Calico's is 122.
    pub const DEFAULT_BLOCK_V6: u8 = 120;

    /// A pool with defaults for everything but its addresses.
    #[must_use]
    pub fn new(cidr: IpNet) -> Self {
        Self {
            cidr,
            block_size: None,
            ipip_mode: None,
            vxlan_mode: None,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            node_selector: None,
            namespace_selector: None,
            allowed_uses: Vec::new(),
            assignment_mode: None,
        }
    }

    /// Prefix length of a block. Pools that are too small for Margay's default, but not for Calico's, are one block.
    #[must_use]
    pub fn block_size(&self) -> u8 {
        let (default, calico) = if self.cidr.addr().is_ipv4() {
            (Self::DEFAULT_BLOCK_V4, 26)
        } else {
            (Self::DEFAULT_BLOCK_V6, 122)
        };
        self.block_size.unwrap_or_else(|| default.max(self.cidr.prefix_len().min(calico)))
    }

    /// When traffic to the pool's addresses is encapsulated in IPIP.
    #[must_use]
    pub fn ipip_mode(&self) -> EncapMode {
        self.ipip_mode.unwrap_or_default()
    }

    /// When traffic to the pool's addresses is encapsulated in VXLAN.
    #[must_use]
    pub fn vxlan_mode(&self) -> EncapMode {
        self.vxlan_mode.unwrap_or_default()
    }

    /// Whether its addresses are for this use.
    #[must_use]
    pub fn allows(&self, usage: AllowedUse) -> bool {
        if self.allowed_uses.is_empty() {
            return usage != AllowedUse::LoadBalancer;
        }
        self.allowed_uses.contains(&usage)
    }

    /// Whether addresses are handed out without being asked for by name.
    #[must_use]
    pub fn assigns_automatically(&self) -> bool {
        !self.disabled && self.assignment_mode.unwrap_or_default() == AssignmentMode::Automatic
    }

    /// Whether a node with these labels may claim blocks.
    pub fn selects_node<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        self.node_selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// Whether pods of a namespace with these labels may use it.
    pub fn selects_namespace<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        self.namespace_selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }
}

/// The first other pool (by name) that shares addresses with `pool`. Pools must never overlap: a block would have two owners.
#[must_use]
pub fn overlapping_pool<'a>(
    pool: &IpPool,
    others: impl IntoIterator<Item = &'a IpPool>,
) -> Option<&'a IpPool> {
    others
        .into_iter()
        .filter(|other| other.metadata.name != pool.metadata.name)
        .filter(|other| validate::ip_pool::overlaps(pool.spec.cidr, other.spec.cidr))
        .min_by(|a, b| a.metadata.name.cmp(&b.metadata.name))
}

/// The pools in force, and those that share addresses with one of them, each with that one.
///
/// The older pool is in force (`creationTimestamp`, none is youngest), then the one whose addresses, then whose name
/// come first: what is added by mistake takes nothing away from what works.
#[must_use]
pub fn disjoint_pools<'a>(
    pools: impl IntoIterator<Item = &'a IpPool>,
) -> (Vec<&'a IpPool>, Vec<(&'a IpPool, &'a IpPool)>) {
    let mut pools: Vec<&IpPool> = pools.into_iter().collect();
    let age = |pool: &'a IpPool| {
        let created = pool.metadata.creation_timestamp.as_deref();
        (created.is_none(), created, pool.spec.cidr, pool.metadata.name.as_str())
    };
    pools.sort_by(|a, b| age(a).cmp(&age(b)));
    let mut in_force: Vec<&IpPool> = Vec::new();
    let mut clashes = Vec::new();
    for pool in pools {
        match in_force.iter().find(|other| validate::ip_pool::overlaps(pool.spec.cidr, other.spec.cidr)) {
            Some(other) => clashes.push((pool, *other)),
            None => in_force.push(pool),
        }
    }
    (in_force, clashes)
}

/// What must stay as it is when `new` replaces `old`: addresses and block size are carved into existing blocks.
///
/// # Errors
/// The fields that may not change.
pub fn check_pool_update(old: &IpPool, new: &IpPool) -> Result<(), Invalid> {
    let mut problems = Problems::default();
    let why = "can't be changed: create a new pool and move the pods to it";
    problems.require(old.spec.cidr == new.spec.cidr, &SPEC.field("cidr"), why);
    problems.require(old.spec.block_size() == new.spec.block_size(), &SPEC.field("blockSize"), why);
    let balancer = |pool: &IpPool| pool.spec.allows(AllowedUse::LoadBalancer);
    problems.require(balancer(old) == balancer(new), &SPEC.field("allowedUses"), why);
    problems.into_result()
}
