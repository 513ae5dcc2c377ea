//! BGP peers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::FailureDetectionMode;
use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::{self, Selector},
    types::{self, AsNumber, GoDuration, PeerAddress, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// Source address of a session.
    #[derive(Default)]
    pub enum SourceAddress {
        /// The node's address.
        #[default]
        UseNodeIp = "UseNodeIP",
        /// Whatever routing picks.
        None = "None",
    }
}

string_enum! { exact
    /// NEXT_HOP of what is advertised to the peer.
    #[derive(Default)]
    pub enum NextHopMode {
        /// BGP's default.
        #[default]
        Auto = "Auto",
        /// Always the own address.
        Self_ = "Self",
        /// Never changed.
        Keep = "Keep",
    }
}

string_enum! { exact
    /// Whether selected nodes get the reverse session by themselves.
    #[derive(Default)]
    pub enum ReversePeering {
        /// Yes.
        #[default]
        Auto = "Auto",
        /// No.
        Manual = "Manual",
    }
}

string_enum! { exact
    /// What becomes of a peer's routes while it restarts.
    #[derive(Default)]
    pub enum RestartMode {
        /// They stay as they are for the restart time (RFC 4724).
        #[default]
        GracefulRestart = "GracefulRestart",
        /// After it they go on as those that any other is preferred to (RFC 9494).
        LongLivedGracefulRestart = "LongLivedGracefulRestart",
    }
}

/// Sessions of one node, some nodes, or all nodes with a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpPeerSpec {
    /// Only this node; absent together with `nodeSelector` means all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Only nodes that match.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// The peer's address.
    #[serde(rename = "peerIP", default, skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<PeerAddress>,
    /// The peer's AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Peer with every node that matches.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<Selector>,
    /// Peer with every local workload that matches.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub local_workload_selector: Option<Selector>,
    /// Old form of `nextHopMode: Keep` for external peers.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub keep_original_next_hop: bool,
    /// NEXT_HOP of what is advertised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<NextHopMode>,
    /// TCP-MD5 password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Source address; absent means the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<SourceAddress>,
    /// Graceful-restart time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<GoDuration>,
    /// How the loss of the peer is found before the hold timer expires; absent means `None`. Calico Enterprise's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_detection_mode: Option<FailureDetectionMode>,
    /// What becomes of its routes while it restarts; absent means `LongLivedGracefulRestart`. Calico Enterprise's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_mode: Option<RestartMode>,
    /// Time between KEEPALIVEs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<GoDuration>,
    /// How often the own AS may be in AS_PATH.
    #[serde(rename = "numAllowedLocalASNumbers", default, skip_serializing_if = "Option::is_none")]
    pub num_allowed_local_as_numbers: Option<u32>,
    /// AS used for this session in place of the node's.
    #[serde(rename = "localASNumber", default, skip_serializing_if = "Option::is_none")]
    pub local_as_number: Option<AsNumber>,
    /// GTSM (RFC 5082): hops to the peer.
    #[serde(rename = "ttlSecurity", default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Gateway of a host route to the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<IpAddr>,
    /// BGPFilters, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// With `peerSelector`; absent means `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<ReversePeering>,
}

/// A password in a Kubernetes secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Which secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Kubernetes secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    /// The key in the secret; required.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The secret's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

impl Spec for BgpPeerSpec {
    const KIND: Kind = Kind::BgpPeer;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::bgp::check_peer(object, problems);
    }
}
