//! BGP-4 speaker: a core without IO, and a tokio transport around it.
//!
//! The core takes inputs and a time and gives outputs; the same inputs always give the same outputs. The transport
//! (feature `tokio`) is [`transport::BgpHandle`] and its service: what agents and reflectors use.

mod config;
mod family;
pub mod policy;
mod session;
mod status;
mod time;
#[cfg(feature = "tokio")]
pub mod transport;
pub mod wire;

pub use config::{
    BGP_PORT, EgressLimits, GracefulRestart, MaxPrefix, NextHopMode, Originated, PeerConfig, PeerKind,
    PendingLimits, SpeakerConfig, Timers,
};
pub use family::Family;
pub use status::{
    AdvertisedTo, Event, Explanation, FamilyStatus, MessageCounters, NegotiatedStatus, PeerState, PeerStatus,
    RouteChange, RouteInfo, RouteQuery, RouteSource,
};
pub use time::Time;
