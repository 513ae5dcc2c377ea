//! Kubernetes objects as Calico's: what the policy engine works on (`libcalico-go/lib/backend/k8s/conversion`).

mod cluster_policy;
mod network_policy;
mod pod;
mod profile;
#[cfg(test)]
mod tests;

pub use cluster_policy::{RULE_NAME, cluster_policy, cluster_subject, cluster_tier};
pub(crate) use cluster_policy::{cluster_peer, cluster_ports};
pub(crate) use network_policy::kubernetes_types;
pub use network_policy::{
    Converted, DroppedRule, KUBERNETES_POLICY_ORDER, KUBERNETES_POLICY_PREFIX, kubernetes_policy,
    staged_kubernetes_policy,
};
pub use pod::{pod_endpoint, pod_is_finished, pod_labels, pod_ports, workload_endpoint_name};
pub use profile::{
    DEFAULT_ALLOW_PROFILE, default_allow_profile, namespace_profile, namespace_profile_name,
    service_account_profile, service_account_profile_name,
};

/// Label on workload endpoints: the pod's namespace.
pub const LABEL_NAMESPACE: &str = "projectcalico.org/namespace";
/// Label on workload endpoints: `k8s`.
pub const LABEL_ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Label on workload endpoints: the pod's service account.
pub const LABEL_SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Label with an object's own name.
pub const LABEL_NAME: &str = "projectcalico.org/name";
/// Value of [`LABEL_ORCHESTRATOR`].
pub const ORCHESTRATOR_KUBERNETES: &str = "k8s";
/// In front of a namespace's labels on its endpoints.
pub const NAMESPACE_LABEL_PREFIX: &str = "pcns.";
/// In front of a service account's labels on its endpoints.
pub const SERVICE_ACCOUNT_LABEL_PREFIX: &str = "pcsa.";
