//! For people who look from outside: the BGP Monitoring Protocol (RFC 7854, RFC 9069) and MRT (RFC 6396, RFC 8050).
//!
//! [`bmp`] and [`mrt`] are codecs; `feed` knows what each station has been told and what to tell it next. A speaker that
//! nobody watches has no feed and pays one check of an `Option` per flush.

pub(crate) mod bmp;
mod feed;
pub(crate) mod mrt;
mod station;

pub(crate) use feed::{Feed, Handshake, Monitored};
pub use mrt::{DumpCursor, DumpPage};
pub use station::{MonitoredRib, StationId, StationInput, StationStatus};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is told to stations and recorded. Fixed for a speaker's lifetime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorConfig {
    /// BMP stations, by number.
    pub stations: Vec<StationConfig>,
    /// Give [`crate::Output::Record`] for every UPDATE received and every change of a session's state.
    pub record: bool,
    /// The time of the origin of [`crate::Time`], since 1970.
    pub epoch: Duration,
    /// Name of this router (sysName of RFC 3418).
    pub name: String,
    /// What runs here (sysDescr).
    pub description: String,
}

/// One BMP station.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationConfig {
    /// What it is told.
    pub ribs: Vec<MonitoredRib>,
    /// Octets given to the socket and not taken, beyond which the station is cut off. It gets everything again when it
    /// comes back.
    pub buffer: usize,
    /// Interval of the statistics reports; zero is never.
    pub statistics: Duration,
}

impl Default for StationConfig {
    fn default() -> Self {
        Self {
            ribs: vec![MonitoredRib::PrePolicy, MonitoredRib::PostPolicy, MonitoredRib::LocRib],
            buffer: 8 << 20,
            statistics: Duration::from_secs(60),
        }
    }
}
