//! The pods' interfaces this node has, and the WorkloadEndpoints they are in the datastore.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{WorkloadEndpointSpec, WorkloadPort};
use margay_api::types::Protocol;
use margay_api::{Key, Kind, Metadata, Pod, WorkloadEndpoint};

use margay_control::cni::Attachment;
use margay_ipam::Handle;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::addresses::handle_of;

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

/// Annotation of an endpoint: the network that its attachment is of.
const NETWORK: &str = "margay.io/network";

/// Labels that every endpoint has beside the pod's.
const OWN_LABELS: [&str; 3] =
    ["projectcalico.org/namespace", "projectcalico.org/orchestrator", "projectcalico.org/serviceaccount"];

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
    let own = OWN_LABELS.into_iter().zip([attached.namespace.as_str(), "k8s", account.as_str()]);
    metadata.labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    metadata.annotations.insert(NETWORK.to_owned(), attached.attachment.network.clone());
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

/// The attachment that an endpoint was made from, as far as it says so: the namespace's path and the labels of a CNI call that Pod
/// objects have replaced are lost.
pub(crate) fn from_endpoint(endpoint: &WorkloadEndpoint) -> Option<Attached> {
    let spec = &endpoint.spec;
    let attachment = Attachment {
        container_id: spec.container_id.clone()?,
        ifname: spec.endpoint.clone()?,
        network: endpoint.metadata.annotations.get(NETWORK)?.clone(),
    };
    let foreign = interface_name(&handle_of(&attachment)) != spec.interface_name;
    let mut labels = endpoint.metadata.labels.clone();
    labels.retain(|key, _| !OWN_LABELS.contains(&key.as_str()));
    Some(Attached {
        attachment,
        namespace: endpoint.metadata.namespace.clone()?,
        pod: spec.pod.clone()?,
        labels,
        addresses: spec.ip_networks.iter().map(IpNet::addr).collect(),
        interface: spec.interface_name.clone(),
        mac: spec.mac.as_ref()?.to_string(),
        netns: String::new(),
        leaving: false,
        foreign,
    })
}

/// Host side of an attachment's veth pair: `mgy` and 11 hexadecimal digits, as long as a name may be. It
/// depends on the attachment only, so a repeated call finds it again.
pub(crate) fn interface_name(handle: &Handle) -> String {
    let digest = Sha256::digest(handle.as_str());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("mgy{}", digits.get(..11).unwrap_or_default())
}

/// Its key: the name is `<node>-k8s-<pod>-<ifname>` with every `-` of a part doubled
/// (Calico `libcalico-go/lib/names/workloadendpoint.go`). Outside Kubernetes containers have names that no object may have
/// (podman's own: `sleepy_hopper`).
pub(crate) fn endpoint_key(node: &str, attached: &Attached) -> Key {
    let parts = [node, "k8s", &attached.pod, &attached.attachment.ifname];
    let name = parts.map(|part| subdomain(part).replace('-', "--")).join("-");
    Key::namespaced(Kind::WorkloadEndpoint, attached.namespace.clone(), name)
}

/// The part itself if it can be part of an object's name, else what of it can, and a hash that tells it from others.
fn subdomain(part: &str) -> Cow<'_, str> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = label.bytes().next().zip(label.bytes().last());
        ends.is_some_and(|(first, last)| fine(first) && fine(last))
            && label.bytes().all(|b| fine(b) || b == b'-')
    };
    if part.split('.').all(is_label) {
        return part.into();
    }
    let lower = part.to_ascii_lowercase();
    let plain: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let hash: String = Sha256::digest(part).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{plain}-{hash}").into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_has_an_endpoint_of_its_own() {
        let named_on = |pod: &str, ifname: &str, foreign: Option<&str>| {
            let attachment = Attachment {
                container_id: "c".to_owned(),
                ifname: ifname.to_owned(),
                network: "pods".to_owned(),
            };
            let own = interface_name(&handle_of(&attachment));
            let interface = foreign.unwrap_or(&own);
            let attached = Attached {
                attachment,
                namespace: "default".to_owned(),
                pod: pod.to_owned(),
                labels: BTreeMap::new(),
                addresses: vec!["10.65.0.1".parse().unwrap()],
                interface: interface.to_owned(),
                mac: "02:00:00:00:00:01".to_owned(),
                netns: String::new(),
                leaving: false,
                foreign: foreign.is_some(),
            };
            let mut endpoint = endpoint("node-1", &attached, None, Vec::new());
            assert_eq!(from_endpoint(&endpoint), Some(attached), "it says all of it");
            endpoint.validate().unwrap_or_else(|error| panic!("{pod}: {error}"));
            endpoint.metadata.annotations.clear();
            assert_eq!(from_endpoint(&endpoint), None, "another program's");
            endpoint.metadata.name
        };
        let named = |pod: &str, ifname: &str| named_on(pod, ifname, None);
        assert_eq!(named_on("web-0", "eth0", Some("veth1234")), "node--1-k8s-web--0-eth0");
        assert_eq!(named("web-0", "eth0"), "node--1-k8s-web--0-eth0");
        assert_eq!(named("a.b", "net1"), "node--1-k8s-a.b-net1");
        let strange =
            ["sleepy_hopper", "sleepy-hopper", "Sleepy_Hopper", "My_App", "_x", "x.", "a..b", "ü", ""];
        let names: std::collections::BTreeSet<String> =
            strange.iter().map(|pod| named(pod, "net_1")).collect();
        assert_eq!(names.len(), strange.len(), "{names:?}");
    }
}
