//! From the rules people write to the rules the node enforces: every "who" becomes a set.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::kinds::{Action, EntityRule, Rule};
use margay_api::selector::Selector;
use margay_api::types::{Port, Protocol};

use super::sets::{KnownSets, SetSpec};
use super::who::Who;
use crate::model::{Direction, IcmpMatch, PeerMatch, PolicyRule, PortRange, RuleAction, SetId, SharedPeer};
use crate::verdict::{TCP, has_ports};

/// Compiles the rules of one object.
#[derive(Debug)]
pub(super) struct Compiler<'a> {
    /// Namespace of the object.
    pub(super) namespace: Option<&'a str>,
    /// Sets the rules refer to.
    pub(super) sets: BTreeMap<SetId, Arc<SetSpec>>,
    /// Sets of all objects.
    pub(super) known: &'a mut KnownSets,
    /// Rules that were left out, and why.
    pub(super) notes: Vec<String>,
    /// A rule that can't be enforced as meant, and why: the object has to be quarantined.
    pub(super) unusable: Option<String>,
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl<'a> Compiler<'a> {
    pub(super) const fn new(namespace: Option<&'a str>, known: &'a mut KnownSets) -> Self {
        Self { namespace, sets: BTreeMap::new(), known, notes: Vec::new(), unusable: None }
    }

    pub(super) fn rules(&mut self, rules: &[Rule], direction: Direction) -> Vec<PolicyRule> {
        let mut compiled: Vec<_> =
            (0..).zip(rules).filter_map(|(index, rule)| self.rule(index, rule, direction)).collect();
        // Rules are large, there are many, and they stay.
        compiled.shrink_to_fit();
        compiled
    }

    fn rule(&mut self, index: u32, rule: &Rule, direction: Direction) -> Option<PolicyRule> {
        if rule.http.is_some() {
            // Leaving the match out would allow more than meant; leaving the rule out allows less.
            self.notes.push(format!("{direction} rule {index} is left out: http matches cannot be enforced"));
            return None;
        }
        let protocol = rule.protocol.map(Protocol::number);
        for (side, ports) in [
            ("source.ports", &rule.source.ports),
            ("source.notPorts", &rule.source.not_ports),
            ("destination.ports", &rule.destination.ports),
            ("destination.notPorts", &rule.destination.not_ports),
        ] {
            let numbered = ports.iter().any(|port| port.bounds().is_some());
            if numbered && !protocol.is_some_and(has_ports) {
                self.unusable.get_or_insert_with(|| {
                    format!("{direction} rule {index}: {side} needs protocol TCP, UDP or SCTP")
                });
            }
        }
        Some(PolicyRule {
            index,
            action: match rule.action {
                Action::Allow => RuleAction::Allow,
                Action::Deny => RuleAction::Deny,
                Action::Log => RuleAction::Log,
                Action::Pass => RuleAction::Pass,
            },
            ip_version: rule.ip_version.map(margay_api::kinds::IpVersion::number),
            protocol,
            not_protocol: rule.not_protocol.map(Protocol::number),
            icmp: rule.icmp.as_ref().map(|icmp| IcmpMatch { kind: icmp.r#type, code: icmp.code }),
            not_icmp: rule.not_icmp.as_ref().map(|icmp| IcmpMatch { kind: icmp.r#type, code: icmp.code }),
            source: self.peer(&rule.source, protocol, Side::Source),
            destination: self.peer(&rule.destination, protocol, Side::Destination),
            annotations: rule
                .metadata
                .as_ref()
                .map(|metadata| metadata.annotations.clone())
                .unwrap_or_default(),
        })
    }

    fn peer(&mut self, entity: &EntityRule, protocol: Option<u8>, side: Side) -> SharedPeer {
        let accounts = entity.service_accounts.as_ref();
        let who = Who {
            namespace: self.namespace,
            selector: entity.selector.as_ref(),
            not_selector: entity.not_selector.as_ref(),
            namespace_selector: entity.namespace_selector.as_ref(),
            account_selector: accounts.and_then(|accounts| accounts.selector.as_ref()),
            account_names: accounts.map_or(&[], |accounts| &accounts.names),
        };
        let selected = who.peer();
        let (ports, named_ports) = self.ports(&entity.ports, selected.as_ref(), protocol);
        let (not_ports, not_named_ports) = self.ports(&entity.not_ports, selected.as_ref(), protocol);
        // Named ports alone already stand for endpoints that the selector selects.
        let covered = ports.is_empty() && !named_ports.is_empty();
        let sets = selected.filter(|_| !covered).map(|selector| self.set(SetSpec::Selected(selector)));
        let not_sets =
            entity.not_selector.as_ref().map(|selector| self.set(SetSpec::Selected(selector.clone())));
        let service = entity.services.as_ref().map(|service| {
            let namespace = service.namespace.as_deref().or(self.namespace).unwrap_or_default();
            self.set(SetSpec::Service {
                namespace: namespace.into(),
                name: service.name.as_str().into(),
                ports: matches!(side, Side::Destination),
            })
        });
        self.known.share_peer(PeerMatch {
            nets: entity.nets.iter().map(ipnet::IpNet::trunc).collect(),
            not_nets: entity.not_nets.iter().map(ipnet::IpNet::trunc).collect(),
            sets: sets.into_iter().collect(),
            not_sets: not_sets.into_iter().collect(),
            ports,
            named_ports,
            not_ports,
            not_named_ports,
            service,
        })
    }

    /// Numbered ports, and a set per named port: of the endpoints selected, or of all; TCP unless the rule says
    /// otherwise (`felix/calc/rule_scanner.go`).
    fn ports(
        &mut self,
        ports: &[Port],
        selected: Option<&Selector>,
        protocol: Option<u8>,
    ) -> (Vec<PortRange>, Vec<SetId>) {
        let mut ranges = Vec::new();
        let mut named = Vec::new();
        for port in ports {
            match (port, port.bounds()) {
                (_, Some((first, last))) => ranges.push(PortRange { first, last }),
                (Port::Named(name), _) => named.push(self.set(SetSpec::Port {
                    selector: selected.cloned().unwrap_or_else(Selector::all),
                    protocol: protocol.filter(|protocol| has_ports(*protocol)).unwrap_or(TCP),
                    name: name.as_str().into(),
                })),
                _ => {}
            }
        }
        (ranges, named)
    }

    fn set(&mut self, spec: SetSpec) -> SetId {
        let (id, spec) = self.known.share(spec);
        self.sets.insert(id.clone(), spec);
        id
    }
}
