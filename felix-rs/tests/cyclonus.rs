//! Kubernetes NetworkPolicy against cyclonus' truth table: see `tests/vectors/README.md`.
//!
//! One calculation lives through all cases: each step is the difference to the one before, so that its incremental paths
//! are run 256 times too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: a bad vector has to stop it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;

use felix_rs::calc::{Calculator, Scope};
use felix_rs::model::EnforcedState;
use felix_rs::verdict::{End, Packet, SCTP, TCP, UDP, Verdict, explain};
use margay_api::{Key, Resource};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    id: u32,
    description: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: Vec<Pod>,
    policies: Option<Vec<Value>>,
    results: Vec<Probe>,
}

#[derive(Deserialize)]
struct Pod {
    namespace: String,
    name: String,
    ip: IpAddr,
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
struct Probe {
    from: String,
    to: String,
    port: u16,
    protocol: String,
    ingress: bool,
    egress: bool,
    allowed: bool,
}

fn objects(step: &Step) -> BTreeMap<Key, Resource> {
    let namespaces = step.namespaces.iter().map(|(name, labels)| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    });
    let pods = step.pods.iter().map(|pod| {
        let ports: Vec<Value> = pod
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "containerPort": port.port, "protocol": port.protocol}))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": pod.ip, "podIPs": [{"ip": pod.ip}]},
        })
    });
    namespaces
        .chain(pods)
        .chain(step.policies.iter().flatten().map(policy))
        .map(|json| Resource::from_json(&json).unwrap())
        .map(|resource| (resource.key(), resource))
        .collect()
}

/// Some of the policies do not say what they are.
fn policy(policy: &Value) -> Value {
    let mut policy = policy.clone();
    policy["apiVersion"] = "networking.k8s.io/v1".into();
    policy["kind"] = "NetworkPolicy".into();
    policy
}

fn allows(end: &End) -> bool {
    let End::Endpoint(verdict) = end else { panic!("both ends are pods") };
    verdict.verdict == Verdict::Allow
}

#[test]
fn every_probe_of_every_case() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/cyclonus-truth.jsonl.gz");
    let file = std::fs::File::open(path).unwrap();
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();

    let mut calculator = Calculator::with_scope(Scope::All);
    let mut state = EnforcedState::default();
    let mut objects_now: BTreeMap<Key, Resource> = BTreeMap::new();
    let (mut cases, mut steps, mut probes, mut denied) = (0, 0, 0, 0);
    let mut differences = Vec::new();
    for line in lines {
        let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
        cases += 1;
        for step in &case.steps {
            steps += 1;
            let wanted = objects(step);
            for key in objects_now.keys().filter(|key| !wanted.contains_key(key)) {
                calculator.update(key, None);
            }
            for (key, resource) in &wanted {
                if objects_now.get(key) != Some(resource) {
                    calculator.update(key, Some(resource));
                }
            }
            objects_now = wanted;
            state.apply(&calculator.flush());
            assert_eq!(calculator.problems(), []);

            let address: BTreeMap<String, IpAddr> =
                step.pods.iter().map(|pod| (format!("{}/{}", pod.namespace, pod.name), pod.ip)).collect();
            for probe in step.results.iter().filter(|probe| probe.from != probe.to) {
                let protocol = match probe.protocol.as_str() {
                    "TCP" => TCP,
                    "UDP" => UDP,
                    "SCTP" => SCTP,
                    other => panic!("protocol {other}"),
                };
                let packet = Packet::to_port(address[&probe.from], address[&probe.to], protocol, probe.port);
                let explanation = explain(&state, &packet);
                let ours = (
                    allows(&explanation.source),
                    allows(&explanation.destination),
                    explanation.verdict == Verdict::Allow,
                );
                probes += 1;
                denied += u32::from(!probe.allowed);
                if ours != (probe.egress, probe.ingress, probe.allowed) {
                    differences.push(format!("case {} ({}): {explanation}", case.id, case.description));
                }
            }
        }
    }
    assert_eq!((cases, steps), (230, 256));
    assert!(probes > 100_000 && denied > 20_000, "{probes} probes, {denied} denied");
    assert!(
        differences.is_empty(),
        "{} of {probes} probes differ:\n{}",
        differences.len(),
        differences[..differences.len().min(5)].join("\n")
    );
}
