//! `margay explain`: what decides a flow.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A flow to explain. Each end is a pod or an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Source.
    pub from: Party,
    /// Destination.
    pub to: Party,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, for protocols with ports.
    pub port: Option<u16>,
    /// Send the first packet from the source, which must be a pod of this node.
    #[serde(default)]
    pub verify: bool,
    /// Follow the packet through this node, instead of asking the policies of both ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Through>,
}

/// The way of a packet through a node, as far as the node does not know it: of its own addresses and those of its pods it
/// does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// Interface it comes in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<String>,
    /// Interface it leaves by, where no route of Margay's says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outgoing: Option<String>,
    /// What destination NAT makes of its destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<SocketAddr>,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// `namespace/pod`.
    Pod {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
    },
    /// A node of the cluster, by its name.
    Node(String),
    /// An address, in the cluster or not.
    Address(IpAddr),
}

/// The verdict and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// Both ends allow the flow.
    pub allowed: bool,
    /// One sentence naming what decided.
    pub summary: String,
    /// Egress at the source, ingress at the destination; an end without policy is absent. Through a node: what decides, in the
    /// order the packet meets it.
    pub ends: Vec<End>,
    /// The way the packet takes from this node.
    pub route: Option<String>,
    /// What the kernel did with the packet, if it was to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// What became of a packet on this node, whose rules are those of its own pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The policies of this node's ends allow it.
    pub expected: bool,
    /// The kernel let it through.
    pub passed: bool,
}

/// The verdict at one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// `egress` or `ingress`.
    pub direction: String,
    /// The endpoint whose policy this is.
    pub endpoint: String,
    /// Of the places of a host endpoint, on a way through the node: `doNotTrack`, `preDNAT`, `applyOnForward`, or `normal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// This end allows the flow.
    pub allowed: bool,
    /// What decided, as `tier "default" policy NetworkPolicy(ns/name) rule 2 (Allow)`.
    pub decided_by: String,
    /// Every step of the evaluation, in order, with what was passed over and why.
    pub steps: Vec<String>,
    /// Packets counted by exactly the deciding rule in the kernel, if it is on this node.
    pub packets: Option<u64>,
    /// The rule that decided, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleAt>,
    /// That rule as it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<serde_json::Value>,
}

/// A rule of a stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAt {
    /// Kind of the object; Kubernetes' policy is `KubernetesNetworkPolicy`.
    pub kind: String,
    /// Its namespace, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Where the rule stands in it: `spec.ingress[2]`.
    pub field: String,
}

/// Another verdict than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Turned {
    /// Whether the flows are allowed now.
    pub allowed_before: bool,
    /// Whether they would be allowed.
    pub allowed_after: bool,
    /// What would decide.
    pub by: String,
    /// The rule, if one would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleAt>,
}

/// A change of policy that is not made yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImpactRequest {
    /// Objects as they would be applied, in their JSON form.
    pub objects: Vec<serde_json::Value>,
}

/// What a change of policy would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImpactReply {
    /// Groups of flows that would have another verdict.
    pub changes: Vec<ImpactChange>,
    /// There was more to evaluate than is done: changes may be missing.
    pub truncated: bool,
    /// What is wrong with the change: objects that would be quarantined, references that lead nowhere.
    pub problems: Vec<String>,
    /// Flows of this node that were looked at: connections the kernel still knows, and packets that the flow log
    /// has lately seen dropped.
    #[serde(default)]
    pub seen: usize,
    /// Those of them that would have another verdict.
    #[serde(default)]
    pub lately: Vec<SeenChange>,
}

/// Flows that were seen, between the same two ends, which would have another verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenChange {
    /// Who began them: an endpoint, or an address.
    pub from: String,
    /// Who was to answer.
    pub to: String,
    /// Protocol and destination port, as `tcp/80`.
    pub flow: String,
    /// How many there were.
    pub count: usize,
    /// The verdicts, and what would decide.
    #[serde(flatten)]
    pub turned: Turned,
}

/// Flows between two groups of endpoints with another verdict than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImpactChange {
    /// Sources: endpoints that no rule tells apart, or networks outside.
    pub from: Vec<String>,
    /// Destinations, likewise.
    pub to: Vec<String>,
    /// Protocols and destination ports, as `tcp/80-89`.
    pub flows: Vec<String>,
    /// The verdicts, and what would decide.
    #[serde(flatten)]
    pub turned: Turned,
}
