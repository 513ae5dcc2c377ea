//! What the kernel should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::input::Family;
use margay_api::types::{MacAddr, WireguardKey};

/// How packets reach another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// As they are.
    None,
    /// In IPv4 (protocol 4).
    Ipip,
    /// In UDP, RFC 7348.
    Vxlan,
    /// Encrypted, in UDP.
    Wireguard,
}

/// Which of our two kernel route protocols owns a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Routes to pods of this node.
    Pods,
    /// Routes to blocks, this node's and others'.
    Cluster,
}

impl Protocol {
    /// The number in `rtm_protocol`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Pods => 180,
            Self::Cluster => 181,
        }
    }
}

/// Which next hops are one and the same thing: all routes with equal keys can share one nexthop object, and when
/// what the key stands for changes (the node's address, the pool's encapsulation, the router before the node), that object
/// is the only thing to change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HopKey {
    /// A node, for the addresses of one pool: which decides how it is reached.
    Node {
        /// Name of the node.
        node: String,
        /// Name of the pool; absent for what is in no pool.
        pool: Option<String>,
        /// Family of the node's address.
        family: Family,
        /// Which of several equally good ways of the kernel to that address.
        way: usize,
    },
    /// A router that is no node.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// The interface towards it.
        dev: String,
    },
}

/// One next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Hop {
    /// See [`HopKey`]. Hops with equal keys are equal.
    pub key: HopKey,
    /// Where the packet goes next; for an IPv4 destination it may be an IPv6 address (RFC 8950). Absent: the device knows by the
    /// destination, as WireGuard does.
    pub gateway: Option<IpAddr>,
    /// Interface.
    pub dev: String,
    /// The gateway is taken to be on the link although no route says so (`RTNH_F_ONLINK`).
    pub onlink: bool,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// `dev X scope link`: a pod behind its veth.
    Link {
        /// Interface.
        dev: String,
    },
    /// `via …`, several hops for ECMP; never empty, sorted.
    Via(Arc<[Hop]>),
    /// `blackhole`: unassigned addresses of an own block must not go to the default gateway.
    Blackhole,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Route {
    /// The destination.
    pub prefix: IpNet,
    /// Owner.
    pub protocol: Protocol,
    /// What it does.
    pub target: Target,
    /// Kernel metric (`RTA_PRIORITY`); 0: the kernel's own.
    #[serde(skip_serializing_if = "is_zero")]
    pub metric: u32,
}

impl Route {
    /// The same, with next hops that are equal to the last ones shared with them.
    pub(crate) fn sharing(mut self, last: &mut Option<Arc<[Hop]>>) -> Self {
        if let Target::Via(hops) = &mut self.target {
            match last {
                Some(last) if last == hops => hops.clone_from(last),
                _ => *last = Some(Arc::clone(hops)),
            }
        }
        self
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Link { dev } => write!(f, "{} dev {dev} scope link", self.prefix)?,
            Target::Blackhole => write!(f, "blackhole {}", self.prefix)?,
            Target::Via(hops) => {
                write!(f, "{}", self.prefix)?;
                for hop in hops.iter() {
                    if hops.len() > 1 {
                        f.write_str(" nexthop")?;
                    }
                    if let Some(gateway) = hop.gateway {
                        write!(f, " via {gateway}")?;
                    }
                    write!(f, " dev {}", hop.dev)?;
                    if hop.onlink {
                        f.write_str(" onlink")?;
                    }
                }
            }
        }
        write!(f, " proto {}", self.protocol.number())?;
        if self.metric > 0 { write!(f, " metric {}", self.metric) } else { Ok(()) }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(metric: &u32) -> bool {
    *metric == 0
}

/// A VXLAN device (one per family), without learning, with static entries only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VxlanDevice {
    /// Name.
    pub name: String,
    /// Network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// This node's address: outer source.
    pub local: IpAddr,
    /// Interface the outer packets leave by.
    pub parent: Option<String>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its own address, /32 or /128.
    pub address: IpNet,
    /// MTU, octets.
    pub mtu: u32,
    /// Checksums of packets inside are left to the interface the outer packets leave by.
    pub offloads_checksums: bool,
}

/// The IPIP device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpipDevice {
    /// Name.
    pub name: String,
    /// This node's address: outer source.
    pub local: Ipv4Addr,
    /// Its own address, /32; absent until the node has one.
    pub address: Option<IpNet>,
    /// MTU, octets.
    pub mtu: u32,
}

/// A WireGuard device (one per family).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WireguardDevice {
    /// Name.
    pub name: String,
    /// UDP port it listens on.
    pub port: u16,
    /// Its own address, /32 or /128; absent until the node has one.
    pub address: Option<IpNet>,
    /// MTU, octets.
    pub mtu: u32,
    /// Bit of the packet mark that encrypted packets have, so that they are not encrypted again.
    pub mark: u32,
    /// Other nodes by their keys.
    pub peers: BTreeMap<WireguardKey, WireguardPeer>,
    /// Packets to the peers' own addresses go through it too.
    pub nodes: Option<WireguardNodes>,
}

/// Another node, as a WireGuard device knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WireguardPeer {
    /// Name of the node.
    pub node: String,
    /// Where its device listens.
    pub endpoint: SocketAddr,
    /// Seconds between packets that keep a path open; 0: none.
    pub keepalive: u16,
    /// What is sent to it and taken from it.
    pub allowed: BTreeSet<IpNet>,
}

/// How packets between nodes get into the tunnel without tunnel packets getting there too: a routing table of their own, which
/// a rule leads to all packets but those with the device's mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WireguardNodes {
    /// This node's address, their source.
    pub source: IpAddr,
    /// Priority of the rule.
    pub rule_priority: u32,
}

/// `bridge fdb append MAC dev DEV dst ADDRESS`: which node the MAC address of a VTEP is at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FdbEntry {
    /// The VXLAN device.
    pub dev: String,
    /// MAC address of the peer's VXLAN device.
    pub mac: MacAddr,
    /// Address of the peer: outer destination.
    pub destination: IpAddr,
}

/// `ip neigh replace ADDRESS lladdr MAC dev DEV nud permanent`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Neighbour {
    /// The VXLAN device.
    pub dev: String,
    /// Address of the peer's VXLAN device: for IPv4 its own, for IPv6 its link-local one.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
}

/// Source NAT of what leaves the cluster: from `masquerade` to anything but `pools`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NatOutgoing {
    /// Pools with `natOutgoing`.
    pub masquerade: BTreeSet<IpNet>,
    /// All pools that pods may have addresses of.
    pub pools: BTreeSet<IpNet>,
}

/// Something a person should know of. The object named is left out; the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object, for example `Node(n3)` or `10.65.3.0/24`.
    pub object: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// What goes with the routes and changes rarely: devices, their static entries, NAT, MTU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tunnels {
    /// VXLAN devices; absent when no pool uses VXLAN or this node can't take part yet.
    pub vxlan: BTreeMap<Family, VxlanDevice>,
    /// IPIP device; absent when no pool uses IPIP or the node has no IPv4 address.
    pub ipip: Option<IpipDevice>,
    /// WireGuard devices; absent where it is off or the node has no address.
    pub wireguard: BTreeMap<Family, WireguardDevice>,
    /// Addresses of this node that its workloads speak BGP with.
    pub workload_peering: BTreeSet<IpNet>,
    /// Entries of the VXLAN devices' forwarding databases.
    pub fdb: BTreeSet<FdbEntry>,
    /// Permanent neighbours on the VXLAN devices.
    pub neighbours: BTreeSet<Neighbour>,
    /// Source NAT, both families in one set; split when rendered.
    pub nat_outgoing: NatOutgoing,
    /// MTU of pods' interfaces, octets.
    pub pod_mtu: u32,
}

/// What changed since it was last asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New routes by destination; absent: not wanted any more.
    pub routes: BTreeMap<IpNet, Option<Route>>,
    /// The tunnels changed.
    pub tunnels: bool,
    /// What is wrong changed.
    pub problems: bool,
}
