//! The part of the Kubernetes API that the manifests use (apps/v1, core/v1, policy/v1). Any other field is a mistake, or
//! has to be added here by somebody who has looked it up.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

pub(crate) type Labels = BTreeMap<String, String>;

macro_rules! object {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[allow(dead_code, reason = "some fields are there to be known, not to be looked at")]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }
    };
}

object!(Metadata { name: String, namespace: Option<String>, labels: Option<Labels> });
object!(Namespace { api_version: String, kind: String, metadata: Metadata });
object!(ServiceAccount {
    api_version: String,
    kind: String,
    metadata: Metadata,
    automount_service_account_token: Option<bool>,
});
object!(ConfigMap { api_version: String, kind: String, metadata: Metadata, data: Labels });
object!(DisruptionBudget {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: DisruptionBudgetSpec
});
object!(DisruptionBudgetSpec { min_available: u32, selector: Selector });
object!(Workload { api_version: String, kind: String, metadata: Metadata, spec: WorkloadSpec });
object!(WorkloadSpec {
    replicas: Option<u32>,
    selector: Selector,
    strategy: Option<Strategy>,
    update_strategy: Option<Strategy>,
    template: Template,
});
object!(Selector { match_labels: Labels });
object!(Template { metadata: TemplateMetadata, spec: PodSpec });
object!(TemplateMetadata { labels: Labels });
object!(PodSpec {
    service_account_name: String,
    automount_service_account_token: bool,
    priority_class_name: String,
    host_network: bool,
    dns_policy: String,
    termination_grace_period_seconds: u32,
    node_selector: Labels,
    affinity: Affinity,
    tolerations: Vec<Toleration>,
    init_containers: Option<Vec<Container>>,
    containers: Vec<Container>,
    volumes: Vec<Volume>,
});
object!(Affinity { node_affinity: Option<NodeAffinity>, pod_anti_affinity: Option<PodAntiAffinity> });
object!(NodeAffinity { required_during_scheduling_ignored_during_execution: NodeSelector });
object!(NodeSelector { node_selector_terms: Vec<NodeSelectorTerm> });
object!(NodeSelectorTerm { match_expressions: Vec<Requirement> });
object!(Requirement { key: String, operator: String, values: Option<Vec<String>> });
object!(PodAntiAffinity { required_during_scheduling_ignored_during_execution: Vec<PodAffinityTerm> });
object!(PodAffinityTerm { topology_key: String, label_selector: Selector });
object!(Toleration { operator: String });
object!(Container {
    name: String,
    image: String,
    image_pull_policy: String,
    command: Vec<String>,
    args: Vec<String>,
    env: Option<Vec<Variable>>,
    ports: Option<Vec<Port>>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    resources: Option<Resources>,
    security_context: SecurityContext,
    volume_mounts: Vec<VolumeMount>,
});
object!(Variable { name: String, value: Option<String>, value_from: Option<VariableSource> });
object!(VariableSource { field_ref: FieldRef });
object!(FieldRef { field_path: String });
object!(Port { name: String, container_port: u16, host_port: u16, protocol: String });
object!(Probe {
    http_get: HttpGet,
    period_seconds: Option<u32>,
    timeout_seconds: Option<u32>,
    failure_threshold: Option<u32>,
});
object!(HttpGet { host: String, port: u16, path: String });
object!(Resources { requests: Labels });
object!(SecurityContext {
    run_as_user: u32,
    allow_privilege_escalation: bool,
    read_only_root_filesystem: bool,
    capabilities: Capabilities,
    seccomp_profile: SeccompProfile,
});
object!(Capabilities { add: Option<Vec<String>>, drop: Vec<String> });
object!(VolumeMount { name: String, mount_path: String, read_only: Option<bool> });
object!(Volume {
    name: String,
    projected: Option<Projected>,
    config_map: Option<Reference>,
    host_path: Option<HostPath>,
    empty_dir: Option<EmptyDir>,
});
object!(Projected { sources: Vec<Projection> });
object!(Projection { config_map: Option<Reference>, secret: Option<Reference> });
object!(Reference { name: String, items: Option<Vec<Item>> });
object!(Item { key: String, path: String });
object!(EmptyDir { medium: String, size_limit: String });

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Strategy {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) rolling_update: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeccompProfile {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostPath {
    pub(crate) path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// All manifests.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) accounts: Vec<ServiceAccount>,
    pub(crate) config_maps: Vec<ConfigMap>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) budgets: Vec<DisruptionBudget>,
}

impl Manifests {
    /// Takes a document in, strictly.
    pub(crate) fn add(&mut self, document: Value) -> Result<(), String> {
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let name = document.pointer("/metadata/name").cloned().unwrap_or_default();
        let outcome = match (version.as_str(), kind.as_str()) {
            ("v1", "Namespace") => read(document).map(|object| self.namespaces.push(object)),
            ("v1", "ServiceAccount") => read(document).map(|object| self.accounts.push(object)),
            ("v1", "ConfigMap") => read(document).map(|object| self.config_maps.push(object)),
            ("apps/v1", "DaemonSet" | "Deployment") => {
                read(document).map(|object| self.workloads.push(object))
            }
            ("policy/v1", "PodDisruptionBudget") => read(document).map(|object| self.budgets.push(object)),
            _ => Err("an unknown kind".to_owned()),
        };
        outcome.map_err(|error| format!("{version} {kind} {name}: {error}"))
    }

    pub(crate) fn config_map(&self, name: &str) -> &ConfigMap {
        let found = self.config_maps.iter().find(|map| map.metadata.name == name);
        found.unwrap_or_else(|| panic!("no ConfigMap {name}"))
    }

    pub(crate) fn workload(&self, name: &str) -> &Workload {
        let found = self.workloads.iter().find(|workload| workload.metadata.name == name);
        found.unwrap_or_else(|| panic!("no workload {name}"))
    }
}

fn read<T: serde::de::DeserializeOwned>(document: Value) -> Result<T, String> {
    serde_json::from_value(document).map_err(|error| error.to_string())
}

impl PodSpec {
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().flatten().chain(&self.containers)
    }
}

impl Volume {
    pub(crate) fn config_maps(&self) -> impl Iterator<Item = &Reference> {
        let projected = self.projected.iter().flat_map(|projected| &projected.sources);
        projected.filter_map(|source| source.config_map.as_ref()).chain(&self.config_map)
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Reference> {
        let projected = self.projected.iter().flat_map(|projected| &projected.sources);
        projected.filter_map(|source| source.secret.as_ref())
    }
}
