//! The address families that carry routes.

use crate::wire::AfiSafi;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A family of unicast routes. [`AfiSafi`] is what the wire may carry, this is what a RIB holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// AFI 1, SAFI 1.
    #[serde(rename = "ipv4-unicast")]
    Ipv4,
    /// AFI 2, SAFI 1.
    #[serde(rename = "ipv6-unicast")]
    Ipv6,
}

impl Family {
    /// Both, in canonical order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of a prefix.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// The family of a pair from the wire, if it carries routes here.
    #[must_use]
    pub fn from_wire(family: AfiSafi) -> Option<Self> {
        match family {
            AfiSafi::Ipv4Unicast => Some(Self::Ipv4),
            AfiSafi::Ipv6Unicast => Some(Self::Ipv6),
            AfiSafi::Other { .. } => None,
        }
    }

    /// 0 for IPv4, 1 for IPv6: index into arrays of two.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }
}

impl From<Family> for AfiSafi {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Ipv4Unicast,
            Family::Ipv6 => Self::Ipv6Unicast,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        AfiSafi::from(*self).fmt(f)
    }
}
