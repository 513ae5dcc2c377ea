//! The five messages and their common header (RFC 4271 section 4.1).

use std::fmt;

use serde::Serialize;

use super::{AttributeFault, Notification, Open, RouteRefresh, Update};

/// Octets of the marker, all ones.
pub const MARKER_LEN: usize = 16;
/// Octets of the header: marker, length, type.
pub const HEADER_LEN: usize = 19;
/// The longest message without the extended message capability, header included.
pub const MAX_MESSAGE_LEN: usize = 4096;
/// The longest message with it (RFC 8654).
pub const MAX_EXTENDED_MESSAGE_LEN: usize = 65535;

/// The type octet of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum MessageType {
    /// 1.
    Open = 1,
    /// 2.
    Update = 2,
    /// 3.
    Notification = 3,
    /// 4.
    Keepalive = 4,
    /// 5 (RFC 2918).
    RouteRefresh = 5,
}

impl MessageType {
    /// The type of an octet from the wire.
    pub fn new(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "OPEN",
            Self::Update => "UPDATE",
            Self::Notification => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh => "ROUTE-REFRESH",
        })
    }
}

/// A BGP message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "UPDATE is the common one: no allocation for it")]
pub enum Message {
    /// Opens a session.
    Open(Open),
    /// Announces and withdraws routes.
    Update(Update),
    /// Ends the session.
    Notification(Notification),
    /// Keeps the hold timer from expiring.
    Keepalive,
    /// Asks for routes again, or brackets their repetition.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// The type of the message.
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Update(_) => MessageType::Update,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}

/// A decoded message, and what was wrong in it without ending the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decoded {
    /// The message, with the faults' actions already applied: routes to be treated as withdrawn are in `withdrawn`.
    pub message: Message,
    /// What was wrong, in the order of the message; for logs and counters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<AttributeFault>,
}
