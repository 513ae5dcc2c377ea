//! What can be wrong with a message, and what follows from it (RFC 4271 section 6, RFC 7606).

use std::fmt;

use serde::Serialize;

use super::{AfiSafi, AttributeCode, Notification};

/// What RFC 7606 section 2 prescribes for a malformed attribute, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultAction {
    /// The attribute is dropped, the routes stay.
    Discard,
    /// All routes of the UPDATE are withdrawn.
    TreatAsWithdraw,
    /// The session ends with a NOTIFICATION.
    SessionReset,
}

impl fmt::Display for FaultAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discard => "attribute discarded",
            Self::TreatAsWithdraw => "routes treated as withdrawn",
            Self::SessionReset => "session reset",
        })
    }
}

/// Why an attribute is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultReason {
    /// Optional or Transitive bit in conflict with the attribute's definition.
    Flags(u8),
    /// A length that the attribute cannot have.
    Length(u16),
    /// A value that the attribute cannot have.
    Value,
    /// Came more than once; the first one counts.
    Duplicate,
    /// A mandatory attribute is missing.
    Missing,
    /// May not come from this kind of peer.
    NotAllowed,
    /// The attribute does not end where the attributes end.
    Overrun,
    /// Routes of a family that was not negotiated.
    Family(AfiSafi),
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(flags) => write!(f, "bad flags {flags:#04x}"),
            Self::Length(len) => write!(f, "bad length {len}"),
            Self::Value => f.write_str("bad value"),
            Self::Duplicate => f.write_str("came more than once"),
            Self::Missing => f.write_str("missing"),
            Self::NotAllowed => f.write_str("not allowed from this peer"),
            Self::Overrun => f.write_str("runs past the end of the attributes"),
            Self::Family(family) => write!(f, "family {family} was not negotiated"),
        }
    }
}

/// Something wrong with one attribute that did not end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AttributeFault {
    /// Which attribute.
    pub attribute: AttributeCode,
    /// What was wrong.
    pub reason: FaultReason,
    /// What was done: [`FaultAction::Discard`] or [`FaultAction::TreatAsWithdraw`].
    pub action: FaultAction,
    /// Octets from the beginning of the message (header included) to the attribute; for a missing attribute, to the
    /// end of the attributes.
    pub position: usize,
}

impl fmt::Display for AttributeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at octet {}: {}: {}", self.attribute, self.position, self.reason, self.action)
    }
}

/// Why a message ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// The marker is not all ones.
    Marker,
    /// The length field is impossible for the type or the session.
    MessageLength(u16),
    /// The type field is unknown.
    MessageType(u8),
    /// Fields of the message run past its end.
    Truncated,
    /// Another protocol version.
    Version(u8),
    /// AS number 0.
    As,
    /// BGP identifier 0.0.0.0.
    BgpIdentifier,
    /// Hold time of 1 or 2 seconds.
    HoldTime(u16),
    /// An optional parameter that is not Capabilities.
    OptionalParameter(u8),
    /// A capability whose value makes no sense.
    Capability(u8),
    /// An attribute whose fault RFC 7606 does not forgive.
    Attribute(AttributeCode, FaultReason),
    /// A prefix that is too long or cut off.
    Prefix,
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marker => f.write_str("marker is not all ones"),
            Self::MessageLength(len) => write!(f, "impossible message length {len}"),
            Self::MessageType(kind) => write!(f, "unknown message type {kind}"),
            Self::Truncated => f.write_str("fields run past the end of the message"),
            Self::Version(version) => write!(f, "BGP version {version}"),
            Self::As => f.write_str("AS number 0"),
            Self::BgpIdentifier => f.write_str("BGP identifier 0.0.0.0"),
            Self::HoldTime(seconds) => write!(f, "hold time of {seconds} s"),
            Self::OptionalParameter(kind) => write!(f, "unknown optional parameter {kind}"),
            Self::Capability(code) => write!(f, "malformed capability {code}"),
            Self::Attribute(attribute, reason) => write!(f, "{attribute}: {reason}"),
            Self::Prefix => f.write_str("malformed prefix"),
        }
    }
}

/// A message that ends the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{notification}: {reason} at octet {position}")]
pub struct SessionReset {
    /// What to send to the peer before closing.
    pub notification: Notification,
    /// What was wrong.
    pub reason: ResetReason,
    /// Octets from the beginning of the message, header included.
    pub position: usize,
}

/// A message that cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum EncodeError {
    /// The attributes leave no room for a prefix. The route is to be withdrawn instead (RFC 4271 section 9.2).
    #[error("attributes need {needed} octets, but messages of this session have at most {max}")]
    AttributesTooLong {
        /// Octets of the message with one prefix.
        needed: usize,
        /// Octets a message may have.
        max: usize,
    },
    /// A message other than a splittable UPDATE is too long.
    #[error("message of {needed} octets, but messages of this session have at most {max}")]
    MessageTooLong {
        /// Octets of the message.
        needed: usize,
        /// Octets a message may have.
        max: usize,
    },
    /// A capability's value has one octet for its length.
    #[error("value of capability {code} has {needed} octets, at most 255 are possible")]
    CapabilityTooLong {
        /// Capability code.
        code: u8,
        /// Octets of the value.
        needed: usize,
    },
    /// IPv6 prefixes need an IPv6 next hop, IPv4 prefixes an IPv4 one or the extended next hop capability.
    #[error("next hop of the wrong family for {0}")]
    NextHopFamily(AfiSafi),
    /// An UPDATE that says nothing: on the wire it would be an End-of-RIB marker.
    #[error("an UPDATE without prefixes would be an End-of-RIB marker")]
    Empty,
    /// Prefixes of several families in one place that holds one.
    #[error("prefixes of several families cannot share one announcement")]
    MixedFamilies,
}
