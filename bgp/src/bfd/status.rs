//! What is known of a session.

use super::packet::{Diagnostic, State};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A session, as of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Our state.
    pub state: State,
    /// Why.
    pub diagnostic: Diagnostic,
    /// The peer's state, as it told last; down while nothing is heard.
    pub remote_state: State,
    /// What the peer told as the reason of its state.
    pub remote_diagnostic: Diagnostic,
    /// The peer's BFD does not share the fate of its BGP (the C bit, RFC 5882 section 4.3).
    pub remote_independent: bool,
    /// Interval of our packets, before jitter.
    pub tx_interval: Duration,
    /// The peer counts as gone after this time without a packet; zero while nothing is heard.
    pub detection_time: Duration,
    /// Whether the session is multihop.
    pub multihop: bool,
    /// How often the session was up and failed. A peer that an administrator takes down has not failed.
    pub failures: u64,
}

impl fmt::Display for SessionStatus {
    /// For people: the state, and how fast a loss is found or why it is not up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            State::Up => write!(f, "up, lost after {:?} of silence", self.detection_time),
            state if self.remote_state == State::AdminDown => {
                write!(f, "{state} (by the peer's administrator)")
            }
            state => write!(f, "{state} ({})", self.diagnostic),
        }
    }
}
