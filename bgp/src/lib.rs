//! BGP-4 speaker: a core without IO, and a tokio transport around it.
//!
//! The core takes inputs and a time and gives outputs; the same inputs always give the same outputs. The transport
//! (feature `tokio`) is [`transport::BgpHandle`] and its service: what agents and reflectors use.

pub mod bfd;
mod config;
mod egress;
mod family;
mod handover;
mod hash;
mod io;
mod monitor;
mod netset;
pub mod policy;
mod rib;
mod security;
mod session;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod speaker;
mod status;
mod time;
#[cfg(feature = "tokio")]
pub mod transport;
pub mod wire;

pub use config::{
    BGP_PORT, BfdConfig, EgressLimits, GracefulRestart, MaxPrefix, NextHopMode, Originated, PeerConfig,
    PeerKind, PeerRange, PendingLimits, SpeakerConfig, Timers,
};
pub use family::Family;
pub use handover::{Handover, RestoreError};
pub use io::{ConnId, Input, Link, Log, Output, StopMode};
pub use monitor::{
    DumpCursor, DumpPage, MonitorConfig, MonitoredRib, StationConfig, StationId, StationInput, StationStatus,
};
pub use netset::NetSet;
pub use security::{Password, PasswordError, SocketOptions};
pub use speaker::Speaker;
pub use status::{
    AdvertisedTo, Event, Explanation, FamilyStatus, ForwardingHop, GroupStatus, Imported, MessageCounters,
    MessageTypes, NegotiatedStatus, NextHopState, NextHopUse, PeerState, PeerStatus, PrefixPage, Replacement,
    RouteChange, RouteInfo, RouteQuery, RouteSource, Totals,
};
pub use time::Time;
