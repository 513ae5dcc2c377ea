//! Kubernetes NetworkPolicy (`pkg/apis/networking/validation` of Kubernetes) and its staged twin.

use super::common;
use crate::{
    KubernetesNetworkPolicy, StagedKubernetesNetworkPolicy,
    convert::kubernetes_types,
    kinds::{KubernetesPolicyPeer, KubernetesPolicyPort, StagedAction},
    path::{Path, Problems, SPEC},
    types::{Port, Protocol},
};

/// Kubernetes' own defaults, for policies that didn't come through its API server.
pub(crate) fn set_defaults(policy: &mut KubernetesNetworkPolicy) {
    let spec = &mut policy.spec;
    if spec.policy_types.is_empty() {
        spec.policy_types = kubernetes_types(&[], !spec.egress.is_empty());
    }
    let ports = spec.ingress.iter_mut().flat_map(|rule| &mut rule.ports);
    for port in ports.chain(spec.egress.iter_mut().flat_map(|rule| &mut rule.ports)) {
        port.protocol.get_or_insert(Protocol::Tcp);
    }
}

pub(crate) fn check(policy: &KubernetesNetworkPolicy, problems: &mut Problems) {
    let spec = &policy.spec;
    spec.pod_selector.check(&SPEC.field("podSelector"), problems);
    common::unique(&spec.policy_types, &SPEC.field("policyTypes"), problems);
    let ingress = SPEC.field("ingress");
    for (index, rule) in spec.ingress.iter().enumerate() {
        let at = ingress.index(index);
        check_ports(&rule.ports, &at.field("ports"), problems);
        check_peers(&rule.from, &at.field("from"), problems);
    }
    let egress = SPEC.field("egress");
    for (index, rule) in spec.egress.iter().enumerate() {
        let at = egress.index(index);
        check_ports(&rule.ports, &at.field("ports"), problems);
        check_peers(&rule.to, &at.field("to"), problems);
    }
}

pub(crate) fn check_staged(policy: &StagedKubernetesNetworkPolicy, problems: &mut Problems) {
    let spec = &policy.spec;
    if spec.staged_action == Some(StagedAction::Delete) {
        let empty = spec.pod_selector.is_none()
            && spec.policy_types.is_empty()
            && spec.ingress.is_empty()
            && spec.egress.is_empty();
        problems.require(empty, &SPEC.field("stagedAction"), "Delete allows no other field beside it");
    }
    check(&staged_as_kubernetes(policy), problems);
}

/// The Kubernetes policy that a staged one stands for.
pub(crate) fn staged_as_kubernetes(policy: &StagedKubernetesNetworkPolicy) -> KubernetesNetworkPolicy {
    let spec = policy.spec.clone();
    KubernetesNetworkPolicy::new(
        policy.metadata.clone(),
        crate::kinds::KubernetesNetworkPolicySpec {
            pod_selector: spec.pod_selector.unwrap_or_default(),
            policy_types: spec.policy_types,
            ingress: spec.ingress,
            egress: spec.egress,
        },
    )
}

fn check_ports(ports: &[KubernetesPolicyPort], path: &Path<'_>, problems: &mut Problems) {
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        let named = matches!(port.protocol, None | Some(Protocol::Tcp | Protocol::Udp | Protocol::Sctp));
        problems.require(named, &at.field("protocol"), "use TCP, UDP or SCTP");
        let number = match &port.port {
            Some(Port::Number(number)) => {
                common::not_zero(Some(*number), &at.field("port"), problems);
                Some(*number)
            }
            Some(Port::Range(..)) => {
                problems.add(&at.field("port"), "a range is written with port and endPort here");
                None
            }
            Some(Port::Named(_)) | None => None,
        };
        if let Some(end) = port.end_port {
            let fine = number.is_some_and(|number| number <= end);
            problems.require(fine, &at.field("endPort"), "needs a port number beside it, not above endPort");
        }
    }
}

fn check_peers(peers: &[KubernetesPolicyPeer], path: &Path<'_>, problems: &mut Problems) {
    for (index, peer) in peers.iter().enumerate() {
        let at = path.index(index);
        let selectors = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        problems.require(
            selectors || peer.ip_block.is_some(),
            &at,
            "a peer needs podSelector, namespaceSelector or ipBlock",
        );
        if let Some(selector) = &peer.pod_selector {
            selector.check(&at.field("podSelector"), problems);
        }
        if let Some(selector) = &peer.namespace_selector {
            selector.check(&at.field("namespaceSelector"), problems);
        }
        if let Some(block) = &peer.ip_block {
            let ip_block = at.field("ipBlock");
            problems.require(
                !selectors,
                &ip_block,
                "can't be combined with podSelector or namespaceSelector",
            );
            let except = ip_block.field("except");
            for (i, hole) in block.except.iter().enumerate() {
                let inside = block.cidr.contains(hole) && *hole != block.cidr;
                problems.require(
                    inside,
                    &except.index(i),
                    format!("{hole} is not strictly inside {}", block.cidr),
                );
            }
        }
    }
}
