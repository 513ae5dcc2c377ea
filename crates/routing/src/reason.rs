//! Why a destination has the route it has, in words for people.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::desired::Encapsulation;
use crate::input::{Backend, Family};

/// Where a route to another node comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A BGP route.
    Bgp,
    /// The owner of the block in the datastore.
    Datastore,
}

/// Why there is or isn't a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the sentences of Display are the documentation; fields are what they name")]
pub enum Reason {
    LocalPod { interface: String },
    OwnBlock,
    OwnFullLengthBlock,
    Plain { pool: Option<String>, next_hop: IpAddr, node: Option<String>, source: Source, stale: bool },
    SameSubnet { pool: String, node: String, source: Source },
    Tunnel { pool: String, node: String, encapsulation: Encapsulation, cross_subnet: bool, source: Source },
    Encrypted { node: String, source: Source },
    SwitchedOff { pool: String, encapsulation: Encapsulation },
    TunnelNotYet { pool: String, node: String, next_hop: IpAddr },
    InsideOwnBlock { block: IpNet, next_hop: Option<IpAddr> },
    NextHopIsThisNode { next_hop: IpAddr },
    NextHopUnreachable { next_hop: IpAddr },
    NextHopIsNoNode { next_hop: IpAddr, encapsulation: Encapsulation },
    StaleAndGone { next_hop: IpAddr },
    NotLearned { pool: Option<String>, node: Option<String> },
    UnknownNode { node: String },
    NodeWithoutAddress { node: String, family: Family },
    NodeWithoutTunnel { node: String, family: Family },
    OwnTunnelMissing { family: Family },
    NobodysBlock,
    NotOfBackend { pool: Option<String>, backend: Backend },
    LeftToOthers { pool: String },
    Service,
}

impl Reason {
    /// A person should know of it: it doesn't go away with the next update.
    pub(crate) fn is_problem(&self) -> bool {
        match self {
            Self::InsideOwnBlock { .. }
            | Self::TunnelNotYet { .. }
            | Self::SwitchedOff { .. }
            | Self::NextHopUnreachable { .. }
            | Self::NextHopIsNoNode { .. }
            | Self::UnknownNode { .. }
            | Self::NodeWithoutAddress { .. }
            | Self::NodeWithoutTunnel { .. }
            | Self::OwnTunnelMissing { .. }
            | Self::NotOfBackend { backend: Backend::Vxlan, .. } => true,
            Self::LocalPod { .. }
            | Self::OwnBlock
            | Self::OwnFullLengthBlock
            | Self::Plain { .. }
            | Self::SameSubnet { .. }
            | Self::Tunnel { .. }
            | Self::Encrypted { .. }
            | Self::NextHopIsThisNode { .. }
            | Self::StaleAndGone { .. }
            | Self::NotLearned { .. }
            | Self::NobodysBlock
            | Self::LeftToOthers { .. }
            | Self::Service
            | Self::NotOfBackend { .. } => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bgp => "by BGP",
            Self::Datastore => "by its block in the datastore",
        })
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no encapsulation",
            Self::Ipip => "IPIP",
            Self::Vxlan => "VXLAN",
            Self::Wireguard => "WireGuard",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalPod { interface } => write!(f, "a pod of this node, behind {interface}"),
            Self::OwnBlock => f.write_str("this node's block: addresses without a pod are dropped here"),
            Self::OwnFullLengthBlock => {
                f.write_str("this node's block of one address: only its pod has a route")
            }
            Self::Plain { pool, next_hop, node, source, stale } => {
                match node {
                    Some(node) => write!(f, "to node {node} ({next_hop}) {source}")?,
                    None => write!(f, "via {next_hop} {source}")?,
                }
                match pool {
                    Some(pool) => write!(f, "; IPPool({pool}) uses no encapsulation")?,
                    None => f.write_str("; in no IPPool")?,
                }
                if *stale { f.write_str("; kept over a graceful restart") } else { Ok(()) }
            }
            Self::SameSubnet { pool, node, source } => {
                write!(
                    f,
                    "to node {node} {source}; IPPool({pool}) is CrossSubnet and the node is in our subnet"
                )
            }
            Self::Tunnel { pool, node, encapsulation, cross_subnet, source } => {
                write!(f, "{encapsulation} to node {node} {source}; IPPool({pool}) is ")?;
                f.write_str(if *cross_subnet {
                    "CrossSubnet and the node is in another subnet"
                } else {
                    "Always"
                })
            }
            Self::Encrypted { node, source } => {
                write!(f, "WireGuard to node {node} {source}; both nodes have a key")
            }
            Self::SwitchedOff { pool, encapsulation } => write!(
                f,
                "no route: IPPool({pool}) asks for {encapsulation}, which FelixConfiguration turns off on this node"
            ),
            Self::TunnelNotYet { pool, node, next_hop } => write!(
                f,
                "to node {node} ({next_hop}) by BGP until both nodes have the tunnel that IPPool({pool}) asks for"
            ),
            Self::InsideOwnBlock { block, next_hop } => {
                write!(f, "refused: it is inside this node's own block {block}")?;
                match next_hop {
                    Some(next_hop) => write!(f, "; {next_hop} must not advertise it"),
                    None => f.write_str(", which another block of the datastore overlaps"),
                }
            }
            Self::NextHopIsThisNode { next_hop } => {
                write!(f, "not installed: next hop {next_hop} is this node")
            }
            Self::NextHopUnreachable { next_hop } => {
                write!(f, "not installed: no kernel route leads to next hop {next_hop}")
            }
            Self::NextHopIsNoNode { next_hop, encapsulation } => {
                write!(
                    f,
                    "not installed: it needs {encapsulation}, but next hop {next_hop} is no Node's address"
                )
            }
            Self::StaleAndGone { next_hop } => {
                write!(
                    f,
                    "not installed: only a stale route says {next_hop}, and no Node has that address any more"
                )
            }
            Self::NotLearned { pool, node } => {
                f.write_str("no route: ")?;
                if let Some(node) = node {
                    write!(f, "the block is node {node}'s, but ")?;
                }
                f.write_str("BGP has not learned it")?;
                pool.as_ref().map_or(Ok(()), |pool| write!(f, " (IPPool({pool}))"))
            }
            Self::UnknownNode { node } => {
                write!(
                    f,
                    "no route: its owner Node({node}) does not exist; delete the block if the node is gone"
                )
            }
            Self::NodeWithoutAddress { node, family } => {
                write!(f, "no route: its owner Node({node}) has no {family} address in spec.bgp")
            }
            Self::NodeWithoutTunnel { node, family } => {
                write!(f, "no route: its owner Node({node}) has no {family} VXLAN tunnel address yet")
            }
            Self::OwnTunnelMissing { family } => {
                write!(
                    f,
                    "no route: this node has no {family} address or no VXLAN tunnel address of that family yet"
                )
            }
            Self::NobodysBlock => f.write_str("no route: the block belongs to no node"),
            Self::LeftToOthers { pool } => write!(
                f,
                "no route of ours: programClusterRoutes of BGPConfiguration and FelixConfiguration leaves IPPool({pool}) to others"
            ),
            Self::Service => f.write_str(
                "no route: it is of services, which every node finds by itself (serviceClusterIPs and its like of BGPConfiguration)",
            ),
            Self::NotOfBackend { backend: Backend::None, .. } => {
                f.write_str("no route of ours: this agent's backend is none")
            }
            Self::NotOfBackend { pool, backend } => {
                f.write_str("no route: ")?;
                if let Some(pool) = pool {
                    write!(f, "IPPool({pool}) needs BGP, and ")?;
                }
                write!(f, "this agent's backend is {backend}: set vxlanMode, or backend: bgp")
            }
        }
    }
}
