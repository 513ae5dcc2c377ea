//! ClusterNetworkPolicy in the oracle, as its API describes it. Packets are TCP.

use std::collections::BTreeMap;

use margay_api::kinds::{
    Action, ClusterPolicyAction, ClusterPolicyPeer, ClusterPolicyPort, ClusterPolicyProtocol,
};
use margay_api::selector::{LabelOperator, LabelSelector};
use margay_api::{Kind, Resource};

use super::{Objects, Thing, get, holds};
use crate::verdict::Packet;

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
        && selector.match_expressions.iter().all(|requirement| match requirement.operator {
            LabelOperator::Exists => labels.contains_key(&requirement.key),
            LabelOperator::DoesNotExist => !labels.contains_key(&requirement.key),
            LabelOperator::In | LabelOperator::NotIn => unreachable!("not generated"),
        })
}

/// Whether it is a pod with such labels in such a namespace.
pub(super) fn selects(
    objects: &Objects,
    pods: &LabelSelector,
    namespaces: &LabelSelector,
    thing: &Thing,
) -> bool {
    let Some((namespace, _)) = &thing.workload else { return false };
    let object = get(objects, Kind::Namespace, None, namespace);
    let labels = object.map(|object| object.metadata().labels.clone()).unwrap_or_default();
    matches(namespaces, &labels) && matches(pods, &thing.labels)
}

/// What a rule says; `None`: nothing.
pub(super) fn rule(
    objects: &Objects,
    things: &[Thing],
    action: ClusterPolicyAction,
    (peers, egress): (&[ClusterPolicyPeer], bool),
    protocols: &[ClusterPolicyProtocol],
    packet: &Packet,
) -> Option<Action> {
    let outside = |peer: &ClusterPolicyPeer| peer.nodes.is_some() || !peer.networks.is_empty();
    let named = protocols.iter().any(|protocol| protocol.destination_named_port.is_some());
    let broken = peers.iter().any(|peer| !peer.unknown.is_empty() || outside(peer) && (!egress || named));
    if broken {
        return (action != ClusterPolicyAction::Accept).then_some(Action::Deny);
    }
    let there = if egress { packet.destination } else { packet.source };
    let pod = |peer: &ClusterPolicyPeer, thing: &Thing| {
        let all = LabelSelector::default();
        peer.namespaces.as_ref().is_some_and(|namespaces| selects(objects, &all, namespaces, thing))
            || peer
                .pods
                .as_ref()
                .is_some_and(|named| selects(objects, &named.pod_selector, &named.namespace_selector, thing))
    };
    let port = packet.destination_port;
    let has_port = |thing: &Thing, name: &str| {
        holds(objects, thing, packet.destination) && thing.ports.contains(&(name.to_owned(), 6, port))
    };
    let fits = |peer: &ClusterPolicyPeer, protocol: &ClusterPolicyProtocol| {
        if let Some(name) = &protocol.destination_named_port {
            // The port of the very pod that the peer means, or of the pod the policy stands before.
            return if egress {
                things.iter().any(|thing| pod(peer, thing) && has_port(thing, name))
            } else {
                things.iter().any(|thing| has_port(thing, name))
            };
        }
        protocol.tcp.as_ref().is_some_and(|ports| match ports.destination_port {
            None => true,
            Some(ClusterPolicyPort::Number(number)) => number == port,
            Some(ClusterPolicyPort::Range { start, end }) => (start..=end).contains(&port),
        })
    };
    let hit = peers.iter().any(|peer| {
        let address = things.iter().any(|thing| pod(peer, thing) && holds(objects, thing, there))
            || peer.networks.iter().any(|net| net.contains(&there))
            || peer.nodes.as_ref().is_some_and(|nodes| {
                objects.values().any(|resource| {
                    matches!(resource, Resource::Node(node)
                        if matches(nodes, &node.metadata.labels)
                            && node.spec.addresses.iter().any(|own| own.address.addr() == there))
                })
            });
        address && (protocols.is_empty() || protocols.iter().any(|protocol| fits(peer, protocol)))
    });
    hit.then_some(match action {
        ClusterPolicyAction::Accept => Action::Allow,
        ClusterPolicyAction::Deny => Action::Deny,
        ClusterPolicyAction::Pass => Action::Pass,
    })
}
