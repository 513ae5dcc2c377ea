//! What a change of policy would change: the verdicts of all pairs of endpoints before and after.
//!
//! Endpoints that no rule tells apart are one group, and ports between which no rule changes are one range, so that the
//! work grows with the policies rather than with the pods. An end is only evaluated if what decides there has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::evaluate::evaluate;
use super::packet::{ICMP, ICMPV6, Packet, SCTP, TCP, UDP, has_ports, protocol_name};
use super::trace::{EndpointVerdict, Turned, Verdict};
use crate::model::{
    Direction, EndpointId, EndpointPolicy, EnforcedState, FailsafePort, LocalEndpoint, PolicyId, PolicyRule,
    ProfileId, SetId, SetMember,
};

/// Packets that are evaluated at most; beyond, the result says that it is not complete.
const MOST_PACKETS: usize = 4_000_000;
/// An IP protocol number no rule is likely to name (RFC 3692): stands for all that none does.
const OTHER_PROTOCOL: u8 = 253;
/// Addresses that stand for all of the world that no rule names (RFC 5737, RFC 3849).
const WORLD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe)),
];

/// Everything that would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Impact {
    /// In the order of sources, then destinations.
    pub changes: Vec<ImpactChange>,
    /// There was more to evaluate than is done: changes may be missing.
    pub truncated: bool,
}

/// Flows between two groups of endpoints with another verdict than before, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImpactChange {
    /// Sources: endpoints, or what is outside.
    pub from: Vec<String>,
    /// Destinations.
    pub to: Vec<String>,
    /// Protocols and destination ports, as `tcp/80-89`.
    pub flows: Vec<String>,
    /// The verdicts, and what decides.
    #[serde(flatten)]
    pub turned: Turned,
}

/// Compares two states, each calculated over all nodes.
#[must_use]
pub fn impact(before: &EnforcedState, after: &EnforcedState) -> Impact {
    let states = [before, after];
    let groups = groups(states);
    let probes = probes(states);
    let changed = Changed::between(before, after);
    let touched: Vec<[bool; 2]> = groups
        .iter()
        .map(|group| [Direction::Egress, Direction::Ingress].map(|way| changed.touches(states, group, way)))
        .collect();
    let mut impact = Impact::default();
    let mut packets = 0;
    for (source, [egress, _]) in groups.iter().zip(&touched) {
        for (destination, [_, ingress]) in groups.iter().zip(&touched) {
            let same_family = source.address.is_ipv4() == destination.address.is_ipv4();
            if !(*egress || *ingress) || !same_family || source.is_alone(destination) {
                continue;
            }
            packets += probes.len();
            if packets > MOST_PACKETS {
                impact.truncated = true;
                return impact;
            }
            impact.changes.extend(compare(states, source, destination, &probes));
        }
    }
    impact
}

/// Endpoints, or addresses outside, that no rule tells apart.
struct Group<'a> {
    names: BTreeSet<String>,
    /// Of one of them.
    address: IpAddr,
    /// One of them, before and after; none outside.
    ends: Option<[&'a Arc<LocalEndpoint>; 2]>,
}

impl Group<'_> {
    /// The other is the same endpoint, and there is no second one like it; or both are outside.
    fn is_alone(&self, other: &Self) -> bool {
        match (&self.ends, &other.ends) {
            (None, None) => true,
            (Some(_), Some(_)) => self.address == other.address && self.names.len() == 1,
            _ => false,
        }
    }
}

/// Members of named ports by address: the set, protocol and port.
type NamedPorts<'a> = BTreeMap<IpAddr, Vec<(&'a SetId, (u8, u16))>>;

/// What rules can ask of an address: which networks it is in, and which sets with what.
type Marks<'a> = (Vec<IpNet>, Vec<(usize, &'a SetId, Option<(u8, u16)>)>);

fn groups<'a>(states: [&'a EnforcedState; 2]) -> Vec<Group<'a>> {
    let mut nets: BTreeSet<IpNet> = rules(states)
        .flat_map(|rule| [&rule.source, &rule.destination])
        .flat_map(|peer| peer.nets.iter().chain(&peer.not_nets))
        .copied()
        .collect();
    nets.extend(failsafes(states).filter_map(|failsafe| failsafe.net));
    let mut ports: [NamedPorts<'_>; 2] = Default::default();
    for (ports, state) in ports.iter_mut().zip(states) {
        for (id, (_, members)) in &state.sets {
            for member in members {
                if let SetMember::IpPort(address, protocol, port) = member {
                    ports.entry(*address).or_default().push((id, (*protocol, *port)));
                }
            }
        }
    }
    let marks = |address: IpAddr| -> Marks<'a> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let covers: Vec<_> = (0..=longest)
            .filter_map(|length| IpNet::new(address, length).ok())
            .map(|net| SetMember::Net(net.trunc()))
            .collect();
        let mut sets = Vec::new();
        for (number, (state, ports)) in states.iter().zip(&ports).enumerate() {
            let holds = |members: &BTreeSet<SetMember>| covers.iter().any(|net| members.contains(net));
            sets.extend(
                state
                    .sets
                    .iter()
                    .filter(|(_, (_, members))| holds(members))
                    .map(|(id, _)| (number, id, None)),
            );
            let own = ports.get(&address).into_iter().flatten();
            sets.extend(own.map(|(id, port)| (number, *id, Some(*port))));
        }
        (nets.iter().filter(|net| net.contains(&address)).copied().collect(), sets)
    };
    let [before, after] = states;
    let mut groups = BTreeMap::new();
    let mut inside = BTreeSet::new();
    for (id, was) in &before.endpoints {
        let Some(is) = after.endpoints.get(id) else { continue };
        for address in was.addresses.intersection(&is.addresses) {
            inside.insert(*address);
            let host = matches!(id, EndpointId::Host { .. });
            let key = (address.is_ipv6(), host, marks(*address), Some([&was.policy, &is.policy]));
            let group = groups.entry(key).or_insert_with(|| Group {
                names: BTreeSet::new(),
                address: *address,
                ends: Some([was, is]),
            });
            group.names.insert(id.to_string());
        }
    }
    let sets = states.into_iter().flat_map(|state| state.sets.values()).flat_map(|(_, members)| members);
    let named = sets.filter_map(|member| match member {
        SetMember::Net(net) => Some(*net),
        SetMember::IpPort(..) => None,
    });
    let all: BTreeSet<IpNet> = nets.iter().copied().chain(named).map(|net| net.trunc()).collect();
    let taken: BTreeSet<IpNet> = all.iter().copied().chain(inside.iter().copied().map(IpNet::from)).collect();
    // One that smaller ones fill has no address of its own.
    let outside = all.iter().filter_map(|net| Some((Some(*net), own_address(*net, &taken)?)));
    for (net, address) in WORLD.map(|address| (None, address)).into_iter().chain(outside) {
        if inside.contains(&address) {
            continue;
        }
        let name = net.map_or_else(|| "anywhere else".to_owned(), |net| net.to_string());
        let group = groups.entry((address.is_ipv6(), false, marks(address), None)).or_insert_with(|| Group {
            names: BTreeSet::new(),
            address,
            ends: None,
        });
        group.names.insert(name);
    }
    groups.into_values().collect()
}

/// The first address of a network that is in none of those inside it.
fn own_address(net: IpNet, all: &BTreeSet<IpNet>) -> Option<IpAddr> {
    let mut address = net.network();
    // In order of their first addresses, wider ones first.
    for inner in all.range(net..).filter(|inner| **inner != net).take_while(|inner| net.contains(*inner)) {
        if address < inner.network() {
            break;
        }
        if address <= inner.broadcast() {
            address = behind(inner.broadcast())?;
        }
    }
    net.contains(&address).then_some(address)
}

fn behind(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::from(u32::from(address).checked_add(1)?.to_be_bytes()),
        IpAddr::V6(address) => IpAddr::from(u128::from(address).checked_add(1)?.to_be_bytes()),
    })
}

fn rules(states: [&EnforcedState; 2]) -> impl Iterator<Item = &PolicyRule> {
    states.into_iter().flat_map(|state| {
        let policies = state.policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
        let profiles =
            state.profiles.values().flat_map(|profile| profile.ingress.iter().chain(&profile.egress));
        policies.chain(profiles)
    })
}

fn failsafes(states: [&EnforcedState; 2]) -> impl Iterator<Item = &FailsafePort> {
    let settings = states.into_iter().map(|state| &state.settings);
    settings.flat_map(|settings| settings.failsafe_inbound.iter().chain(&settings.failsafe_outbound))
}

/// Packets between whose ports (or ICMP types) no rule changes: protocol, first and last port, ICMP type and code.
type Probe = (u8, u16, u16, Option<(u8, u8)>);

fn probes(states: [&EnforcedState; 2]) -> Vec<Probe> {
    let mut starts = BTreeSet::from([0u16]);
    let mut protocols = BTreeSet::from([TCP, UDP, SCTP, OTHER_PROTOCOL]);
    let mut icmp = BTreeSet::from([(8, 0), (128, 0), (255, 255)]);
    for rule in rules(states) {
        protocols.extend(rule.protocol.iter().chain(&rule.not_protocol));
        for kind in rule.icmp.iter().chain(&rule.not_icmp) {
            icmp.insert((kind.kind.unwrap_or(255), kind.code.unwrap_or(255)));
        }
        for peer in [&rule.source, &rule.destination] {
            for range in peer.ports.iter().chain(&peer.not_ports) {
                starts.insert(range.first);
                starts.extend(range.last.checked_add(1));
            }
        }
    }
    for failsafe in failsafes(states) {
        starts.insert(failsafe.port);
        starts.extend(failsafe.port.checked_add(1));
    }
    for (_, members) in states.into_iter().flat_map(|state| state.sets.values()) {
        for member in members {
            if let SetMember::IpPort(_, _, port) = member {
                starts.insert(*port);
                starts.extend(port.checked_add(1));
            }
        }
    }
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let ranges: Vec<_> = starts.iter().copied().zip(ends).collect();
    let mut probes = Vec::new();
    for protocol in protocols.into_iter().chain([ICMP, ICMPV6]).collect::<BTreeSet<_>>() {
        match protocol {
            ICMP | ICMPV6 => probes.extend(icmp.iter().map(|kind| (protocol, 0, 0, Some(*kind)))),
            _ if has_ports(protocol) => {
                probes.extend(ranges.iter().map(|(first, last)| (protocol, *first, *last, None)));
            }
            _ => probes.push((protocol, 0, 0, None)),
        }
    }
    probes
}

/// What differs between the states.
struct Changed<'a> {
    policies: BTreeSet<&'a PolicyId>,
    profiles: BTreeSet<&'a ProfileId>,
    sets: BTreeSet<&'a SetId>,
    settings: bool,
}

impl<'a> Changed<'a> {
    fn between(before: &'a EnforcedState, after: &'a EnforcedState) -> Self {
        Self {
            policies: differing(&before.policies, &after.policies),
            profiles: differing(&before.profiles, &after.profiles),
            sets: differing(&before.sets, &after.sets),
            settings: before.settings != after.settings,
        }
    }

    /// Whether the verdicts at this end can differ.
    fn touches(&self, states: [&EnforcedState; 2], group: &Group<'_>, direction: Direction) -> bool {
        let Some([was, is]) = group.ends else { return false };
        self.settings
            || was.policy != is.policy
            || states.iter().zip([was, is]).any(|(state, end)| self.in_policy(state, &end.policy, direction))
    }

    fn in_policy(&self, state: &EnforcedState, policy: &EndpointPolicy, direction: Direction) -> bool {
        let of_sets = |rules: &[PolicyRule]| {
            rules.iter().flat_map(|rule| [&rule.source, &rule.destination]).any(|peer| {
                let named = peer.named_ports.iter().chain(&peer.not_named_ports).chain(&peer.service);
                peer.sets.iter().chain(&peer.not_sets).chain(named).any(|id| self.sets.contains(id))
            })
        };
        let mut ids = policy.tiers.iter().flat_map(|tier| match direction {
            Direction::Ingress => &tier.ingress,
            Direction::Egress => &tier.egress,
        });
        ids.any(|id| {
            let rules = state.policies.get(id).map(|policy| match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            });
            self.policies.contains(id) || rules.is_some_and(|rules| of_sets(rules))
        }) || policy.profiles.iter().any(|id| {
            let rules = state.profiles.get(id).map(|profile| match direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            });
            self.profiles.contains(id) || rules.is_some_and(|rules| of_sets(rules))
        })
    }
}

fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> BTreeSet<&'a K> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter(|key| before.get(key) != after.get(key)).collect()
}

/// The differences between two groups, flows with the same reason together.
fn compare(
    states: [&EnforcedState; 2],
    source: &Group<'_>,
    destination: &Group<'_>,
    probes: &[Probe],
) -> Vec<ImpactChange> {
    let mut found: BTreeMap<Turned, Vec<Probe>> = BTreeMap::new();
    let own = if destination.address.is_ipv4() { ICMPV6 } else { ICMP };
    for probe in probes.iter().filter(|(protocol, ..)| *protocol != own) {
        let (protocol, port, _, icmp) = *probe;
        let packet = Packet { icmp, ..Packet::to_port(source.address, destination.address, protocol, port) };
        let [(before, was), (after, is)] =
            [0, 1].map(|number| verdict(states, number, source, destination, &packet));
        if before != after {
            // Who denies decides; what is allowed now is so by the end that denied it.
            let end = match after {
                Verdict::Deny => is.iter().flatten().find(|end| end.verdict == Verdict::Deny),
                Verdict::Allow => {
                    let denied = |end: &&EndpointVerdict| {
                        was.iter()
                            .flatten()
                            .any(|w| w.direction == end.direction && w.verdict == Verdict::Deny)
                    };
                    is.iter().flatten().find(denied)
                }
            };
            found.entry(Turned::by(before, after, end)).or_default().push(*probe);
        }
    }
    let names = |group: &Group<'_>| group.names.iter().cloned().collect();
    found
        .into_iter()
        .map(|(turned, flows)| ImpactChange {
            from: names(source),
            to: names(destination),
            flows: words(&flows),
            turned,
        })
        .collect()
}

type Ends = [Option<EndpointVerdict>; 2];

fn verdict(
    states: [&EnforcedState; 2],
    number: usize,
    source: &Group<'_>,
    destination: &Group<'_>,
    packet: &Packet,
) -> (Verdict, Ends) {
    let end = |group: &Group<'_>, direction| {
        let (state, ends) = (states.get(number)?, group.ends?);
        Some(evaluate(state, ends.get(number)?, direction, packet))
    };
    let ends = [end(source, Direction::Egress), end(destination, Direction::Ingress)];
    let denied = ends.iter().flatten().any(|end| end.verdict == Verdict::Deny);
    (if denied { Verdict::Deny } else { Verdict::Allow }, ends)
}

/// Flows as people write them, neighbouring ports together.
fn words(flows: &[Probe]) -> Vec<String> {
    let mut merged: Vec<Probe> = Vec::new();
    for flow in flows {
        match merged.last_mut() {
            Some(last) if last.0 == flow.0 && has_ports(flow.0) && last.2.checked_add(1) == Some(flow.1) => {
                last.2 = flow.2;
            }
            _ => merged.push(*flow),
        }
    }
    let word = |(protocol, first, last, icmp): &Probe| {
        let name = protocol_name(*protocol);
        match (icmp, first, last) {
            (Some((255, _)), ..) => format!("{name} of other types"),
            (Some((kind, _)), ..) => format!("{name} type {kind}"),
            (None, ..) if *protocol == OTHER_PROTOCOL => "other protocols".to_owned(),
            (None, ..) if !has_ports(*protocol) => format!("protocol {name}"),
            (None, 0, &u16::MAX) => format!("{name}, all ports"),
            (None, first, last) if first == last => format!("{name}/{first}"),
            (None, first, last) => format!("{name}/{first}-{last}"),
        }
    };
    let mut words: Vec<_> = merged.iter().map(word).collect();
    words.dedup();
    words
}

#[cfg(test)]
mod tests;
