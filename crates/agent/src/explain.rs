//! `margay explain`: the whole cluster's policies calculated for one question, from the datastore as it is now.

use std::collections::BTreeSet;
use std::net::IpAddr;

use felix_rs::calc::{Calculator, Scope};
use felix_rs::model::EnforcedState;
use felix_rs::rules::{Origin, Owner};
use felix_rs::verdict::{self, Decision, Explanation, Packet, Verdict};
use margay_api::{Kind, Resource, WorkloadEndpoint};
use margay_control::explain::{
    End, ExplainReply, ExplainRequest, ImpactChange, ImpactReply, ImpactRequest, Party, Verified,
};
use margay_daemon::server::Failure;
use margay_datastore::Store;
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
}

impl Flow {
    /// Finds the addresses of both ends and calculates the policies of all endpoints.
    pub(crate) async fn resolve(store: &Store, request: ExplainRequest) -> Result<Self, Failure> {
        let (mut calculator, endpoints) = calculate(store).await?;
        let mut state = EnforcedState::default();
        state.apply(&calculator.flush());
        let destination = address_of(&request.to, &endpoints, None)?;
        let source = address_of(&request.from, &endpoints, Some(destination))?;
        if source.is_ipv4() != destination.is_ipv4() {
            let message = format!("{source} and {destination} are of different families");
            return Err(Failure::bad_request(message));
        }
        let packet = match (request.protocol, request.port) {
            (1 | 58, _) => Packet::echo(source, destination),
            (protocol, port) => Packet::to_port(source, destination, protocol, port.unwrap_or_default()),
        };
        Ok(Self { packet, state })
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

    /// The verdict in words, with the route from this node and the counters of rules that are on it.
    pub(crate) fn explain(&self, route: &RouteTrace, counted: Option<&Snapshot>) -> ExplainReply {
        let explanation = verdict::explain(&self.state, &self.packet);
        let text = explanation.to_string();
        let ends = [(&explanation.source, "egress"), (&explanation.destination, "ingress")];
        let ends = ends.into_iter().filter_map(|(end, direction)| match end {
            verdict::End::Endpoint(verdict) => Some(End {
                direction: direction.to_owned(),
                endpoint: verdict.endpoint.to_string(),
                allowed: verdict.verdict == Verdict::Allow,
                decided_by: verdict.decision.to_string(),
                steps: verdict.to_string().lines().map(str::to_owned).collect(),
                packets: packets(&verdict.decision, verdict.direction, counted),
            }),
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
}

/// What applying these objects would change.
pub(crate) async fn impact(store: &Store, request: ImpactRequest) -> Result<ImpactReply, Failure> {
    let (mut calculator, _) = calculate(store).await?;
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
    let impact = tokio::task::spawn_blocking(move || verdict::impact(&before, &after))
        .await
        .map_err(|error| Failure::try_later(error.to_string()))?;
    let change = |change: verdict::ImpactChange| ImpactChange {
        from: change.from,
        to: change.to,
        flows: change.flows,
        allowed_before: change.before == Verdict::Allow,
        allowed_after: change.after == Verdict::Allow,
        by: change.by,
    };
    Ok(ImpactReply {
        changes: impact.changes.into_iter().map(change).collect(),
        truncated: impact.truncated,
        problems,
    })
}

/// The policies of all endpoints of the cluster, from the datastore as it is now.
async fn calculate(store: &Store) -> Result<(Calculator, Vec<WorkloadEndpoint>), Failure> {
    let scopes: Vec<_> = KINDS.iter().map(|kind| (*kind).into()).collect();
    let listed = store.list(&scopes).await.map_err(|error| Failure::try_later(error.to_string()))?;
    let mut calculator = Calculator::with_scope(Scope::All);
    let mut endpoints = Vec::new();
    for item in listed.items {
        match item.resource {
            Ok(resource) => {
                if let Resource::WorkloadEndpoint(endpoint) = resource.as_ref() {
                    endpoints.push(endpoint.clone());
                }
                calculator.update(&item.key, Some(&resource));
            }
            Err(unreadable) => {
                calculator.update_unreadable(&item.key, &unreadable.reason, unreadable.raw.as_ref());
            }
        }
    }
    Ok((calculator, endpoints))
}

/// The first line says it all.
fn summary(explanation: &Explanation, text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.is_empty() { explanation.verdict.to_string() } else { first.to_owned() }
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

/// Address of one end; a pod with several gives the one of the other end's family.
fn address_of(
    party: &Party,
    endpoints: &[WorkloadEndpoint],
    like: Option<IpAddr>,
) -> Result<IpAddr, Failure> {
    let (namespace, name) = match party {
        Party::Address(address) => return Ok(*address),
        Party::Pod { namespace, name } => (namespace, name),
    };
    let of_pod = endpoints.iter().filter(|endpoint| {
        endpoint.metadata.namespace.as_ref() == Some(namespace) && endpoint.spec.pod.as_ref() == Some(name)
    });
    let addresses: Vec<IpAddr> =
        of_pod.flat_map(|endpoint| endpoint.spec.ip_networks.iter().map(ipnet::IpNet::addr)).collect();
    let same_family =
        addresses.iter().find(|address| like.is_none_or(|like| like.is_ipv4() == address.is_ipv4()));
    same_family.or(addresses.first()).copied().ok_or_else(|| {
        Failure::not_found(format!(
            "pod {namespace}/{name} has no endpoint: see `margay get workloadendpoints -A`, or give its address"
        ))
    })
}
