//! Kinds that the oracle has no opinion on: Kubernetes' policies (the truth table judges them), staged ones, and those of
//! host endpoints.

use margay_api::Resource;
use margay_api::kinds::{
    GlobalNetworkPolicySpec, IpBlock, KubernetesEgressRule, KubernetesIngressRule,
    KubernetesNetworkPolicySpec, KubernetesPolicyPeer, KubernetesPolicyPort, PolicyType,
    StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec,
};
use margay_api::types::Port;

use super::{Dice, object, order, tier};

/// How many there are.
pub(super) const SLOTS: usize = 6;

impl Dice {
    fn peers(&mut self) -> Vec<KubernetesPolicyPeer> {
        (0..self.roll(3))
            .map(|_| {
                let mut peer = KubernetesPolicyPeer::default();
                match self.roll(4) {
                    0 => peer.pod_selector = Some(self.label_selector()),
                    1 => peer.namespace_selector = Some(self.label_selector()),
                    2 => {
                        let [cidr, hole] = ["10.0.0.0/29", "10.0.0.2/31"].map(|net| net.parse().unwrap());
                        peer.ip_block = Some(IpBlock { cidr, except: vec![hole] });
                    }
                    _ => {
                        peer.pod_selector = Some(self.label_selector());
                        peer.namespace_selector = Some(self.label_selector());
                    }
                }
                peer
            })
            .collect()
    }

    fn policy_ports(&mut self) -> Vec<KubernetesPolicyPort> {
        let port = |port, end_port| KubernetesPolicyPort { protocol: None, port, end_port };
        match self.roll(4) {
            0 => vec![port(Some(Port::Number(80)), None)],
            1 => vec![port(Some(Port::Number(400)), Some(500))],
            2 => vec![port(Some(Port::Named("http".to_owned())), None)],
            _ => Vec::new(),
        }
    }

    fn rules_in(&mut self) -> Vec<KubernetesIngressRule> {
        (0..self.roll(3))
            .map(|_| KubernetesIngressRule { ports: self.policy_ports(), from: self.peers() })
            .collect()
    }

    fn rules_out(&mut self) -> Vec<KubernetesEgressRule> {
        (0..self.roll(3))
            .map(|_| KubernetesEgressRule { ports: self.policy_ports(), to: self.peers() })
            .collect()
    }
}

/// The object of one of these slots.
pub(super) fn resource(slot: usize, name: &str, dice: &mut Dice) -> Resource {
    match slot {
        // For host endpoints: one mode each.
        0..=2 => {
            let mut spec = GlobalNetworkPolicySpec {
                tier: tier(dice),
                order: order(dice),
                selector: dice.selector(),
                types: vec![PolicyType::Ingress],
                ingress: dice.rules(),
                do_not_track: slot == 0,
                pre_dnat: slot == 1,
                apply_on_forward: true,
                ..GlobalNetworkPolicySpec::default()
            };
            if slot != 1 {
                spec.types = dice.types();
                spec.egress = dice.rules();
            }
            object(None, name, dice, spec).into()
        }
        3 => {
            let spec = KubernetesNetworkPolicySpec {
                pod_selector: dice.label_selector(),
                policy_types: dice.types(),
                ingress: dice.rules_in(),
                egress: dice.rules_out(),
            };
            object(Some("a"), name, dice, spec).into()
        }
        4 => {
            let spec = StagedNetworkPolicySpec {
                tier: tier(dice),
                order: order(dice),
                selector: dice.selector(),
                ingress: dice.rules(),
                egress: dice.rules(),
                ..StagedNetworkPolicySpec::default()
            };
            object(Some("b"), name, dice, spec).into()
        }
        _ => {
            let spec = StagedKubernetesNetworkPolicySpec {
                pod_selector: Some(dice.label_selector()),
                policy_types: dice.types(),
                ingress: dice.rules_in(),
                egress: dice.rules_out(),
                ..StagedKubernetesNetworkPolicySpec::default()
            };
            object(Some("a"), name, dice, spec).into()
        }
    }
}
