//! The difference between a table in the kernel and the table that is wanted, as restore input.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::saved::{SavedRule, SavedTable};
use crate::render::hash::RuleHash;
use crate::render::iptables;
use crate::rules::names::CHAIN_PREFIX;
use crate::rules::{BaseRules, ChainName, Family, Hook, Rule, Table, TableRules};

/// Hashes of the chains that are wanted, helper chains included.
pub(super) type Wanted = BTreeMap<ChainName, Vec<RuleHash>>;

/// Restore input for one table, or that nothing has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Input of `iptables-restore --noflush`, empty if the table is right.
    pub(super) input: String,
    /// Chains written.
    pub(super) written: usize,
}

/// Brings chains and base rules up to date; what is unwanted stays, except that our own rules in the base
/// chains concerned are replaced.
pub(super) fn update(
    family: Family,
    id: Table,
    saved: &SavedTable,
    wanted: &TableRules,
    hashes: &Wanted,
    rules: impl Fn(&ChainName) -> Option<std::sync::Arc<Vec<Rule>>>,
) -> Plan {
    let mut changed = Vec::new();
    for (name, hashes) in hashes {
        let right = saved.chains.get(&*name.0).is_some_and(|kernel| {
            kernel.len() == hashes.len()
                && kernel.iter().zip(hashes).all(|(kernel, own)| *kernel == Some(*own))
        });
        if !right {
            changed.push(name);
        }
    }
    let mut lines = String::new();
    for name in &changed {
        let _infallible = writeln!(lines, ":{name} - [0:0]");
    }
    for name in &changed {
        for (_, rule) in iptables::chain(family, &name.0, &rules(name).unwrap_or_default()) {
            let _infallible = writeln!(lines, "-A {name} {rule}");
        }
    }
    for (hook, base) in &wanted.base {
        let there = saved.base.get(hook.name()).map_or(&[][..], Vec::as_slice);
        base_chain(&mut lines, family, *hook, there, base);
    }
    finish(id, lines, changed.len())
}

fn finish(id: Table, lines: String, written: usize) -> Plan {
    if lines.is_empty() {
        return Plan::default();
    }
    Plan { input: format!("*{}\n{lines}COMMIT\n", id.name()), written }
}

/// Our rules in a base chain, those kept first and those put last: hash and text.
pub(super) fn base_rules(family: Family, hook: Hook, base: &BaseRules) -> [Vec<(RuleHash, String)>; 2] {
    [("first", &base.first), ("last", &base.last)]
        .map(|(place, rules)| iptables::chain(family, &iptables::base_hash_name(hook, place), rules))
}

fn base_chain(lines: &mut String, family: Family, hook: Hook, there: &[SavedRule], base: &BaseRules) {
    let [first, last] = base_rules(family, hook, base);
    let same = |there: &[SavedRule], own: &[(RuleHash, String)]| {
        there.iter().map(|rule| rule.hash).eq(own.iter().map(|(hash, _)| Some(*hash)))
    };
    let (top, rest) = there.split_at(first.len().min(there.len()));
    let ours: Vec<_> = rest.iter().filter(|rule| rule.hash.is_some()).cloned().collect();
    if same(top, &first) && same(&ours, &last) {
        return;
    }
    for text in there.iter().filter_map(|rule| rule.text.as_deref()) {
        let _infallible = writeln!(lines, "-D {} {text}", hook.name());
    }
    for (number, (_, rule)) in (1..).zip(&first) {
        let _infallible = writeln!(lines, "-I {} {number} {rule}", hook.name());
    }
    for (_, rule) in &last {
        let _infallible = writeln!(lines, "-A {} {rule}", hook.name());
    }
}

/// Takes our rules out of base chains where none are wanted and empties chains that are unwanted; the
/// second input deletes them. Two transactions, because iptables-nft can't delete a chain in the one that
/// removes the last jump to it.
pub(super) fn sweep(
    id: Table,
    saved: &SavedTable,
    wanted: Option<&TableRules>,
    hashes: &Wanted,
) -> [Plan; 2] {
    let keep: BTreeSet<&str> = hashes.keys().map(|name| &*name.0).collect();
    let hooks: BTreeSet<&str> =
        wanted.into_iter().flat_map(|table| table.base.keys()).map(|hook| hook.name()).collect();
    let mut empty = String::new();
    for (chain, rules) in saved.base.iter().filter(|(chain, _)| !hooks.contains(chain.as_str())) {
        for text in rules.iter().filter_map(|rule| rule.text.as_deref()) {
            let _infallible = writeln!(empty, "-D {chain} {text}");
        }
    }
    let unwanted: Vec<_> = saved
        .chains
        .keys()
        .filter(|name| name.starts_with(CHAIN_PREFIX) && !keep.contains(name.as_str()))
        .collect();
    let mut declare = String::new();
    let mut delete = String::new();
    for name in &unwanted {
        let _infallible = writeln!(declare, ":{name} - [0:0]");
        let _infallible = writeln!(delete, "-X {name}");
    }
    [finish(id, declare + &empty, 0), finish(id, delete, unwanted.len())]
}
