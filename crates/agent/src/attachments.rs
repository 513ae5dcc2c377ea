//! The pods' interfaces this node has, and the WorkloadEndpoints they are in the datastore.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{WorkloadEndpointSpec, WorkloadPort};
use margay_api::types::Protocol;
use margay_api::{Key, Kind, Metadata, Pod, WorkloadEndpoint};

use margay_control::cni::Attachment;
use serde::{Deserialize, Serialize};

/// An interface that was committed: it exists, its route and policy are to be live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// Who.
    pub(crate) attachment: Attachment,
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// Name of the pod.
    pub(crate) pod: String,
    /// Labels from the CNI call, for clusters without Pod objects.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Host side of the veth pair.
    pub(crate) interface: String,
    /// MAC address of the pod's side.
    pub(crate) mac: String,
    /// Path of the pod's network namespace, as the runtime gave it.
    #[serde(default)]
    pub(crate) netns: String,
    /// DEL was answered; the interface is being removed.
    #[serde(default)]
    pub(crate) leaving: bool,
    /// Another plugin made the interface and its routes, and removes them: it gets policy only.
    #[serde(default)]
    pub(crate) foreign: bool,
}

/// The WorkloadEndpoint of an attachment, with labels and ports of its Pod object when there is one. It may send from
/// `sources`, too.
pub(crate) fn endpoint(
    node: &str,
    attached: &Attached,
    pod: Option<&Pod>,
    sources: Vec<IpNet>,
) -> WorkloadEndpoint {
    let key = endpoint_key(node, attached);
    let mut metadata = Metadata::namespaced(attached.namespace.clone(), key.name);
    let account =
        pod.and_then(|pod| pod.spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
    metadata.labels = pod.map_or_else(|| attached.labels.clone(), |pod| pod.metadata.labels.clone());
    let own = [
        ("projectcalico.org/namespace", attached.namespace.as_str()),
        ("projectcalico.org/orchestrator", "k8s"),
        ("projectcalico.org/serviceaccount", account.as_str()),
    ];
    metadata.labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let ports = pod.map(workload_ports).unwrap_or_default();
    WorkloadEndpoint::new(
        metadata,
        WorkloadEndpointSpec {
            orchestrator: Some("k8s".to_owned()),
            node: node.to_owned(),
            container_id: Some(attached.attachment.container_id.clone()),
            pod: Some(attached.pod.clone()),
            endpoint: Some(attached.attachment.ifname.clone()),
            service_account_name: Some(account.clone()),
            ip_networks: attached.addresses.iter().map(|address| IpNet::from(*address)).collect(),
            profiles: vec![
                format!("kns.{}", attached.namespace),
                format!("ksa.{}.{account}", attached.namespace),
            ],
            interface_name: attached.interface.clone(),
            mac: attached.mac.parse().ok(),
            ports,
            allow_spoofed_source_prefixes: sources,
            ..WorkloadEndpointSpec::default()
        },
    )
}

/// Its key: the name is `<node>-k8s-<pod>-<ifname>` with every `-` of a part doubled
/// (Calico `libcalico-go/lib/names/workloadendpoint.go`).
pub(crate) fn endpoint_key(node: &str, attached: &Attached) -> Key {
    let parts = [node, "k8s", &attached.pod, &attached.attachment.ifname];
    let name = parts.map(|part| part.replace('-', "--")).join("-");
    Key::namespaced(Kind::WorkloadEndpoint, attached.namespace.clone(), name)
}

/// Ports that rules can name: those of containers that stay.
fn workload_ports(pod: &Pod) -> Vec<WorkloadPort> {
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let ports = containers.flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            Some(WorkloadPort {
                name: port.name.clone()?,
                protocol: port.protocol.unwrap_or(Protocol::Tcp),
                port: port.container_port,
                host_port: port.host_port,
                host_ip: None,
            })
        })
        .collect()
}
