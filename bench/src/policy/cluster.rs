//! The cluster of the benchmark, in numbers: namespaces, applications, endpoints, policies.
//!
//! A quarter as many applications as policies: each is selected by four. Every policy lets in, by one of four
//! selectors, ten thousand clients. Local endpoints come first, each of another application, so that each has a group of
//! chains of its own: the most work there is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use margay_api::kinds::WorkloadEndpointSpec;
use margay_api::{Metadata, Resource, WorkloadEndpoint};
use margay_datastore::Store;
use serde_json::{Value, json};

/// Namespaces of the cluster.
const NAMESPACES: u32 = 50;
/// Policies that select one application.
const POLICIES_PER_APP: u32 = 4;
/// Endpoints of other nodes on one node.
const PER_NODE: u32 = 250;
/// Selectors that all clients match: sets of their own in the kernel.
const CLIENTS: [&str; 4] =
    ["role == 'client'", "role in {'client', 'none'}", "has(role)", "role != 'server'"];
/// Where the remote endpoints' addresses begin: blocks of this node are below.
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// All pods.
pub(super) const POOL: &str = "10.0.0.0/8";

/// Numbers of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Endpoints of the node that is measured.
    pub(super) local: u32,
    /// Endpoints of other nodes: all clients.
    pub(super) remote: u32,
    /// Networks of outsiders that are clients too.
    pub(super) outsiders: u32,
    /// Policies.
    pub(super) policies: u32,
}

impl Size {
    fn apps(self) -> u32 {
        (self.policies / POLICIES_PER_APP).max(1)
    }

    /// Namespace and labels of an endpoint.
    pub(super) fn endpoint(self, number: u32) -> (String, BTreeMap<String, String>) {
        let app = number % self.apps();
        let labels = [("app", format!("a-{app}")), ("role", "client".to_owned())];
        let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
        (format!("ns-{}", app % NAMESPACES), labels)
    }

    /// A client on another node.
    pub(super) fn remote(self, number: u32) -> Resource {
        let (namespace, mut labels) = self.endpoint(number);
        let own = [
            ("projectcalico.org/namespace", namespace.clone()),
            ("projectcalico.org/orchestrator", "k8s".to_owned()),
            ("projectcalico.org/serviceaccount", "default".to_owned()),
        ];
        labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
        let (node, pod) = (format!("node-{}", number / PER_NODE), format!("p-{number}"));
        let name = [&node, "k8s", &pod, "eth0"].map(|part| part.replace('-', "--")).join("-");
        let metadata = Metadata { labels, ..Metadata::namespaced(namespace.clone(), name) };
        WorkloadEndpoint::new(
            metadata,
            WorkloadEndpointSpec {
                orchestrator: Some("k8s".to_owned()),
                node,
                container_id: Some(format!("{number:064x}")),
                pod: Some(pod),
                endpoint: Some("eth0".to_owned()),
                service_account_name: Some("default".to_owned()),
                ip_networks: vec![IpNet::from(std::net::IpAddr::from(Self::address(number)))],
                profiles: vec![format!("kns.{namespace}"), format!("ksa.{namespace}.default")],
                interface_name: format!("mgy{number:08x}"),
                ..WorkloadEndpointSpec::default()
            },
        )
        .into()
    }

    /// Address of a remote endpoint.
    pub(super) fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(REMOTE) + number)
    }

    fn policy(self, number: u32) -> Value {
        let app = number % self.apps();
        let clients = CLIENTS.get(number as usize % CLIENTS.len()).copied().unwrap_or_default();
        let other = |action: &str, app: u32, side: &str| json!({"action": action, "protocol": "UDP", side: {"selector": format!("app == 'a-{app}'")}});
        let port = 80 + number / self.apps();
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "NetworkPolicy",
            "metadata": {"name": format!("p-{number}"), "namespace": format!("ns-{}", app % NAMESPACES)},
            "spec": {
                "selector": format!("app == 'a-{app}'"),
                "types": ["Ingress", "Egress"],
                "ingress": [
                    other("Allow", (app + 1) % self.apps(), "source"),
                    {"action": "Allow", "protocol": "TCP",
                     "source": {"namespaceSelector": "global()", "selector": "outsider == 'yes'"},
                     "destination": {"ports": [port]}},
                    {"action": "Allow", "protocol": "TCP",
                     "source": {"namespaceSelector": "all()", "selector": clients},
                     "destination": {"ports": [port]}},
                    {"action": "Allow", "protocol": "UDP",
                     "source": {"namespaceSelector": "all()", "selector": clients},
                     "destination": {"ports": [port]}},
                ],
                "egress": [
                    other("Allow", (app + 2) % self.apps(), "destination"),
                    {"action": "Allow", "protocol": "TCP",
                     "destination": {"namespaceSelector": "all()", "selector": "role == 'client'"}},
                ],
            },
        })
    }

    fn objects(self) -> impl Iterator<Item = Value> {
        let pool = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": {"name": "default"}, "spec": {"cidr": POOL},
        });
        let namespaces = (0..NAMESPACES).map(|number| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("ns-{number}")}})
        });
        let outsiders = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12);
        let nets: Vec<String> = (0..self.outsiders)
            .map(|number| format!("{}/32", Ipv4Addr::from(u32::from(outsiders.addr()) + 2 * number)))
            .collect();
        let set = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
            "metadata": {"name": "outsiders", "labels": {"outsider": "yes"}}, "spec": {"nets": nets},
        });
        [pool, set]
            .into_iter()
            .chain(namespaces)
            .chain((0..self.policies).map(move |number| self.policy(number)))
    }

    /// Every object of the cluster but the local endpoints.
    pub(super) fn resources(self) -> impl Iterator<Item = Result<Resource>> {
        let objects =
            self.objects().map(|object| Resource::from_json(&object).context("an object of the cluster"));
        objects.chain((0..self.remote).map(move |number| Ok(self.remote(number))))
    }

    /// Writes the cluster into a datastore.
    pub(super) async fn fill(self, store: &Store) -> Result<()> {
        for resource in self.resources() {
            store.create(resource?).await?;
        }
        Ok(())
    }
}

/// A policy of this name that selects the local endpoints of some applications and lets in nobody by UDP.
pub(super) fn new_policy(name: &str, apps: u32) -> Result<Resource> {
    let apps: Vec<String> = (0..apps).map(|app| format!("'a-{app}'")).collect();
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "order": 1, "types": ["Ingress"],
            "selector": format!("app in {{{}}}", apps.join(", ")),
            "ingress": [{"action": "Deny", "protocol": "UDP"}],
        },
    });
    Ok(Resource::from_json(&policy)?)
}
