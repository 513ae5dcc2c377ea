//! `margay flows`: connections that policy let through, and packets it dropped.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One line of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// A connection or a packet.
    Flow(Flow),
    /// Some are missing.
    Lost {
        /// Why.
        lost: String,
    },
}

/// A connection that began, or a packet that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// When the agent heard of it (RFC 3339).
    pub time: String,
    /// What the kernel did.
    pub action: Action,
    /// `tcp`, `udp`, `sctp`, `icmp`, … or a number.
    pub protocol: String,
    /// Who began it.
    pub source: Peer,
    /// Who was to answer, behind any destination NAT.
    pub destination: Peer,
    /// What decided at the source, if it is a pod of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// What decided at the destination, if it is a pod of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
}

/// What became of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Its first packet got through.
    Allow,
    /// This packet was dropped.
    Deny,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its port, of protocols with ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `namespace/name`, if a pod of the cluster has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}
