//! From objects to packets: the calculation's own state in the kernel.

use felix_rs::calc::{Calculator, Interfaces};
use felix_rs::model::{BackendChoice, Delta, EnforcedState};
use margay_api::yaml;

use crate::lab::{Lab, NODE, NODE_UPLINK, OUTSIDE};
use crate::{Node, Scenario};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("cluster_network_policy", cluster_network_policy), ("rules_by_service", rules_by_service)];

/// A calculation that knows the pods, each in a namespace of its own name.
pub(crate) struct Cluster {
    calculator: Calculator,
    pub(crate) state: EnforcedState,
}

/// The node's own.
fn interfaces() -> Interfaces {
    [("lo".into(), [NODE].into()), ("uplink0".into(), [NODE_UPLINK].into())].into()
}

impl Cluster {
    pub(crate) fn of(lab: &Lab) -> Self {
        let mut cluster = Self { calculator: Calculator::new("node"), state: EnforcedState::default() };
        cluster.calculator.set_interfaces(interfaces());
        for pod in &lab.pods {
            let (name, interface, v4, v6) = (pod.name, &pod.interface, pod.v4, pod.v6);
            cluster.take(&format!(
                "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: {name}, namespace: {name}}}
spec: {{node: node, orchestrator: k8s, pod: {name}, endpoint: eth0, interfaceName: {interface}, ipNetworks: [{v4}/32, {v6}/128], profiles: [kns.{name}]}}
"
            ));
        }
        cluster
    }

    /// The node has another interface.
    pub(crate) fn see(&mut self, interface: &str) -> Delta {
        let mut all = interfaces();
        all.insert(interface.into(), Default::default());
        self.calculator.set_interfaces(all);
        self.flush()
    }

    /// Takes objects; the change goes into the state.
    pub(crate) fn take(&mut self, objects: &str) -> Delta {
        for located in yaml::parse("objects.yaml", objects).unwrap() {
            self.calculator.update(&located.value.key(), Some(&located.value));
        }
        self.flush()
    }

    /// The same objects are gone.
    pub(crate) fn forget(&mut self, objects: &str) -> Delta {
        for located in yaml::parse("objects.yaml", objects).unwrap() {
            self.calculator.update(&located.value.key(), None);
        }
        self.flush()
    }

    fn flush(&mut self) -> Delta {
        let delta = self.calculator.flush();
        self.state.apply(&delta);
        delta
    }
}

fn cluster_network_policy(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut cluster = Cluster::of(&lab);
    let mut node = Node::start(&lab, backend);
    cluster.take(&format!(
        "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: admin}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: b}}}}}}
  ingress:
  - {{action: Pass, from: [{{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: a}}}}}}], protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}]}}
  - {{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{}}}}]}}
  egress:
  - {{action: Deny, to: [{{nodes: {{matchLabels: {{role: control}}}}}}]}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: baseline}}
spec:
  tier: Baseline
  priority: 1
  subject: {{namespaces: {{}}}}
  ingress: [{{action: Deny, from: [{{pods: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: c}}}}, podSelector: {{}}}}}}]}}]
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: far, labels: {{role: control}}}}
spec: {{addresses: [{{address: {OUTSIDE}}}]}}
"
    ));
    node.apply(&cluster.state);
    for (b_at, a_at) in [(b.v4, a.v4), (b.v6, a.v6)] {
        assert!(a.tcp(b_at, 80), "passed on, and nobody else decides");
        assert!(!a.tcp(b_at, 8080) && !c.tcp(b_at, 80), "denied by Admin");
        assert!(a.udp(b_at), "another protocol");
        assert!(!c.udp(b_at) && !c.tcp(a_at, 80), "denied by Baseline");
        assert!(b.tcp(a_at, 8080), "nobody governs");
    }
    assert!(!b.tcp(OUTSIDE, 80) && a.tcp(OUTSIDE, 80), "a node as destination");
    let moved = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: far, labels: {role: worker}}\nspec: {}\n";
    node.delta(&cluster.take(moved));
    assert!(b.tcp(OUTSIDE, 80), "not a control node any more");
}

fn rules_by_service(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut cluster = Cluster::of(&lab);
    let mut node = Node::start(&lab, backend);
    cluster.take(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: to-api, namespace: a}
spec: {types: [Egress], egress: [{action: Allow, destination: {services: {name: api, namespace: b}}}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: not-from-api, namespace: c}
spec: {types: [Ingress], ingress: [{action: Deny, source: {services: {name: api, namespace: b}}}, {action: Allow}]}
",
    );
    node.apply(&cluster.state);
    assert!(!a.tcp(b.v4, 80) && b.tcp(c.v4, 80), "nobody is the service yet");
    let slice = |addresses: &str| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: api, namespace: b, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
endpoints: [{{addresses: [{addresses}]}}]
ports: [{{port: 80}}]
"
        )
    };
    let delta = cluster.take(&slice(&format!("{}, {}", b.v4, b.v6)));
    assert!(delta.policies.is_empty() && delta.endpoints.is_empty(), "members only: {delta:?}");
    node.delta(&delta);
    for to in [b.v4, b.v6] {
        assert!(a.tcp(to, 80) && !a.tcp(to, 8080) && !a.udp(to), "the service's port only");
    }
    assert!(!b.tcp(c.v4, 80) && !b.udp(c.v6), "the service as a source, whatever the port");
    assert!(!a.tcp(c.v4, 80) && lab.outside.tcp(c.v4, 80), "c is not the service; others reach it");
    node.delta(&cluster.take(&slice("")));
    assert!(!a.tcp(b.v4, 80) && b.tcp(c.v4, 80), "the service is empty again");
}
