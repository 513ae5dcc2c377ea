//! Address families (RFC 4760, IANA AFI and SAFI registries).

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

/// AFI of IPv4.
pub(super) const AFI_IPV4: u16 = 1;
/// AFI of IPv6.
pub(super) const AFI_IPV6: u16 = 2;
/// SAFI of unicast forwarding.
pub(super) const SAFI_UNICAST: u8 = 1;

/// An (AFI, SAFI) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AfiSafi {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
    /// A pair that this speaker carries no routes for. Never one of the two above when built by [`AfiSafi::new`].
    Other {
        /// Address family identifier.
        afi: u16,
        /// Subsequent address family identifier.
        safi: u8,
    },
}

impl AfiSafi {
    /// Both families that carry routes here, in canonical order.
    pub const SUPPORTED: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The family of a pair of numbers from the wire.
    pub fn new(afi: u16, safi: u8) -> Self {
        match (afi, safi) {
            (AFI_IPV4, SAFI_UNICAST) => Self::Ipv4Unicast,
            (AFI_IPV6, SAFI_UNICAST) => Self::Ipv6Unicast,
            _ => Self::Other { afi, safi },
        }
    }

    /// The family in which a prefix is announced.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4Unicast,
            IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }

    /// Address family identifier.
    pub fn afi(self) -> u16 {
        match self {
            Self::Ipv4Unicast => AFI_IPV4,
            Self::Ipv6Unicast => AFI_IPV6,
            Self::Other { afi, .. } => afi,
        }
    }

    /// Subsequent address family identifier.
    pub fn safi(self) -> u8 {
        match self {
            Self::Ipv4Unicast | Self::Ipv6Unicast => SAFI_UNICAST,
            Self::Other { safi, .. } => safi,
        }
    }
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4Unicast => f.write_str("ipv4-unicast"),
            Self::Ipv6Unicast => f.write_str("ipv6-unicast"),
            Self::Other { afi, safi } => write!(f, "afi-{afi}/safi-{safi}"),
        }
    }
}

impl Serialize for AfiSafi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One value for each family that carries routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PerFamily<T> {
    /// The value for IPv4 unicast.
    pub ipv4: T,
    /// The value for IPv6 unicast.
    pub ipv6: T,
}

impl<T> PerFamily<T> {
    /// The value of a family, none for a family that carries no routes here.
    pub fn get(&self, family: AfiSafi) -> Option<&T> {
        match family {
            AfiSafi::Ipv4Unicast => Some(&self.ipv4),
            AfiSafi::Ipv6Unicast => Some(&self.ipv6),
            AfiSafi::Other { .. } => None,
        }
    }

    /// Like [`Self::get`], to change the value.
    pub fn get_mut(&mut self, family: AfiSafi) -> Option<&mut T> {
        match family {
            AfiSafi::Ipv4Unicast => Some(&mut self.ipv4),
            AfiSafi::Ipv6Unicast => Some(&mut self.ipv6),
            AfiSafi::Other { .. } => None,
        }
    }
}

/// A set of the families that carry routes.
pub type FamilySet = PerFamily<bool>;

impl FamilySet {
    /// No family.
    pub const NONE: Self = Self { ipv4: false, ipv6: false };
    /// IPv4 and IPv6 unicast.
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };

    /// Whether `family` is in the set; never for [`AfiSafi::Other`].
    pub fn has(&self, family: AfiSafi) -> bool {
        self.get(family).copied().unwrap_or(false)
    }

    /// The families in the set, in canonical order.
    pub fn iter(self) -> impl Iterator<Item = AfiSafi> {
        AfiSafi::SUPPORTED.into_iter().filter(move |family| self.has(*family))
    }
}

impl FromIterator<AfiSafi> for FamilySet {
    fn from_iter<I: IntoIterator<Item = AfiSafi>>(families: I) -> Self {
        let mut set = Self::NONE;
        for family in families {
            if let Some(slot) = set.get_mut(family) {
                *slot = true;
            }
        }
        set
    }
}
