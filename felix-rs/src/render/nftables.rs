//! Rules as `nft -f` reads them: one table per family, the kernel's tables as priorities of its base chains.
//!
//! A chain is called `<table>-<name>`, a base chain `<table>-hook-<hook>`. Every rule counts.

use std::fmt::Write as _;

use super::hash::{self, Body, RuleHash};
use super::{log_prefix, port_range};
use crate::rules::names::CHAIN_PREFIX;
use crate::rules::{
    Action, BaseRules, ChainName, Conntrack, FLOW_LOG_GROUP, Family, Hook, Match, Member, Rule, SetName,
    SetType, Side, Table,
};

/// Our table, in each family.
pub const TABLE: &str = "margay";
/// Longest comment of a rule without its NUL (`NFTNL_UDATA_COMMENT_MAXLEN`).
const MAX_COMMENT: usize = 127;
/// Longest prefix of a log statement without its NUL (`NF_LOG_PREFIXLEN`).
const MAX_LOG_PREFIX: usize = 127;

/// `ip margay` or `ip6 margay`.
pub const fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip margay",
        Family::V6 => "ip6 margay",
    }
}

/// Name of a chain of one of the kernel's tables.
pub fn chain_name(table: Table, name: &ChainName) -> String {
    format!("{}-{}", table.name(), name.0.strip_prefix(CHAIN_PREFIX).unwrap_or(&name.0))
}

/// Where a base chain hangs: kernel's type, hook, priority (`enum nf_ip_hook_priorities`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// The kernel's name of the hook.
    pub hook: String,
    /// Lower runs first.
    pub priority: i32,
}

impl BaseChain {
    /// The base chain for a table and hook.
    pub fn of(table: Table, hook: Hook) -> Self {
        let (kind, priority) = match table {
            Table::Raw => ("filter", -300),
            Table::Mangle => ("filter", -150),
            Table::Filter => ("filter", 0),
            // Behind everybody's own source NAT: the first to rewrite a connection wins.
            Table::Nat => ("nat", 101),
        };
        Self { kind, hook: hook.name().to_lowercase(), priority }
    }

    /// Its name.
    pub fn name(table: Table, hook: Hook) -> String {
        format!("{}-hook-{}", table.name(), hook.name().to_lowercase())
    }

    /// What `add chain` says in braces.
    pub fn definition(&self) -> String {
        format!("{{ type {} hook {} priority {}; policy accept; }}", self.kind, self.hook, self.priority)
    }
}

/// Hash and text of each rule of a chain, by its name in nftables.
pub fn chain(family: Family, table: Table, name: &str, rules: &[Rule]) -> Vec<(RuleHash, String)> {
    let hashed = hash::chain(name, rules, |rule| body(family, table, rule)).into_iter().zip(rules);
    let text = |hash, rule, Body { matches, action }| {
        format!("{matches}{action} comment \"{}\"", hash::comment(hash, rule, MAX_COMMENT))
    };
    hashed.map(|((hash, body), rule)| (hash, text(hash, rule, body))).collect()
}

/// All rules of a base chain: nobody else's are between the first and the last.
pub fn base_rules(base: &BaseRules) -> Vec<Rule> {
    base.first.iter().chain(&base.last).cloned().collect()
}

/// `add set` or `add map` with the type of its elements.
pub fn set_definition(family: Family, kind: SetType, name: &str) -> String {
    let address = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let table = table(family);
    let what = if kind.is_map() { "map" } else { "set" };
    let key = match kind {
        SetType::Net | SetType::Host => "",
        SetType::IpPort => " . inet_proto . inet_service",
        SetType::NetIface | SetType::HostIface => " . ifname",
        SetType::Dispatch | SetType::HostDispatch => " . ifname : verdict",
    };
    // Without the flag the kernel makes it a hash table.
    let flags = if kind.has_networks() { " flags interval;" } else { "" };
    format!("add {what} {table} {name} {{ type {address}{key};{flags} }}")
}

/// An element of a set or map.
pub fn element(member: &Member) -> String {
    match member {
        Member::Net(net) => prefix(net),
        Member::IpPort(address, protocol, port) => format!("{address} . {protocol} . {port}"),
        Member::NetIface(net, interface) => format!("{} . \"{interface}\"", prefix(net)),
        Member::Dispatch(net, interface, chain) => {
            format!("{} . \"{interface}\" : goto {}", prefix(net), chain_name(Table::Filter, chain))
        }
    }
}

fn prefix(net: &ipnet::IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn body(family: Family, table: Table, rule: &Rule) -> Body {
    let (mut text, mut action) = (String::new(), String::new());
    // Ports and ICMP types are read where the protocol puts them: it has to be known before.
    let (protocols, others): (Vec<_>, Vec<_>) =
        rule.matches.iter().partition(|part| matches!(part, Match::Protocol { .. }));
    for part in protocols.into_iter().chain(others) {
        write_match(&mut text, family, part);
        text.push(' ');
    }
    write_action(&mut action, family, table, &rule.action);
    Body { matches: text, action }
}

const fn not(negated: bool) -> &'static str {
    if negated { "!= " } else { "" }
}

const fn pick(side: Side, source: &'static str, destination: &'static str) -> &'static str {
    match side {
        Side::Source => source,
        Side::Destination => destination,
    }
}

const fn address(family: Family, side: Side) -> &'static str {
    match family {
        Family::V4 => pick(side, "ip saddr", "ip daddr"),
        Family::V6 => pick(side, "ip6 saddr", "ip6 daddr"),
    }
}

const fn port(side: Side) -> &'static str {
    pick(side, "th sport", "th dport")
}

const fn interface(side: Side) -> &'static str {
    pick(side, "iifname", "oifname")
}

fn set_name(family: Family, set: &SetName) -> String {
    set.kernel_name(family)
}

fn write_match(text: &mut String, family: Family, part: &Match) {
    let _infallible = match part {
        Match::Interface { side, name, negated } => {
            let pattern = name.strip_suffix('+').map_or_else(|| name.to_string(), |stem| format!("{stem}*"));
            write!(text, "{} {}\"{pattern}\"", interface(*side), not(*negated))
        }
        Match::Protocol { number, negated } => write!(text, "meta l4proto {}{number}", not(*negated)),
        Match::Net { side, net, negated } => {
            write!(text, "{} {}{}", address(family, *side), not(*negated), prefix(net))
        }
        Match::Set { side, set, kind, negated } => {
            let (address, name) = (address(family, *side), set_name(family, set));
            let key = match kind {
                SetType::Net | SetType::Host => address.to_owned(),
                SetType::IpPort => format!("{address} . meta l4proto . {}", port(*side)),
                _ => format!("{address} . {}", interface(*side)),
            };
            write!(text, "{key} {}@{name}", not(*negated))
        }
        Match::Ports { side, ranges, negated } => {
            let ports: Vec<_> = ranges.iter().map(|range| port_range(range, '-')).collect();
            write!(text, "{} {}{{ {} }}", port(*side), not(*negated), ports.join(", "))
        }
        Match::Icmp { icmp, negated } => {
            let protocol = match family {
                Family::V4 => "icmp",
                Family::V6 => "icmpv6",
            };
            match (icmp.kind, icmp.code) {
                (Some(kind), Some(code)) => {
                    write!(text, "{protocol} type . {protocol} code {}{{ {kind} . {code} }}", not(*negated))
                }
                (Some(kind), None) => write!(text, "{protocol} type {}{kind}", not(*negated)),
                // Every type, or none.
                (None, _) => write!(text, "{protocol} type {}0-255", not(*negated)),
            }
        }
        Match::Conntrack { state, negated } => {
            let (key, value) = match state {
                Conntrack::Established => ("state", "established,related"),
                Conntrack::Invalid => ("state", "invalid"),
                Conntrack::DestinationNat => ("status", "dnat"),
            };
            write!(text, "ct {key} {}{value}", if *negated { "! " } else { "" })
        }
        Match::Mark { bits, set } => {
            let value = if *set { *bits } else { 0 };
            write!(text, "meta mark & {bits:#x} == {value:#x}")
        }
        // Any owner.
        Match::OwnSocket => write!(text, "meta skuid 0-{}", u32::MAX),
        Match::Local { side } => write!(text, "fib {} type local", pick(*side, "saddr", "daddr")),
    };
}

fn write_action(text: &mut String, family: Family, table: Table, action: &Action) {
    let _infallible = match action {
        Action::Accept => write!(text, "counter accept"),
        Action::Drop => write!(text, "counter drop"),
        Action::Reject => write!(text, "counter reject"),
        Action::Return => write!(text, "counter return"),
        Action::Jump(chain) => write!(text, "counter jump {}", chain_name(table, chain)),
        Action::Goto(chain) => write!(text, "counter goto {}", chain_name(table, chain)),
        Action::GotoMapped { side, map } => {
            write!(text, "{} . {} vmap @{}", address(family, *side), interface(*side), set_name(family, map))
        }
        Action::MarkAndReturn(bits) => write!(text, "counter meta mark set meta mark | {bits:#x} return"),
        Action::SetMark(bits) => write!(text, "counter meta mark set meta mark | {bits:#x}"),
        Action::ClearMark(bits) => write!(text, "counter meta mark set meta mark & {:#x}", !bits),
        Action::NoTrack => write!(text, "counter notrack"),
        Action::SourceNat { to, ports } => {
            let ports = ports.map(|ports| port_range(&ports, '-'));
            let _infallible = match (to, ports) {
                (None, None) => write!(text, "counter masquerade"),
                (None, Some(ports)) => write!(text, "counter masquerade to :{ports}"),
                (Some(to), None) => write!(text, "counter snat to {to}"),
                (Some(to), Some(ports)) => write!(text, "counter snat to {to}:{ports}"),
            };
            write!(text, " fully-random")
        }
        Action::LogFlow => write!(text, "log group {FLOW_LOG_GROUP}"),
        Action::Log(prefix) => {
            write!(text, "counter log prefix \"{}: \" level notice", log_prefix(prefix, MAX_LOG_PREFIX))
        }
    };
}
