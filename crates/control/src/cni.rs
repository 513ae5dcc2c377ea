//! What the CNI shim asks of the agent, in two phases: `add` reserves, `commit` makes live.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An attachment: one interface of one container. Every verb is idempotent per attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`, the interface's name inside the container.
    pub ifname: String,
    /// Name of the network (the conflist's `name`).
    pub network: String,
}

/// Phase one of ADD: reserve addresses, decide names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRequest {
    /// The attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`: path of the container's network namespace.
    pub netns: String,
    /// `K8S_POD_NAMESPACE` of `CNI_ARGS`; absent outside Kubernetes (the agent uses `default`).
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME` of `CNI_ARGS`; absent outside Kubernetes (the agent uses the container's id).
    pub pod_name: Option<String>,
    /// `K8S_POD_UID` of `CNI_ARGS`: tells the pod from one of the same name before it.
    #[serde(default)]
    pub pod_uid: Option<String>,
    /// Labels from `args.cni.labels`, for clusters without a Pod object to take them from.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Addresses asked for (`IP` of `CNI_ARGS` or the `ips` capability); empty: any.
    #[serde(default)]
    pub requested_ips: Vec<IpAddr>,
    /// MAC address asked for (`mac` capability).
    #[serde(default)]
    pub mac: Option<String>,
    /// Pools (names or CIDRs) to take from, `ipam.ipv4_pools` and `ipam.ipv6_pools`; empty: any.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Addresses that another IPAM plugin has given; empty: the agent assigns them.
    #[serde(default)]
    pub assigned: Vec<IpAddr>,
    /// The pod's annotation `cni.projectcalico.org/ipAddrsNoIpam` may name addresses that no IPAM gave (`ip_addrs_no_ipam`).
    #[serde(default)]
    pub may_bypass_ipam: bool,
    /// Host side of the veth pair that another plugin has made, and will remove: only policy is wanted for it.
    #[serde(default)]
    pub interface: Option<String>,
}

/// What the shim must build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddReply {
    /// Addresses reserved, as /32 and /128.
    pub addresses: Vec<IpNet>,
    /// Name of the host side of the veth pair.
    pub host_ifname: String,
    /// MAC of the pod's side, as `aa:bb:cc:dd:ee:ff`; absent: let the kernel choose.
    pub mac: Option<String>,
    /// MTU of both ends, octets.
    pub mtu: u32,
}

/// Phase two of ADD: the veth exists; the agent answers once route and policy are in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// The attachment.
    pub attachment: Attachment,
    /// Host side of the veth pair.
    pub host_ifname: String,
    /// MAC address the pod's side ended up with.
    pub mac: String,
}

/// Answer to a commit: the endpoint is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReply {
    /// Microseconds from the commit until policy and route were in the kernel.
    pub live_after_us: u64,
}

/// DEL: remove the interface, then release everything of the attachment; answered when it is certain to happen. Unknown
/// attachments are a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRequest {
    /// The attachment.
    pub attachment: Attachment,
}

/// CHECK: is the attachment what the agent thinks it is?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The attachment.
    pub attachment: Attachment,
}

/// What the agent holds for an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {
    /// Addresses of the attachment.
    pub addresses: Vec<IpNet>,
    /// Host side of the veth pair.
    pub host_ifname: String,
    /// Route and policy are in the kernel.
    pub live: bool,
}

/// The node's ranges, for an IPAM plugin that is to give addresses of them: `status.podCIDRs` of its Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCidrs {
    /// In the order of the Node object.
    pub cidrs: Vec<IpNet>,
}

/// A verb failed: for the agent's log, as runtimes show little of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// `CNI_COMMAND`.
    pub verb: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// The specification's code, or ours from 100 on.
    pub code: u32,
    /// What went wrong, with details.
    pub message: String,
}

/// GC: release every attachment of the network that is not in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Name of the network.
    pub network: String,
    /// What still exists; the network of each is ignored.
    pub valid: Vec<Attachment>,
}
