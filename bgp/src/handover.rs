//! What a speaker hands to the one that takes its place: the sessions and what came in on them, as facts of the
//! protocol. What follows from these (best routes, update groups) is computed again.

use crate::bfd::SessionStatus;
use crate::config::{Originated, PeerConfig, PeerRange};
use crate::io::{ConnId, Link, octets};
use crate::monitor::Handshake;
use crate::rib::FilterReason;
use crate::security::Password;
use crate::session::negotiate::Session;
use crate::speaker::FamilyState;
use crate::status::MessageCounters;
use crate::time::{Rng, Time};
use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// The form below. To be raised when another release could misunderstand it.
pub(crate) const VERSION: u32 = 2;

/// A speaker's state, from [`crate::Speaker::hand_over`] for [`crate::Speaker::restore`]. It contains passwords.
#[derive(Clone, Serialize, Deserialize)]
pub struct Handover {
    pub(crate) version: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) local_as: u32,
    pub(crate) cluster: Ipv4Addr,
    /// The successor goes on counting time from here.
    pub(crate) now: Time,
    pub(crate) started: Time,
    pub(crate) rng: Rng,
    /// Numbers of connections are never used twice.
    pub(crate) next_dial: u64,
    pub(crate) in_sync: bool,
    pub(crate) sync_deadline: Time,
    pub(crate) withhold_until: Option<Time>,
    pub(crate) draining: bool,
    /// No flush before, and the current wait between flushes.
    pub(crate) pace: (Time, Duration),
    /// Absent if they have not been told.
    pub(crate) originated: Option<Vec<Originated>>,
    pub(crate) ranges: Vec<PeerRange>,
    pub(crate) peers: Vec<PeerState>,
    /// Of peers (by address) and ranges.
    pub(crate) passwords: Vec<(IpNet, Secret)>,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peers = self.peers.len();
        f.debug_struct("Handover")
            .field("version", &self.version)
            .field("peers", &peers)
            .finish_non_exhaustive()
    }
}

impl Handover {
    /// The connections it speaks of.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.peers.iter().filter_map(|peer| Some(peer.session.as_ref()?.conn))
    }

    /// The peers that were configured one by one, those aside whose password cannot be read.
    pub fn configured(&self) -> impl Iterator<Item = PeerConfig> {
        self.peers.iter().filter(|peer| peer.dynamic.is_none()).filter_map(|peer| {
            let own = IpNet::from(peer.config.remote);
            let secret = self.passwords.iter().find(|(from, _)| *from == own);
            let password = secret.map(|(_, secret)| Password::parse(&secret.0)).transpose().ok()?;
            Some(PeerConfig { password, ..PeerConfig::clone(&peer.config) })
        })
    }

    /// The time to go on with.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }
}

/// A key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(#[serde(with = "octets")] pub(crate) Bytes);

/// One peer. Connections that are not a session yet are not handed over.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct PeerState {
    pub(crate) config: Arc<PeerConfig>,
    pub(crate) dynamic: Option<IpNet>,
    pub(crate) remote_id: Option<Ipv4Addr>,
    pub(crate) interface: Option<String>,
    pub(crate) changed_at: Option<Time>,
    pub(crate) established_count: u64,
    pub(crate) last_error: Option<(Time, String)>,
    pub(crate) last_reset: Option<(Time, String)>,
    pub(crate) barred_until: Option<Time>,
    /// When a peer that is Idle is tried again, and how long it will have to wait after the next error.
    #[serde(default)]
    pub(crate) idle: Option<(Time, Duration)>,
    /// How long a peer of a range may wait for BFD.
    #[serde(default)]
    pub(crate) kept_until: Option<Time>,
    pub(crate) counters: MessageCounters,
    pub(crate) bfd: Option<SessionStatus>,
    pub(crate) families: [FamilyState; 2],
    /// Beginning with those that have most marks.
    pub(crate) routes: Vec<Routes>,
    /// These are not all: the peer must be asked for them.
    pub(crate) ask_again: bool,
    pub(crate) session: Option<SessionState>,
}

/// Routes of one peer with the same marks.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Routes {
    pub(crate) marks: Marks,
    /// UPDATEs with path identifiers, as import left the routes.
    #[serde(with = "octets")]
    pub(crate) updates: Bytes,
}

/// What is known of a path besides its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Marks {
    pub(crate) stale: bool,
    pub(crate) long_lived: bool,
    pub(crate) unrefreshed: bool,
    pub(crate) filtered: Option<FilterReason>,
    /// Whole seconds of virtual time.
    pub(crate) changed: u32,
}

/// An established session.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SessionState {
    pub(crate) conn: ConnId,
    pub(crate) outgoing: bool,
    pub(crate) local: Option<IpAddr>,
    pub(crate) link: Option<Link>,
    pub(crate) negotiated: Session,
    pub(crate) hold: Option<Time>,
    pub(crate) keepalive: Option<Time>,
    /// Beginning of a message whose rest has not come yet.
    #[serde(with = "octets")]
    pub(crate) input: Bytes,
    /// What is to be sent first. It may begin within a message.
    #[serde(with = "octets")]
    pub(crate) output: Bytes,
    pub(crate) told: Told,
    /// End-of-RIB has been sent.
    pub(crate) initial_done: bool,
    pub(crate) resyncs: u64,
    /// For BMP stations.
    pub(crate) handshake: Option<Handshake>,
}

/// What the peer knows once it has read [`SessionState::output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Nothing yet: the table is not complete.
    Nothing,
    /// The table with this digest.
    Table(u64),
    /// It must be sent the table again.
    Unknown,
}

/// Why a state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The other release has another form.
    #[error("its state has version {0}, this program understands {VERSION}: restart instead")]
    Version(u32),
    /// What cannot change while sessions live.
    #[error("it is another speaker (router id {0}, AS {1}): restart instead")]
    Identity(Ipv4Addr, u32),
    /// The state contradicts itself.
    #[error("its state cannot be read: {0}")]
    State(String),
}
