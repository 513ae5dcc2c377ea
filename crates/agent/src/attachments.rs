//! The pods' interfaces this node has, and the WorkloadEndpoints they are in the datastore.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_control::cni::Attachment;
use serde::{Deserialize, Serialize};

/// An interface that was committed: it exists, its route and policy are to be live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// Who.
    pub(crate) attachment: Attachment,
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// Name of the pod.
    pub(crate) pod: String,
    /// Labels from the CNI call, for clusters without Pod objects.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Host side of the veth pair.
    pub(crate) interface: String,
    /// MAC address of the pod's side.
    pub(crate) mac: String,
}

