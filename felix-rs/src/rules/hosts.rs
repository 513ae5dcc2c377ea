//! Chains of host endpoints: interfaces of the node itself.
//!
//! Four places, as in Calico (`felix/rules/static.go`, `endpoints.go`): before connection tracking (doNotTrack),
//! before destination NAT (preDNAT), the node's own packets (normal), packets passing through (applyOnForward).
//! Failsafe ports stay reachable whatever the policies are.

use std::collections::BTreeMap;

use super::fixed::{Builder, conntrack, icmp_type, jump, protocol, stateful, tunnel_packets, workloads};
use super::group::{self, End, Known};
use super::language::{Action, Conntrack, Family, Hook, Match, Rule, SetType, Side, Table, TableRules};
use super::marks::Marks;
use super::names::{self, GroupId};
use crate::model::{Direction, EndpointPolicy, FailsafePort, LocalEndpoint, NodeSettings, PortRange};

const ICMPV6: u8 = 58;
/// Neighbour discovery (RFC 4861): without it no other packet reaches the node.
const NEIGHBOUR_DISCOVERY: [u8; 5] = [133, 134, 135, 136, 137];

/// What the chains of host endpoints depend on.
#[derive(Debug)]
pub(super) struct Hosts<'a, K> {
    pub(super) settings: &'a NodeSettings,
    pub(super) marks: Marks,
    /// By name: the first of an interface is its.
    pub(super) endpoints: Vec<&'a LocalEndpoint>,
    pub(super) known: &'a K,
}

/// One of the places where policies of a host endpoint run.
#[derive(Clone, Copy)]
struct Place {
    table: Table,
    direction: Direction,
    /// Name of the dispatch chain and letters of the chains of policies.
    dispatch: &'static str,
    letters: &'static str,
    policy: fn(&LocalEndpoint) -> &EndpointPolicy,
    end: End,
    /// An endpoint without policies here is left alone instead of closed.
    open: bool,
    /// Where a host endpoint for all interfaces leaves those of pods alone.
    spares_pods: bool,
    /// Established connections pass, invalid packets don't.
    stateful: bool,
    failsafe: bool,
}

const NORMAL_IN: Place = Place {
    table: Table::Filter,
    direction: Direction::Ingress,
    dispatch: "host-in",
    letters: "hi",
    policy: |endpoint| &endpoint.policy,
    end: End::Enforce,
    open: false,
    spares_pods: true,
    stateful: true,
    failsafe: true,
};
const NORMAL_OUT: Place =
    Place { direction: Direction::Egress, dispatch: "host-out", letters: "ho", ..NORMAL_IN };
/// The node's packets whose destination was rewritten have their final interface only after routing.
const REWRITTEN_OUT: Place = Place { table: Table::Mangle, ..NORMAL_OUT };
const FORWARD_IN: Place = Place {
    dispatch: "host-fwd-in",
    letters: "hfi",
    policy: |endpoint| &endpoint.forward,
    end: End::Tiers,
    open: true,
    spares_pods: false,
    failsafe: false,
    ..NORMAL_IN
};
const FORWARD_OUT: Place =
    Place { direction: Direction::Egress, dispatch: "host-fwd-out", letters: "hfo", ..FORWARD_IN };
const UNTRACKED_IN: Place = Place {
    table: Table::Raw,
    dispatch: "host-raw-in",
    letters: "hui",
    policy: |endpoint| &endpoint.untracked,
    end: End::Continue,
    open: true,
    stateful: false,
    ..NORMAL_IN
};
const UNTRACKED_OUT: Place =
    Place { direction: Direction::Egress, dispatch: "host-raw-out", letters: "huo", ..UNTRACKED_IN };
const PRE_DNAT: Place = Place {
    table: Table::Mangle,
    dispatch: "host-pre",
    letters: "hpi",
    policy: |endpoint| &endpoint.pre_dnat,
    spares_pods: false,
    ..UNTRACKED_IN
};

impl<K: Known> Hosts<'_, K> {
    fn accepted(&self, action: Action) -> Rule {
        Rule::new([Match::Mark { bits: self.marks.accept, set: true }], action)
    }

    fn clear(&self) -> Rule {
        Rule::new([], Action::ClearMark(self.marks.decided()))
    }

    /// Adds everything host endpoints need to the tables of a family.
    pub(super) fn extend(&self, family: Family, tables: &mut BTreeMap<Table, TableRules>) {
        if self.endpoints.is_empty() {
            return;
        }
        self.filter(family, tables);
        self.raw(family, tables);
        self.mangle(family, tables);
    }

    fn filter(&self, family: Family, tables: &mut BTreeMap<Table, TableRules>) {
        let mut table = Builder(tables.remove(&Table::Filter).unwrap_or_default());
        for place in [NORMAL_IN, NORMAL_OUT, FORWARD_IN, FORWARD_OUT] {
            self.place(&mut table, family, place);
        }
        table.append(
            "INPUT",
            vec![
                self.accepted(Action::Accept),
                self.clear(),
                Rule::new([], jump(NORMAL_IN.dispatch)),
                self.accepted(Action::Accept).note("host endpoint policy accepted"),
            ],
        );
        let mut output = vec![self.accepted(Action::Accept)];
        output.extend(tunnel_packets(self.settings).map(|(mut packets, name)| {
            let set = names::fixed_set(super::fixed::SET_NODES);
            packets.push(Match::Set { side: Side::Destination, set, kind: SetType::Net, negated: false });
            packets.push(Match::Local { side: Side::Source });
            Rule::new(packets, Action::Accept).note(format!("{name} to a node"))
        }));
        output.push(self.clear());
        let straight = Match::Conntrack { state: Conntrack::DestinationNat, negated: true };
        output.push(Rule::new([straight], jump(NORMAL_OUT.dispatch)));
        output.push(self.accepted(Action::Accept).note("host endpoint policy accepted"));
        table.append("OUTPUT", output);
        // What raw accepted keeps its mark; everything else starts undecided.
        let undecided = Match::Mark { bits: self.marks.accept, set: false };
        table.prepend("FORWARD", Rule::new([undecided], jump(FORWARD_IN.dispatch)));
        table.prepend("FORWARD", Rule::new([], Action::ClearMark(self.marks.pass)));
        table.replace_last("FORWARD", Rule::new([], jump(FORWARD_OUT.dispatch)));
        // Behind our chain somebody else may accept it.
        let done = Rule::new([], Action::SetMark(self.marks.pass)).note("host endpoint policy is done");
        table.append("FORWARD", vec![done]);
        tables.insert(Table::Filter, table.0);
    }

    fn raw(&self, family: Family, tables: &mut BTreeMap<Table, TableRules>) {
        let mut table = Builder(tables.remove(&Table::Raw).unwrap_or_default());
        table.prepend("PREROUTING", self.clear());
        let used = self.endpoints.iter().any(|endpoint| !endpoint.untracked.tiers.is_empty());
        table.prepend("OUTPUT", self.clear());
        if used {
            for place in [UNTRACKED_IN, UNTRACKED_OUT] {
                self.place(&mut table, family, place);
            }
            let untracked = || [self.accepted(Action::NoTrack), self.accepted(Action::Accept)];
            // A rule has one name to exclude; packets of pods leave before.
            let pods = workloads(self.settings, Side::Source).map(|pods| Rule::new([pods], Action::Return));
            table.append("PREROUTING", pods.collect());
            table.append("PREROUTING", vec![Rule::new([], jump(UNTRACKED_IN.dispatch))]);
            table.append("PREROUTING", untracked().into());
            table.append("OUTPUT", vec![Rule::new([], jump(UNTRACKED_OUT.dispatch))]);
            table.append("OUTPUT", untracked().into());
        }
        table.first(Hook::Output, Rule::new([], jump("OUTPUT")));
        tables.insert(Table::Raw, table.0);
    }

    fn mangle(&self, family: Family, tables: &mut BTreeMap<Table, TableRules>) {
        let mut table = Builder::default();
        if self.endpoints.iter().any(|endpoint| !endpoint.pre_dnat.tiers.is_empty()) {
            self.place(&mut table, family, PRE_DNAT);
            table.chain(
                "PREROUTING",
                vec![
                    Rule::new([conntrack(Conntrack::Established)], Action::Accept),
                    self.accepted(Action::Accept),
                    Rule::new([], jump(PRE_DNAT.dispatch)),
                    self.accepted(Action::Accept).note("host endpoint policy accepted"),
                ],
            );
            table.first(Hook::Prerouting, Rule::new([], jump("PREROUTING")));
        }
        self.place(&mut table, family, REWRITTEN_OUT);
        table.chain(
            "POSTROUTING",
            vec![
                self.accepted(Action::Return),
                Rule::new([Match::Mark { bits: self.marks.pass, set: true }], Action::Return)
                    .note("forwarded"),
                self.clear(),
                Rule::new([conntrack(Conntrack::DestinationNat)], jump(REWRITTEN_OUT.dispatch)),
            ],
        );
        table.first(Hook::Postrouting, Rule::new([], jump("POSTROUTING")));
        tables.insert(Table::Mangle, table.0);
    }

    /// Dispatch by interface, one chain per distinct policy, failsafes.
    fn place(&self, table: &mut Builder, family: Family, place: Place) {
        let side = match place.direction {
            Direction::Ingress => Side::Source,
            Direction::Egress => Side::Destination,
        };
        let mut decide = |endpoint: &LocalEndpoint| {
            let policy = (place.policy)(endpoint);
            if place.open && is_empty(policy, place.direction) {
                return Action::Return;
            }
            let id = GroupId::of(policy, place.direction);
            let name = format!("{}-{}", place.letters, id.0);
            table.chain(&name, self.body(family, place, policy));
            Action::Goto(names::fixed(&name))
        };
        let mut dispatch: Vec<Rule> = Vec::new();
        for endpoint in &self.endpoints {
            let interfaces = self.settings.interfaces_of(endpoint).cloned();
            let of_it: Vec<_> =
                interfaces.map(|name| Match::Interface { side, name, negated: false }).collect();
            if !of_it.is_empty() {
                let action = decide(endpoint);
                dispatch.extend(of_it.into_iter().map(|of_it| Rule::new([of_it], action.clone())));
            }
        }
        if let Some(all) = self.endpoints.iter().find(|endpoint| &*endpoint.interface == "*") {
            let pods = workloads(self.settings, side).filter(|_| place.spares_pods);
            dispatch.extend(pods.map(|pods| Rule::new([pods], Action::Return)));
            dispatch.push(Rule::new([], decide(all)));
        }
        table.chain(place.dispatch, dispatch);
        if place.failsafe {
            let (name, rules) = self.failsafe(family, place);
            table.chain(name, rules);
        }
    }

    fn body(&self, family: Family, place: Place, policy: &EndpointPolicy) -> Vec<Rule> {
        let mut rules = if place.stateful { stateful(self.settings) } else { Vec::new() };
        // Neighbours are on the link: nobody's discovery passes through, where accepting would spare it the policy of pods.
        if family == Family::V6 && place.end != End::Tiers {
            for kind in NEIGHBOUR_DISCOVERY {
                rules.push(Rule::new([protocol(ICMPV6), icmp_type(kind)], Action::Accept));
            }
        }
        if place.failsafe {
            rules.push(Rule::new([], jump(failsafe_name(place))));
        }
        rules.push(self.clear());
        let decide = group::chain(self.marks, policy, place.direction, place.end, self.known);
        rules.extend(group::with_flow_log(self.settings.flow_log, decide));
        rules
    }

    fn failsafe(&self, family: Family, place: Place) -> (&'static str, Vec<Rule>) {
        let (own, other) = (&self.settings.failsafe_inbound, &self.settings.failsafe_outbound);
        let (requests, answers) = match place.direction {
            Direction::Ingress => (own, other),
            Direction::Egress => (other, own),
        };
        let peer = match place.direction {
            Direction::Ingress => Side::Source,
            Direction::Egress => Side::Destination,
        };
        let mut rules: Vec<_> =
            requests.iter().filter_map(|port| failsafe_rule(family, port, Side::Destination, peer)).collect();
        if place.table == Table::Raw {
            // Nothing is tracked yet: answers are known by their source port.
            rules.extend(answers.iter().filter_map(|port| failsafe_rule(family, port, Side::Source, peer)));
        }
        (failsafe_name(place), rules)
    }
}

const fn failsafe_name(place: Place) -> &'static str {
    match place.direction {
        Direction::Ingress => "failsafe-in",
        Direction::Egress => "failsafe-out",
    }
}

fn failsafe_rule(family: Family, failsafe: &FailsafePort, side: Side, peer: Side) -> Option<Rule> {
    if failsafe.net.is_some_and(|net| !family.has_net(&net)) {
        return None;
    }
    let ranges = vec![PortRange { first: failsafe.port, last: failsafe.port }];
    let mut matches = vec![protocol(failsafe.protocol), Match::Ports { side, ranges, negated: false }];
    matches.extend(failsafe.net.map(|net| Match::Net { side: peer, net, negated: false }));
    Some(Rule::new(matches, Action::Accept).note("failsafe port"))
}

fn is_empty(policy: &EndpointPolicy, direction: Direction) -> bool {
    policy.tiers.iter().all(|tier| match direction {
        Direction::Ingress => tier.ingress.is_empty(),
        Direction::Egress => tier.egress.is_empty(),
    })
}
