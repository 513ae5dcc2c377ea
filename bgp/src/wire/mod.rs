//! The BGP-4 message codec: bytes in, typed messages out, and back.
//!
//! Decoding follows RFC 7606: a malformed attribute costs the routes of its own UPDATE (or only itself), never the
//! session, wherever the RFC allows that. Everything here is pure: no IO, no clock, memory bounded by one message.
//!
//! ```
//! use bytes::BytesMut;
//! use margay_bgp::wire::{Framer, Message, Negotiated, NextHop, Nlri, PathAttributes, PeerKind, UpdateEncoder, decode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Negotiated::minimal(PeerKind::External);
//! let mut sent = BytesMut::new();
//! let prefix = Nlri::new("10.1.0.0/16".parse()?);
//! let next_hop = NextHop::V4([192, 0, 2, 1].into());
//! UpdateEncoder::new(session).announce(&PathAttributes::default(), &next_hop, [prefix], &mut sent)?;
//!
//! let mut framer = Framer::new();
//! let mut received = &sent[..];
//! while let Some(frame) = framer.next_frame(&mut received)? {
//!     let decoded = decode(frame, &session)?;
//!     assert_eq!(decoded.to_string(), "UPDATE announce 10.1.0.0/16 via 192.0.2.1; origin igp");
//!     assert!(matches!(decoded.message, Message::Update(update) if update.announces()));
//! }
//! # Ok(())
//! # }
//! ```

pub mod attr;
mod capability;
mod decode;
mod display;
mod encode;
mod error;
mod family;
mod framer;
mod list;
mod message;
mod negotiated;
mod nlri;
mod notification;
mod open;
mod refresh;
#[cfg(test)]
mod testing;
mod update;

pub use attr::{
    Aggregator, AsPath, AttributeCode, Community, CommunityError, ExtendedCommunity, LargeCommunity, Origin,
    PathAttributes, Segment, SegmentKind, UnknownAttribute,
};
pub use capability::{
    AddPathFamily, AddPathMode, Capability, GracefulRestart, GracefulRestartFamily, LongLivedFamily,
};
pub use decode::decode;
pub use encode::UpdateEncoder;
pub use error::{AttributeFault, EncodeError, FaultAction, FaultReason, ResetReason, SessionReset};
pub use family::{AfiSafi, FamilySet, PerFamily};
pub use framer::{Frame, Framer};
pub use list::{List, SortedSet};
pub use message::{
    Decoded, HEADER_LEN, MARKER_LEN, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, MessageType,
};
pub use negotiated::{Negotiated, PeerKind};
pub use nlri::{NextHop, Nlri};
pub use notification::{
    CeaseSubcode, FsmSubcode, HeaderSubcode, Notification, NotificationCode, OpenSubcode, RefreshSubcode,
    UpdateSubcode,
};
pub use open::{AS_TRANS, Open};
pub use refresh::{RefreshKind, RouteRefresh};
pub use update::{NlriVec, Reach, Update};

#[cfg(test)]
mod tests;
