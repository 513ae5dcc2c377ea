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

/// A policy's spec and its staged twin. (serde's `flatten` would share the fields, but not with `deny_unknown_fields`.)
macro_rules! policy_specs {
    (
        $(#[$doc:meta])*
        $spec:ident: $kind:ident, $staged:ident: $staged_kind:ident {
            $($(#[$scope_attribute:meta])* pub $scope:ident: $scope_type:ty,)*
            ..
            $($(#[$host_attribute:meta])* pub $host:ident: $host_type:ty,)*
        }
    ) => {
        policy_specs! { @one
            $(#[$doc])*
            $spec: $kind {}
            { $($(#[$scope_attribute])* $scope: $scope_type,)* }
            { $($(#[$host_attribute])* $host: $host_type,)* }
        }
        policy_specs! { @one
            #[doc = concat!("A [`", stringify!($spec), "`] that is only evaluated.")]
            $staged: $staged_kind {
                /// What staging previews; `Set` when absent.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                staged_action: Option<StagedAction>,
            }
            { $($(#[$scope_attribute])* $scope: $scope_type,)* }
            { $($(#[$host_attribute])* $host: $host_type,)* }
        }
    };
    (@one
        $(#[$doc:meta])*
        $name:ident: $kind:ident
        { $($(#[$first_attribute:meta])* $first:ident: $first_type:ty,)* }
        { $($(#[$scope_attribute:meta])* $scope:ident: $scope_type:ty,)* }
        { $($(#[$host_attribute:meta])* $host:ident: $host_type:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($(#[$first_attribute])* pub $first: $first_type,)*
            /// The policy's tier; `default` when absent.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub tier: Option<String>,
            /// Lower goes first; absent means after all that have one.
            #[serde(default, serialize_with = "types::serialize_order", skip_serializing_if = "Option::is_none")]
            pub order: Option<f64>,
            /// Which endpoints the policy applies to; absent means all in scope.
            #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
            pub selector: Option<Selector>,
            $($(#[$scope_attribute])* pub $scope: $scope_type,)*
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
            $($(#[$host_attribute])* pub $host: $host_type,)*
            /// Hints to the policy engine.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub performance_hints: Vec<PerformanceHint>,
        }

        impl Spec for $name {
            const KIND: Kind = Kind::$kind;
            type Status = NoStatus;
            fn set_defaults(object: &mut Object<Self>) {
                validate::policy::set_defaults(object);
            }
            fn check(object: &Object<Self>, problems: &mut Problems) {
                validate::policy::check(object, problems);
            }
        }
    };
}

policy_specs! {
    /// Policy for the endpoints of one namespace.
    NetworkPolicySpec: NetworkPolicy, StagedNetworkPolicySpec: StagedNetworkPolicy {
        ..
    }
}

policy_specs! {
    /// Policy for endpoints of all namespaces and for host endpoints.
    GlobalNetworkPolicySpec: GlobalNetworkPolicy, StagedGlobalNetworkPolicySpec: StagedGlobalNetworkPolicy {
        /// Only endpoints in namespaces that match.
        #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
        pub namespace_selector: Option<Selector>,
        ..
        /// Before connection tracking; host endpoints only.
        #[serde(default, skip_serializing_if = "types::is_false")]
        pub do_not_track: bool,
        /// Before destination NAT; host endpoints, ingress only.
        #[serde(rename = "preDNAT", default, skip_serializing_if = "types::is_false")]
        pub pre_dnat: bool,
        /// Host-endpoint policy also for forwarded traffic.
        #[serde(default, skip_serializing_if = "types::is_false")]
        pub apply_on_forward: bool,
    }
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
