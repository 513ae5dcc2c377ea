//! IPAM settings and blocks.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bgp_configuration::Toggle;
use crate::{
    Kind, NoStatus, Object, Spec,
    error::ValueError,
    path::Problems,
    types::{self, net, serde_as_string},
    validate,
};

/// IPAM settings of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpamConfigurationSpec {
    /// No addresses from other nodes' blocks.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub strict_affinity: bool,
    /// Claim new blocks on demand; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_allocate_blocks: Option<bool>,
    /// 0 means no limit, absent 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_blocks_per_host: Option<u32>,
    /// Time before a released address is used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<u32>,
    /// Keep addresses over VM migration.
    #[serde(rename = "kubeVirtVMAddressPersistence", default, skip_serializing_if = "Option::is_none")]
    pub kube_virt_vm_address_persistence: Option<Toggle>,
}

/// A part of a pool, owned by one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpamBlockSpec {
    /// Its addresses.
    #[serde(deserialize_with = "net::cidr")]
    pub cidr: IpNet,
    /// Who hands them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// Per address: index into `attributes`, or null.
    #[serde(default)]
    pub allocations: Vec<Option<u32>>,
    /// Who has addresses.
    #[serde(default)]
    pub attributes: Vec<AllocationAttribute>,
    /// Free ordinals, least recently used first.
    #[serde(default)]
    pub unallocated: Vec<u32>,
    /// Other nodes may not borrow from it.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Grows with every change.
    #[serde(default)]
    pub sequence_number: u64,
    /// By ordinal: guards releases against reuse.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Being removed.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub deleted: bool,
}

/// Owner of one or more addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllocationAttribute {
    /// Releases all addresses of the handle at once.
    #[serde(rename = "handle_id", default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Pod, namespace, node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secondary: BTreeMap<String, String>,
    /// The second owner while a VM migrates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alternate_owner_attrs: BTreeMap<String, String>,
    /// RFC 3339; set while the address cools down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

/// Who hands out a block's addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// `host:<node>`
    Host(String),
    /// `virtual:<name>`, for load balancers.
    Virtual(String),
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(node) => write!(f, "host:{node}"),
            Self::Virtual(name) => write!(f, "virtual:{name}"),
        }
    }
}

impl FromStr for Affinity {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let allowed = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        match text.split_once(':') {
            Some(("host", node)) if allowed(node) => Ok(Self::Host(node.to_owned())),
            Some(("virtual", name)) if allowed(name) => Ok(Self::Virtual(name.to_owned())),
            _ => Err(ValueError::new("not an affinity: use host:<node> or virtual:<name>")),
        }
    }
}
serde_as_string!(Affinity, "an affinity such as host:node1");

impl Spec for IpamConfigurationSpec {
    const KIND: Kind = Kind::IpamConfiguration;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        object.spec.auto_allocate_blocks.get_or_insert(true);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::ipam::check_configuration(object, problems);
    }
}

impl Spec for IpamBlockSpec {
    const KIND: Kind = Kind::IpamBlock;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::ipam::check_block(object, problems);
    }
}
