//! `margay explain`: the whole cluster's policies calculated for one question, from the datastore as it is now.

mod through;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felix_rs::apply::first_packet;
use felix_rs::calc::{Calculator, Scope, node_addresses};
use felix_rs::model::{EndpointId, EnforcedState};
use felix_rs::rules::{Origin, Owner};
use felix_rs::verdict::{self, Decision, EndpointVerdict, Explanation, Packet, Place, Verdict};
use margay_api::{HostEndpoint, Kind, Resource, WorkloadEndpoint};
use margay_control::explain::{
    End, ExplainReply, ExplainRequest, ImpactChange, ImpactReply, ImpactRequest, Party, RuleAt, SeenChange,
    Turned, Verified,
};
use margay_daemon::server::Failure;
use margay_datastore::Store;
use margay_netlink::conntrack::Conntrack;
use margay_routing::RouteTrace;

use crate::policy::Snapshot;
use crate::verify;

/// Kinds a verdict depends on.
const KINDS: [Kind; 19] = [
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::KubernetesNetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::EndpointSlice,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::HostEndpoint,
    Kind::Profile,
    Kind::WorkloadEndpoint,
    Kind::Namespace,
    Kind::ServiceAccount,
    Kind::Node,
    Kind::IpPool,
    Kind::FelixConfiguration,
];

/// A flow with both ends as addresses, and the state that decides it.
#[derive(Debug)]
pub(crate) struct Flow {
    packet: Packet,
    state: EnforcedState,
    /// What rules stand in, to show them as they were written.
    policies: Vec<Arc<Resource>>,
}

impl Flow {
    /// Finds the addresses of both ends and calculates the policies of all endpoints.
    pub(crate) async fn resolve(store: &Store, request: ExplainRequest) -> Result<Self, Failure> {
        let mut cluster = Cluster::read(store).await?;
        let mut state = EnforcedState::default();
        state.apply(&cluster.calculator.flush());
        cluster.name_hosts(&mut state);
        let destination = cluster.address_of(&request.to, None)?;
        let source = cluster.address_of(&request.from, Some(destination))?;
        cluster.note_own_node(&mut state, [source, destination]);
        if source.is_ipv4() != destination.is_ipv4() {
            let message = format!("{source} and {destination} are of different families");
            return Err(Failure::bad_request(message));
        }
        let packet = match (request.protocol, request.port) {
            (1 | 58, _) => Packet::echo(source, destination),
            (protocol, port) => Packet::to_port(source, destination, protocol, port.unwrap_or_default()),
        };
        Ok(Self { packet, state, policies: cluster.policies })
    }

    /// Where the flow goes.
    pub(crate) const fn destination(&self) -> IpAddr {
        self.packet.destination
    }

    /// Who sends.
    pub(crate) const fn source(&self) -> IpAddr {
        self.packet.source
    }

    /// Sends the packet from the pod whose namespace is at `namespace`, and compares.
    pub(crate) async fn verify(&self, namespace: String, here: &Snapshot) -> Result<Verified, Failure> {
        let packet = self.packet;
        let expected = verdict::explain(&here.state, &packet).verdict == Verdict::Allow;
        let passed = tokio::task::spawn_blocking(move || verify::passes(&namespace, &packet)).await;
        let passed = passed.map_err(|error| error.to_string()).flatten().map_err(Failure::try_later)?;
        Ok(Verified { expected, passed })
    }

    /// A rule as it is stored.
    fn written(&self, rule: &verdict::RuleAt) -> Option<serde_json::Value> {
        let is_it = |key: margay_api::Key| {
            key.name == *rule.name
                && key.namespace.as_deref() == rule.namespace.as_deref()
                && key.kind.to_string() == *rule.kind
        };
        let object = self.policies.iter().find(|object| is_it(object.key()))?.to_json();
        let pointer = rule.field.replace(['.', '['], "/").replace(']', "");
        object.pointer(&format!("/{pointer}")).cloned()
    }

    /// The verdict in words, with the route from this node and the counters of rules that are on it.
    pub(crate) fn explain(&self, route: &RouteTrace, counted: Option<&Snapshot>) -> ExplainReply {
        let explanation = verdict::explain(&self.state, &self.packet);
        let text = explanation.to_string();
        let ends = [&explanation.source, &explanation.destination].into_iter().filter_map(|end| match end {
            verdict::End::Endpoint(verdict) => Some(self.end(verdict, None, counted)),
            verdict::End::Node | verdict::End::Unknown => None,
        });
        ExplainReply {
            allowed: explanation.verdict == Verdict::Allow,
            summary: summary(&explanation, &text),
            ends: ends.collect(),
            route: route.route.as_ref().map(ToString::to_string),
            verified: None,
        }
    }

    fn end(&self, verdict: &EndpointVerdict, place: Option<Place>, counted: Option<&Snapshot>) -> End {
        End {
            direction: verdict.direction.to_string(),
            endpoint: verdict.endpoint.to_string(),
            place: place.map(|place| place.to_string()),
            allowed: verdict.verdict == Verdict::Allow,
            decided_by: verdict.decision.to_string(),
            steps: verdict.to_string().lines().map(str::to_owned).collect(),
            packets: packets(&verdict.decision, verdict.direction, counted),
            source: verdict.rule().and_then(|rule| self.written(&rule)),
            // Profiles of namespaces are nobody's writing.
            rule: verdict.rule().filter(|rule| self.written(rule).is_some()).map(rule_at),
        }
    }
}

/// The first packets of flows this node has seen lately: of connections the kernel knows.
fn connections() -> margay_netlink::Result<Vec<Packet>> {
    let mut conntrack = Conntrack::open()?;
    let mut packets = Vec::new();
    for is_ipv6 in [false, true] {
        conntrack.flows(is_ipv6, |flow| {
            packets.push(first_packet(flow));
            false
        })?;
    }
    Ok(packets)
}

/// What applying these objects would change: for all endpoints, and for the flows that this node has seen lately. `dropped`
/// are those among them that were denied.
pub(crate) async fn impact(
    store: &Store,
    request: ImpactRequest,
    here: &Snapshot,
    dropped: Vec<Packet>,
) -> Result<ImpactReply, Failure> {
    let Cluster { mut calculator, .. } = Cluster::read(store).await?;
    let mut before = EnforcedState::default();
    before.apply(&calculator.flush());
    let known: BTreeSet<_> = calculator.problems().into_iter().map(|p| (p.object, p.reason)).collect();
    for object in &request.objects {
        let resource =
            Resource::from_json(object).map_err(|error| Failure::bad_request(error.to_string()))?;
        let resource = resource.with_defaults();
        calculator.update(&resource.key(), Some(&resource));
    }
    let mut after = before.clone();
    after.apply(&calculator.flush());
    let problems = calculator.problems().into_iter().map(|p| (p.object, p.reason));
    let problems = problems.filter(|problem| !known.contains(problem));
    let problems = problems.map(|(object, reason)| format!("{object}: {reason}")).collect();
    // Minutes of work at worst, and none of the runtime's threads may wait for it.
    let own = here.state.settings.own_addresses.clone();
    let work = move || {
        let mut seen = dropped;
        let failed = |error| format!("the connections that the kernel tracks: {error}");
        seen.extend(connections().map_err(failed)?);
        let lately = verdict::impact_on([&before, &after], &own, seen.iter().copied());
        Ok::<_, String>((verdict::impact(&before, &after), lately, seen.len()))
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string()).flatten();
    let (impact, lately, seen) = done.map_err(Failure::try_later)?;
    let change = |change: verdict::ImpactChange| ImpactChange {
        from: change.from,
        to: change.to,
        flows: change.flows,
        turned: turned(change.turned),
    };
    let seen_change = |change: verdict::SeenChange| SeenChange {
        from: change.from,
        to: change.to,
        flow: change.flow,
        count: change.count,
        turned: turned(change.turned),
    };
    Ok(ImpactReply {
        changes: impact.changes.into_iter().map(change).collect(),
        truncated: impact.truncated,
        problems,
        seen,
        lately: lately.into_iter().map(seen_change).collect(),
    })
}

fn turned(turned: verdict::Turned) -> Turned {
    Turned {
        allowed_before: turned.before == Verdict::Allow,
        allowed_after: turned.after == Verdict::Allow,
        by: turned.by,
        rule: turned.rule.map(rule_at),
    }
}

fn rule_at(rule: verdict::RuleAt) -> RuleAt {
    RuleAt {
        kind: rule.kind.to_string(),
        namespace: rule.namespace.map(|namespace| namespace.to_string()),
        name: rule.name.to_string(),
        field: rule.field,
    }
}

/// The cluster as the datastore has it now.
struct Cluster {
    /// The policies of all endpoints.
    calculator: Calculator,
    pods: Vec<WorkloadEndpoint>,
    hosts: Vec<HostEndpoint>,
    /// Addresses of nodes by name.
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Policies and profiles.
    policies: Vec<Arc<Resource>>,
}

impl Cluster {
    async fn read(store: &Store) -> Result<Self, Failure> {
        let scopes: Vec<_> = KINDS.iter().map(|kind| (*kind).into()).collect();
        let listed = store.list(&scopes).await.map_err(|error| Failure::try_later(error.to_string()))?;
        let mut cluster = Self {
            calculator: Calculator::with_scope(Scope::All),
            pods: Vec::new(),
            hosts: Vec::new(),
            nodes: BTreeMap::new(),
            policies: Vec::new(),
        };
        for item in listed.items {
            match item.resource {
                Ok(resource) => {
                    match resource.as_ref() {
                        Resource::WorkloadEndpoint(endpoint) => cluster.pods.push(endpoint.clone()),
                        Resource::HostEndpoint(endpoint) => cluster.hosts.push(endpoint.clone()),
                        Resource::Node(node) => {
                            cluster.nodes.insert(node.metadata.name.clone(), node_addresses(node));
                        }
                        Resource::NetworkPolicy(_)
                        | Resource::GlobalNetworkPolicy(_)
                        | Resource::KubernetesNetworkPolicy(_)
                        | Resource::ClusterNetworkPolicy(_)
                        | Resource::Profile(_) => cluster.policies.push(Arc::clone(&resource)),
                        _ => {}
                    }
                    cluster.calculator.update(&item.key, Some(&resource));
                }
                Err(unreadable) => {
                    cluster.calculator.update_unreadable(
                        &item.key,
                        &unreadable.reason,
                        unreadable.raw.as_ref(),
                    );
                }
            }
        }
        Ok(cluster)
    }

    /// Host endpoints that are found by their interface: whose packets are its, only the node knows. It is taken for
    /// that of all the node's addresses.
    fn name_hosts(&self, state: &mut EnforcedState) {
        for host in self.hosts.iter().filter(|host| host.spec.expected_ips.is_empty()) {
            let id = EndpointId::Host { name: host.metadata.name.as_str().into() };
            let addresses = self.nodes.get(&host.spec.node);
            if let (Some(endpoint), Some(addresses)) = (state.endpoints.get_mut(&id), addresses) {
                Arc::make_mut(endpoint).addresses.extend(addresses);
            }
        }
    }

    /// A pod and the node it runs on: fixed rules decide there, of which a calculation for all nodes knows nothing.
    fn note_own_node(&self, state: &mut EnforcedState, [source, destination]: [IpAddr; 2]) {
        let node_of = |address| {
            let has = |pod: &&WorkloadEndpoint| pod.spec.ip_networks.iter().any(|net| net.addr() == address);
            self.pods.iter().find(has).and_then(|pod| self.nodes.get(&pod.spec.node))
        };
        for (pod, other) in [(source, destination), (destination, source)] {
            if let Some(own) = node_of(pod).filter(|own| own.contains(&other)) {
                Arc::make_mut(&mut state.settings).own_addresses.clone_from(own);
            }
        }
    }

    /// Address of one end; a pod or node with several gives the one of the other end's family.
    fn address_of(&self, party: &Party, like: Option<IpAddr>) -> Result<IpAddr, Failure> {
        let (addresses, unknown): (Vec<IpAddr>, _) = match party {
            Party::Address(address) => return Ok(*address),
            Party::Node(name) => {
                let addresses = self.nodes.get(name).into_iter().flatten().copied().collect();
                (addresses, format!("node {name} has no address: see `margay get nodes -o wide`"))
            }
            Party::Pod { namespace, name } => {
                let of_pod = self.pods.iter().filter(|endpoint| {
                    endpoint.metadata.namespace.as_ref() == Some(namespace)
                        && endpoint.spec.pod.as_ref() == Some(name)
                });
                let networks = of_pod.flat_map(|endpoint| &endpoint.spec.ip_networks);
                let unknown = format!(
                    "pod {namespace}/{name} has no endpoint: see `margay get workloadendpoints -A`, or give its address"
                );
                (networks.map(ipnet::IpNet::addr).collect(), unknown)
            }
        };
        let same_family =
            addresses.iter().find(|address| like.is_none_or(|like| like.is_ipv4() == address.is_ipv4()));
        same_family.or(addresses.first()).copied().ok_or_else(|| Failure::not_found(unknown))
    }
}

/// The first line says it all, and the last one where fixed rules decide.
fn summary(explanation: &Explanation, text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let fixed = explanation.loopback || explanation.own_node.is_some();
    match lines.next_back().filter(|_| fixed) {
        Some(last) => format!("{first}; {}", last.trim()),
        None => first.to_owned(),
    }
}

fn packets(
    decision: &Decision,
    direction: felix_rs::model::Direction,
    counted: Option<&Snapshot>,
) -> Option<u64> {
    let Decision::Rule { policy, rule, .. } = decision else { return None };
    let origin = Origin { owner: Owner::Policy(policy.clone()), direction, index: *rule };
    counted?.packets.get(&origin).copied()
}
