//! BGP as the daemons report it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A BGP neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Address of the neighbour.
    pub address: IpAddr,
    /// What it is: a node's name, or the name of the BGPPeer.
    pub name: String,
    /// `iBGP`, `iBGP client`, `eBGP`.
    pub kind: String,
    /// AS number of the neighbour.
    pub remote_as: u32,
    /// RFC 4271 state: `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm`, `Established`.
    pub state: String,
    /// Seconds since the session was established, else since it was lost; 0 if it never was.
    pub since_seconds: u64,
    /// Prefixes held from the neighbour, filtered ones included.
    pub received: u64,
    /// Of these, not used: policy, loops, authorisation.
    #[serde(default)]
    pub filtered: u64,
    /// Of these, kept as stale (graceful restart).
    pub stale: u64,
    /// Prefixes it was sent.
    pub advertised: u64,
    /// BFD session with the neighbour, in words; absent where none is configured.
    #[serde(default)]
    pub bfd: Option<String>,
    /// Last error of the session, if any.
    pub last_error: Option<String>,
    /// Seconds since that error.
    #[serde(default)]
    pub last_error_seconds: Option<u64>,
    /// What ended the last session, or the last NOTIFICATION: later attempts to connect are in `last_error` alone.
    #[serde(default)]
    pub last_reset: Option<String>,
    /// Seconds since then.
    #[serde(default)]
    pub last_reset_seconds: Option<u64>,
    /// Negotiated capabilities, in words.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// BGP identifier of the neighbour, while known.
    #[serde(default)]
    pub remote_id: Option<String>,
    /// Our address of the session, while connected.
    #[serde(default)]
    pub local: Option<IpAddr>,
    /// How often the session was established.
    #[serde(default)]
    pub established_count: u64,
    /// Per address family.
    #[serde(default)]
    pub families: Vec<PeerFamily>,
    /// Messages and octets.
    #[serde(default)]
    pub messages: Messages,
    /// Octets of changes that it has not taken yet.
    #[serde(default)]
    pub lag_bytes: u64,
    /// How often it fell so far behind that it was sent everything again.
    #[serde(default)]
    pub resyncs: u64,
    /// Update group: its members are sent the same octets.
    #[serde(default)]
    pub group: Option<u32>,
}

/// One address family of a neighbour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFamily {
    /// `ipv4-unicast` or `ipv6-unicast`.
    pub family: String,
    /// As in [`Peer`].
    pub received: u64,
    /// As in [`Peer`].
    pub filtered: u64,
    /// As in [`Peer`].
    pub stale: u64,
    /// As in [`Peer`].
    pub advertised: u64,
    /// The neighbour has sent its whole table (End-of-RIB, RFC 4724).
    pub end_of_rib_received: bool,
    /// It has been sent ours.
    pub end_of_rib_sent: bool,
}

/// Counters of a neighbour since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    /// Messages received.
    pub received: u64,
    /// Of these, UPDATEs.
    pub updates_received: u64,
    /// Octets received.
    pub bytes_received: u64,
    /// Octets sent.
    pub bytes_sent: u64,
    /// Prefixes refused because the neighbour may not announce them.
    pub unauthorised: u64,
    /// Prefixes ignored because no unicast route can lead to them.
    pub unroutable: u64,
    /// UPDATEs with errors that counted as withdrawals (RFC 7606).
    pub treated_as_withdraw: u64,
}

/// A path of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The prefix.
    pub prefix: IpNet,
    /// Next hop; absent for local routes.
    pub next_hop: Option<IpAddr>,
    /// Neighbour it was learned from; absent for local routes.
    pub from: Option<IpAddr>,
    /// Path identifier (RFC 7911): as received, or of what is advertised, as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// Chosen by the decision process.
    pub best: bool,
    /// As good as the best one for forwarding.
    #[serde(default)]
    pub multipath: bool,
    /// Not used: policy, loops, authorisation.
    #[serde(default)]
    pub filtered: bool,
    /// Kept over a graceful restart.
    pub stale: bool,
    /// Why it is best or not, in the words of RFC 4271 section 9.1.2.
    pub reason: String,
    /// ORIGIN: `igp`, `egp` or `incomplete`.
    #[serde(default)]
    pub origin: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default)]
    pub med: Option<u32>,
    /// AS_PATH as text.
    pub as_path: String,
    /// ORIGINATOR_ID of a reflected route.
    pub originator_id: Option<String>,
    /// CLUSTER_LIST of a reflected route.
    #[serde(default)]
    pub cluster_list: Vec<String>,
    /// Communities of all kinds, as text.
    #[serde(default)]
    pub communities: Vec<String>,
    /// Seconds since the path was learned or changed.
    pub age_seconds: u64,
}

/// Why a prefix is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The prefix.
    pub prefix: IpNet,
    /// Its paths, best first.
    pub paths: Vec<Route>,
    /// Import policy for each path from a neighbour that has one.
    pub imported: Vec<Policy>,
    /// The decision, each path against the one before it; steps of a comparison are indented.
    pub decision: Vec<String>,
    /// For each neighbour: whether it is sent the best path, and why; for each path where it is sent several.
    pub advertised: Vec<Advertised>,
}

/// What a policy made of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The neighbour.
    pub peer: IpAddr,
    /// The result, and the rule that decided.
    pub verdict: String,
    /// Every rule looked at, in order, and what did not match.
    pub rules: Vec<String>,
}

/// The way out to one neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertised {
    /// The neighbour.
    pub peer: IpAddr,
    /// Whether it is sent.
    pub sent: bool,
    /// Why, or why not.
    pub reason: String,
    /// Export policy, if the neighbour has one and it was asked.
    pub policy: Option<Policy>,
}

/// A line of `/v1/bgp/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Change {
    /// A prefix and all its paths now; none means that it is gone.
    Route {
        /// The prefix.
        prefix: IpNet,
        /// Best first.
        paths: Vec<Route>,
    },
    /// A session changed its state.
    Peer(Box<Peer>),
    /// A peer is none any more. It may be said twice.
    Removed {
        /// Its address.
        peer: IpAddr,
    },
    /// The reader was too slow: so many batches of changes are lost.
    Lost {
        /// How many.
        batches: u64,
    },
}
