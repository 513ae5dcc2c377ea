//! Kubernetes NetworkPolicy. Its fields are fixed by `networking.k8s.io/v1`, so unknown ones are mistakes.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::rule::PolicyType;
use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::LabelSelector,
    types::{Port, Protocol, net},
    validate,
};

/// Who may talk to the selected pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesNetworkPolicySpec {
    /// Which pods of the namespace; empty means all.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// Directions; empty means ingress, and egress when there are egress rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_types: Vec<PolicyType>,
    /// Who may connect to the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<KubernetesIngressRule>,
    /// Where the pods may connect to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<KubernetesEgressRule>,
}

/// One allowed kind of incoming connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesIngressRule {
    /// To these ports; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<KubernetesPolicyPort>,
    /// From these; empty means everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<KubernetesPolicyPeer>,
}

/// One allowed kind of outgoing connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesEgressRule {
    /// To these ports; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<KubernetesPolicyPort>,
    /// To these; empty means everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<KubernetesPolicyPeer>,
}

/// Ports of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesPolicyPort {
    /// TCP, UDP or SCTP; TCP when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Number or name; absent means all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Last port of a range that begins with `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

/// Selectors (both must hold), or addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesPolicyPeer {
    /// Pods, in the policy's namespace unless `namespaceSelector` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses; not together with selectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// A range of addresses with holes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The range.
    #[serde(deserialize_with = "net::net")]
    pub cidr: IpNet,
    /// The holes.
    #[serde(default, deserialize_with = "net::nets", skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNet>,
}

impl Spec for KubernetesNetworkPolicySpec {
    const KIND: Kind = Kind::KubernetesNetworkPolicy;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::k8s_policy::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::k8s_policy::check(object, problems);
    }
}
