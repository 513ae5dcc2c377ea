//! Rules that hold whatever the policies are: anti-spoofing, tunnels, dispatch, pod to node, NAT.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::dispatch::Dispatch;
use super::language::{
    Action, BaseRules, Conntrack, Family, Hook, Match, Rule, SetType, Side, Table, TableRules,
};
use super::marks::Marks;
use super::names;
use crate::model::{Direction, EndpointToHostAction, IcmpMatch, NodeSettings, PortRange, SourceNat};
use crate::verdict::{IPIP, SCTP, TCP, UDP};

/// Set of the addresses of all nodes.
pub(super) const SET_NODES: &str = "nodes";
/// Set of the pools with natOutgoing.
pub(super) const SET_NAT_POOLS: &str = "nat-pools";
/// Set of all pools.
pub(super) const SET_POOLS: &str = "pools";

const ICMPV6: u8 = 58;
/// ICMPv6 a pod needs with its node: MLD query, report, done; router solicitation; neighbour solicitation and
/// advertisement (RFC 4861, RFC 2710).
const NEIGHBOUR_DISCOVERY: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// What the fixed rules depend on.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a NodeSettings,
    pub(super) marks: Marks,
    pub(super) dispatch: &'a Dispatch,
}

/// The fixed part of the tables of a family.
pub(super) fn tables(inputs: &Inputs<'_>, family: Family) -> BTreeMap<Table, TableRules> {
    let mut tables = BTreeMap::new();
    tables.insert(Table::Raw, raw(inputs, family));
    tables.insert(Table::Filter, filter(inputs, family));
    if inputs.settings.nat_outgoing.iter().any(|net| family.has_net(net)) {
        tables.insert(Table::Nat, nat(&inputs.settings.source_nat, family));
    }
    tables
}

/// The families that are enforced.
pub(super) fn families(settings: &NodeSettings) -> impl Iterator<Item = Family> {
    let ipv6 = settings.ipv6;
    Family::ALL.into_iter().filter(move |family| ipv6 || *family == Family::V4)
}

/// A table under construction.
#[derive(Default)]
pub(super) struct Builder(pub(super) TableRules);

impl Builder {
    pub(super) fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.0.chains.insert(names::fixed(name), Arc::new(rules));
    }

    fn edit(&mut self, name: &str) -> &mut Vec<Rule> {
        Arc::make_mut(self.0.chains.entry(names::fixed(name)).or_default())
    }

    pub(super) fn append(&mut self, name: &str, rules: Vec<Rule>) {
        self.edit(name).extend(rules);
    }

    pub(super) fn prepend(&mut self, name: &str, rule: Rule) {
        self.edit(name).insert(0, rule);
    }

    /// Puts a rule where the last rule of a chain is.
    pub(super) fn replace_last(&mut self, name: &str, rule: Rule) {
        let chain = self.edit(name);
        chain.pop();
        chain.push(rule);
    }

    /// Once, however many parts of the rules want it.
    pub(super) fn first(&mut self, hook: Hook, rule: Rule) {
        let first = &mut self.base(hook).first;
        if !first.contains(&rule) {
            first.push(rule);
        }
    }

    pub(super) fn last(&mut self, hook: Hook, rule: Rule) {
        self.base(hook).last.push(rule);
    }

    fn base(&mut self, hook: Hook) -> &mut BaseRules {
        self.0.base.entry(hook).or_default()
    }
}

pub(super) fn jump(name: &str) -> Action {
    Action::Jump(names::fixed(name))
}

/// Interfaces of pods: a match for each prefix, and for each name that has none of them.
pub(super) fn workloads(settings: &NodeSettings, side: Side) -> impl Iterator<Item = Match> {
    workload_names(settings).map(move |name| Match::Interface { side, name, negated: false })
}

fn workload_names(settings: &NodeSettings) -> impl Iterator<Item = Arc<str>> {
    let prefixes = settings.workload_prefixes.iter().map(|prefix| format!("{prefix}+").into());
    prefixes.chain(settings.workload_interfaces.iter().cloned())
}

pub(super) fn protocol(number: u8) -> Match {
    Match::Protocol { number, negated: false }
}

fn set(name: &str, side: Side, negated: bool) -> Match {
    Match::Set { side, set: names::fixed_set(name), kind: SetType::Net, negated }
}

pub(super) fn conntrack(state: Conntrack) -> Match {
    Match::Conntrack { state, negated: false }
}

pub(super) fn icmp_type(kind: u8) -> Match {
    Match::Icmp { icmp: IcmpMatch { kind: Some(kind), code: None }, negated: false }
}

fn udp_port(port: u16) -> [Match; 2] {
    let ranges = vec![PortRange { first: port, last: port }];
    [protocol(UDP), Match::Ports { side: Side::Destination, ranges, negated: false }]
}

/// Packets of known connections pass without policy, packets of none are dropped.
pub(super) fn stateful(settings: &NodeSettings) -> Vec<Rule> {
    let mut rules = vec![Rule::new([conntrack(Conntrack::Established)], Action::Accept)];
    if !settings.allow_invalid {
        rules.push(Rule::new([conntrack(Conntrack::Invalid)], Action::Drop));
    }
    rules
}

/// Before connection tracking, so that a spoofed packet can't join somebody else's connection.
fn raw(inputs: &Inputs<'_>, family: Family) -> TableRules {
    let mut table = Builder::default();
    let mut rules: Vec<Rule> = untracked(inputs.settings, &[Side::Source, Side::Destination]).collect();
    for from_pod in workloads(inputs.settings, Side::Source) {
        if family == Family::V6 {
            // Neighbour discovery speaks from link-local and unspecified addresses, which are never forwarded.
            for source in [link_local(), unspecified()] {
                let net = Match::Net { side: Side::Source, net: source, negated: false };
                rules.push(Rule::new([from_pod.clone(), protocol(ICMPV6), net], Action::Return));
            }
        }
        let sources = inputs.dispatch.sources(family).into_iter();
        let unknown = sources.map(|(set, kind)| Match::Set { side: Side::Source, set, kind, negated: true });
        let matches: Vec<_> = [from_pod].into_iter().chain(unknown).collect();
        rules.push(Rule::new(matches, Action::Drop).note("spoofed source"));
    }
    table.chain("PREROUTING", rules);
    table.first(Hook::Prerouting, Rule::new([], jump("PREROUTING")));
    let own: Vec<Rule> = untracked(inputs.settings, &[Side::Destination]).collect();
    if !own.is_empty() {
        table.chain("OUTPUT", own);
        table.first(Hook::Output, Rule::new([], jump("OUTPUT")));
    }
    table.0
}

/// VXLAN between nodes is not tracked, as with Calico: its source port differs with every inner connection, so each would have
/// two entries of which the outer one never sees an answer. The addresses on both `sides` tell it from what a pod
/// sends or is sent on that port, which stays tracked.
fn untracked(settings: &NodeSettings, sides: &[Side]) -> impl Iterator<Item = Rule> {
    settings.vxlan_port.into_iter().map(move |port| {
        let mut matches = udp_port(port).to_vec();
        matches.extend(sides.iter().map(|side| set(SET_NODES, *side, false)));
        Rule::new(matches, Action::NoTrack).note("VXLAN between nodes")
    })
}

fn link_local() -> IpNet {
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10))
}

fn unspecified() -> IpNet {
    IpNet::from(std::net::IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED))
}

fn filter(inputs: &Inputs<'_>, family: Family) -> TableRules {
    let settings = inputs.settings;
    let mut table = Builder::default();

    let mut input = tunnels(settings);
    let to_host = || Action::Goto(names::fixed("wl-to-host"));
    input.extend(workloads(settings, Side::Source).map(|pods| Rule::new([pods], to_host())));
    table.chain("INPUT", input);
    table.chain("wl-to-host", workload_to_host(inputs, family));

    // Most packets belong to a connection of a pod: they leave by the first rule of `from-wl` or `to-wl`.
    let mut forward: Vec<Rule> = Vec::new();
    for (side, chain) in [(Side::Source, "from-wl"), (Side::Destination, "to-wl")] {
        forward.extend(workloads(settings, side).map(|pods| Rule::new([pods], jump(chain))));
    }
    forward.extend(service_loops(settings, family));
    forward.push(not_workload(&mut table, inputs));
    table.chain("FORWARD", forward);
    for (name, direction) in [("from-wl", Direction::Egress), ("to-wl", Direction::Ingress)] {
        let mut rules = stateful(settings);
        if direction == Direction::Egress {
            let vxlan = udp_port(settings.vxlan_port_or_default()).to_vec();
            let forbidden =
                [(settings.pods_send_vxlan, vxlan), (settings.pods_send_ipip, vec![protocol(IPIP)])];
            let forbidden = forbidden.into_iter().filter(|(allowed, _)| !allowed);
            rules
                .extend(forbidden.map(|(_, packets)| {
                    Rule::new(packets, Action::Drop).note("pods send no tunnel packets")
                }));
        }
        rules.push(Rule::new([], Action::ClearMark(inputs.marks.decided())));
        if let Some((search, chains)) = inputs.dispatch.rules(family, direction) {
            rules.extend(search.iter().cloned());
            table.0.chains.extend(chains.clone());
        }
        table.chain(name, rules);
    }

    table.chain("OUTPUT", output(inputs, family));

    table.first(Hook::Input, Rule::new([], jump("INPUT")));
    table.first(Hook::Forward, Rule::new([], jump("FORWARD")));
    table.first(Hook::Output, Rule::new([], jump("OUTPUT")));
    table.last(
        Hook::Forward,
        Rule::new([Match::Mark { bits: inputs.marks.accept, set: true }], Action::Accept)
            .note("policy accepted"),
    );
    table.0
}

/// The node reaches its own pods. What IPVS sends on comes out here, too, but not from a socket.
fn output(inputs: &Inputs<'_>, family: Family) -> Vec<Rule> {
    let own = "node to its own pods";
    let pods = workloads(inputs.settings, Side::Destination);
    if !inputs.settings.ipvs {
        return pods.map(|pods| Rule::new([pods], Action::Accept).note(own)).collect();
    }
    let accepted = Match::Mark { bits: inputs.marks.accept, set: true };
    // nftables knows a socket by its owner, and those of the kernel have none.
    let kinds = if family == Family::V6 { NEIGHBOUR_DISCOVERY.as_slice() } else { &[] };
    let rules = pods.flat_map(|pods| {
        let discovery = kinds.iter().map({
            let pods = pods.clone();
            move |kind| Rule::new([pods.clone(), protocol(ICMPV6), icmp_type(*kind)], Action::Accept)
        });
        discovery.chain([
            Rule::new([pods.clone(), Match::OwnSocket], Action::Accept).note(own),
            Rule::new([pods.clone()], jump("to-wl")),
            Rule::new([pods, accepted.clone()], Action::Accept).note("policy accepted"),
        ])
    });
    rules.collect()
}

/// A packet to a service has its endpoint's address by now. One that has not would go out to the router it came from, which
/// knows the service's range from us.
fn service_loops(settings: &NodeSettings, family: Family) -> impl Iterator<Item = Rule> {
    let action = if settings.service_loop_rejects { Action::Reject } else { Action::Drop };
    let ranges = settings.service_ranges.iter().filter(move |range| family.has_net(range));
    ranges.map(move |range| {
        let to = Match::Net { side: Side::Destination, net: *range, negated: false };
        Rule::new([to], action.clone()).note("no such service")
    })
}

/// What no pod sends or receives is undecided. A rule has one name to exclude on each side: of several prefixes a chain of its
/// own takes care.
fn not_workload(table: &mut Builder, inputs: &Inputs<'_>) -> Rule {
    let clear = Action::ClearMark(inputs.marks.decided());
    let sides = [Side::Source, Side::Destination];
    let pods = sides.into_iter().flat_map(|side| workloads(inputs.settings, side));
    let mut names = workload_names(inputs.settings);
    if let (Some(name), None) = (names.next(), names.next()) {
        let not = |side| Match::Interface { side, name: Arc::clone(&name), negated: true };
        return Rule::new(sides.map(not), clear);
    }
    let mut rules: Vec<Rule> = pods.map(|pods| Rule::new([pods], Action::Return)).collect();
    rules.push(Rule::new([], clear));
    table.chain("not-wl", rules);
    Rule::new([], jump("not-wl"))
}

/// Packets of the tunnels in use, by name.
pub(super) fn tunnel_packets(settings: &NodeSettings) -> impl Iterator<Item = (Vec<Match>, &'static str)> {
    let ipip = settings.ipip.then(|| (vec![protocol(IPIP)], "IPIP"));
    let vxlan = settings.vxlan_port.map(|port| (udp_port(port).to_vec(), "VXLAN"));
    let wireguard = settings.wireguard_ports.iter().map(|port| (udp_port(*port).to_vec(), "WireGuard"));
    ipip.into_iter().chain(vxlan).chain(wireguard)
}

/// Tunnel packets are taken from nodes of the cluster and nobody else: their inside is trusted.
fn tunnels(settings: &NodeSettings) -> Vec<Rule> {
    let local = || Match::Local { side: Side::Destination };
    let rules = tunnel_packets(settings).flat_map(|(packets, name)| {
        let known = [packets.as_slice(), &[set(SET_NODES, Side::Source, false), local()]].concat();
        let other = [packets, vec![local()]].concat();
        [
            Rule::new(known, Action::Accept).note(format!("{name} of a node")),
            Rule::new(other, Action::Drop).note(format!("{name} of a stranger")),
        ]
    });
    rules.collect()
}

fn workload_to_host(inputs: &Inputs<'_>, family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    if family == Family::V6 {
        for kind in NEIGHBOUR_DISCOVERY {
            rules.push(Rule::new([protocol(ICMPV6), icmp_type(kind)], Action::Accept));
        }
    }
    rules.push(Rule::new([], jump("from-wl")));
    rules.push(match inputs.settings.endpoint_to_host {
        EndpointToHostAction::Drop => Rule::new([], Action::Drop).note("pod to node: Drop"),
        EndpointToHostAction::Accept => Rule::new([], Action::Accept).note("pod to node: Accept"),
        EndpointToHostAction::Return => Rule::new([], Action::ClearMark(inputs.marks.decided())),
    });
    rules
}

fn nat(wanted: &SourceNat, family: Family) -> TableRules {
    let mut outward = vec![set(SET_NAT_POOLS, Side::Source, false), set(SET_POOLS, Side::Destination, true)];
    if wanted.spares_nodes {
        outward.push(set(SET_NODES, Side::Destination, true));
    }
    if let Some(name) = &wanted.interface {
        let name = Arc::clone(name);
        outward.push(Match::Interface { side: Side::Destination, name, negated: false });
    }
    let to = wanted.address.filter(|_| family == Family::V4);
    let rule = |matches, ports| Rule::new(matches, Action::SourceNat { to, ports }).note("natOutgoing");
    let with_ports = wanted.ports.into_iter().flat_map(|ports| {
        let outward = &outward;
        [TCP, UDP, SCTP].map(|number| rule([outward.as_slice(), &[protocol(number)]].concat(), Some(ports)))
    });
    let mut rules: Vec<Rule> = with_ports.collect();
    rules.push(rule(outward, None));
    let mut table = Builder::default();
    table.chain("POSTROUTING", rules);
    // Behind kube-proxy's rules, which mark what they want masqueraded themselves.
    table.last(Hook::Postrouting, Rule::new([], jump("POSTROUTING")));
    table.0
}
