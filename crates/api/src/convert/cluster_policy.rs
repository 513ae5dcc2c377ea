//! ClusterNetworkPolicy as a GlobalNetworkPolicy (`libcalico-go/lib/backend/k8s/conversion/clusternetworkpolicy.go`).
//!
//! Two things go beyond Calico's: named ports and peers that are nodes. One is narrower: `namespaces` means pods, as the
//! API says, not the network sets of these namespaces.

use std::collections::BTreeMap;

use super::network_policy::{Converted, DroppedRule, origin, pods, range, simplify};
use crate::{
    ClusterNetworkPolicy, GlobalNetworkPolicy, Metadata,
    effective::{KUBE_ADMIN_TIER, KUBE_BASELINE_TIER},
    kinds::{
        Action, ClusterPolicyAction, ClusterPolicyPeer, ClusterPolicyPort, ClusterPolicyProtocol,
        ClusterPolicySubject, ClusterPolicyTier, EntityRule, GlobalNetworkPolicySpec, PolicyType, Rule,
        RuleMetadata,
    },
    selector::Selector,
    types::{Port, Protocol},
};

/// Annotation of a converted rule with the name it has in the ClusterNetworkPolicy.
pub const RULE_NAME: &str = "name";

/// Calico's tier for a ClusterNetworkPolicy's.
#[must_use]
pub fn cluster_tier(tier: ClusterPolicyTier) -> &'static str {
    match tier {
        ClusterPolicyTier::Admin => KUBE_ADMIN_TIER,
        ClusterPolicyTier::Baseline => KUBE_BASELINE_TIER,
    }
}

/// The governed pods: Calico's `selector` and `namespaceSelector`.
#[must_use]
pub fn cluster_subject(subject: &ClusterPolicySubject) -> (Selector, Selector) {
    match subject {
        ClusterPolicySubject::Namespaces(namespaces) => (pods(None), namespaces.to_selector()),
        ClusterPolicySubject::Pods(named) => {
            (pods(Some(&named.pod_selector)), named.namespace_selector.to_selector())
        }
    }
}

/// Converts a ClusterNetworkPolicy. Never fails: a rule that can't be converted allows nothing if it accepts, and denies
/// everything if it denies or passes on, as the API asks; it is in [`Converted::dropped`].
#[must_use]
pub fn cluster_policy(policy: &ClusterNetworkPolicy) -> Converted<GlobalNetworkPolicy> {
    let source = &policy.spec;
    let (selector, namespace_selector) = cluster_subject(&source.subject);
    let mut types = Vec::new();
    // The tiers pass on what is undecided: a direction without rules is not governed.
    if !source.ingress.is_empty() {
        types.push(PolicyType::Ingress);
    }
    if !source.egress.is_empty() {
        types.push(PolicyType::Egress);
    }
    let metadata = Metadata { uid: policy.metadata.uid.clone(), ..Metadata::named(&policy.metadata.name) };
    let spec = GlobalNetworkPolicySpec {
        tier: Some(cluster_tier(source.tier).to_owned()),
        order: Some(source.priority.into()),
        selector: Some(selector),
        namespace_selector: Some(namespace_selector),
        types,
        ..GlobalNetworkPolicySpec::default()
    };
    let mut converted = Converted::new(GlobalNetworkPolicy::new(metadata, spec), policy.key());
    for (index, rule) in source.ingress.iter().enumerate() {
        let parts = rules(&rule.from, &rule.protocols, PolicyType::Ingress);
        let path = format!("spec.ingress[{index}]");
        for part in closed(rule.action, path, parts, &mut converted.dropped) {
            converted.ingress_origins.push(origin("ingress", index, "from", part.peer));
            let ends = (part.entity, EntityRule { ports: part.ports, ..EntityRule::default() });
            converted.policy.spec.ingress.push(build(part.action, &rule.name, part.protocol, ends));
        }
    }
    for (index, rule) in source.egress.iter().enumerate() {
        let parts = rules(&rule.to, &rule.protocols, PolicyType::Egress);
        let path = format!("spec.egress[{index}]");
        for part in closed(rule.action, path, parts, &mut converted.dropped) {
            converted.egress_origins.push(origin("egress", index, "to", part.peer));
            if let Some(nodes) = part.nodes {
                converted.egress_nodes.insert(converted.policy.spec.egress.len(), nodes);
            }
            let ends = (EntityRule::default(), EntityRule { ports: part.ports, ..part.entity });
            converted.policy.spec.egress.push(build(part.action, &rule.name, part.protocol, ends));
        }
    }
    converted
}

/// One peer with the ports of one protocol.
struct Part {
    action: Action,
    peer: Option<usize>,
    protocol: Option<Protocol>,
    ports: Vec<Port>,
    entity: EntityRule,
    nodes: Option<Selector>,
}

fn build(
    action: Action,
    name: &str,
    protocol: Option<Protocol>,
    (source, destination): (EntityRule, EntityRule),
) -> Rule {
    let metadata = (!name.is_empty())
        .then(|| RuleMetadata { annotations: BTreeMap::from([(RULE_NAME.to_owned(), name.to_owned())]) });
    Rule { protocol, source, destination, metadata, ..Rule::new(action) }
}

/// The parts with the rule's action, or what stands for a rule that makes no sense.
fn closed(
    action: ClusterPolicyAction,
    path: String,
    parts: Result<Vec<Part>, String>,
    dropped: &mut Vec<DroppedRule>,
) -> Vec<Part> {
    let calico = match action {
        ClusterPolicyAction::Accept => Action::Allow,
        ClusterPolicyAction::Deny => Action::Deny,
        ClusterPolicyAction::Pass => Action::Pass,
    };
    match parts {
        Ok(parts) => parts.into_iter().map(|part| Part { action: calico, ..part }).collect(),
        Err(reason) => {
            let denies = action != ClusterPolicyAction::Accept;
            dropped.push(DroppedRule { path, reason, denies });
            let (ports, entity) = (Vec::new(), EntityRule::default());
            let all = Part { action: Action::Deny, peer: None, protocol: None, ports, entity, nodes: None };
            denies.then_some(all).into_iter().collect()
        }
    }
}

fn rules(
    peers: &[ClusterPolicyPeer],
    protocols: &[ClusterPolicyProtocol],
    direction: PolicyType,
) -> Result<Vec<Part>, String> {
    if peers.is_empty() {
        return Err("a rule without peers matches nothing".to_owned());
    }
    let without_names = peers.iter().any(|peer| peer.nodes.is_some() || !peer.networks.is_empty());
    let mut by_protocol: BTreeMap<Option<Protocol>, Option<Vec<Port>>> = BTreeMap::new();
    if protocols.is_empty() {
        by_protocol.insert(None, None);
    }
    for protocol in protocols {
        for (protocol, port) in cluster_ports(protocol, without_names)? {
            let ports = by_protocol.entry(Some(protocol)).or_insert_with(|| Some(Vec::new()));
            match port {
                Some(port) => ports.iter_mut().for_each(|ports| ports.push(port.clone())),
                // All of its ports, whatever else is said.
                None => *ports = None,
            }
        }
    }
    let mut parts = Vec::new();
    for (protocol, ports) in by_protocol {
        let ports = simplify(ports.unwrap_or_default());
        for (index, peer) in peers.iter().enumerate() {
            let (entity, nodes) = cluster_peer(peer, direction)?;
            let (peer, ports) = (Some(index), ports.clone());
            parts.push(Part { action: Action::Deny, peer, protocol, ports, entity, nodes });
        }
    }
    Ok(parts)
}

/// Calico's form of a peer; nodes have none and come apart.
pub(crate) fn cluster_peer(
    peer: &ClusterPolicyPeer,
    direction: PolicyType,
) -> Result<(EntityRule, Option<Selector>), String> {
    if let Some(name) = peer.unknown.keys().next() {
        return Err(format!("peers by {name} are not supported"));
    }
    let none = EntityRule::default();
    let selected = |pods, namespaces| EntityRule {
        selector: Some(pods),
        namespace_selector: Some(namespaces),
        ..EntityRule::default()
    };
    match (&peer.namespaces, &peer.pods, &peer.nodes, peer.networks.as_slice(), direction) {
        (Some(namespaces), None, None, [], _) => Ok((selected(pods(None), namespaces.to_selector()), None)),
        (None, Some(named), None, [], _) => {
            let (pods, namespaces) =
                (pods(Some(&named.pod_selector)), named.namespace_selector.to_selector());
            Ok((selected(pods, namespaces), None))
        }
        (None, None, Some(nodes), [], PolicyType::Egress) => Ok((none, Some(nodes.to_selector()))),
        (None, None, None, [_, ..], PolicyType::Egress) => {
            Ok((EntityRule { nets: peer.networks.clone(), ..none }, None))
        }
        (.., PolicyType::Ingress) => Err("a source is exactly one of namespaces and pods".to_owned()),
        _ => Err("a destination is exactly one of namespaces, pods, nodes and networks".to_owned()),
    }
}

/// Protocols with a port, or with all of them. A named port has the protocol that the container gives it.
pub(crate) fn cluster_ports(
    protocol: &ClusterPolicyProtocol,
    without_names: bool,
) -> Result<Vec<(Protocol, Option<Port>)>, String> {
    if let Some(name) = protocol.unknown.keys().next() {
        return Err(format!("matching by {name} is not supported"));
    }
    let numbered =
        [(Protocol::Tcp, &protocol.tcp), (Protocol::Udp, &protocol.udp), (Protocol::Sctp, &protocol.sctp)];
    let given: Vec<_> = numbered.iter().filter_map(|(p, ports)| Some((*p, ports.as_ref()?))).collect();
    match (given.as_slice(), &protocol.destination_named_port) {
        ([(protocol, ports)], None) => {
            let port = match ports.destination_port {
                None => None,
                Some(ClusterPolicyPort::Number(0) | ClusterPolicyPort::Range { start: 0, .. }) => {
                    return Err("0 is not a port here: use 1 to 65535".to_owned());
                }
                Some(ClusterPolicyPort::Number(number)) => Some(Port::Number(number)),
                Some(ClusterPolicyPort::Range { start, end }) if start < end => Some(range(start, end)),
                Some(ClusterPolicyPort::Range { start, end }) => {
                    return Err(format!("a range must begin below its end, {start} is not below {end}"));
                }
            };
            Ok(vec![(*protocol, port)])
        }
        ([], Some(_)) if without_names => Err("nodes and networks have no named ports".to_owned()),
        ([], Some(name)) => match name.parse() {
            Ok(port @ Port::Named(_)) => {
                Ok(numbered.iter().map(|(protocol, _)| (*protocol, Some(port.clone()))).collect())
            }
            _ => Err(format!("{name:?} is not the name of a port")),
        },
        _ => Err("exactly one of tcp, udp, sctp and destinationNamedPort is needed".to_owned()),
    }
}
