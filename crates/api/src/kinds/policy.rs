//! Calico policies: enforced ones and their staged twins.

use serde::{Deserialize, Serialize};

use super::{
    k8s_policy::{KubernetesEgressRule, KubernetesIngressRule},
    rule::{PolicyType, Rule},
};
use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::{self, LabelSelector, Selector},
    types::{self, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// Hints to the policy engine.
    pub enum PerformanceHint {
        /// Keep the policy programmed even where it selects nothing.
        AssumeNeededOnEveryNode = "AssumeNeededOnEveryNode",
    }
}

string_enum! { exact
    /// What a staged policy would do when enforced.
    #[derive(Default)]
    pub enum StagedAction {
        /// Create or replace the policy of the same name.
        #[default]
        Set = "Set",
        /// Remove the policy of the same name.
        Delete = "Delete",
        /// Only record.
        Learn = "Learn",
        /// Nothing.
        Ignore = "Ignore",
    }
}

/// Policy for the endpoints of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// The policy's tier; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower goes first; absent means after all that have one.
    #[serde(default, serialize_with = "types::serialize_order", skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Which endpoints the policy applies to; absent means all in scope.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Only endpoints whose service account matches.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    /// Which directions the policy governs; see [`crate::effective::policy_types`] when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Rules for traffic to the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// Hints to the policy engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<PerformanceHint>,
}

/// Policy for endpoints of all namespaces and for host endpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GlobalNetworkPolicySpec {
    /// The policy's tier; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower goes first; absent means after all that have one.
    #[serde(default, serialize_with = "types::serialize_order", skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Which endpoints the policy applies to; absent means all in scope.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Only endpoints in namespaces that match.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Only endpoints whose service account matches.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    /// Which directions the policy governs; see [`crate::effective::policy_types`] when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Rules for traffic to the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// Before connection tracking; host endpoints only.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub do_not_track: bool,
    /// Before destination NAT; host endpoints, ingress only.
    #[serde(rename = "preDNAT", default, skip_serializing_if = "types::is_false")]
    pub pre_dnat: bool,
    /// Host-endpoint policy also for forwarded traffic.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub apply_on_forward: bool,
    /// Hints to the policy engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<PerformanceHint>,
}

/// A [`NetworkPolicySpec`] that is only evaluated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagedNetworkPolicySpec {
    /// What staging previews; `Set` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// The policy's tier; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower goes first; absent means after all that have one.
    #[serde(default, serialize_with = "types::serialize_order", skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Which endpoints the policy applies to; absent means all in scope.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Only endpoints whose service account matches.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    /// Which directions the policy governs; see [`crate::effective::policy_types`] when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Rules for traffic to the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// Hints to the policy engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<PerformanceHint>,
}

/// A [`GlobalNetworkPolicySpec`] that is only evaluated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagedGlobalNetworkPolicySpec {
    /// What staging previews; `Set` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// The policy's tier; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Lower goes first; absent means after all that have one.
    #[serde(default, serialize_with = "types::serialize_order", skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Which endpoints the policy applies to; absent means all in scope.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Only endpoints in namespaces that match.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Only endpoints whose service account matches.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    /// Which directions the policy governs; see [`crate::effective::policy_types`] when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Rules for traffic to the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoints, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Rule>,
    /// Before connection tracking; host endpoints only.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub do_not_track: bool,
    /// Before destination NAT; host endpoints, ingress only.
    #[serde(rename = "preDNAT", default, skip_serializing_if = "types::is_false")]
    pub pre_dnat: bool,
    /// Host-endpoint policy also for forwarded traffic.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub apply_on_forward: bool,
    /// Hints to the policy engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<PerformanceHint>,
}

/// A Kubernetes NetworkPolicy that is only evaluated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagedKubernetesNetworkPolicySpec {
    /// What staging previews; `Set` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// Which pods it applies to; absent or empty means all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Directions it governs, as in Kubernetes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_types: Vec<PolicyType>,
    /// Who may connect to the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<KubernetesIngressRule>,
    /// Where the pods may connect to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<KubernetesEgressRule>,
}

impl Spec for NetworkPolicySpec {
    const KIND: Kind = Kind::NetworkPolicy;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::policy::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::policy::check(object, problems);
    }
}

impl Spec for GlobalNetworkPolicySpec {
    const KIND: Kind = Kind::GlobalNetworkPolicy;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::policy::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::policy::check(object, problems);
    }
}

impl Spec for StagedNetworkPolicySpec {
    const KIND: Kind = Kind::StagedNetworkPolicy;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::policy::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::policy::check(object, problems);
    }
}

impl Spec for StagedGlobalNetworkPolicySpec {
    const KIND: Kind = Kind::StagedGlobalNetworkPolicy;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::policy::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::policy::check(object, problems);
    }
}

impl Spec for StagedKubernetesNetworkPolicySpec {
    const KIND: Kind = Kind::StagedKubernetesNetworkPolicy;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        object.spec.staged_action.get_or_insert_default();
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::k8s_policy::check_staged(object, problems);
    }
}
