//! Settings of a session.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// UDP port of single-hop sessions (RFC 5881 section 4).
pub const SINGLE_HOP_PORT: u16 = 3784;
/// UDP port of multihop sessions (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;

/// One session. The intervals are whole microseconds up to 4294 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Our address; `None` lets the system choose.
    pub local: Option<IpAddr>,
    /// The peer is not on the same link (RFC 5883): another port, and the TTL of what comes in is of no account.
    pub multihop: bool,
    /// Shortest interval at which we send while up.
    pub min_tx: Duration,
    /// Shortest interval at which we want to receive.
    pub min_rx: Duration,
    /// Interval at which we send while not up; less than a second counts as one (RFC 5880 section 6.8.3).
    pub idle_tx: Duration,
    /// Packets in a row that the peer may miss before it takes us for gone, 1 to 255.
    pub multiplier: u8,
}

impl Default for SessionConfig {
    /// Loss is found in 0.9 s; a session costs 3 to 5 packets a second in each direction.
    fn default() -> Self {
        Self {
            local: None,
            multihop: false,
            min_tx: Duration::from_millis(300),
            min_rx: Duration::from_millis(300),
            idle_tx: Duration::from_secs(1),
            multiplier: 3,
        }
    }
}
