//! What a speaker is told to be: itself, its peers, the routes it originates.

use crate::bfd::SessionConfig;
use crate::family::Family;
use crate::netset::NetSet;
use crate::policy::Policy;
use crate::security::{Password, SocketOptions};
use crate::wire::{Community, LargeCommunity};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// The speaker itself. Fixed for its lifetime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerConfig {
    /// BGP identifier (RFC 4271 section 1.1): unique in the AS, not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Autonomous system, 1 to 4294967294.
    pub local_as: u32,
    /// Reflector's cluster id (RFC 4456); `None` means the router id. Matters only with `InternalClient` peers.
    pub cluster_id: Option<Ipv4Addr>,
    /// Whether an earlier instance of this speaker may have left routes at graceful restart helpers: sets the
    /// restart bit until the table is complete (RFC 4724 section 4.1).
    pub restarting: bool,
    /// How long a restarting speaker waits for its peers' End-of-RIB before it advertises (RFC 4724's
    /// Selection_Deferral_Timer). Must be shorter than the restart time told to peers.
    pub selection_deferral: Duration,
    /// How long the first full table may take before [`crate::Event::InSync`] is reported without the missing
    /// peers. Never reported while no peer at all is synchronised.
    pub sync_timeout: Duration,
    /// Largest number of equally good next hops reported for a prefix, 1 to 64.
    pub multipath: usize,
    /// Connections from addresses that are not configured.
    pub pending: PendingLimits,
    /// Batching and memory of the way out.
    pub egress: EgressLimits,
    /// Report [`crate::Event::RouteChanges`]. A pure reflector has no use for them.
    pub report_routes: bool,
    /// Ask for the way to each next hop with [`crate::Event::NextHops`]: paths whose next hop cannot be reached are not
    /// used, and nearer next hops are preferred (RFC 4271 section 9.1.2). For speakers that forward. A pure reflector
    /// is not on the way, and what it cannot reach its clients may.
    #[serde(default)]
    pub track_next_hops: bool,
    /// Seed for jitter; the same seed and inputs give the same outputs.
    pub seed: u64,
}

impl SpeakerConfig {
    /// Defaults for a speaker with this identifier and AS.
    #[must_use]
    pub fn new(router_id: Ipv4Addr, local_as: u32) -> Self {
        Self {
            router_id,
            local_as,
            cluster_id: None,
            restarting: false,
            selection_deferral: Duration::from_secs(30),
            sync_timeout: Duration::from_secs(60),
            multipath: 16,
            pending: PendingLimits::default(),
            egress: EgressLimits::default(),
            report_routes: true,
            track_next_hops: false,
            seed: u64::from(u32::from(router_id)),
        }
    }

    /// The cluster id in force.
    #[must_use]
    pub fn cluster(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id)
    }
}

/// Bounds of the list of connections from addresses that are not configured (yet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingLimits {
    /// Connections held; the oldest gives way.
    pub max: usize,
    /// How long one waits to be configured before it is closed.
    pub timeout: Duration,
}

impl Default for PendingLimits {
    fn default() -> Self {
        Self { max: 8192, timeout: Duration::from_secs(120) }
    }
}

/// Batching and memory of the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressLimits {
    /// Bytes of encoded changes kept for clients that lag; one further behind is resynchronised.
    pub log_bytes: usize,
    /// The smallest share of these that a group of clients gets, however many groups there are.
    pub log_min: usize,
    /// Bytes handed to one connection and not yet taken by its socket.
    pub window: usize,
    /// Shortest wait for more changes while changes keep coming.
    pub batch_min: Duration,
    /// Longest wait for more changes.
    pub batch_max: Duration,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self {
            log_bytes: 8 << 20,
            log_min: 256 << 10,
            window: 64 << 10,
            batch_min: Duration::from_millis(5),
            batch_max: Duration::from_millis(50),
        }
    }
}

/// Relation to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// Same AS, not a client: routes of other internal peers are not passed to it unless they come from clients.
    Internal,
    /// Same AS, and this speaker is its route reflector (RFC 4456).
    InternalClient,
    /// Another AS.
    External,
}

/// NEXT_HOP in routes sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextHopMode {
    /// Keep towards internal peers, self towards external ones (RFC 4271 section 5.1.3). Also self for what peers on this
    /// host tell.
    #[default]
    Auto,
    /// Always this speaker's address of the session.
    SelfAddress,
    /// Always as received.
    Keep,
}

/// Timers of a session (RFC 4271 section 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// Proposed hold time; whole seconds, 0 (off) or at least 3.
    pub hold: Duration,
    /// Keepalive interval; `None` means a third of the negotiated hold time.
    pub keepalive: Option<Duration>,
    /// First wait between two attempts to connect; doubles up to `connect_retry_max`.
    pub connect_retry: Duration,
    /// Longest wait between two attempts to connect.
    pub connect_retry_max: Duration,
    /// First wait after a session ended by a protocol error; doubles up to `error_wait_max`.
    pub error_wait: Duration,
    /// Longest wait after errors.
    pub error_wait_max: Duration,
    /// Send hold time (RFC 9687): the session ends if the peer takes nothing for so long. Zero is off.
    pub send_hold: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(90),
            keepalive: None,
            connect_retry: Duration::from_secs(1),
            connect_retry_max: Duration::from_secs(15),
            error_wait: Duration::from_secs(2),
            error_wait_max: Duration::from_secs(60),
            send_hold: Duration::from_secs(480),
        }
    }
}

/// Graceful restart (RFC 4724, 8538) and its long-lived form (RFC 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GracefulRestart {
    /// Advertise and honour the capability.
    pub enabled: bool,
    /// How long peers should keep our routes, at most 4095 s.
    pub restart_time: Duration,
    /// Also keep routes over NOTIFICATIONs and hold timer expiry (RFC 8538's N bit).
    pub notification: bool,
    /// Our forwarding state survives a restart of this process (the F bit). True where the kernel keeps the routes.
    pub forwarding_preserved: bool,
    /// Longest time stale routes are kept after the session is back and End-of-RIB is missing.
    pub stale_path_time: Duration,
    /// Long-lived stale time (RFC 9494) kept after the restart time; at most 2^24-1 s; `None` is off.
    pub long_lived: Option<Duration>,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            enabled: true,
            restart_time: Duration::from_secs(120),
            notification: true,
            forwarding_preserved: true,
            stale_path_time: Duration::from_secs(360),
            long_lived: Some(Duration::from_secs(86_400)),
        }
    }
}

/// Limit on the prefixes accepted from a peer, per family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPrefix {
    /// Largest number of prefixes; one more ends the session with Cease/1 (RFC 4486).
    pub limit: u32,
    /// Percentage of `limit` at which a warning is logged, 1 to 100.
    pub warn_percent: u8,
    /// Wait before the session is tried again.
    pub restart: Duration,
}

impl MaxPrefix {
    /// A limit with a warning at 80 percent and five minutes of rest.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, warn_percent: 80, restart: Duration::from_secs(300) }
    }
}

/// One neighbour. Identified by its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Address of the peer.
    pub remote: IpAddr,
    /// Interface of a link-local `remote`; absent for others. An address is one peer: the same link-local address on a
    /// second interface is not possible.
    #[serde(default)]
    pub interface: Option<String>,
    /// TCP port to dial.
    pub port: u16,
    /// Source address of the session; `None` lets the system choose.
    pub local: Option<IpAddr>,
    /// Our address of the family that the session does not run over: next hop of routes of that family where they get
    /// ours (RFC 4271 section 5.1.3). Without it they keep the one they have.
    #[serde(default)]
    pub local_other: Option<IpAddr>,
    /// AS shown to this peer instead of the speaker's own.
    pub local_as: Option<u32>,
    /// AS the peer must have.
    pub remote_as: u32,
    /// Relation.
    pub kind: PeerKind,
    /// Wait for the peer to connect, never dial.
    pub passive: bool,
    /// Its table is waited for before ours counts as complete; false for one that may connect and need not.
    pub expected: bool,
    /// TCP-MD5 password (RFC 2385) or TCP-AO keys (RFC 5925). Absent from recordings.
    #[serde(skip)]
    pub password: Option<Password>,
    /// GTSM (RFC 5082): hops to the peer, 1 for a direct neighbour; packets from farther away are dropped.
    pub ttl_security: Option<u8>,
    /// TTL of what is sent; `None` is the system's default. Without effect beside `ttl_security`.
    pub multihop: Option<u8>,
    /// Timers.
    pub timers: Timers,
    /// Address families to offer (RFC 4760).
    pub families: Vec<Family>,
    /// Graceful restart.
    pub graceful_restart: GracefulRestart,
    /// Prefixes the peer may announce: each must equal or lie inside one of these, else the route is filtered and
    /// counted. `None` allows all.
    pub authorised_origins: Option<NetSet>,
    /// Limit on prefixes.
    pub max_prefix: Option<MaxPrefix>,
    /// NEXT_HOP in what is sent.
    pub next_hop: NextHopMode,
    /// It is on this host (a pod, a virtual machine) and others know no way to it but by us: what it tells goes to
    /// internal peers with our address as NEXT_HOP unless theirs is [`NextHopMode::Keep`].
    #[serde(default)]
    pub on_host: bool,
    /// Without import policy nothing from an external peer is used, without export policy nothing is sent to it
    /// (RFC 8212). A policy that has no filter and accepts is none.
    pub policy_required: bool,
    /// AS_PATH from an external peer must begin with the peer's AS (RFC 4271 section 6.3); false for route servers.
    pub enforce_first_as: bool,
    /// Take several paths per prefix (RFC 7911).
    pub add_path_receive: bool,
    /// Send so many paths per prefix, best first (RFC 7911); 0 and 1 send the best one only, without identifiers.
    #[serde(default)]
    pub add_path_send: u8,
    /// Offer IPv4 prefixes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// How often our own AS may occur in a received AS_PATH.
    pub allow_own_as: u8,
    /// Rules for what is received.
    pub import: Arc<Policy>,
    /// Rules for what is sent.
    pub export: Arc<Policy>,
    /// Watch the peer with BFD (RFC 5882).
    #[serde(default)]
    pub bfd: Option<BfdConfig>,
    /// Free text shown in status.
    pub description: String,
}

/// BFD for a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdConfig {
    /// Timers and kind of the session. Its `local` is of no account: it is that of the BGP session.
    pub session: SessionConfig,
    /// No BGP session before the BFD session is up. Without it a peer that has no BFD gets its BGP session all the same,
    /// and BFD counts from when it is up first.
    pub strict: bool,
}

/// The port of BGP.
pub const BGP_PORT: u16 = 179;

impl PeerConfig {
    /// A peer with default settings, both unicast families.
    #[must_use]
    pub fn new(remote: IpAddr, remote_as: u32, kind: PeerKind) -> Self {
        Self {
            remote,
            interface: None,
            port: BGP_PORT,
            local: None,
            local_other: None,
            local_as: None,
            remote_as,
            kind,
            passive: false,
            expected: true,
            password: None,
            ttl_security: None,
            multihop: None,
            timers: Timers::default(),
            families: vec![Family::Ipv4, Family::Ipv6],
            graceful_restart: GracefulRestart::default(),
            authorised_origins: None,
            max_prefix: None,
            next_hop: NextHopMode::Auto,
            on_host: false,
            policy_required: true,
            enforce_first_as: true,
            add_path_receive: false,
            add_path_send: 0,
            extended_next_hop: true,
            allow_own_as: 0,
            import: Arc::default(),
            export: Arc::default(),
            bfd: None,
            description: String::new(),
        }
    }

    /// Whether a policy is needed and is not there (RFC 8212).
    pub(crate) fn lacks(&self, policy: &Policy) -> bool {
        self.policy_required && self.kind == PeerKind::External && policy.is_none()
    }

    /// The BFD session to run.
    pub(crate) fn bfd_session(&self) -> Option<SessionConfig> {
        self.bfd.map(|bfd| SessionConfig { local: self.local, ..bfd.session })
    }

    /// Options of its sockets.
    #[must_use]
    pub fn socket(&self) -> SocketOptions {
        SocketOptions {
            interface: self.interface.clone(),
            password: self.password.clone(),
            ttl_security: self.ttl_security,
            multihop: self.multihop,
        }
    }
}

/// Peers that may come from anywhere in a prefix: whoever connects becomes a peer until it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRange {
    /// From here. Of the ranges that contain an address the longest counts; a configured peer goes before all.
    pub prefix: IpNet,
    /// How each is treated; `remote` and `passive` are of no account.
    pub template: PeerConfig,
    /// Peers at the same time.
    pub max: usize,
}

/// A route that this speaker originates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Originated {
    /// The prefix.
    pub prefix: IpNet,
    /// NEXT_HOP; `None` means this speaker's address of each session (same family only).
    pub next_hop: Option<IpAddr>,
    /// LOCAL_PREF towards internal peers; `None` means 100.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities (RFC 1997).
    pub communities: Vec<Community>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
}

impl Originated {
    /// A plain route to `prefix` by way of `next_hop`.
    #[must_use]
    pub fn new(prefix: IpNet, next_hop: Option<IpAddr>) -> Self {
        Self {
            prefix,
            next_hop,
            local_pref: None,
            med: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
        }
    }
}
