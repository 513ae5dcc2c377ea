//! The rule language: what a backend has to say to the kernel, without any backend's text.
//!
//! A chain is a list of rules, a rule a conjunction of matches and one action. Sets hold addresses;
//! chains decide. iptables says this as chains and ip sets, nftables as one table with sets and maps.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Direction, IcmpMatch, PolicyId, PortRange, ProfileId};

/// Address family of a rule set: the kernel keeps two of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order they are written.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// 4 or 6.
    pub const fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// Whether an address belongs to the family.
    pub const fn has(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }

    /// Whether a network belongs to the family.
    pub const fn has_net(self, net: &IpNet) -> bool {
        matches!((self, net), (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_)))
    }
}

/// A table of the packet filter, in the order a packet meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// Before destination NAT.
    Mangle,
    /// Source NAT of packets leaving the cluster.
    Nat,
    /// Policy.
    Filter,
}

impl Table {
    /// All, in the order they are written: raw first, because anti-spoofing is what dispatch relies on.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Filter, Self::Nat];

    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// Where in the kernel's path of a packet a table's rules hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Every packet that comes in.
    Prerouting,
    /// Packets for the node itself.
    Input,
    /// Packets passing through.
    Forward,
    /// Packets the node makes.
    Output,
    /// Every packet that goes out.
    Postrouting,
}

impl Hook {
    /// The kernel's name of the base chain.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

/// Name of a chain: `mgy-…`, at most 28 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(pub Arc<str>);

impl Borrow<str> for ChainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a set without its family: the kernel sees `mgy40<name>` and `mgy60<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(pub Arc<str>);

impl SetName {
    /// The kernel's name of the set of one family, at most 31 bytes.
    pub fn kernel_name(&self, family: Family) -> String {
        format!("mgy{}0{}", family.version(), self.0)
    }
}

/// What a set's members are and which parts of a packet they are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// Addresses and networks.
    Net,
    /// Addresses alone.
    Host,
    /// Address, protocol and port.
    IpPort,
    /// Network and the interface on the pod's side of the node.
    NetIface,
    /// Address and that interface.
    HostIface,
    /// A map from network and interface to the chain of the endpoint's group, by the direction of the packet.
    Dispatch,
    /// The same from address and interface.
    HostDispatch,
}

impl SetType {
    /// Whether members may be networks.
    pub const fn has_networks(self) -> bool {
        matches!(self, Self::Net | Self::NetIface | Self::Dispatch)
    }

    /// Whether members lead to chains.
    pub const fn is_map(self) -> bool {
        matches!(self, Self::Dispatch | Self::HostDispatch)
    }
}

/// A member of a set of one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// Of [`SetType::Net`], or of [`SetType::Host`] if it is a single address; so with the others.
    Net(IpNet),
    /// Of [`SetType::IpPort`]: address, IP protocol number, port.
    IpPort(IpAddr, u8, u16),
    /// Of [`SetType::NetIface`].
    NetIface(IpNet, Arc<str>),
    /// Of [`SetType::Dispatch`].
    Dispatch(IpNet, Arc<str>, ChainName),
}

impl Member {
    /// The family it belongs to.
    pub const fn family(&self) -> Family {
        match self {
            Self::Net(IpNet::V4(_))
            | Self::IpPort(IpAddr::V4(_), ..)
            | Self::NetIface(IpNet::V4(_), _)
            | Self::Dispatch(IpNet::V4(_), ..) => Family::V4,
            _ => Family::V6,
        }
    }
}

/// How a backend finds the group of a packet's endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DispatchBy {
    /// One set per group, searched one after the other.
    Sets,
    /// One map, whatever the number of groups; and what holds no networks is a hash table of its own type.
    Map,
}

/// One end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Source address, source port, incoming interface.
    Source,
    /// Destination address, destination port, outgoing interface.
    Destination,
}

/// States of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Conntrack {
    /// Part of a connection that was let through, or related to one.
    Established,
    /// Belongs to no connection it could belong to.
    Invalid,
    /// Its destination was rewritten.
    DestinationNat,
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// Interface; a trailing `+` stands for any rest.
    Interface {
        /// Incoming or outgoing.
        side: Side,
        /// Name.
        name: Arc<str>,
        /// Any but this one.
        negated: bool,
    },
    /// IP protocol number.
    Protocol {
        /// Number.
        number: u8,
        /// Any but this one.
        negated: bool,
    },
    /// Address in a network.
    Net {
        /// Which address.
        side: Side,
        /// Network.
        net: IpNet,
        /// Not in it.
        negated: bool,
    },
    /// A socket of the node sends the packet. Only where packets leave the node.
    OwnSocket,
    /// In a set.
    Set {
        /// Which end.
        side: Side,
        /// The set.
        set: SetName,
        /// Its type: what is compared.
        kind: SetType,
        /// Not in it.
        negated: bool,
    },
    /// Port in one of at most 15 slots, a range taking two. Needs a [`Match::Protocol`] that has ports.
    Ports {
        /// Which end.
        side: Side,
        /// Ranges.
        ranges: Vec<PortRange>,
        /// In none of them.
        negated: bool,
    },
    /// ICMP or ICMPv6 type and code, by the family of the rule. Needs the [`Match::Protocol`].
    Icmp {
        /// Type and code.
        icmp: IcmpMatch,
        /// Any other.
        negated: bool,
    },
    /// State of connection tracking.
    Conntrack {
        /// State.
        state: Conntrack,
        /// Any other.
        negated: bool,
    },
    /// All these bits of the packet's mark are set, or all are clear.
    Mark {
        /// Bits.
        bits: u32,
        /// Set or clear.
        set: bool,
    },
    /// The address is one of the node's own.
    Local {
        /// Which address.
        side: Side,
    },
}

/// NFLOG group of packets that policy drops.
pub const FLOW_LOG_GROUP: u16 = 180;

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let the packet through; no further rule of the table sees it.
    Accept,
    /// Drop it silently.
    Drop,
    /// Drop it, and tell its sender that nobody is there (ICMP port unreachable).
    Reject,
    /// Back to the calling chain.
    Return,
    /// Run a chain, come back.
    Jump(ChainName),
    /// Run a chain, come back to the caller of this one.
    Goto(ChainName),
    /// Go on in the chain that a map ([`SetType::is_map`]) has for (address, interface), if it has one. Only
    /// for backends with [`DispatchBy::Map`].
    GotoMapped {
        /// Which address and interface.
        side: Side,
        /// The map.
        map: SetName,
    },
    /// Set bits of the mark, then back to the calling chain.
    MarkAndReturn(u32),
    /// Set bits of the mark and go on.
    SetMark(u32),
    /// Clear bits of the mark and go on.
    ClearMark(u32),
    /// Leave the packet out of connection tracking.
    NoTrack,
    /// Source NAT with a fully random port.
    SourceNat {
        /// The new source, for IPv4; absent: the address of the outgoing interface.
        to: Option<Ipv4Addr>,
        /// Source ports; absent: any. Only behind a match on a protocol with ports.
        ports: Option<PortRange>,
    },
    /// Log with a prefix and go on.
    Log(Arc<str>),
    /// Hand the packet's head to whoever has the NFLOG group of [`FLOW_LOG_GROUP`], and go on.
    LogFlow,
}

/// Whose rule it is: what counters and explain speak in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A policy.
    Policy(PolicyId),
    /// A profile.
    Profile(ProfileId),
}

/// A policy's rule that a kernel rule comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Policy or profile.
    pub owner: Owner,
    /// Direction.
    pub direction: Direction,
    /// [`crate::model::PolicyRule::index`].
    pub index: u32,
}

/// One rule: all matches hold, then the action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Conditions, ANDed.
    pub matches: Vec<Match>,
    /// What happens.
    pub action: Action,
    /// For people who read the kernel's rules.
    pub note: Option<Arc<str>>,
    /// The policy's rule it enforces.
    pub origin: Option<Origin>,
}

impl Rule {
    /// A rule of the fixed part.
    pub fn new(matches: impl Into<Vec<Match>>, action: Action) -> Self {
        Self { matches: matches.into(), action, note: None, origin: None }
    }

    /// With a remark.
    #[must_use]
    pub fn note(mut self, note: impl Into<Arc<str>>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// Rules of ours in a chain that belongs to everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseRules {
    /// Kept before all other rules.
    pub first: Vec<Rule>,
    /// Put behind the rules that are there.
    pub last: Vec<Rule>,
}

/// What one table of one family has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableRules {
    /// Our rules in the kernel's own chains.
    pub base: BTreeMap<Hook, BaseRules>,
    /// Our chains.
    pub chains: BTreeMap<ChainName, Arc<Vec<Rule>>>,
}

/// Identity of a table in the kernel.
pub type TableId = (Family, Table);

/// A set of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Type.
    pub kind: SetType,
    /// Members of both families; prefix length 0 written as two halves.
    pub members: BTreeSet<Member>,
}
