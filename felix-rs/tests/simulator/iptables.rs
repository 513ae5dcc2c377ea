//! A small packet filter that reads rules and sets as text, as a person would. It shares no code with what wrote
//! them, so it can't share a mistake.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::way::{Filter, Skb};
use crate::{Outcome, Passing, tokens};

/// Tables of one family: chains of tokenised rules by their table and name.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    chains: BTreeMap<(String, String), Vec<Vec<String>>>,
    /// Members as `ipset save` writes them.
    sets: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    /// Reads `iptables-restore` input of one table.
    pub(crate) fn restore(&mut self, text: &str) {
        let mut table = String::new();
        for line in text.lines() {
            let mut rule = tokens(line);
            let name = match rule.first().map(String::as_str) {
                Some("-A" | "-I") => rule[1].clone(),
                Some(declared) if declared.starts_with(':') => declared[1..].to_owned(),
                Some(name) if name.starts_with('*') => {
                    table = name[1..].to_owned();
                    continue;
                }
                _ => continue,
            };
            let chain = self.chains.entry((table.clone(), name)).or_default();
            match rule[0].as_str() {
                "-A" => chain.push(rule.split_off(2)),
                "-I" => chain.insert(rule[2].parse::<usize>().unwrap() - 1, rule.split_off(3)),
                _ => {}
            }
        }
    }

    pub(crate) fn add(&mut self, set: String, member: String) {
        self.sets.entry(set).or_default().push(member);
    }

    pub(crate) fn create(&mut self, set: String) {
        self.sets.entry(set).or_default();
    }

    fn run(&self, table: &str, chain: &str, passing: &Passing<'_>, skb: &mut Skb) -> Outcome {
        let rules = self.chains.get(&(table.to_owned(), chain.to_owned()));
        for rule in rules.unwrap_or_else(|| panic!("no chain {chain} in {table}")) {
            let Some((verb, target, rest)) = self.matches(rule, passing, skb) else { continue };
            match (verb, target) {
                ("-j", "ACCEPT") => return Outcome::Decided(true),
                ("-j", "DROP") => return Outcome::Decided(false),
                ("-j", "REJECT") => {
                    assert_eq!(table, "filter");
                    return Outcome::Decided(false);
                }
                ("-j", "RETURN") => return Outcome::Return,
                ("-j", "LOG") => {}
                ("-j", "CT") => {
                    assert_eq!((table, rest[0].as_str()), ("raw", "--notrack"));
                    skb.untracked = true;
                }
                ("-j", "MARK") => {
                    assert_eq!(rest[0], "--set-xmark");
                    let (value, mask) = value_and_mask(&rest[1]);
                    skb.mark = (skb.mark & !mask) ^ value;
                }
                ("-j", chain) => {
                    if let decided @ Outcome::Decided(_) = self.run(table, chain, passing, skb) {
                        return decided;
                    }
                }
                (_, chain) => return self.run(table, chain, passing, skb),
            }
        }
        Outcome::Return
    }

    /// Verb, target and its options, if all matches hold.
    fn matches<'r>(
        &self,
        rule: &'r [String],
        passing: &Passing<'_>,
        skb: &Skb,
    ) -> Option<(&'r str, &'r str, &'r [String])> {
        let packet = passing.packet;
        let mut at = 0;
        let mut negated = false;
        loop {
            let word = rule[at].as_str();
            let value = rule.get(at + 1).map_or("", String::as_str);
            let mut used = 2;
            let holds = match word {
                "!" => {
                    negated = true;
                    at += 1;
                    continue;
                }
                "-m" | "--comment" => {
                    at += 2;
                    continue;
                }
                "-j" | "-g" => return Some((word, value, &rule[at + 2..])),
                "--socket-exists" => {
                    used = 1;
                    passing.incoming.is_empty()
                }
                "-i" => is_interface(value, passing.incoming),
                "-o" => is_interface(value, passing.outgoing),
                "-p" => value.parse::<u8>().unwrap() == packet.protocol,
                "-s" => value.parse::<IpNet>().unwrap().contains(&packet.source),
                "-d" => value.parse::<IpNet>().unwrap().contains(&packet.destination),
                "--match-set" => {
                    used = 3;
                    self.in_set(value, &rule[at + 2], passing)
                }
                "--sports" | "--sport" => in_ports(value, packet.source_port),
                "--dports" | "--dport" => in_ports(value, packet.destination_port),
                "--icmp-type" | "--icmpv6-type" => {
                    let (kind, code) = packet.icmp.unwrap();
                    let (wanted, with_code) = value.split_once('/').unwrap_or((value, ""));
                    wanted.parse() == Ok(kind) && (with_code.is_empty() || with_code.parse() == Ok(code))
                }
                // The first packet of a flow that nobody has seen before, unless it is not tracked.
                "--ctstate" => value.split(',').any(|state| match state {
                    "NEW" => !skb.untracked,
                    "UNTRACKED" => skb.untracked,
                    "DNAT" => skb.rewritten,
                    _ => false,
                }),
                "--mark" => {
                    let (value, mask) = value_and_mask(value);
                    skb.mark & mask == value
                }
                other => panic!("unknown match {other} in {rule:?}"),
            };
            if holds == negated {
                return None;
            }
            negated = false;
            at += used;
        }
    }

    fn in_set(&self, set: &str, flags: &str, passing: &Passing<'_>) -> bool {
        let packet = passing.packet;
        let members = self.sets.get(set).unwrap_or_else(|| panic!("no set {set}"));
        let (address, port, interface): (IpAddr, u16, &str) = if flags.starts_with("src") {
            (packet.source, packet.source_port, passing.incoming)
        } else {
            (packet.destination, packet.destination_port, passing.outgoing)
        };
        members.iter().any(|member| match member.split_once(',') {
            None => member.parse::<IpNet>().unwrap().contains(&address),
            Some((ip, rest)) => {
                assert!(flags == "src,src" || flags == "dst,dst");
                match rest.split_once(':') {
                    Some((protocol, number)) => {
                        ip.parse() == Ok(address)
                            && protocol.parse() == Ok(packet.protocol)
                            && number.parse() == Ok(port)
                    }
                    None => ip.parse::<IpNet>().unwrap().contains(&address) && rest == interface,
                }
            }
        })
    }
}

impl Filter for Kernel {
    fn hook(&self, table: &str, hook: &str, passing: &Passing<'_>, skb: &mut Skb) -> Option<Outcome> {
        let exists = self.chains.contains_key(&(table.to_owned(), hook.to_owned()));
        exists.then(|| self.run(table, hook, passing, skb))
    }
}

fn is_interface(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('+').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

fn in_ports(list: &str, port: u16) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&port)
    })
}

fn value_and_mask(text: &str) -> (u32, u32) {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let (value, mask) = text.split_once('/').unwrap();
    (number(value), number(mask))
}
