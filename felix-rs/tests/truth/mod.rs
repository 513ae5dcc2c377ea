//! cyclonus' truth table of Kubernetes NetworkPolicy: see `tests/vectors/README.md`.
//!
//! One calculation lives through all cases: each step is the difference to the one before, so that its incremental paths
//! are run 256 times too.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;

use felix_rs::calc::Calculator;
use felix_rs::model::{Delta, EnforcedState};
use felix_rs::verdict::{Packet, SCTP, TCP, UDP};
use margay_api::{Key, Resource};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) id: u32,
    pub(crate) description: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
pub(crate) struct Step {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: Vec<Pod>,
    policies: Option<Vec<Value>>,
    results: Vec<Probe>,
}

#[derive(Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    labels: BTreeMap<String, String>,
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Port {
    name: String,
    port: u16,
    protocol: String,
}

#[derive(Deserialize)]
pub(crate) struct Probe {
    from: String,
    to: String,
    port: u16,
    protocol: String,
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
    pub(crate) allowed: bool,
}

impl Step {
    /// Probes between two pods, as packets. A kernel never filters a pod's traffic to itself.
    pub(crate) fn probes(&self) -> impl Iterator<Item = (&Probe, Packet)> {
        let address = |of: &String| {
            let mut pods = self.pods.iter();
            pods.find(|pod| of.split_once('/') == Some((&pod.namespace, &pod.name))).unwrap().ip
        };
        self.results.iter().filter(|probe| probe.from != probe.to).map(move |probe| {
            let protocol = match probe.protocol.as_str() {
                "TCP" => TCP,
                "UDP" => UDP,
                "SCTP" => SCTP,
                other => panic!("protocol {other}"),
            };
            (probe, Packet::to_port(address(&probe.from), address(&probe.to), protocol, probe.port))
        })
    }
}

/// All cases in their order.
pub(crate) fn cases() -> impl Iterator<Item = Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/cyclonus-truth.jsonl.gz");
    let file = std::fs::File::open(path).unwrap();
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

impl Pod {
    /// A pod of no case.
    pub(crate) fn bare(namespace: &str, name: &str, ip: IpAddr) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            ip,
            labels: BTreeMap::new(),
            ports: Vec::new(),
        }
    }

    /// As Kubernetes has it.
    pub(crate) fn pod(&self) -> Value {
        let ports = self.ports.iter();
        let ports: Vec<Value> = ports
            .map(|port| json!({"name": port.name, "containerPort": port.port, "protocol": port.protocol}))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": self.namespace, "name": self.name, "labels": self.labels},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": self.ip, "podIPs": [{"ip": self.ip}]},
        })
    }

    /// Interface on the node's side.
    pub(crate) fn interface(&self) -> String {
        format!("mgy{}", self.ip.to_string().rsplit('.').next().unwrap())
    }

    /// As the agent has it.
    pub(crate) fn endpoint(&self) -> Value {
        let Self { namespace, name, .. } = self;
        let mut labels = self.labels.clone();
        labels.insert("projectcalico.org/namespace".into(), namespace.clone());
        labels.insert("projectcalico.org/orchestrator".into(), "k8s".into());
        let ports = self.ports.iter();
        let ports: Vec<Value> = ports
            .map(|port| json!({"name": port.name, "port": port.port, "protocol": port.protocol}))
            .collect();
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {"namespace": namespace, "name": format!("node-k8s-{name}-eth0"), "labels": labels},
            "spec": {
                "node": "node", "orchestrator": "k8s", "pod": name, "endpoint": "eth0", "ports": ports,
                "interfaceName": self.interface(), "ipNetworks": [format!("{}/32", self.ip)],
                "profiles": [format!("kns.{namespace}")],
            },
        })
    }
}

/// The calculation on its way through the cases.
pub(crate) struct Cluster {
    calculator: Calculator,
    pub(crate) state: EnforcedState,
    objects: BTreeMap<Key, Resource>,
    /// How a pod is told.
    told: fn(&Pod) -> Value,
}

impl Cluster {
    pub(crate) fn new(calculator: Calculator, told: fn(&Pod) -> Value) -> Self {
        Self { calculator, state: EnforcedState::default(), objects: BTreeMap::new(), told }
    }

    /// An object of no case.
    pub(crate) fn add(&mut self, object: &Value) {
        let resource = Resource::from_json(object).unwrap();
        self.calculator.update(&resource.key(), Some(&resource));
    }

    /// Goes to a step; what changes.
    pub(crate) fn go_to(&mut self, step: &Step) -> Delta {
        let namespaces = step.namespaces.iter().map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        });
        let wanted: BTreeMap<Key, Resource> = namespaces
            .chain(step.pods.iter().map(self.told))
            .chain(step.policies.iter().flatten().map(policy))
            .map(|json| Resource::from_json(&json).unwrap())
            .map(|resource| (resource.key(), resource))
            .collect();
        for key in self.objects.keys().filter(|key| !wanted.contains_key(key)) {
            self.calculator.update(key, None);
        }
        for (key, resource) in &wanted {
            if self.objects.get(key) != Some(resource) {
                self.calculator.update(key, Some(resource));
            }
        }
        self.objects = wanted;
        let delta = self.calculator.flush();
        self.state.apply(&delta);
        assert_eq!(self.calculator.problems(), []);
        delta
    }
}

/// Some of the policies do not say what they are.
fn policy(policy: &Value) -> Value {
    let mut policy = policy.clone();
    policy["apiVersion"] = "networking.k8s.io/v1".into();
    policy["kind"] = "NetworkPolicy".into();
    policy
}
