//! What `iptables-save -c` says, as far as it concerns us: our chains by their hashes, and where our rules are
//! in the kernel's own chains. Foreign rules are counted, never kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::apply::Count;
use crate::render::hash::{COMMENT_PREFIX, RuleHash};
use crate::render::iptables;
use crate::rules::Table;
use crate::rules::names::CHAIN_PREFIX;

/// A rule in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedRule {
    /// What tells our rule; a foreign rule has none.
    pub(super) hash: Option<RuleHash>,
    /// Text after `-A CHAIN`, kept for our rules in base chains only: they are deleted by it.
    pub(super) text: Option<Box<str>>,
}

/// One table in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SavedTable {
    /// Our chains: the hash of each rule, `None` for one that bears somebody else's comment.
    pub(super) chains: HashMap<String, Vec<Option<RuleHash>>>,
    /// Chains nobody wants that were emptied together with all that led to them.
    pub(super) emptied: BTreeSet<String>,
    /// The other chains that have rules, with all their rules in order.
    pub(super) base: BTreeMap<String, Vec<SavedRule>>,
}

/// One rule line: `[12:345] -A CHAIN rest`.
struct Line<'a> {
    count: Count,
    chain: &'a str,
    rest: &'a str,
}

fn rule_line(line: &str) -> Option<Line<'_>> {
    let (count, line) = match line.strip_prefix('[') {
        Some(counted) => {
            let (count, line) = counted.split_once("] ")?;
            let (packets, bytes) = count.split_once(':')?;
            (Count { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? }, line)
        }
        None => (Count::default(), line),
    };
    let (chain, rest) = line.strip_prefix("-A ")?.split_once(' ')?;
    Some(Line { count, chain, rest })
}

/// The hash of a rule in a chain of the kernel's, if it is ours.
fn base_hash(rest: &str) -> Option<RuleHash> {
    comment_hash(rest).or_else(|| iptables::is_own_jump(rest).then(|| RuleHash::of_text(rest)))
}

/// The hash of a rule in a chain of ours: in its comment, or of its text.
fn own_hash(rest: &str) -> Option<RuleHash> {
    comment_hash(rest).or_else(|| (!rest.contains("--comment ")).then(|| RuleHash::of_text(rest)))
}

/// The hash in a comment of ours.
fn comment_hash(rest: &str) -> Option<RuleHash> {
    let comment = rest.split_once("--comment ")?.1;
    RuleHash::parse(comment.strip_prefix('"').unwrap_or(comment).strip_prefix(COMMENT_PREFIX)?)
}

fn table_line(line: &str) -> Option<Option<Table>> {
    let name = line.strip_prefix('*')?;
    Some(Table::ALL.into_iter().find(|table| table.name() == name))
}

/// Reads the text; lines that mean nothing to us are skipped.
pub(super) fn parse(text: &str) -> BTreeMap<Table, SavedTable> {
    let mut tables: BTreeMap<Table, SavedTable> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(table) = table_line(line) {
            current = table;
            continue;
        }
        let Some(table) = current.map(|id| tables.entry(id).or_default()) else { continue };
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if name.starts_with(CHAIN_PREFIX) {
                table.chains.entry(name.to_owned()).or_default();
            }
        } else if let Some(rule) = rule_line(line) {
            if rule.chain.starts_with(CHAIN_PREFIX) {
                table.chains.entry(rule.chain.to_owned()).or_default().push(own_hash(rule.rest));
            } else {
                let hash = base_hash(rule.rest);
                let text = hash.map(|_| rule.rest.into());
                table.base.entry(rule.chain.to_owned()).or_default().push(SavedRule { hash, text });
            }
        }
    }
    tables
}

/// Our chains, and our rules in chains of others, in words.
pub(super) fn holdings(text: &str) -> Vec<String> {
    let mut table = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if name.starts_with(CHAIN_PREFIX) {
                found.push(format!("chain {table} {name}"));
            }
        } else if let Some(rule) = rule_line(line)
            && !rule.chain.starts_with(CHAIN_PREFIX)
            && base_hash(rule.rest).is_some()
        {
            found.push(format!("rule {table} {} {}", rule.chain, rule.rest));
        }
    }
    found
}

/// Counters of our rules in our chains.
pub(super) fn counters(text: &str) -> BTreeMap<(Table, String, RuleHash), Count> {
    let mut counts = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(table) = table_line(line) {
            current = table;
        } else if let (Some(table), Some(rule)) = (current, rule_line(line))
            && let Some(hash) = comment_hash(rule.rest)
        {
            counts.insert((table, rule.chain.to_owned(), hash), rule.count);
        }
    }
    counts
}
