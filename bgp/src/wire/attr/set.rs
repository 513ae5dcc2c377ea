//! The attribute set of a route.

use std::{fmt, net::Ipv4Addr};

use serde::Serialize;

use super::{AsPath, Community, ExtendedCommunity, LargeCommunity};
use crate::wire::{List, SortedSet, notification::serialize_hex};

/// An attribute type code (IANA BGP Path Attributes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeCode(pub u8);

impl AttributeCode {
    /// RFC 4271 section 5.1.1.
    pub const ORIGIN: Self = Self(1);
    /// RFC 4271 section 5.1.2.
    pub const AS_PATH: Self = Self(2);
    /// RFC 4271 section 5.1.3.
    pub const NEXT_HOP: Self = Self(3);
    /// RFC 4271 section 5.1.4.
    pub const MULTI_EXIT_DISC: Self = Self(4);
    /// RFC 4271 section 5.1.5.
    pub const LOCAL_PREF: Self = Self(5);
    /// RFC 4271 section 5.1.6.
    pub const ATOMIC_AGGREGATE: Self = Self(6);
    /// RFC 4271 section 5.1.7.
    pub const AGGREGATOR: Self = Self(7);
    /// RFC 1997.
    pub const COMMUNITIES: Self = Self(8);
    /// RFC 4456.
    pub const ORIGINATOR_ID: Self = Self(9);
    /// RFC 4456.
    pub const CLUSTER_LIST: Self = Self(10);
    /// RFC 4760.
    pub const MP_REACH_NLRI: Self = Self(14);
    /// RFC 4760.
    pub const MP_UNREACH_NLRI: Self = Self(15);
    /// RFC 4360.
    pub const EXTENDED_COMMUNITIES: Self = Self(16);
    /// RFC 6793.
    pub const AS4_PATH: Self = Self(17);
    /// RFC 6793.
    pub const AS4_AGGREGATOR: Self = Self(18);
    /// RFC 8092.
    pub const LARGE_COMMUNITIES: Self = Self(32);
}

/// ORIGIN (RFC 4271 section 5.1.1); lower is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Origin {
    /// 0: interior to the originating AS.
    #[default]
    Igp = 0,
    /// 1: learned through EGP.
    Egp = 1,
    /// 2: learned in some other way.
    Incomplete = 2,
}

impl Origin {
    /// The origin of an octet from the wire.
    pub fn new(octet: u8) -> Option<Self> {
        match octet {
            0 => Some(Self::Igp),
            1 => Some(Self::Egp),
            2 => Some(Self::Incomplete),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "igp",
            Self::Egp => "egp",
            Self::Incomplete => "incomplete",
        })
    }
}

/// AGGREGATOR (RFC 4271 section 5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Aggregator {
    /// AS of the speaker that aggregated, not 0.
    pub asn: u32,
    /// Its BGP identifier.
    pub id: Ipv4Addr,
}

impl fmt::Display for Aggregator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{} {}", self.asn, self.id)
    }
}

/// An optional transitive attribute that is passed on without being understood (RFC 4271 section 5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UnknownAttribute {
    /// Type code.
    #[serde(serialize_with = "serialize_number")]
    pub code: AttributeCode,
    /// Value. It goes out with the flags optional, transitive and partial.
    #[serde(serialize_with = "serialize_value")]
    pub value: List<u8>,
}

fn serialize_number<S: serde::Serializer>(code: &AttributeCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(code.0)
}

fn serialize_value<S: serde::Serializer>(value: &List<u8>, serializer: S) -> Result<S::Ok, S::Error> {
    serialize_hex(value, serializer)
}

/// All attributes of a route but the next hop, in canonical form: two routes whose attributes mean the same have
/// equal, equally hashing values, so that the set can be interned. Clones share the lists.
///
/// NEXT_HOP, MP_REACH_NLRI and MP_UNREACH_NLRI are not in here: they are in [`Update`](crate::wire::Update).
/// AS4_PATH and AS4_AGGREGATOR are merged into `as_path` and `aggregator` (RFC 6793 section 4.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH.
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE is present.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES.
    #[serde(skip_serializing_if = "is_empty")]
    pub communities: SortedSet<Community>,
    /// ORIGINATOR_ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST, nearest reflector first.
    #[serde(skip_serializing_if = "is_empty")]
    pub cluster_list: List<Ipv4Addr>,
    /// EXTENDED_COMMUNITIES.
    #[serde(skip_serializing_if = "is_empty")]
    pub extended_communities: SortedSet<ExtendedCommunity>,
    /// LARGE_COMMUNITIES.
    #[serde(skip_serializing_if = "is_empty")]
    pub large_communities: SortedSet<LargeCommunity>,
    /// Unrecognised optional transitive attributes by ascending code, one per code.
    #[serde(skip_serializing_if = "is_empty")]
    pub unknown: List<UnknownAttribute>,
}

fn is_empty<T>(items: &[T]) -> bool {
    items.is_empty()
}

impl PathAttributes {
    /// These attributes as a reflector passes them on (RFC 4456 section 8): ORIGINATOR_ID unless there is one, and the
    /// reflector's cluster in front of CLUSTER_LIST. `originator` is the BGP identifier of the peer that sent the route.
    #[must_use]
    pub fn reflected(&self, originator: Ipv4Addr, cluster: Ipv4Addr) -> Self {
        let mut reflected = self.clone();
        reflected.reflect(originator, cluster);
        reflected
    }

    /// Makes of these what [`Self::reflected`] gives.
    pub fn reflect(&mut self, originator: Ipv4Addr, cluster: Ipv4Addr) {
        self.originator_id.get_or_insert(originator);
        self.cluster_list = std::iter::once(cluster).chain(self.cluster_list.iter().copied()).collect();
    }
}

impl fmt::Display for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match super::desc::find(*self) {
            Some(desc) => f.write_str(desc.name),
            None => write!(f, "attribute {}", self.0),
        }
    }
}

impl fmt::Debug for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for AttributeCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
