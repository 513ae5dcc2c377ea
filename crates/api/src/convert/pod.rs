use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    LABEL_NAMESPACE, LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT, ORCHESTRATOR_KUBERNETES,
    namespace_profile_name, service_account_profile_name,
};
use crate::{
    Metadata, Pod, WorkloadEndpoint,
    kinds::{PodPhase, WorkloadEndpointSpec, WorkloadPort},
    types::Protocol,
};

/// A pod's only interface.
const POD_INTERFACE: &str = "eth0";
/// Label values end here; longer service account names get no label.
const MAX_LABEL_VALUE: usize = 63;
/// What pods run under when they name no service account.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// Whether all containers have ended for good: such a pod's addresses are no longer its own.
#[must_use]
pub fn pod_is_finished(pod: &Pod) -> bool {
    matches!(pod.status.phase, Some(PodPhase::Succeeded | PodPhase::Failed))
}

/// The labels that policies see on a pod: its own, its namespace, `k8s`, and its service account.
#[must_use]
pub fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone();
    labels.insert(LABEL_NAMESPACE.to_owned(), pod.metadata.namespace.clone().unwrap_or_default());
    labels.insert(LABEL_ORCHESTRATOR.to_owned(), ORCHESTRATOR_KUBERNETES.to_owned());
    // A pod can't claim a service account by labelling itself.
    labels.remove(LABEL_SERVICE_ACCOUNT);
    let account = service_account(pod);
    if account.len() < MAX_LABEL_VALUE {
        labels.insert(LABEL_SERVICE_ACCOUNT.to_owned(), account.to_owned());
    }
    labels
}

fn service_account(pod: &Pod) -> &str {
    pod.spec
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or(DEFAULT_SERVICE_ACCOUNT)
}

/// Declared ports that have a name or a host port, of containers and of init containers that stay (sidecars).
#[must_use]
pub fn pod_ports(pod: &Pod) -> Vec<WorkloadPort> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let declared = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    declared
        .filter(|port| {
            port.name.as_ref().is_some_and(|n| !n.is_empty()) || port.host_port.is_some_and(|p| p != 0)
        })
        .filter(|port| port.container_port != 0)
        .map(|port| WorkloadPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.unwrap_or(Protocol::Tcp),
            port: port.container_port,
            host_port: port.host_port.filter(|port| *port != 0),
            host_ip: port.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
        })
        .collect()
}

/// Name of a workload endpoint: `<node>-k8s-<pod>-<interface>`, with every dash inside a part doubled
/// (`libcalico-go/lib/names/workloadendpoint.go`).
#[must_use]
pub fn workload_endpoint_name(node: &str, pod: &str, interface: &str) -> String {
    let part = |text: &str| text.replace('-', "--");
    format!("{}-{ORCHESTRATOR_KUBERNETES}-{}-{}", part(node), part(pod), part(interface))
}

/// A pod as a workload endpoint. `None` for pods without one: not yet scheduled, or in the node's own network.
///
/// `host_interface` is the host side of its veth. A finished pod keeps its endpoint, but has no addresses any more.
#[must_use]
pub fn pod_endpoint(pod: &Pod, host_interface: &str) -> Option<WorkloadEndpoint> {
    let node = pod.spec.node_name.as_deref().filter(|node| !node.is_empty())?;
    if pod.spec.host_network {
        return None;
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let account = service_account(pod);
    let metadata = Metadata {
        name: workload_endpoint_name(node, &pod.metadata.name, POD_INTERFACE),
        namespace: Some(namespace.clone()),
        labels: pod_labels(pod),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        creation_timestamp: pod.metadata.creation_timestamp.clone(),
        ..Metadata::default()
    };
    let spec = WorkloadEndpointSpec {
        orchestrator: Some(ORCHESTRATOR_KUBERNETES.to_owned()),
        node: node.to_owned(),
        pod: Some(pod.metadata.name.clone()),
        endpoint: Some(POD_INTERFACE.to_owned()),
        service_account_name: Some(account.to_owned()),
        ip_networks: pod_addresses(pod).into_iter().map(IpNet::from).collect(),
        profiles: vec![namespace_profile_name(&namespace), service_account_profile_name(&namespace, account)],
        interface_name: host_interface.to_owned(),
        ports: pod_ports(pod),
        ..WorkloadEndpointSpec::default()
    };
    Some(WorkloadEndpoint::new(metadata, spec))
}

/// The pod's addresses, each once, in the order of its status.
fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    if pod_is_finished(pod) {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for address in pod.status.pod_ips.iter().map(|ip| ip.ip).chain(pod.status.pod_ip) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
