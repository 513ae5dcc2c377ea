//! ClusterNetworkPolicy of `policy.networking.k8s.io/v1alpha2`: the administrator's rules before and after everybody's.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::LabelSelector,
    types::{net, string_enum::string_enum},
    validate,
};

/// Rules for the pods of many namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicySpec {
    /// Before or after the policies of the namespaces.
    pub tier: ClusterPolicyTier,
    /// Place in the tier, 0 to 1000, lower first. Equal ones go by name.
    pub priority: u16,
    /// Pods it governs.
    pub subject: ClusterPolicySubject,
    /// Rules for connections to the pods, in order; with none, these connections are not governed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<ClusterIngressRule>,
    /// Rules for connections from the pods, in order; with none, these connections are not governed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<ClusterEgressRule>,
}

string_enum! { exact
    /// Where a ClusterNetworkPolicy stands.
    pub enum ClusterPolicyTier {
        /// Before all other policies.
        Admin = "Admin",
        /// After them, for what none of them decided.
        Baseline = "Baseline",
    }
}

string_enum! { exact
    /// What a rule does with a connection.
    pub enum ClusterPolicyAction {
        /// Let it through; the other end's policy still decides.
        Accept = "Accept",
        /// Drop it silently.
        Deny = "Deny",
        /// Leave it to the next tier.
        Pass = "Pass",
    }
}

/// The governed pods: exactly one way to say them. Pods on the node's own network are never meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterPolicySubject {
    /// All pods of these namespaces.
    Namespaces(LabelSelector),
    /// Pods by their own labels and their namespace's.
    Pods(NamespacedPods),
}

/// Pods by labels; both selectors must hold, an empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPods {
    /// Namespaces.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Pods inside them.
    #[serde(default)]
    pub pod_selector: LabelSelector,
}

/// One rule for connections to the pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterIngressRule {
    /// What people call it, up to 100 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What happens.
    pub action: ClusterPolicyAction,
    /// Any of these sources, 1 to 25: `namespaces` or `pods`.
    pub from: Vec<ClusterPolicyPeer>,
    /// Any of these; empty means every protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ClusterPolicyProtocol>,
}

/// One rule for connections from the pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEgressRule {
    /// What people call it, up to 100 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What happens.
    pub action: ClusterPolicyAction,
    /// Any of these destinations, 1 to 25.
    pub to: Vec<ClusterPolicyPeer>,
    /// Any of these; empty means every protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ClusterPolicyProtocol>,
}

/// The other end: exactly one field. The API asks that a rule with a field of a later version fails closed by itself, not
/// the whole policy; so unknown ones are kept here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPolicyPeer {
    /// All pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods by their own labels and their namespace's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    /// Addresses of nodes, by the nodes' labels. Egress only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Networks, up to 25, of pods and nodes too. Egress only.
    #[serde(default, deserialize_with = "net::nets", skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Fields not known here, `domainNames` among them.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// A protocol and its destination ports: exactly one field, with unknown ones as in [`ClusterPolicyPeer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPolicyProtocol {
    /// TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ClusterPolicyPorts>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<ClusterPolicyPorts>,
    /// SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sctp: Option<ClusterPolicyPorts>,
    /// A container's port by its name, with the protocol it has there. Not with `nodes` or `networks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// Ports of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPolicyPorts {
    /// Absent: all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<ClusterPolicyPort>,
}

/// One port or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterPolicyPort {
    /// One port, not 0.
    Number(u16),
    /// From `start` to `end`, both included; start < end.
    #[serde(rename_all = "camelCase")]
    Range {
        /// Lowest port, not 0.
        start: u16,
        /// Highest port.
        end: u16,
    },
}

impl Spec for ClusterNetworkPolicySpec {
    const KIND: Kind = Kind::ClusterNetworkPolicy;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::k8s_cluster_policy::check(object, problems);
    }
}
