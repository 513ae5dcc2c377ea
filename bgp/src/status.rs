//! What people and programs can ask a speaker: serialisable, stable, no internals.

use crate::bfd;
use crate::config::PeerKind;
use crate::family::Family;
use crate::monitor::StationStatus;
use crate::policy::Trace;
use crate::wire::MessageType;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// States of RFC 4271 section 8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerState {
    /// Not trying (stopped, or waiting after an error).
    Idle,
    /// Dialling.
    Connect,
    /// Waiting for a connection or for the next attempt.
    Active,
    /// OPEN sent, none received.
    OpenSent,
    /// OPENs exchanged, waiting for the first KEEPALIVE.
    OpenConfirm,
    /// Up.
    Established,
}

impl std::fmt::Display for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One peer as `margay bgp peers` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Address of the peer.
    pub remote: IpAddr,
    /// Its AS.
    pub remote_as: u32,
    /// Its BGP identifier, while known.
    pub remote_id: Option<Ipv4Addr>,
    /// Our address of the session, while connected.
    pub local: Option<IpAddr>,
    /// Relation.
    pub kind: PeerKind,
    /// Text from the configuration.
    pub description: String,
    /// Session state.
    pub state: PeerState,
    /// Seconds in Established, else since the session was lost; `None` if it never was up.
    pub since_secs: Option<u64>,
    /// How often the session reached Established.
    pub established_count: u64,
    /// Last error, in words.
    pub last_error: Option<String>,
    /// Seconds since that error.
    pub last_error_secs: Option<u64>,
    /// What ended the last session, or the last NOTIFICATION sent or received, in words. Attempts to connect that fail
    /// later are in `last_error` alone.
    pub last_reset: Option<String>,
    /// Seconds since then.
    pub last_reset_secs: Option<u64>,
    /// What both sides agreed on, while up.
    pub negotiated: Option<NegotiatedStatus>,
    /// Messages received and sent.
    pub messages: MessageCounters,
    /// Per address family.
    pub families: Vec<FamilyStatus>,
    /// Bytes of changes that this peer has not taken yet.
    pub lag_bytes: u64,
    /// How often it fell so far behind that it was sent everything again.
    pub resyncs: u64,
    /// Update group it belongs to, while up.
    pub group: Option<u32>,
    /// Its BFD session, where one is configured; down before anything is known of it.
    #[serde(default)]
    pub bfd: Option<bfd::SessionStatus>,
}

/// Capabilities in force on a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegotiatedStatus {
    /// Hold time in seconds, 0 = off.
    pub hold_secs: u64,
    /// Keepalive interval in seconds.
    pub keepalive_secs: u64,
    /// Families both sides offered.
    pub families: Vec<Family>,
    /// Four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// Enhanced route refresh (RFC 7313).
    pub enhanced_refresh: bool,
    /// Messages up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    #[serde(default)]
    pub extended_next_hop: bool,
    /// The peer sends several paths (RFC 7911).
    #[serde(default)]
    pub add_path_receive: bool,
    /// The peer is sent several paths (RFC 7911).
    #[serde(default)]
    pub add_path_send: bool,
    /// Graceful restart (RFC 4724): the peer's restart time in seconds.
    pub graceful_restart_secs: Option<u64>,
    /// N bit on both sides (RFC 8538).
    pub notification_gr: bool,
    /// Long-lived graceful restart (RFC 9494).
    pub long_lived_gr: bool,
}

/// Counters of one address family of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyStatus {
    /// The family.
    pub family: Family,
    /// Paths held from the peer, filtered ones included.
    pub received: u64,
    /// Of these, filtered by policy, loop checks or authorisation.
    pub filtered: u64,
    /// Of these, stale (graceful restart).
    pub stale: u64,
    /// Routes advertised to the peer.
    pub advertised: u64,
    /// End-of-RIB received in this session.
    pub end_of_rib_received: bool,
    /// End-of-RIB sent in this session.
    pub end_of_rib_sent: bool,
}

/// Messages by type (RFC 4271 section 4, RFC 2918).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named after the types")]
pub struct MessageTypes {
    pub open: u64,
    pub update: u64,
    pub notification: u64,
    pub keepalive: u64,
    pub route_refresh: u64,
}

impl MessageTypes {
    pub(crate) fn count(&mut self, kind: MessageType) {
        *match kind {
            MessageType::Open => &mut self.open,
            MessageType::Update => &mut self.update,
            MessageType::Notification => &mut self.notification,
            MessageType::Keepalive => &mut self.keepalive,
            MessageType::RouteRefresh => &mut self.route_refresh,
        } += 1;
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.route_refresh
    }
}

/// What went over a peer's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCounters {
    /// Messages received.
    pub received: MessageTypes,
    /// Messages sent, those aside that the peer's group is sent ([`GroupStatus::messages`]).
    pub sent: MessageTypes,
    /// Octets sent.
    pub bytes_out: u64,
    /// Octets received.
    pub bytes_in: u64,
    /// Prefixes refused because the peer isn't authorised to announce them.
    pub unauthorised: u64,
    /// Prefixes ignored because no unicast route can lead to them, as multicast ones (RFC 4271 section 6.3).
    #[serde(default)]
    pub unroutable: u64,
    /// Sessions ended because the peer exceeded its prefix limit.
    #[serde(default)]
    pub over_limit: u64,
    /// UPDATEs with errors that were treated as withdrawals (RFC 7606).
    pub treated_as_withdraw: u64,
}

/// Where a route came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteSource {
    /// Originated here.
    Local,
    /// Received from this peer.
    Peer(IpAddr),
}

/// Which routes to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteQuery {
    /// Only this prefix, and with `longer` those inside it.
    pub prefix: Option<IpNet>,
    /// Also more specific prefixes.
    pub longer: bool,
    /// Only the longest match for this address.
    pub address: Option<IpAddr>,
    /// Only paths received from this peer.
    pub peer: Option<IpAddr>,
    /// Only best paths.
    pub best: bool,
    /// Only this family.
    pub family: Option<Family>,
    /// At most so many paths; 0 means all.
    pub limit: usize,
    /// Only what is advertised to this peer, as it is sent.
    pub advertised: Option<IpAddr>,
    /// Only paths that are not eligible.
    pub filtered: bool,
}

/// A part of a list of prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixPage {
    /// In no order.
    pub prefixes: Vec<IpNet>,
    /// Where the list goes on; `None` at its end.
    pub next: Option<u32>,
}

/// Sizes of the tables, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Prefixes with a path.
    pub prefixes: u64,
    /// Paths, filtered ones included.
    pub paths: u64,
    /// Distinct sets of attributes.
    pub attribute_sets: u64,
    /// Connections that wait to be configured.
    pub pending: u64,
    /// Update groups.
    pub groups: Vec<GroupStatus>,
    /// BMP stations, as configured.
    pub stations: Vec<StationStatus>,
}

/// Peers that are sent the same octets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Number; not used again.
    pub id: u32,
    /// Peers in it.
    pub members: u64,
    /// Octets of changes held for members that lag.
    pub log_bytes: u64,
    /// UPDATEs with changes so far: each member is sent all of them, or the whole table when it comes and when it lags.
    pub messages: u64,
    /// Prefixes advertised.
    pub advertised: u64,
}

/// One path to a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteInfo {
    /// The prefix.
    pub prefix: IpNet,
    /// NEXT_HOP; `None` is "self" of a route originated here.
    pub next_hop: Option<IpAddr>,
    /// Where it came from.
    pub source: RouteSource,
    /// Path identifier (RFC 7911): as received, or of what is advertised, as sent. None on sessions without.
    #[serde(default)]
    pub path_id: Option<u32>,
    /// Chosen.
    pub best: bool,
    /// Equal to the best path for forwarding.
    pub multipath: bool,
    /// Why it is best, or what the best path has that it lacks, or why it is filtered.
    pub reason: String,
    /// Not eligible: filtered on the way in.
    pub filtered: bool,
    /// Kept over a restart of the peer (RFC 4724).
    pub stale: bool,
    /// Kept long-lived (RFC 9494).
    pub long_lived_stale: bool,
    /// Seconds since it was last changed.
    pub age_secs: u64,
    /// ORIGIN in words: IGP, EGP or incomplete.
    pub origin: String,
    /// AS_PATH as text.
    pub as_path: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities as text, all kinds.
    pub communities: Vec<String>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456).
    pub cluster_list: Vec<Ipv4Addr>,
}

/// Why a prefix is what it is: every path, and every step between neighbours in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The prefix.
    pub prefix: IpNet,
    /// Its paths, best first.
    pub paths: Vec<RouteInfo>,
    /// Lines of reasoning, in order.
    pub steps: Vec<String>,
    /// What import policy made of each path from a peer that has one.
    #[serde(default)]
    pub imported: Vec<Imported>,
    /// For each peer: whether the best path is sent to it, and why; for each path towards a peer that is sent several.
    pub advertised: Vec<AdvertisedTo>,
}

/// Import policy for one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Where the path came from.
    pub peer: IpAddr,
    /// Rule by rule.
    pub trace: Trace,
    /// The attributes as received are not kept, so the rules are run over what policy has made of them.
    pub over_changed: bool,
}

/// The verdict of the way out towards one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedTo {
    /// The peer.
    pub peer: IpAddr,
    /// Whether the path is sent.
    pub sent: bool,
    /// Why, or why not.
    pub reason: String,
    /// Export policy, rule by rule, if the peer has one and it was asked.
    #[serde(default)]
    pub trace: Option<Trace>,
}

/// A next hop came into use, or no route has it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopUse {
    /// The next hop.
    pub address: IpAddr,
    /// A route has it.
    pub used: bool,
}

/// The way to a next hop by the network's own routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopState {
    /// The next hop.
    pub address: IpAddr,
    /// Its distance, lower is nearer (RFC 4271 section 9.1.2.2 e); `None` is unreachable.
    pub cost: Option<u32>,
}

/// Where packets for a prefix go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForwardingHop {
    /// NEXT_HOP: the global address where there is one.
    pub address: IpAddr,
    /// The next hop's link-local address and the interface it is behind, if it is on the link of the session (RFC 2545).
    /// A link-local `address` always has it.
    pub link_local: Option<(Ipv6Addr, Arc<str>)>,
}

impl From<IpAddr> for ForwardingHop {
    fn from(address: IpAddr) -> Self {
        Self { address, link_local: None }
    }
}

/// How far some peers have been replaced by the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// Peers that are up and have sent their whole table.
    pub in_sync: BTreeSet<IpAddr>,
    /// Leaving peers with routes that nobody else has: the first of these prefixes, and how many.
    pub missing: BTreeMap<IpAddr, (IpNet, u64)>,
}

/// The new state of a prefix for the forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Equally good next hops, sorted; empty when the prefix is withdrawn (or originated here).
    pub next_hops: Vec<ForwardingHop>,
    /// Every next hop comes from a peer that is restarting.
    pub stale: bool,
}

/// What a speaker reports by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Prefixes whose next hops changed; only the last state of each counts.
    RouteChanges(Vec<RouteChange>),
    /// Next hops to watch, or not to watch any more (see [`crate::SpeakerConfig::track_next_hops`]).
    NextHops(Vec<NextHopUse>),
    /// The first full table has been received (see [`crate::SpeakerConfig::sync_timeout`]): what is not in it may
    /// be removed from the kernel.
    InSync,
    /// A session changed its state.
    PeerChanged {
        /// The peer.
        remote: IpAddr,
        /// Its new state.
        state: PeerState,
        /// Why, in words.
        reason: String,
    },
    /// A peer's BFD session changed its state. What it means for BGP is told by `PeerChanged`.
    BfdChanged {
        /// The peer.
        remote: IpAddr,
        /// Its new state.
        state: bfd::State,
        /// Why.
        reason: bfd::Diagnostic,
    },
}
