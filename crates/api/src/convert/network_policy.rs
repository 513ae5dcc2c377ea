use std::collections::BTreeMap;

use super::{LABEL_ORCHESTRATOR, ORCHESTRATOR_KUBERNETES};
use crate::{
    Key, KubernetesNetworkPolicy, Metadata, NetworkPolicy, StagedKubernetesNetworkPolicy,
    effective::DEFAULT_TIER,
    kinds::{
        Action, EntityRule, KubernetesPolicyPeer, KubernetesPolicyPort, NetworkPolicySpec, PolicyType, Rule,
    },
    selector::{Expr, LabelSelector, Selector},
    types::{Port, Protocol},
    validate::k8s_policy::staged_as_kubernetes,
};

/// In front of the name of a converted policy.
pub const KUBERNETES_POLICY_PREFIX: &str = "knp.default.";
/// Place of converted policies in the default tier.
pub const KUBERNETES_POLICY_ORDER: f64 = 1000.0;

/// A Kubernetes policy as a Calico policy, and where each of its rules came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted<P = NetworkPolicy> {
    /// What is enforced; a NetworkPolicy is called `knp.default.<name>`.
    pub policy: P,
    /// The Kubernetes object.
    pub origin: Key,
    /// For each ingress rule of `policy`, the field it came from: `spec.ingress[0].from[1]`.
    pub ingress_origins: Vec<String>,
    /// For each egress rule of `policy`, the field it came from.
    pub egress_origins: Vec<String>,
    /// Egress rules of `policy`, by number, whose destination has to be an address of these nodes besides; Calico's rules
    /// have no word for it.
    pub egress_nodes: BTreeMap<usize, Selector>,
    /// Rules that make no sense. What stands for them allows less.
    pub dropped: Vec<DroppedRule>,
}

impl<P> Converted<P> {
    pub(super) fn new(policy: P, origin: Key) -> Self {
        Self {
            policy,
            origin,
            ingress_origins: Vec::new(),
            egress_origins: Vec::new(),
            egress_nodes: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }
}

/// A rule that couldn't be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedRule {
    /// The rule, such as `spec.ingress[0]`.
    pub path: String,
    /// Why it was left out.
    pub reason: String,
    /// A denial of everything stands in its place.
    pub denies: bool,
}

/// Converts a Kubernetes NetworkPolicy. Never fails: what can't be converted is in [`Converted::dropped`].
#[must_use]
pub fn kubernetes_policy(policy: &KubernetesNetworkPolicy) -> Converted {
    let empty = NetworkPolicy::new(converted_metadata(&policy.metadata), NetworkPolicySpec::default());
    let mut converted = Converted::new(empty, policy.key());
    let source = &policy.spec;
    let mut spec = NetworkPolicySpec {
        tier: Some(DEFAULT_TIER.to_owned()),
        order: Some(KUBERNETES_POLICY_ORDER),
        selector: Some(pods(Some(&source.pod_selector))),
        types: kubernetes_types(&source.policy_types, !source.egress.is_empty()),
        ..NetworkPolicySpec::default()
    };
    for (index, rule) in source.ingress.iter().enumerate() {
        match convert_rule(&rule.from, &rule.ports) {
            Ok(rules) => {
                for (peer, rule) in rules {
                    converted.ingress_origins.push(origin("ingress", index, "from", peer));
                    let ends = (rule.peer, EntityRule { ports: rule.ports, ..EntityRule::default() });
                    spec.ingress.push(allow(rule.protocol, ends));
                }
            }
            Err(reason) => converted.dropped.push(DroppedRule {
                path: format!("spec.ingress[{index}]"),
                reason,
                denies: false,
            }),
        }
    }
    for (index, rule) in source.egress.iter().enumerate() {
        match convert_rule(&rule.to, &rule.ports) {
            Ok(rules) => {
                for (peer, rule) in rules {
                    converted.egress_origins.push(origin("egress", index, "to", peer));
                    let ends = (EntityRule::default(), EntityRule { ports: rule.ports, ..rule.peer });
                    spec.egress.push(allow(rule.protocol, ends));
                }
            }
            Err(reason) => converted.dropped.push(DroppedRule {
                path: format!("spec.egress[{index}]"),
                reason,
                denies: false,
            }),
        }
    }
    converted.policy.spec = spec;
    converted
}

/// Converts what a staged Kubernetes policy would enforce.
#[must_use]
pub fn staged_kubernetes_policy(policy: &StagedKubernetesNetworkPolicy) -> Converted {
    Converted { origin: policy.key(), ..kubernetes_policy(&staged_as_kubernetes(policy)) }
}

fn converted_metadata(metadata: &Metadata) -> Metadata {
    Metadata {
        name: format!("{KUBERNETES_POLICY_PREFIX}{}", metadata.name),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        creation_timestamp: metadata.creation_timestamp.clone(),
        ..Metadata::default()
    }
}

/// Kubernetes' own defaulting: always ingress, and egress where there are egress rules. (Calico's own policies differ.)
pub(crate) fn kubernetes_types(given: &[PolicyType], has_egress: bool) -> Vec<PolicyType> {
    let mut types = given.to_vec();
    if types.is_empty() {
        types.push(PolicyType::Ingress);
        if has_egress {
            types.push(PolicyType::Egress);
        }
    }
    types.sort_unstable();
    types.dedup();
    types
}

pub(super) fn origin(direction: &str, rule: usize, peers: &str, peer: Option<usize>) -> String {
    match peer {
        Some(peer) => format!("spec.{direction}[{rule}].{peers}[{peer}]"),
        None => format!("spec.{direction}[{rule}]"),
    }
}

fn allow(protocol: Option<Protocol>, (source, destination): (EntityRule, EntityRule)) -> Rule {
    Rule { protocol, source, destination, ..Rule::new(Action::Allow) }
}

/// One protocol and one peer of a Kubernetes rule.
struct Part {
    protocol: Option<Protocol>,
    ports: Vec<Port>,
    peer: EntityRule,
}

/// One part per protocol and peer, as Calico does it; the number says which peer.
fn convert_rule(
    peers: &[KubernetesPolicyPeer],
    ports: &[KubernetesPolicyPort],
) -> Result<Vec<(Option<usize>, Part)>, String> {
    let mut entities = Vec::with_capacity(peers.len().max(1));
    for (index, peer) in peers.iter().enumerate() {
        entities.push((Some(index), convert_peer(peer)?));
    }
    if entities.is_empty() {
        entities.push((None, EntityRule::default()));
    }
    let mut parts = Vec::new();
    for (protocol, ports) in convert_ports(ports)? {
        for (index, peer) in &entities {
            parts.push((*index, Part { protocol, ports: ports.clone(), peer: peer.clone() }));
        }
    }
    Ok(parts)
}

/// Protocols (`None`: any) and their ports (empty: all).
type ProtocolPorts = Vec<(Option<Protocol>, Vec<Port>)>;

/// Protocols in alphabetical order, each with its ports; no ports means all of them.
fn convert_ports(ports: &[KubernetesPolicyPort]) -> Result<ProtocolPorts, String> {
    if ports.is_empty() {
        return Ok(vec![(None, Vec::new())]);
    }
    // The value is `None` once a port entry without port allowed them all.
    let mut by_protocol: BTreeMap<String, (Protocol, Option<Vec<Port>>)> = BTreeMap::new();
    for port in ports {
        let protocol = port.protocol.unwrap_or(Protocol::Tcp);
        if !protocol.has_ports() {
            return Err(format!("protocol {protocol} is not TCP, UDP or SCTP"));
        }
        let (_, list) =
            by_protocol.entry(protocol.to_string()).or_insert_with(|| (protocol, Some(Vec::new())));
        match (&port.port, port.end_port) {
            (None, None) => *list = None,
            (Some(Port::Number(first)), Some(last)) if *first <= last => {
                list.iter_mut().for_each(|list| list.push(range(*first, last)));
            }
            (Some(port), None) => list.iter_mut().for_each(|list| list.push(port.clone())),
            (port, Some(last)) => {
                let port = port.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
                return Err(format!("endPort {last} needs a port number that is not above it, not {port}"));
            }
        }
    }
    Ok(by_protocol
        .into_values()
        .map(|(protocol, list)| (Some(protocol), simplify(list.unwrap_or_default())))
        .collect())
}

pub(super) fn range(first: u16, last: u16) -> Port {
    if first == last { Port::Number(first) } else { Port::Range(first, last) }
}

/// Names as they are, then the fewest ranges that cover the numbers.
pub(super) fn simplify(ports: Vec<Port>) -> Vec<Port> {
    let (mut numbers, mut simple) = (Vec::new(), Vec::new());
    for port in ports {
        match port.bounds() {
            Some(bounds) => numbers.push(bounds),
            None => simple.push(port),
        }
    }
    numbers.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in numbers {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    simple.extend(merged.into_iter().map(|(first, last)| range(first, last)));
    simple
}

fn convert_peer(peer: &KubernetesPolicyPeer) -> Result<EntityRule, String> {
    let selectors = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    if let Some(block) = &peer.ip_block {
        if selectors {
            return Err("ipBlock can't be combined with podSelector or namespaceSelector".to_owned());
        }
        return Ok(EntityRule {
            nets: vec![block.cidr],
            not_nets: block.except.clone(),
            ..EntityRule::default()
        });
    }
    if !selectors {
        return Err("a peer without podSelector, namespaceSelector and ipBlock selects nothing".to_owned());
    }
    Ok(EntityRule {
        selector: Some(pods(peer.pod_selector.as_ref())),
        namespace_selector: peer.namespace_selector.as_ref().map(LabelSelector::to_selector),
        ..EntityRule::default()
    })
}

/// The pods that a selector picks; host endpoints and network sets are never meant by Kubernetes.
pub(super) fn pods(selector: Option<&LabelSelector>) -> Selector {
    let mut terms = vec![Expr::Eq(LABEL_ORCHESTRATOR.to_owned(), ORCHESTRATOR_KUBERNETES.to_owned())];
    terms.extend(selector.map(LabelSelector::terms).unwrap_or_default());
    Expr::And(terms).into()
}
