//! Parts of objects, drawn from a number.

use std::collections::BTreeMap;

use margay_api::kinds::{
    Action, ClusterPolicyAction, ClusterPolicyPeer, ClusterPolicyPort, ClusterPolicyPorts,
    ClusterPolicyProtocol, EntityRule, NamespacedPods, PolicyType, Rule, ServiceMatch,
};
use margay_api::selector::{LabelOperator, LabelRequirement, LabelSelector, Selector};
use margay_api::types::{Port, Protocol};

/// Small numbers drawn from one random number.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> usize {
        let value = self.0 % sides;
        self.0 = (self.0 / sides) ^ self.0.rotate_left(29);
        usize::try_from(value).unwrap()
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, options: &[&'a T]) -> &'a T {
        options[self.roll(options.len() as u64)]
    }

    pub(super) fn selector(&mut self) -> Option<Selector> {
        let text = self.pick(&[
            "",
            "all()",
            "role == 'x'",
            "role != 'x'",
            "has(extra)",
            "!has(role)",
            "role in {'x','y'} && has(extra)",
            "projectcalico.org/namespace == 'a'",
            "role == 'y' || has(extra)",
        ]);
        (!text.is_empty()).then(|| text.parse().unwrap())
    }

    pub(super) fn namespaces(&mut self) -> Option<Selector> {
        let text = self.pick(&[
            "",
            "",
            "all()",
            "global()",
            "env == 'dev'",
            "env != 'dev'",
            "has(env)",
            "projectcalico.org/name == 'b'",
        ]);
        (!text.is_empty()).then(|| text.parse().unwrap())
    }

    pub(super) fn entity(&mut self) -> EntityRule {
        let mut entity = EntityRule::default();
        match self.roll(6) {
            0 => {}
            5 => {
                let namespace = [None, Some("a".to_owned()), Some("b".to_owned())][self.roll(3)].clone();
                entity.services = Some(ServiceMatch { name: "svc".to_owned(), namespace });
            }
            1 => entity.nets = vec![self.pick(&["10.0.0.0/30", "10.0.0.2/32", "0.0.0.0/0"]).parse().unwrap()],
            2 => entity.not_nets = vec![self.pick(&["10.0.0.0/30", "10.0.0.5/32"]).parse().unwrap()],
            3 => entity.not_selector = self.selector(),
            _ => {
                entity.selector = self.selector();
                entity.namespace_selector = self.namespaces();
            }
        }
        entity
    }

    pub(super) fn ports(&mut self) -> Vec<Port> {
        match self.roll(5) {
            0 => vec![Port::Number(80)],
            1 => vec![Port::Range(79, 100)],
            2 => vec![Port::Named("http".to_owned())],
            3 => vec![Port::Named("http".to_owned()), Port::Number(443)],
            _ => Vec::new(),
        }
    }

    pub(super) fn rules(&mut self) -> Vec<Rule> {
        (0..self.roll(3))
            .map(|_| {
                let mut rule =
                    Rule::new(*self.pick(&[&Action::Allow, &Action::Deny, &Action::Pass, &Action::Log]));
                rule.source = self.entity();
                rule.destination = self.entity();
                if self.roll(2) == 0 {
                    rule.protocol = Some(Protocol::Tcp);
                    let ports = self.ports();
                    match self.roll(3) {
                        0 => rule.destination.not_ports = ports,
                        _ => rule.destination.ports = ports,
                    }
                }
                rule
            })
            .collect()
    }

    pub(super) fn label_selector(&mut self) -> LabelSelector {
        let mut selector = LabelSelector::default();
        let exists =
            |key: &str, operator| LabelRequirement { key: key.to_owned(), operator, values: Vec::new() };
        match self.roll(5) {
            0 => selector.match_labels = BTreeMap::from([("role".to_owned(), "x".to_owned())]),
            1 => selector.match_labels = BTreeMap::from([("env".to_owned(), "dev".to_owned())]),
            2 => selector.match_expressions.push(exists("role", LabelOperator::Exists)),
            3 => selector.match_expressions.push(exists("env", LabelOperator::DoesNotExist)),
            _ => {}
        }
        selector
    }

    pub(super) fn pods(&mut self) -> NamespacedPods {
        NamespacedPods { namespace_selector: self.label_selector(), pod_selector: self.label_selector() }
    }

    pub(super) fn cluster_peers(&mut self) -> Vec<ClusterPolicyPeer> {
        (0..=self.roll(2))
            .map(|_| {
                let mut peer = ClusterPolicyPeer::default();
                match self.roll(7) {
                    0 | 1 => peer.namespaces = Some(self.label_selector()),
                    2 | 3 => peer.pods = Some(self.pods()),
                    4 => peer.nodes = Some(self.label_selector()),
                    5 => {
                        peer.networks = vec!["10.0.0.2/31".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]
                    }
                    _ => drop(peer.unknown.insert("domainNames".to_owned(), "example.org".into())),
                }
                peer
            })
            .collect()
    }

    pub(super) fn cluster_protocols(&mut self) -> Vec<ClusterPolicyProtocol> {
        let ports = |port| Some(ClusterPolicyPorts { destination_port: port });
        (0..self.roll(3))
            .map(|_| {
                let mut protocol = ClusterPolicyProtocol::default();
                match self.roll(5) {
                    0 => protocol.tcp = ports(None),
                    1 => protocol.tcp = ports(Some(ClusterPolicyPort::Number(80))),
                    2 => protocol.tcp = ports(Some(ClusterPolicyPort::Range { start: 400, end: 500 })),
                    3 => protocol.destination_named_port = Some("http".to_owned()),
                    _ => protocol.udp = ports(None),
                }
                protocol
            })
            .collect()
    }

    pub(super) fn cluster_action(&mut self) -> ClusterPolicyAction {
        ClusterPolicyAction::ALL[self.roll(3)]
    }

    pub(super) fn types(&mut self) -> Vec<PolicyType> {
        match self.roll(4) {
            0 => vec![PolicyType::Ingress],
            1 => vec![PolicyType::Egress],
            2 => vec![PolicyType::Ingress, PolicyType::Egress],
            _ => Vec::new(),
        }
    }
}
