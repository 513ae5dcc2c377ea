//! Capabilities (RFC 5492).

use bytes::Bytes;
use serde::Serialize;

use super::AfiSafi;

/// One capability of an OPEN.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// 1: a family the sender carries (RFC 4760).
    MultiProtocol(AfiSafi),
    /// 2: accepts ROUTE-REFRESH (RFC 2918).
    RouteRefresh,
    /// 5: IPv4 prefixes may have an IPv6 next hop (RFC 8950). Each entry: family and AFI of the next hop.
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// 6: accepts messages up to 65535 octets (RFC 8654).
    ExtendedMessage,
    /// 64: graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// 65: the sender's AS in four octets (RFC 6793).
    FourOctetAs(u32),
    /// 69: several paths per prefix (RFC 7911).
    AddPath(Vec<AddPathFamily>),
    /// 70: enhanced route refresh (RFC 7313).
    EnhancedRouteRefresh,
    /// 71: long-lived graceful restart (RFC 9494).
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// 73: names for people (draft-walton-bgp-hostname-capability).
    Fqdn {
        /// Host name.
        host: String,
        /// Domain name; cut when both together have more than 253 octets.
        domain: String,
    },
    /// Any other.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        #[serde(serialize_with = "super::notification::serialize_hex")]
        value: Bytes,
    },
}

impl Capability {
    /// Capability code (IANA).
    pub fn code(&self) -> u8 {
        match self {
            Self::MultiProtocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(_) => 5,
            Self::ExtendedMessage => 6,
            Self::GracefulRestart(_) => 64,
            Self::FourOctetAs(_) => 65,
            Self::AddPath(_) => 69,
            Self::EnhancedRouteRefresh => 70,
            Self::LongLivedGracefulRestart(_) => 71,
            Self::Fqdn { .. } => 73,
            Self::Unknown { code, .. } => *code,
        }
    }
}

/// The graceful restart capability (RFC 4724 section 3, RFC 8538 section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct GracefulRestart {
    /// R: the sender has restarted and waits for End-of-RIB.
    pub restarted: bool,
    /// N: a NOTIFICATION (other than Hard Reset) and hold timer expiry also keep routes (RFC 8538).
    pub notification: bool,
    /// Seconds until the sender is back, 0..=4095.
    pub time: u16,
    /// Families whose routes are to be kept.
    pub families: Vec<GracefulRestartFamily>,
}

/// A family in the graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct GracefulRestartFamily {
    /// The family.
    pub family: AfiSafi,
    /// F: forwarding went on while the sender restarted.
    pub forwarding: bool,
}

/// A family in the long-lived graceful restart capability (RFC 9494 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LongLivedFamily {
    /// The family.
    pub family: AfiSafi,
    /// F: forwarding went on while the sender restarted.
    pub forwarding: bool,
    /// Seconds that stale routes may be kept, 0..=16777215.
    pub stale_time: u32,
}

/// A family in the ADD-PATH capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AddPathFamily {
    /// The family.
    pub family: AfiSafi,
    /// What the sender can do.
    pub mode: AddPathMode,
}

/// Direction of ADD-PATH as its sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum AddPathMode {
    /// 1: can receive several paths.
    Receive = 1,
    /// 2: can send several paths.
    Send = 2,
    /// 3: both.
    Both = 3,
}

impl AddPathMode {
    /// Receive or both.
    pub fn receives(self) -> bool {
        self != Self::Send
    }

    /// Send or both.
    pub fn sends(self) -> bool {
        self != Self::Receive
    }
}
