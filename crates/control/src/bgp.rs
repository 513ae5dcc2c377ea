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
    /// `reflector`, `client`, `mesh`, `global`, `node` (as `calicoctl node status` says it).
    pub kind: String,
    /// AS number of the neighbour.
    pub remote_as: u32,
    /// RFC 4271 state: `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm`, `Established`.
    pub state: String,
    /// Seconds in this state.
    pub since_seconds: u64,
    /// Prefixes accepted from the neighbour.
    pub received: u64,
    /// Prefixes kept from it as stale (graceful restart).
    pub stale: u64,
    /// Prefixes it was sent.
    pub advertised: u64,
    /// BFD session with the neighbour, in words; absent where none is configured.
    #[serde(default)]
    pub bfd: Option<String>,
    /// Last error of the session, if any.
    pub last_error: Option<String>,
    /// Negotiated capabilities, for `-o wide`.
    #[serde(default)]
    pub capabilities: Vec<String>,
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
    /// Chosen by the decision process.
    pub best: bool,
    /// Kept over a graceful restart.
    pub stale: bool,
    /// Why it is best or not, in the words of RFC 4271 section 9.1.2.
    pub reason: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
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
