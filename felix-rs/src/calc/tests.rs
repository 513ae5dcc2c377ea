//! Behaviour of the calculation, each test on a small cluster written as YAML.

use std::net::IpAddr;

use margay_api::{Key, Kind, yaml};

use super::{Calculator, Scope};
use crate::model::{EndpointId, EnforcedState, SetKind, SetMember};
use crate::verdict::{Decision, End, Packet, TCP, Verdict, explain};

mod closed;
mod cluster;
mod naive;
mod property;
mod settings;

/// A calculation with everything it ever told.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) calculator: Calculator,
    pub(super) state: EnforcedState,
}

impl Cluster {
    fn new(scope: Scope) -> Self {
        Self { calculator: Calculator::with_scope(scope), state: EnforcedState::default() }
    }

    fn of(text: &str) -> Self {
        let mut cluster = Self::new(Scope::All);
        cluster.apply(text);
        cluster
    }

    fn apply(&mut self, text: &str) {
        for located in yaml::parse("test.yaml", text).unwrap() {
            self.calculator.update(&located.value.key(), Some(&located.value));
        }
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        let delta = self.calculator.flush();
        self.state.apply(&delta);
    }

    fn delete(&mut self, key: &Key) {
        self.calculator.update(key, None);
        self.flush();
    }

    fn verdict(&self, from: &str, to: &str, port: u16) -> Verdict {
        explain(&self.state, &packet(from, to, port)).verdict
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet(from: &str, to: &str, port: u16) -> Packet {
    Packet::to_port(address(from), address(to), TCP, port)
}

const PODS: &str = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {node: n1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: mgy1, ipNetworks: [10.0.0.1/32], profiles: [kns.shop],
  ports: [{name: http, protocol: TCP, port: 8080}]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {node: n2, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: mgy2, ipNetworks: [10.0.0.2/32], profiles: [kns.shop]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: bot, namespace: crawl, labels: {app: web}}
spec: {node: n1, orchestrator: k8s, pod: bot, endpoint: eth0, interfaceName: mgy3, ipNetworks: [10.0.0.3/32], profiles: [kns.crawl]}
";

const WEB: &str = "10.0.0.1";
const DB: &str = "10.0.0.2";
const BOT: &str = "10.0.0.3";

#[test]
fn without_policy_namespaces_allow() {
    let cluster = Cluster::of(PODS);
    assert_eq!(cluster.verdict(WEB, DB, 5432), Verdict::Allow);
    assert_eq!(cluster.verdict(BOT, DB, 5432), Verdict::Allow);
    assert!(cluster.state.policies.is_empty() && cluster.state.sets.is_empty());
}

#[test]
fn a_rule_selector_means_its_own_namespace() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}]
",
    );
    assert_eq!(cluster.verdict(WEB, DB, 5432), Verdict::Allow);
    assert_eq!(cluster.verdict(WEB, DB, 5433), Verdict::Deny);
    assert_eq!(cluster.verdict(BOT, DB, 5432), Verdict::Deny);
    let explanation = explain(&cluster.state, &packet(BOT, DB, 5432));
    let End::Endpoint(end) = &explanation.destination else { panic!("{explanation}") };
    assert!(matches!(&end.decision, Decision::EndOfTier { tier, .. } if &**tier == "default"));
    let text = explanation.to_string();
    assert!(text.contains("source is not among: app == \"web\" in namespace shop"), "{text}");
    // One set for the selector, with one member.
    assert_eq!(cluster.state.sets.len(), 1);
    cluster.delete(&Key::namespaced(Kind::NetworkPolicy, "shop", "db"));
    assert_eq!(cluster.verdict(BOT, DB, 5432), Verdict::Allow);
    assert!(cluster.state.sets.is_empty() && cluster.state.set_names.is_empty());
}

/// A set of addresses alone is told anew when it gets its first network, and when it loses its last.
#[test]
fn a_set_says_whether_it_has_networks() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow, source: {selector: app == 'web'}}]}
",
    );
    let kinds =
        |cluster: &Cluster| -> Vec<SetKind> { cluster.state.sets.values().map(|(kind, _)| *kind).collect() };
    assert_eq!(kinds(&cluster), [SetKind::Host]);
    let nets = |name: &str, net: &str| {
        format!(
            "
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}
spec: {{nets: [{net}]}}
"
        )
    };
    for (name, net, kind) in [
        ("one", "192.0.2.1/32", SetKind::Host),
        ("two", "192.0.2.0/24", SetKind::Net),
        ("three", "192.0.2.0/24", SetKind::Net),
        ("two", "192.0.2.2/32", SetKind::Net),
        ("three", "192.0.2.2/32", SetKind::Host),
    ] {
        cluster.apply(&nets(name, net));
        assert_eq!(kinds(&cluster), [kind], "{name} {net}");
    }
    let members = &cluster.state.sets.values().next().unwrap().1;
    assert_eq!(members.len(), 3, "{members:?}");
}

#[test]
fn namespace_selectors_see_labels_of_namespaces() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress: [{action: Allow, source: {namespaceSelector: trust == 'yes'}}]
",
    );
    assert_eq!(cluster.verdict(BOT, DB, 1), Verdict::Deny);
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: crawl, labels: {trust: 'yes'}}}");
    assert_eq!(cluster.verdict(BOT, DB, 1), Verdict::Allow);
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Deny);
    cluster.delete(&Key::cluster(Kind::Namespace, "crawl"));
    assert_eq!(cluster.verdict(BOT, DB, 1), Verdict::Deny);
}

/// `pcns.env` is a label a pod may have; it is not what its namespace is called.
#[test]
fn nobody_wears_labels_of_a_namespace_or_an_account() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, source: {namespaceSelector: trust == 'yes'}}
  - {action: Allow, source: {serviceAccounts: {selector: trust == 'yes'}}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: named, namespace: shop}
spec:
  selector: app == 'db'
  ingress: [{action: Allow, source: {namespaceSelector: projectcalico.org/name == 'kube-system'}}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: bot, namespace: crawl, labels: {pcns.trust: 'yes', pcsa.trust: 'yes', pcns.projectcalico.org/name: kube-system}}
spec: {node: n1, orchestrator: k8s, pod: bot, endpoint: eth0, interfaceName: mgy3, ipNetworks: [10.0.0.3/32], profiles: [kns.crawl]}
",
    );
    assert_eq!(cluster.verdict(BOT, DB, 1), Verdict::Deny);
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: crawl, labels: {trust: 'yes'}}}");
    assert_eq!(cluster.verdict(BOT, DB, 1), Verdict::Allow);
}

#[test]
fn only_policies_of_local_endpoints_are_active() {
    let policy = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress: [{action: Allow, source: {selector: app == 'web'}}]
";
    let mut n1 = Cluster::new(Scope::Node("n1".to_owned()));
    n1.apply(PODS);
    n1.apply(policy);
    assert!(n1.state.policies.is_empty() && n1.state.sets.is_empty());
    assert_eq!(n1.state.endpoints.len(), 2);
    let mut n2 = Cluster::new(Scope::Node("n2".to_owned()));
    n2.apply(PODS);
    n2.apply(policy);
    assert_eq!((n2.state.policies.len(), n2.state.endpoints.len()), (1, 1));
    let (_, members) = n2.state.sets.values().next().unwrap();
    assert_eq!(members.iter().collect::<Vec<_>>(), [&SetMember::Net("10.0.0.1/32".parse().unwrap())]);
}

#[test]
fn named_ports_resolve_per_endpoint() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: http}
spec:
  selector: app == 'web'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]
",
    );
    assert_eq!(cluster.verdict(DB, WEB, 8080), Verdict::Allow);
    assert_eq!(cluster.verdict(DB, WEB, 80), Verdict::Deny);
    assert_eq!(cluster.verdict(DB, BOT, 8080), Verdict::Deny);
}

#[test]
fn a_service_means_its_endpoints() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: sources}
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress: [{action: Deny, source: {services: {name: api, namespace: shop}}}, {action: Allow}]
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: destinations, namespace: shop}
spec:
  selector: app == 'web'
  types: [Egress]
  egress: [{action: Allow, destination: {services: {name: api}}}]
",
    );
    assert!(cluster.calculator.problems().is_empty());
    let ends = |cluster: &Cluster| {
        [cluster.verdict(DB, WEB, 80), cluster.verdict(WEB, DB, 5432), cluster.verdict(WEB, DB, 80)]
    };
    let nothing = [Verdict::Allow, Verdict::Deny, Verdict::Deny];
    assert_eq!(ends(&cluster), nothing, "a service that does not exist matches nothing");
    let slice = |name: &str, addresses: &str, ports: &str| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
endpoints: [{{addresses: [{addresses}], conditions: {{ready: false}}}}]
ports: [{ports}]
"
        )
    };
    cluster.apply(&slice("api-1", DB, "{port: 5432}"));
    assert_eq!(ends(&cluster), [Verdict::Deny, Verdict::Allow, Verdict::Deny]);
    let text = explain(&cluster.state, &packet(WEB, DB, 80)).to_string();
    assert!(text.contains("the destination is not among: endpoints of service shop/api"), "{text}");
    // The same endpoint in a second slice: it stays when one of them goes.
    cluster.apply(&slice("api-2", DB, "{port: 5432}, {port: 80}, {name: any}"));
    assert_eq!(ends(&cluster), [Verdict::Deny, Verdict::Allow, Verdict::Allow]);
    cluster.delete(&Key::namespaced(Kind::EndpointSlice, "shop", "api-1"));
    assert_eq!(ends(&cluster), [Verdict::Deny, Verdict::Allow, Verdict::Allow]);
    cluster.apply(&slice("api-2", "example.org", "{port: 5432}"));
    assert_eq!(ends(&cluster), nothing);
}

#[test]
fn tiers_pass_and_deny_in_order() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.guard}
spec:
  tier: security
  selector: app == 'db'
  ingress:
  - {action: Deny, source: {namespaceSelector: projectcalico.org/name == 'crawl'}}
  - {action: Pass}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: open}
spec:
  selector: app == 'db'
  ingress: [{action: Allow}]
",
    );
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Allow);
    assert_eq!(cluster.verdict(BOT, DB, 1), Verdict::Deny);
    // Without its tier the policy has no place: it denies what it governs.
    cluster.delete(&Key::cluster(Kind::Tier, "security"));
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Deny);
    assert_eq!(cluster.verdict(DB, WEB, 1), Verdict::Allow);
    assert!(cluster.calculator.problems()[0].reason.contains("tier \"security\" does not exist"));
    cluster.apply(
        "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, spec: {order: 10}}",
    );
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Allow);
    assert!(cluster.calculator.problems().is_empty());
}

#[test]
fn staged_policies_are_explained_and_never_enforced() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: app == 'db', types: [Ingress], ingress: [{action: Deny}]}
",
    );
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Allow);
    let text = explain(&cluster.state, &packet(WEB, DB, 1)).to_string();
    assert!(text.contains("staged, not enforced]: denies"), "{text}");
}

#[test]
fn a_finished_pod_leaves_the_sets() {
    let mut cluster = Cluster::of(PODS);
    let pod = |phase: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, labels: {{app: web}}}}, \
             spec: {{containers: []}}, status: {{phase: {phase}}}}}"
        )
    };
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow, source: {selector: app == 'web'}}]}
",
    );
    cluster.apply(&pod("Running"));
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Allow);
    cluster.apply(&pod("Succeeded"));
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Deny);
}

#[test]
fn the_agents_own_endpoint_wins() {
    let mut cluster = Cluster::new(Scope::Node("n9".to_owned()));
    cluster.apply(PODS);
    assert!(cluster.state.endpoints.is_empty());
    let located = yaml::parse("test.yaml", PODS).unwrap();
    let margay_api::Resource::WorkloadEndpoint(mut web) = located[0].value.clone() else { panic!() };
    web.spec.interface_name = "mgy9".to_owned();
    cluster.calculator.set_local_endpoint(&web);
    cluster.flush();
    let endpoint = cluster.state.endpoints.values().next().unwrap();
    assert_eq!(&*endpoint.interface, "mgy9");
    cluster.calculator.remove_local_endpoint("shop", "web");
    cluster.flush();
    assert!(cluster.state.endpoints.is_empty() && cluster.state.profiles.is_empty());
}

#[test]
fn host_endpoints_have_four_places() {
    let mut cluster = Cluster::new(Scope::Node("n1".to_owned()));
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: eth0, labels: {role: node}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: plain}
spec: {selector: role == 'node', ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: untracked}
spec: {selector: role == 'node', doNotTrack: true, applyOnForward: true, ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec: {selector: role == 'node', preDNAT: true, applyOnForward: true, ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: forward}
spec: {selector: role == 'node', applyOnForward: true, ingress: [{action: Allow}]}
",
    );
    let endpoint = &cluster.state.endpoints[&EndpointId::Host { name: "eth0".into() }];
    let names = |policy: &crate::model::EndpointPolicy| -> Vec<String> {
        policy.tiers.iter().flat_map(|tier| &tier.ingress).map(|id| id.name.to_string()).collect()
    };
    assert_eq!(names(&endpoint.policy), ["forward", "plain"]);
    assert_eq!(names(&endpoint.untracked), ["untracked"]);
    assert_eq!(names(&endpoint.pre_dnat), ["early"]);
    assert_eq!(names(&endpoint.forward), ["forward"]);
    assert_eq!(cluster.state.settings.failsafe_inbound.len(), 9);
    assert_eq!(cluster.calculator.problems(), []);

    // Felix ignores the one before connection tracking where the endpoint is all interfaces.
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: eth0, labels: {role: node}}
spec: {node: n1, interfaceName: '*'}
",
    );
    let endpoint = &cluster.state.endpoints[&EndpointId::Host { name: "eth0".into() }];
    assert_eq!(names(&endpoint.untracked), [""; 0]);
    assert_eq!(names(&endpoint.pre_dnat), ["early"]);
    let problems = cluster.calculator.problems();
    assert_eq!(problems[0].object, "GlobalNetworkPolicy(untracked)");
    assert!(problems[0].reason.contains("HostEndpoint(eth0)"), "{}", problems[0].reason);
}

#[test]
fn kubernetes_rules_keep_their_numbers() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: other}}}, {ipBlock: {cidr: 192.0.2.0/24}}]
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}, {protocol: UDP, port: 5432}]
",
    );
    assert_eq!(cluster.verdict(WEB, DB, 5432), Verdict::Allow);
    assert_eq!(cluster.verdict(BOT, DB, 5432), Verdict::Deny);
    let policy = cluster.state.policies.values().next().unwrap();
    assert_eq!(policy.id.to_string(), "KubernetesNetworkPolicy shop/db");
    let numbers: Vec<u32> = policy.ingress.iter().map(|rule| rule.index).collect();
    assert_eq!(numbers, [0, 0, 1, 1]);
    let raw = serde_json::json!({"spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": "?"}});
    let key = Key::namespaced(Kind::KubernetesNetworkPolicy, "shop", "db");
    cluster.calculator.update_unreadable(&key, "spec.ingress: not a list", Some(&raw));
    cluster.flush();
    assert_eq!(cluster.verdict(WEB, DB, 5432), Verdict::Deny);
    assert_eq!(cluster.verdict(WEB, BOT, 5432), Verdict::Allow);
}
