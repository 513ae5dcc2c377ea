//! What goes into a speaker and what comes out of it.

use crate::bfd;
use crate::config::{Originated, PeerConfig, PeerRange};
use crate::monitor::{StationId, StationInput};
use crate::security::{Password, SocketOptions};
use crate::status::{Event, NextHopState};
use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A TCP connection. Numbers are never used twice: the speaker gives even ones to those it dials, the shell odd ones to
/// those it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnId(pub u64);

impl ConnId {
    /// The number of the `n`th accepted connection.
    #[must_use]
    pub fn accepted(n: u64) -> Self {
        Self(n * 2 + 1)
    }

    pub(crate) fn dialled(n: u64) -> Self {
        Self(n * 2)
    }
}

/// A link that both ends of a connection are on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Name of our interface.
    pub interface: Arc<str>,
    /// Our link-local address there.
    pub link_local: Option<Ipv6Addr>,
    /// Our first other address there.
    pub global: Option<Ipv6Addr>,
}

/// How a speaker ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Close the connections without a word: peers that help with graceful restart keep our routes.
    Restart,
    /// Cease with administrative shutdown and this message (RFC 9003), as a Hard Reset where graceful restart would
    /// keep routes: peers drop our routes.
    Shutdown(String),
}

/// Octets as a hexadecimal string.
pub(crate) mod octets {
    use super::{Bytes, Deserialize, Deserializer, Serializer};
    use serde::de::Error;

    pub(crate) fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{data:x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0);
        let digits = digits.ok_or_else(|| D::Error::custom("not an even number of hexadecimal digits"))?;
        let pair = |pair: &[u32]| pair.iter().fold(0, |octet, digit| octet << 4 | digit);
        Ok(digits.chunks(2).filter_map(|digits| u8::try_from(pair(digits)).ok()).collect())
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A peer connected.
    Accepted {
        /// Given by the shell.
        conn: ConnId,
        /// Where it comes from.
        remote: SocketAddr,
        /// Our end.
        local: SocketAddr,
    },
    /// A dialled connection is up.
    Connected {
        /// As in [`Output::Dial`].
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
    },
    /// The other end of a connection that is up is a neighbour on this link.
    OnLink {
        /// Which.
        conn: ConnId,
        /// The link.
        link: Link,
    },
    /// A connection, or the attempt at one, is gone. Not sent for connections that the speaker closed.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why, in words.
        reason: String,
    },
    /// Octets came in.
    Received {
        /// On which connection.
        conn: ConnId,
        /// In order.
        #[serde(with = "octets")]
        data: Bytes,
    },
    /// The socket has taken octets of what [`Output::Write`] gave.
    Written {
        /// On which connection.
        conn: ConnId,
        /// How many, since the last such report.
        bytes: usize,
    },
    /// A peer's BFD session changed (see [`Output::Bfd`]).
    Bfd(IpAddr, bfd::SessionStatus),
    /// The whole desired list of peers.
    SetPeers(Vec<Arc<PeerConfig>>),
    /// One peer, new or changed.
    SetPeer(Arc<PeerConfig>),
    /// One peer less.
    RemovePeer(IpAddr),
    /// One peer less, whose place others have taken: it may keep our routes (RFC 4724) until they have for it, too.
    ReleasePeer(IpAddr),
    /// The whole desired list of ranges that peers may come from.
    SetRanges(Vec<PeerRange>),
    /// The whole desired list of originated routes.
    SetOriginated(Vec<Originated>),
    /// How far next hops are that [`Event::NextHops`] named. Others stay as they are.
    SetNextHops(Vec<NextHopState>),
    /// The peer is known to be gone: its stale routes need not wait for their timers.
    PruneStale(IpAddr),
    /// Begin or end draining: everything is sent with the community GRACEFUL_SHUTDOWN, to internal peers with
    /// LOCAL_PREF 0 (RFC 8326), so that others are preferred before the sessions go.
    Drain(bool),
    /// Something happened to the connection of a BMP station.
    Station(StationId, StationInput),
    /// Begin or end to report [`Output::Changed`].
    Watch(bool),
    /// The speaker ends.
    Stop(StopMode),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Output {
    /// Open a connection.
    Dial {
        /// Its number from now on.
        conn: ConnId,
        /// To here.
        remote: SocketAddr,
        /// From here; `None` lets the system choose.
        local: Option<IpAddr>,
        /// With these; without one that cannot be set, not at all.
        options: SocketOptions,
    },
    /// Set options of an accepted connection, or lose it.
    Protect {
        /// Which.
        conn: ConnId,
        /// The other end.
        remote: IpAddr,
        /// With these.
        options: SocketOptions,
    },
    /// Change the keys of a connection while it is up, or lose it.
    Rekey {
        /// Which.
        conn: ConnId,
        /// The other end.
        remote: IpAddr,
        /// What it has. Absent from recordings.
        #[serde(skip)]
        old: Option<Password>,
        /// What it gets. Absent from recordings.
        #[serde(skip)]
        new: Option<Password>,
    },
    /// From now on connections from these addresses need this key, or none. If it cannot be set none may come in.
    Authenticate {
        /// Of the longest prefix the key counts.
        from: IpNet,
        /// The key. Absent from recordings.
        #[serde(skip)]
        password: Option<Password>,
    },
    /// Send octets after those given before. Unreported octets of a connection are bounded (see
    /// [`crate::EgressLimits::window`]).
    Write {
        /// On which connection.
        conn: ConnId,
        /// Whole messages.
        #[serde(serialize_with = "octets::serialize")]
        data: Bytes,
    },
    /// Send what was given before, then close. No further input about it has an effect.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// Send octets to a BMP station after those given before; `None` cuts it off. Octets not reported as written are
    /// bounded by [`crate::StationConfig::buffer`].
    Station {
        /// Which.
        station: StationId,
        /// Whole messages.
        #[serde(skip)]
        data: Option<Bytes>,
    },
    /// An MRT record (RFC 6396).
    Record {
        /// Whole.
        #[serde(skip)]
        data: Bytes,
    },
    /// The paths of these prefixes may have changed.
    Changed(Vec<IpNet>),
    /// Run a BFD session with a peer ([`bfd::Bfd`]) and report its changes, or end it.
    Bfd {
        /// The peer.
        remote: IpAddr,
        /// Our interface towards a link-local peer.
        interface: Option<String>,
        /// The session; `None` ends it.
        session: Option<bfd::SessionConfig>,
    },
    /// Tell the owner.
    Event(Event),
    /// Tell people.
    Log(Log),
}

/// Things worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Log {
    /// A connection from an address that is not configured waits.
    Parked(IpAddr),
    /// It gave way to newer ones, waited too long, or said too much.
    ParkedDropped(IpAddr, &'static str),
    /// A connection was refused.
    Refused(IpAddr, &'static str),
    /// Something in an UPDATE was wrong and repaired (RFC 7606).
    Malformed(IpAddr, String),
    /// Prefixes that a peer may not announce were filtered: the first of them, and how many in this UPDATE.
    Unauthorised(IpAddr, IpNet, usize),
    /// Prefixes that no unicast route can lead to were ignored (RFC 4271 section 6.3): the first of them, and how many in
    /// this UPDATE.
    Unroutable(IpAddr, IpNet, usize),
    /// A peer nears its prefix limit: held, limit.
    NearLimit(IpAddr, u32, u32),
    /// A peer exceeds its prefix limit and is cut off: held, limit.
    OverLimit(IpAddr, u32, u32),
    /// A peer changes its routes over and over: so many changes within ten seconds. Said once a minute.
    Churn(IpAddr, usize),
    /// A peer that fell behind is sent everything again.
    Resync(IpAddr),
    /// A peer began to repeat its table before it had sent it once: ignored (RFC 7313 section 4).
    EarlyRefresh(IpAddr),
    /// A peer sent a ROUTE-REFRESH of this unknown subtype: ignored (RFC 7313 section 5).
    UnknownRefresh(IpAddr, u8),
    /// A peer did not finish repeating its table in time: what it had not repeated was removed.
    RefreshUnfinished(IpAddr),
    /// The table is complete: advertising begins.
    Complete(&'static str),
}
