//! One BMP station: how far it has been told, and how much it has not taken yet.

use super::StationConfig;
use super::bmp::View;
use crate::rib::{EntryId, SourceId};
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// Place of a station in [`super::MonitorConfig::stations`].
pub type StationId = usize;

/// What a station may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonitoredRib {
    /// What each peer announces, before import policy (RFC 7854).
    PrePolicy,
    /// What import policy leaves of it.
    PostPolicy,
    /// The best paths (RFC 9069).
    LocRib,
}

impl From<View> for MonitoredRib {
    fn from(view: View) -> Self {
        match view {
            View::PrePolicy => Self::PrePolicy,
            View::PostPolicy => Self::PostPolicy,
            View::LocRib => Self::LocRib,
        }
    }
}

/// Something that happened to the connection of a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StationInput {
    /// It is up: the station knows nothing.
    Up,
    /// The socket has taken so many octets.
    Written(usize),
    /// It is gone. Not told for connections that were cut off.
    Down,
}

/// A station as metrics show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationStatus {
    /// Connected.
    pub up: bool,
    /// The initial dump is over.
    pub synchronised: bool,
    /// Octets not taken yet.
    pub pending_bytes: u64,
    /// How often it was cut off because it did not read.
    pub cuts: u64,
}

/// How far a station has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Down,
    /// Next: the first peer at or after this.
    Peers(SourceId),
    /// Next: the entry of this number.
    Entries(u32),
    /// It knows everything.
    Live,
}

#[derive(Debug)]
pub(super) struct Station {
    pub(super) config: StationConfig,
    pub(super) progress: Progress,
    /// Octets given to the shell and not taken.
    pub(super) pending: usize,
    pub(super) statistics_at: Option<Time>,
    pub(super) cuts: u64,
}

impl Station {
    pub(super) fn new(config: StationConfig) -> Self {
        Self { config, progress: Progress::Down, pending: 0, statistics_at: None, cuts: 0 }
    }

    pub(super) fn wants(&self, view: View) -> bool {
        self.config.ribs.contains(&view.into())
    }

    /// Whether it has been told of a peer, if that peer was up then.
    pub(super) fn knows_peer(&self, id: SourceId) -> bool {
        match self.progress {
            Progress::Down => false,
            Progress::Peers(next) => id < next,
            Progress::Entries(_) | Progress::Live => true,
        }
    }

    /// Whether it has been told the former state of an entry.
    pub(super) fn knows_entry(&self, id: EntryId) -> bool {
        match self.progress {
            Progress::Down | Progress::Peers(_) => false,
            Progress::Entries(next) => id.0 < next,
            Progress::Live => true,
        }
    }

    pub(super) fn status(&self) -> StationStatus {
        StationStatus {
            up: self.progress != Progress::Down,
            synchronised: self.progress == Progress::Live,
            pending_bytes: self.pending as u64,
            cuts: self.cuts,
        }
    }
}
