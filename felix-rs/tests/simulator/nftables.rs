//! The same for the text that `nft` reads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::way::{Filter, Skb};
use crate::{Outcome, Passing, tokens};

/// Our table of one family: chains of tokenised rules, elements of sets and maps.
#[derive(Debug, Default)]
pub(crate) struct Nft {
    chains: BTreeMap<String, Vec<Vec<String>>>,
    sets: BTreeMap<String, Vec<String>>,
}

/// What happens behind the matches of a rule.
enum Then {
    NoMatch,
    Next,
    Outcome(Outcome),
    Jump(String),
    Goto(String),
}

/// The tokens of a rule that are still to be read.
struct Reader<'a>(&'a [String]);

impl<'a> Reader<'a> {
    fn peek(&self) -> &'a str {
        self.0.first().map_or("", String::as_str)
    }

    fn next(&mut self) -> &'a str {
        let (first, rest) = self.0.split_first().unwrap();
        self.0 = rest;
        first
    }

    fn takes(&mut self, word: &str) -> bool {
        let is = self.peek() == word;
        if is {
            self.next();
        }
        is
    }

    fn expect(&mut self, word: &str) {
        assert_eq!(self.next(), word);
    }

    fn number(&mut self) -> u32 {
        let text = self.next();
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    }

    /// `{ a, b }`
    fn list(&mut self) -> Vec<String> {
        self.expect("{");
        let mut text = String::new();
        while !self.takes("}") {
            text.push_str(self.next());
            text.push(' ');
        }
        text.split(',').map(|part| part.trim().to_owned()).collect()
    }
}

impl Nft {
    pub(crate) fn chain(&mut self, name: &str, rules: impl IntoIterator<Item = String>) {
        self.chains.insert(name.to_owned(), rules.into_iter().map(|rule| tokens(&rule)).collect());
    }

    pub(crate) fn set(&mut self, name: &str, elements: impl IntoIterator<Item = String>) {
        self.sets.insert(name.to_owned(), elements.into_iter().collect());
    }

    fn run(&self, chain: &str, passing: &Passing<'_>, skb: &mut Skb) -> Outcome {
        for rule in self.chains.get(chain).unwrap_or_else(|| panic!("no chain {chain}")) {
            match self.rule(rule, passing, skb) {
                Then::NoMatch | Then::Next => {}
                Then::Outcome(outcome) => return outcome,
                Then::Jump(chain) => {
                    if let decided @ Outcome::Decided(_) = self.run(&chain, passing, skb) {
                        return decided;
                    }
                }
                Then::Goto(chain) => return self.run(&chain, passing, skb),
            }
        }
        Outcome::Return
    }

    fn rule(&self, rule: &[String], passing: &Passing<'_>, skb: &mut Skb) -> Then {
        let mut rest = Reader(rule);
        while !rest.0.is_empty() {
            let holds = match rest.next() {
                "comment" => {
                    rest.next();
                    true
                }
                "counter" => true,
                "log" => {
                    rest.0 = &rest.0[4..];
                    true
                }
                "accept" => return Then::Outcome(Outcome::Decided(true)),
                "drop" | "reject" => return Then::Outcome(Outcome::Decided(false)),
                "return" => return Then::Outcome(Outcome::Return),
                "jump" => return Then::Jump(rest.next().to_owned()),
                "goto" => return Then::Goto(rest.next().to_owned()),
                "meta" if rest.takes("mark") => {
                    if rest.takes("set") {
                        rest.expect("meta");
                        rest.expect("mark");
                        match rest.next() {
                            "|" => skb.mark |= rest.number(),
                            "&" => skb.mark &= rest.number(),
                            other => panic!("mark {other}"),
                        }
                        true
                    } else {
                        rest.expect("&");
                        let bits = rest.number();
                        rest.expect("==");
                        skb.mark & bits == rest.number()
                    }
                }
                "meta" if rest.takes("skuid") => {
                    assert_eq!(rest.next(), "0-4294967295");
                    passing.incoming.is_empty()
                }
                "ct" => {
                    let key = rest.next();
                    let negated = rest.takes("!");
                    // The first packet of a flow that nobody has seen before, unless it is not tracked.
                    let holds = match (key, rest.next()) {
                        ("state", "established,related" | "invalid") => false,
                        ("status", "dnat") => skb.rewritten,
                        other => panic!("ct {other:?}"),
                    };
                    holds != negated
                }
                "notrack" => {
                    skb.untracked = true;
                    true
                }
                field => {
                    let key = Self::fields(field, &mut rest, passing);
                    if rest.takes("vmap") {
                        match self.mapped(rest.next(), &key) {
                            Some(chain) => return Then::Goto(chain),
                            None => return Then::NoMatch,
                        }
                    }
                    let negated = rest.takes("!=");
                    self.compare(&mut rest, &key) != negated
                }
            };
            if !holds {
                return Then::NoMatch;
            }
        }
        Then::Next
    }

    /// Values of the packet's fields: one, or several joined by dots.
    fn fields(first: &str, rest: &mut Reader<'_>, passing: &Passing<'_>) -> Vec<String> {
        let packet = passing.packet;
        let mut field = first;
        let mut values = Vec::new();
        loop {
            values.push(match field {
                "iifname" => passing.incoming.to_owned(),
                "oifname" => passing.outgoing.to_owned(),
                "meta" => {
                    rest.expect("l4proto");
                    packet.protocol.to_string()
                }
                "ip" | "ip6" => {
                    assert_eq!(field == "ip", packet.source.is_ipv4());
                    let source = rest.next() == "saddr";
                    if source { packet.source } else { packet.destination }.to_string()
                }
                "th" => {
                    let source = rest.next() == "sport";
                    if source { packet.source_port } else { packet.destination_port }.to_string()
                }
                "icmp" | "icmpv6" => {
                    let (kind, code) = packet.icmp.unwrap();
                    if rest.next() == "type" { kind } else { code }.to_string()
                }
                other => panic!("unknown field {other}"),
            });
            if !rest.takes(".") {
                return values;
            }
            field = rest.next();
        }
    }

    fn compare(&self, rest: &mut Reader<'_>, key: &[String]) -> bool {
        if rest.peek() == "{" {
            return rest.list().iter().any(|element| is_element(element, key));
        }
        let word = rest.next();
        match word.strip_prefix('@') {
            Some(set) => self.elements(set).iter().any(|element| is_element(element, key)),
            None => is_element(word, key),
        }
    }

    fn elements(&self, set: &str) -> &[String] {
        self.sets.get(set).unwrap_or_else(|| panic!("no set {set}"))
    }

    /// The chain that a map has for a key.
    fn mapped(&self, map: &str, key: &[String]) -> Option<String> {
        let elements = self.elements(map.strip_prefix('@').unwrap()).iter();
        elements
            .map(|element| element.split_once(" : goto ").unwrap())
            .find_map(|(element, chain)| is_element(element, key).then(|| chain.to_owned()))
    }
}

impl Filter for Nft {
    fn hook(&self, table: &str, hook: &str, passing: &Passing<'_>, skb: &mut Skb) -> Option<Outcome> {
        let chain = format!("{table}-hook-{}", hook.to_lowercase());
        self.chains.contains_key(&chain).then(|| self.run(&chain, passing, skb))
    }
}

/// Whether an element, fields joined by dots, has a key.
fn is_element(element: &str, key: &[String]) -> bool {
    let parts: Vec<&str> = element.split(" . ").collect();
    parts.len() == key.len() && parts.iter().zip(key).all(|(part, value)| has(part.trim_matches('"'), value))
}

fn has(part: &str, value: &str) -> bool {
    if let Ok(address) = value.parse::<IpAddr>() {
        let net = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        return net.unwrap().contains(&address);
    }
    if let Some(stem) = part.strip_suffix('*') {
        return value.starts_with(stem);
    }
    match (part.split_once('-'), value.parse::<u16>()) {
        (Some((first, last)), Ok(number)) => {
            (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&number)
        }
        _ => part == value,
    }
}
