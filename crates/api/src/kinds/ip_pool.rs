//! Address pools and reservations.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::{self, Selector},
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
