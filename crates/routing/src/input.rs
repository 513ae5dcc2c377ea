//! What the decisions are made from.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Serialize};

use crate::desired::Encapsulation;

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Of a prefix.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Of an address.
    pub fn of_addr(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Where BGP says that packets go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// NEXT_HOP.
    pub address: IpAddr,
    /// For a neighbour, its link-local address and our interface (RFC 2545). Always there if `address` is link-local.
    pub link_local: Option<(Ipv6Addr, String)>,
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        Self { address, link_local: None }
    }
}

/// A prefix the BGP speaker has chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BgpRoute {
    /// The destination.
    pub prefix: IpNet,
    /// Next hops, several for ECMP. Order and repetition don't matter.
    pub next_hops: Vec<NextHop>,
    /// Kept over a graceful restart; the peer hasn't confirmed it yet.
    pub stale: bool,
}

/// A route of the kernel that is not ours: how the node reaches its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnderlayRoute {
    /// The destination.
    pub prefix: IpNet,
    /// The router; absent when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Interface.
    pub dev: String,
    /// Kernel metric; lower is preferred. Several routes equal in prefix and metric share the traffic.
    pub metric: u32,
    /// The router counts as on the link although no route says so.
    pub onlink: bool,
}

/// Where a family's packets to other nodes leave.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    /// The interface with the node's address; absent when that is no interface that packets leave by, as with routing on the
    /// host.
    pub name: Option<String>,
    /// The largest packet that fits, octets.
    pub mtu: u32,
}

/// Who brings packets to other nodes (Calico's `calico_backend`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// BGP, and tunnels as the pools say.
    #[default]
    #[serde(alias = "bird")]
    Bgp,
    /// VXLAN alone, from the blocks in the datastore; pools without it end at their node.
    Vxlan,
    /// Somebody else: only this node's own pods have routes.
    None,
}

impl Backend {
    /// What is sent to nodes of such a pool is this node's to send.
    pub(crate) fn carries(self, encapsulation: Encapsulation) -> bool {
        match self {
            Self::Bgp => true,
            Self::Vxlan => encapsulation == Encapsulation::Vxlan,
            Self::None => false,
        }
    }
}

impl std::str::FromStr for Backend {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bgp => "bgp",
            Self::Vxlan => "vxlan",
            Self::None => "none",
        })
    }
}
