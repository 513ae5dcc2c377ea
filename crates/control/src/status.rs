//! State of a daemon, its addresses, endpoints and policies.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// State of a daemon as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// `margay-agent` or `margay-route-reflector`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// All components are ready.
    pub ready: bool,
    /// Each component with what it says.
    pub components: Vec<Component>,
    /// Objects that could not be used, and why: they are quarantined, the rest goes on.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// One part of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `datastore`, `bgp`, `ipam`, `policy`, `routes`, `cni`.
    pub name: String,
    /// Does its work.
    pub ready: bool,
    /// One sentence.
    pub message: String,
}

/// An object in quarantine or a condition a person should know of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The object, for example `Node(node3)`.
    pub object: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamStatus {
    /// Name of the node.
    pub node: String,
    /// Its blocks.
    pub blocks: Vec<IpamBlock>,
    /// Its addresses in use.
    pub addresses: Vec<IpamAddress>,
}

/// A block of addresses a node owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamBlock {
    /// The block.
    pub cidr: IpNet,
    /// Name of the pool it comes from.
    pub pool: String,
    /// Addresses in use.
    pub used: u64,
    /// Released addresses that rest before anybody gets them again (`IPAMConfiguration.ipCooldownSeconds`).
    pub cooling: u64,
    /// Addresses in all (saturating).
    pub total: u64,
}

/// An address in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamAddress {
    /// The address.
    pub address: IpAddr,
    /// Who holds it: `<network>.<containerID>.<ifname>` or a tunnel handle.
    pub handle: String,
    /// `namespace/pod`, if it is a pod's.
    pub pod: Option<String>,
}

/// Addresses to free by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Also those of which this node does not know whether anybody uses them.
    #[serde(default)]
    pub force: bool,
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The address.
    pub address: IpAddr,
    /// Who had it.
    pub handle: Option<String>,
    /// Why it was not released.
    pub refused: Option<String>,
}

/// A tunnel device of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Name of the device.
    pub device: String,
    /// `IPIP`, `VXLAN` or `WireGuard`.
    pub kind: String,
    /// Its own address.
    pub address: Option<IpNet>,
    /// MTU, octets.
    pub mtu: u32,
    /// Other ends that are known one by one; with IPIP that is the routes' business.
    pub peers: Vec<TunnelPeer>,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeer {
    /// Name of the node; absent: the kernel has a peer that this node does not want.
    pub node: Option<String>,
    /// Where the outer packets go.
    pub endpoint: Option<String>,
    /// WireGuard: its public key.
    pub key: Option<String>,
    /// WireGuard: seconds since keys were last agreed on; absent: not yet.
    pub last_handshake: Option<u64>,
    /// WireGuard: octets received.
    pub received: u64,
    /// WireGuard: octets sent.
    pub sent: u64,
}

/// A local endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the WorkloadEndpoint.
    pub name: String,
    /// Host side of its veth pair.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Route and policy are in the kernel.
    pub live: bool,
    /// Policies in evaluation order, as `tier/kind(namespace/name)`.
    pub policies: Vec<String>,
}

/// A policy this node enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its tier.
    pub tier: String,
    /// Kind, namespace and name as text.
    pub name: String,
    /// Counted and explained only.
    pub staged: bool,
    /// Local endpoints it applies to.
    pub endpoints: u64,
    /// Rules in each direction.
    pub ingress_rules: u64,
    /// Rules in each direction.
    pub egress_rules: u64,
    /// Packets its rules have matched since they were written.
    pub packets: u64,
    /// Why the policy could not be read; it then denies.
    pub invalid: Option<String>,
}
