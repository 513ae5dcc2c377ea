//! ClusterNetworkPolicy (the schema of network-policy-api's CRD, version v1alpha2).

use super::common;
use crate::{
    ClusterNetworkPolicy,
    convert::{cluster_peer, cluster_ports},
    kinds::{ClusterPolicyPeer, ClusterPolicyProtocol, ClusterPolicySubject, NamespacedPods, PolicyType},
    path::{Path, Problems, SPEC},
};

/// Largest priority.
const MAX_PRIORITY: u16 = 1000;
/// Longest list of rules, peers, protocols or networks.
const MAX_ITEMS: usize = 25;
/// Longest name of a rule.
const MAX_NAME: usize = 100;

pub(crate) fn check(policy: &ClusterNetworkPolicy, problems: &mut Problems) {
    let spec = &policy.spec;
    problems.require(
        spec.priority <= MAX_PRIORITY,
        &SPEC.field("priority"),
        format!("a priority is a number from 0 to {MAX_PRIORITY}"),
    );
    let subject = SPEC.field("subject");
    match &spec.subject {
        ClusterPolicySubject::Namespaces(selector) => selector.check(&subject.field("namespaces"), problems),
        ClusterPolicySubject::Pods(pods) => check_pods(pods, &subject.field("pods"), problems),
    }
    let (ingress, egress) = (SPEC.field("ingress"), SPEC.field("egress"));
    common::at_most(&spec.ingress, MAX_ITEMS, &ingress, problems);
    common::at_most(&spec.egress, MAX_ITEMS, &egress, problems);
    for (index, rule) in spec.ingress.iter().enumerate() {
        let at = ingress.index(index);
        check_rule(&rule.name, PolicyType::Ingress, (&rule.from, "from"), &rule.protocols, &at, problems);
    }
    for (index, rule) in spec.egress.iter().enumerate() {
        let at = egress.index(index);
        check_rule(&rule.name, PolicyType::Egress, (&rule.to, "to"), &rule.protocols, &at, problems);
    }
}

fn check_pods(pods: &NamespacedPods, path: &Path<'_>, problems: &mut Problems) {
    pods.namespace_selector.check(&path.field("namespaceSelector"), problems);
    pods.pod_selector.check(&path.field("podSelector"), problems);
}

fn check_rule(
    name: &str,
    direction: PolicyType,
    (peers, field): (&[ClusterPolicyPeer], &str),
    protocols: &[ClusterPolicyProtocol],
    path: &Path<'_>,
    problems: &mut Problems,
) {
    let length = name.chars().count();
    problems.require(
        length <= MAX_NAME,
        &path.field("name"),
        format!("{length} characters, at most {MAX_NAME} are allowed"),
    );
    let at = path.field(field);
    problems.require(!peers.is_empty(), &at, "at least one peer is needed; all pods are namespaces: {}");
    common::at_most(peers, MAX_ITEMS, &at, problems);
    for (index, peer) in peers.iter().enumerate() {
        let at = at.index(index);
        if let Err(reason) = cluster_peer(peer, direction) {
            problems.add(&at, reason);
        }
        for (selector, name) in [(&peer.namespaces, "namespaces"), (&peer.nodes, "nodes")] {
            if let Some(selector) = selector {
                selector.check(&at.field(name), problems);
            }
        }
        if let Some(pods) = &peer.pods {
            check_pods(pods, &at.field("pods"), problems);
        }
        common::at_most(&peer.networks, MAX_ITEMS, &at.field("networks"), problems);
    }
    let at = path.field("protocols");
    common::at_most(protocols, MAX_ITEMS, &at, problems);
    let without_names = peers.iter().any(|peer| peer.nodes.is_some() || !peer.networks.is_empty());
    for (index, protocol) in protocols.iter().enumerate() {
        if let Err(reason) = cluster_ports(protocol, without_names) {
            problems.add(&at.index(index), reason);
        }
    }
}
