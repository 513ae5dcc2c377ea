//! Rules as `iptables-restore` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::hash::{self, Body, RuleHash};
use super::{log_prefix, port_range};
use crate::model::PortRange;
use crate::rules::names::CHAIN_PREFIX;
use crate::rules::{
    Action, BaseRules, ChainName, Conntrack, FLOW_LOG_GROUP, Family, Hook, Match, Rule, SetType, Side, Table,
    TableRules,
};

/// Longest comment of the kernel without its NUL (`XT_MAX_COMMENT_LEN`).
const MAX_COMMENT: usize = 255;
/// Longest prefix of a LOG rule without its NUL.
const MAX_LOG_PREFIX: usize = 29;

/// Hash and text (without `-A CHAIN`) of each rule of a chain.
pub fn chain(family: Family, name: &str, rules: &[Rule]) -> Vec<(RuleHash, String)> {
    let hashed = rules.iter().zip(hashed(family, name, rules));
    hashed.map(|(rule, (hash, body))| (hash, text(name, rule, hash, &body))).collect()
}

/// Hashes of the rules of a chain.
pub fn hashes(family: Family, name: &str, rules: &[Rule]) -> Vec<RuleHash> {
    hashed(family, name, rules).into_iter().map(|(hash, _)| hash).collect()
}

/// Text (without `-A CHAIN`) of a rule with this hash.
pub fn rule(family: Family, name: &str, rule: &Rule, hash: RuleHash) -> String {
    text(name, rule, hash, &body(family, rule))
}

fn hashed(family: Family, name: &str, rules: &[Rule]) -> Vec<(RuleHash, Body)> {
    let hashed = hash::chain(name, rules, |rule| body(family, rule)).into_iter().zip(rules);
    let of_text = |(hash, body): (RuleHash, Body), rule| match own_text(name, rule, &body) {
        Some(text) => (RuleHash::of_text(&text), body),
        None => (hash, body),
    };
    hashed.map(|(hashed, rule)| of_text(hashed, rule)).collect()
}

/// The comment is a match of the kernel's, which a packet pays for as much as for two rules: it comes last, where only
/// packets get to that the rule is for, and rules that lead most packets on have none.
fn text(name: &str, rule: &Rule, hash: RuleHash, body: &Body) -> String {
    own_text(name, rule, body).unwrap_or_else(|| {
        let comment = hash::comment(hash, rule, MAX_COMMENT);
        format!("{}-m comment --comment \"{comment}\" {}", body.matches, body.action)
    })
}

/// Text of a rule that is told by it.
fn own_text(name: &str, rule: &Rule, Body { matches, action }: &Body) -> Option<String> {
    let text = || format!("{matches}{action}");
    let is_own = |text: &String| name.starts_with(CHAIN_PREFIX) || is_own_jump(text);
    is_plain(rule).then(text).filter(is_own)
}

/// Whether a rule (without `-A CHAIN`) in a chain of the kernel's is ours without a comment: a jump and nothing else.
pub fn is_own_jump(text: &str) -> bool {
    let target = text.strip_prefix("-j ").and_then(|chain| chain.strip_prefix(CHAIN_PREFIX));
    target.is_some_and(|rest| !rest.contains(' '))
}

/// Whether `iptables-save` says word for word what we write: then the rule needs no comment to be known by.
fn is_plain(rule: &Rule) -> bool {
    let leads_on = match &rule.action {
        Action::Jump(_) | Action::Goto(_) | Action::SetMark(_) | Action::ClearMark(_) => true,
        Action::Return | Action::Accept => !rule.matches.is_empty(),
        _ => false,
    };
    let is_interface = |part: &Match| matches!(part, Match::Interface { .. });
    let others = rule.matches.iter().skip_while(|part| is_interface(part));
    leads_on
        && rule.origin.is_none()
        && others.clone().count() <= 1
        && rule.matches.iter().all(|part| match part {
            Match::Interface { name, .. } => is_plain_interface(name),
            Match::Mark { bits, .. } => *bits != u32::MAX,
            Match::Set { negated, .. } => !negated,
            Match::Conntrack { state, negated } => *state == Conntrack::Established && !negated,
            _ => false,
        })
}

fn is_plain_interface(name: &str) -> bool {
    name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}

/// Chains the text of a table needs besides its own: what iptables can't say in one rule.
pub fn helper_chains(table: &TableRules) -> BTreeMap<ChainName, Arc<Vec<Rule>>> {
    mark_chains(table.chains.values().flat_map(|rules| marks(rules)).collect())
}

/// Marks that rules return with.
pub fn marks(rules: &[Rule]) -> BTreeSet<u32> {
    let mark = |rule: &Rule| if let Action::MarkAndReturn(bits) = rule.action { Some(bits) } else { None };
    rules.iter().filter_map(mark).collect()
}

/// The chains that rules need which return with these marks.
pub fn mark_chains(marks: BTreeSet<u32>) -> BTreeMap<ChainName, Arc<Vec<Rule>>> {
    let rules = |bits| Arc::new(vec![Rule::new([], Action::SetMark(bits))]);
    marks.into_iter().map(|bits| (mark_chain(bits), rules(bits))).collect()
}

/// Setting a mark and returning is a `goto` to a chain that sets it and ends.
fn mark_chain(bits: u32) -> ChainName {
    ChainName(format!("{CHAIN_PREFIX}mark-{bits:x}").into())
}

/// A whole table with hashes, for people and tests.
pub fn table(family: Family, id: Table, rules: &TableRules) -> String {
    let mut chains = rules.chains.clone();
    chains.extend(helper_chains(rules));
    let mut text = format!("*{}\n", id.name());
    for name in chains.keys() {
        let _infallible = writeln!(text, ":{name} - [0:0]");
    }
    for (name, rules) in &chains {
        for (_, rule) in chain(family, &name.0, rules) {
            let _infallible = writeln!(text, "-A {name} {rule}");
        }
    }
    for (hook, BaseRules { first, last }) in &rules.base {
        for (number, (_, rule)) in (1..).zip(chain(family, &base_hash_name(*hook, "first"), first)) {
            let _infallible = writeln!(text, "-I {} {number} {rule}", hook.name());
        }
        for (_, rule) in chain(family, &base_hash_name(*hook, "last"), last) {
            let _infallible = writeln!(text, "-A {} {rule}", hook.name());
        }
    }
    text.push_str("COMMIT\n");
    text
}

/// What the hashes of our rules in a base chain start from.
pub fn base_hash_name(hook: Hook, place: &str) -> String {
    format!("{} {place}", hook.name())
}

fn body(family: Family, rule: &Rule) -> Body {
    let (mut text, mut action) = (String::new(), String::new());
    // Ports and ICMP types are options of the protocol: it has to come before them.
    let (protocols, others): (Vec<_>, Vec<_>) =
        rule.matches.iter().partition(|part| matches!(part, Match::Protocol { .. }));
    // One range of ports of TCP or UDP is a match of the protocol's own, which iptables-nft hands to the kernel as a
    // comparison of two bytes.
    let has_one = others.iter().filter(|part| matches!(part, Match::Ports { .. })).count() == 1;
    let own_ports = protocols.iter().filter(|_| has_one).find_map(|part| match part {
        Match::Protocol { number: 6, negated: false } => Some("tcp"),
        Match::Protocol { number: 17, negated: false } => Some("udp"),
        _ => None,
    });
    for part in protocols.into_iter().chain(others) {
        match (part, own_ports) {
            (Match::Ports { side, ranges, negated }, Some(module)) if ranges.len() == 1 => {
                let option = pick(*side, "--sport", "--dport");
                let _infallible = write!(text, "-m {module} {}{option} {}", not(*negated), port_list(ranges));
            }
            _ => write_match(&mut text, family, part),
        }
        text.push(' ');
    }
    write_action(&mut action, &rule.action);
    Body { matches: text, action }
}

const fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

const fn pick(side: Side, source: &'static str, destination: &'static str) -> &'static str {
    match side {
        Side::Source => source,
        Side::Destination => destination,
    }
}

fn port_list(ranges: &[PortRange]) -> String {
    ranges.iter().map(|range| port_range(range, ':')).collect::<Vec<_>>().join(",")
}

fn write_match(text: &mut String, family: Family, part: &Match) {
    let _infallible = match part {
        Match::Interface { side, name, negated } => {
            write!(text, "{}{} {name}", not(*negated), pick(*side, "-i", "-o"))
        }
        Match::Protocol { number, negated } => write!(text, "{}-p {number}", not(*negated)),
        Match::Net { side, net, negated } => {
            write!(text, "{}{} {net}", not(*negated), pick(*side, "-s", "-d"))
        }
        Match::Set { side, set, kind, negated } => {
            let flags = match kind {
                SetType::Net | SetType::Host => pick(*side, "src", "dst"),
                _ => pick(*side, "src,src", "dst,dst"),
            };
            write!(text, "-m set {}--match-set {} {flags}", not(*negated), set.kernel_name(family))
        }
        Match::Ports { side, ranges, negated } => {
            let option = pick(*side, "--sports", "--dports");
            write!(text, "-m multiport {}{option} {}", not(*negated), port_list(ranges))
        }
        Match::Icmp { icmp, negated } => {
            let (module, option) = match family {
                Family::V4 => ("icmp", "--icmp-type"),
                Family::V6 => ("icmp6", "--icmpv6-type"),
            };
            let kind = icmp.kind.unwrap_or(u8::MAX);
            let code = icmp.code.map(|code| format!("/{code}")).unwrap_or_default();
            write!(text, "-m {module} {}{option} {kind}{code}", not(*negated))
        }
        Match::Conntrack { state, negated } => {
            let states = match state {
                Conntrack::Established => "RELATED,ESTABLISHED",
                Conntrack::Invalid => "INVALID",
                Conntrack::DestinationNat => "DNAT",
            };
            write!(text, "-m conntrack {}--ctstate {states}", not(*negated))
        }
        Match::Mark { bits, set } => {
            let value = if *set { *bits } else { 0 };
            write!(text, "-m mark --mark {value:#x}/{bits:#x}")
        }
        Match::OwnSocket => write!(text, "-m owner --socket-exists"),
        Match::Local { side } => {
            write!(text, "-m addrtype {} LOCAL", pick(*side, "--src-type", "--dst-type"))
        }
    };
}

fn write_action(text: &mut String, action: &Action) {
    let _infallible = match action {
        Action::Accept => write!(text, "-j ACCEPT"),
        Action::Drop => write!(text, "-j DROP"),
        Action::Reject => write!(text, "-j REJECT"),
        Action::Return => write!(text, "-j RETURN"),
        Action::Jump(chain) => write!(text, "-j {chain}"),
        Action::Goto(chain) => write!(text, "-g {chain}"),
        // Never made for a backend without maps: a chain that doesn't exist makes the kernel refuse the rules.
        Action::GotoMapped { map, .. } => write!(text, "-g {}", map.0),
        Action::MarkAndReturn(bits) => write!(text, "-g {}", mark_chain(*bits)),
        Action::SetMark(bits) => write!(text, "-j MARK --set-xmark {bits:#x}/{bits:#x}"),
        Action::ClearMark(bits) => write!(text, "-j MARK --set-xmark 0x0/{bits:#x}"),
        Action::NoTrack => write!(text, "-j CT --notrack"),
        Action::SourceNat { to, ports } => {
            let ports = ports.map(|ports| port_range(&ports, '-'));
            let _infallible = match (to, ports) {
                (None, None) => write!(text, "-j MASQUERADE"),
                (None, Some(ports)) => write!(text, "-j MASQUERADE --to-ports {ports}"),
                (Some(to), None) => write!(text, "-j SNAT --to-source {to}"),
                (Some(to), Some(ports)) => write!(text, "-j SNAT --to-source {to}:{ports}"),
            };
            write!(text, " --random-fully")
        }
        Action::LogFlow => write!(text, "-j NFLOG --nflog-group {FLOW_LOG_GROUP}"),
        Action::Log(prefix) => {
            write!(text, "-j LOG --log-prefix \"{}: \" --log-level 5", log_prefix(prefix, MAX_LOG_PREFIX))
        }
    };
}
