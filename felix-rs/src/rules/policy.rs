//! A policy's rules as chain rules.
//!
//! What one kernel rule can't say is split: alternatives (numeric or named ports, more ports than a match
//! takes, ports without a protocol) become several rules with one action, lists of networks become sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::language::{Action, Family, Match, Origin, Owner, Rule, SetName, SetType, Side};
use super::marks::Marks;
use super::names;
use crate::model::{Direction, IcmpMatch, PeerMatch, PolicyRule, PortRange, RuleAction, SetId};

/// Slots of one port match (`XT_MULTI_PORTS`); a range takes two.
const PORT_SLOTS: usize = 15;
/// Protocols a rule with ports and no protocol means: TCP, UDP, SCTP.
const PORT_PROTOCOLS: [u8; 3] = [6, 17, 132];
/// Protocols the kernel can match ports of: the above, DCCP and UDP-Lite.
const KERNEL_PORT_PROTOCOLS: [u8; 5] = [6, 17, 33, 132, 136];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What translating a policy needs to know.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) family: Family,
    pub(super) marks: Marks,
    /// Types of the sets that exist.
    pub(super) kinds: &'a BTreeMap<SetId, SetType>,
    pub(super) log_prefix: &'a Arc<str>,
    /// Sets of networks written out in rules, found on the way.
    pub(super) net_sets: &'a mut BTreeMap<SetName, Vec<IpNet>>,
}

/// A disjunction of conjunctions under construction; `None` is a rule that never matches.
struct Alternatives(Vec<Vec<Match>>);

impl Alternatives {
    fn and(&mut self, part: Match) {
        for matches in &mut self.0 {
            matches.push(part.clone());
        }
    }

    fn any(&mut self, parts: &[Vec<Match>]) {
        self.0 = self
            .0
            .iter()
            .flat_map(|matches| parts.iter().map(|part| [matches.as_slice(), part].concat()))
            .collect();
    }
}

/// Rules of one policy or profile in one direction. What is staged decides nothing, only its counters say what would be.
pub(super) fn chain(
    context: &mut Context<'_>,
    owner: &Owner,
    direction: Direction,
    rules: &[PolicyRule],
    staged: bool,
) -> Vec<Rule> {
    rules
        .iter()
        .filter(|rule| !staged || rule.action != RuleAction::Log)
        .flat_map(|rule| {
            let origin = Origin { owner: owner.clone(), direction, index: rule.index };
            let mut rules = translate(context, rule, &origin);
            if staged {
                rules.iter_mut().for_each(|rule| rule.action = Action::Return);
            }
            rules
        })
        .collect()
}

fn translate(context: &mut Context<'_>, rule: &PolicyRule, origin: &Origin) -> Vec<Rule> {
    if rule.ip_version.is_some_and(|version| version != context.family.version()) {
        return Vec::new();
    }
    let Some(alternatives) = matches(context, rule) else { return Vec::new() };
    let action = match rule.action {
        RuleAction::Allow => Action::MarkAndReturn(context.marks.accept),
        RuleAction::Pass => Action::MarkAndReturn(context.marks.pass),
        RuleAction::Deny => Action::Drop,
        RuleAction::Log => Action::Log(Arc::clone(context.log_prefix)),
    };
    alternatives
        .0
        .into_iter()
        .map(|mut matches| {
            matches.shrink_to_fit();
            Rule { matches, action: action.clone(), note: None, origin: Some(origin.clone()) }
        })
        .collect()
}

fn matches(context: &mut Context<'_>, rule: &PolicyRule) -> Option<Alternatives> {
    let mut found = Alternatives(vec![Vec::new()]);
    let with_ports = [&rule.source, &rule.destination]
        .iter()
        .any(|peer| !peer.ports.is_empty() || !peer.not_ports.is_empty());
    match (rule.protocol, rule.not_protocol) {
        (Some(protocol), Some(other)) if protocol == other => return None,
        // iptables reads protocol 0 as "any".
        (Some(0), _) => return None,
        (Some(number), _) => found.and(Match::Protocol { number, negated: false }),
        (None, other) if with_ports => {
            let protocols: Vec<_> = PORT_PROTOCOLS
                .into_iter()
                .filter(|protocol| Some(*protocol) != other)
                .map(|number| vec![Match::Protocol { number, negated: false }])
                .collect();
            found.any(&protocols);
        }
        (None, Some(number)) if number != 0 => found.and(Match::Protocol { number, negated: true }),
        (None, _) => {}
    }
    icmp(context.family, rule, &mut found)?;
    let closed = rule.action == RuleAction::Deny;
    let has_ports = rule.protocol.is_none_or(|protocol| KERNEL_PORT_PROTOCOLS.contains(&protocol));
    for (side, peer) in [(Side::Source, &rule.source), (Side::Destination, &rule.destination)] {
        nets(context, side, peer, &mut found)?;
        ports(context, side, peer, has_ports, &mut found)?;
    }
    // Behind the ports of both sides: a set costs more to look into.
    for (side, peer) in [(Side::Source, &rule.source), (Side::Destination, &rule.destination)] {
        sets(context, side, peer, closed, &mut found)?;
    }
    Some(found)
}

fn icmp(family: Family, rule: &PolicyRule, found: &mut Alternatives) -> Option<()> {
    if rule.icmp.is_none() && rule.not_icmp.is_none() {
        return Some(());
    }
    let own = match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    };
    match rule.protocol {
        Some(protocol) if protocol != own => return None,
        Some(_) => {}
        None => found.and(Match::Protocol { number: own, negated: false }),
    }
    if let Some(icmp) = rule.icmp.filter(|icmp| icmp.kind.is_some()) {
        found.and(Match::Icmp { icmp, negated: false });
    }
    match rule.not_icmp {
        Some(IcmpMatch { kind: None, .. }) => return None,
        Some(icmp) => found.and(Match::Icmp { icmp, negated: true }),
        None => {}
    }
    Some(())
}

fn nets(context: &mut Context<'_>, side: Side, peer: &PeerMatch, found: &mut Alternatives) -> Option<()> {
    let own = |nets: &[IpNet]| {
        let mut own: Vec<_> =
            nets.iter().filter(|net| context.family.has_net(net)).map(IpNet::trunc).collect();
        own.sort_unstable();
        own.dedup();
        own
    };
    let (wanted, unwanted) = (own(&peer.nets), own(&peer.not_nets));
    if wanted.is_empty() && !peer.nets.is_empty() {
        return None;
    }
    if unwanted.iter().any(|net| net.prefix_len() == 0) {
        return None;
    }
    // A kernel rule has room for one network a side; the rest goes into sets.
    let mut room = true;
    let everything = wanted.iter().any(|net| net.prefix_len() == 0);
    for (nets, negated) in [(wanted, false), (unwanted, true)] {
        if nets.is_empty() || (everything && !negated) {
            continue;
        }
        match nets.as_slice() {
            [net] if room => {
                room = false;
                found.and(Match::Net { side, net: *net, negated });
            }
            _ => {
                let set = names::net_set(&nets);
                context.net_sets.insert(set.clone(), nets);
                found.and(Match::Set { side, set, kind: SetType::Net, negated });
            }
        }
    }
    Some(())
}

/// A match on a set of the calculation; `None` if there is no such set.
fn set_match(context: &Context<'_>, side: Side, id: &SetId, negated: bool) -> Option<Match> {
    let kind = *context.kinds.get(id)?;
    Some(Match::Set { side, set: names::address_set(id, kind), kind, negated })
}

/// Sets the address has to be in or not. A set that doesn't exist fails closed: rules that open match
/// nothing, rules that deny match without regard to it.
fn sets(
    context: &Context<'_>,
    side: Side,
    peer: &PeerMatch,
    closed: bool,
    found: &mut Alternatives,
) -> Option<()> {
    let wanted = peer.sets.iter().chain(&peer.service).map(|id| (id, false));
    let unwanted = peer.not_sets.iter().chain(&peer.not_named_ports).map(|id| (id, true));
    for (id, negated) in wanted.chain(unwanted) {
        match set_match(context, side, id, negated) {
            Some(part) => found.and(part),
            None if closed => {}
            None => return None,
        }
    }
    Some(())
}

fn ports(
    context: &Context<'_>,
    side: Side,
    peer: &PeerMatch,
    has_ports: bool,
    found: &mut Alternatives,
) -> Option<()> {
    if !peer.ports.is_empty() || !peer.named_ports.is_empty() {
        let mut parts = Vec::new();
        if has_ports {
            parts.extend(
                chunks(&peer.ports).map(|ranges| vec![Match::Ports { side, ranges, negated: false }]),
            );
        }
        parts.extend(
            peer.named_ports.iter().filter_map(|id| Some(vec![set_match(context, side, id, false)?])),
        );
        if parts.is_empty() {
            return None;
        }
        found.any(&parts);
    }
    if has_ports {
        for ranges in chunks(&peer.not_ports) {
            found.and(Match::Ports { side, ranges, negated: true });
        }
    }
    Some(())
}

/// Ranges in pieces of at most [`PORT_SLOTS`] slots.
fn chunks(ranges: &[PortRange]) -> impl Iterator<Item = Vec<PortRange>> {
    let mut chunks: Vec<Vec<PortRange>> = Vec::new();
    let mut room = 0;
    for range in ranges.iter().filter(|range| range.first <= range.last) {
        let slots = if range.first == range.last { 1 } else { 2 };
        if slots > room {
            chunks.push(Vec::new());
            room = PORT_SLOTS;
        }
        room -= slots;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(*range);
        }
    }
    chunks.into_iter()
}
