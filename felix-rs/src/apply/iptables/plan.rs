//! The difference between a table in the kernel and the table that is wanted, as restore input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use super::chain::{Chain, Way};
use super::saved::{SavedRule, SavedTable};
use crate::render::hash::RuleHash;
use crate::render::iptables;
use crate::rules::names::CHAIN_PREFIX;
use crate::rules::{BaseRules, ChainName, Family, Hook, Rule, Table, TableRules, Touched};

/// The chains that are wanted, helper chains included.
pub(super) type Wanted = HashMap<ChainName, Chain>;

/// Restore input for one table, or that nothing has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Input of `iptables-restore --noflush`, empty if the table is right.
    pub(super) input: String,
    /// Chains written.
    pub(super) written: Vec<ChainName>,
}

/// A step of a sweep.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Input of `iptables-restore --noflush`, empty if nothing is left to do.
    pub(super) input: String,
    /// Chains it empties.
    pub(super) emptied: BTreeSet<String>,
    /// Chains it deletes.
    pub(super) deleted: BTreeSet<String>,
}

/// Brings up to date what a table has to hold, where it may differ; the chains to compare with the kernel's.
pub(super) fn render(
    family: Family,
    table: &TableRules,
    wanted: &mut Wanted,
    touched: &Touched,
) -> BTreeSet<ChainName> {
    let mut names: BTreeSet<ChainName> = match touched {
        Touched::All => {
            let helpers = iptables::helper_chains(table);
            wanted.retain(|name, _| table.chains.contains_key(name) || helpers.contains_key(name));
            table.chains.keys().cloned().collect()
        }
        Touched::Chains(names) => names.clone(),
    };
    let mut marks = BTreeSet::new();
    for name in &names {
        match table.chains.get(name) {
            Some(rules) => marks.extend(put(family, wanted, name, rules).marks.iter().copied()),
            None => drop(wanted.remove(name)),
        }
    }
    for (name, rules) in iptables::mark_chains(marks) {
        put(family, wanted, &name, &rules);
        names.insert(name);
    }
    names
}

fn put<'a>(family: Family, wanted: &'a mut Wanted, name: &ChainName, rules: &Arc<Vec<Rule>>) -> &'a Chain {
    let chain = wanted.entry(name.clone()).or_insert_with(|| Chain::new(family, name, rules));
    if chain.rules == *rules {
        chain.rules = Arc::clone(rules);
    } else {
        *chain = Chain::new(family, name, rules);
    }
    chain
}

/// Brings chains and base rules up to date; what is unwanted stays, except that our own rules in the base
/// chains concerned are replaced.
pub(super) fn update(
    family: Family,
    id: Table,
    saved: &SavedTable,
    base: &BTreeMap<Hook, BaseRules>,
    wanted: &Wanted,
    touched: &BTreeSet<ChainName>,
) -> Plan {
    let touched = touched.iter().filter_map(|name| wanted.get_key_value(name));
    let ways = touched.map(|(name, chain)| (name, (chain, chain.way(saved.chains.get(&*name.0)))));
    let changed: BTreeMap<_, _> = ways.filter(|(_, (_, way))| *way != Way::Right).collect();
    let mut lines = String::new();
    for (name, _) in changed.iter().filter(|(_, (_, way))| *way == Way::Anew) {
        let _infallible = writeln!(lines, ":{name} - [0:0]");
    }
    for (name, (chain, way)) in &changed {
        chain.write(&mut lines, family, name, *way);
    }
    for (hook, base) in base {
        let there = saved.base.get(hook.name()).map_or(&[][..], Vec::as_slice);
        base_chain(&mut lines, family, *hook, there, base);
    }
    Plan { input: input(id, &lines), written: changed.into_keys().cloned().collect() }
}

fn input(id: Table, lines: &str) -> String {
    if lines.is_empty() { String::new() } else { format!("*{}\n{lines}COMMIT\n", id.name()) }
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
    // Together, or some of them are still where they were before they were to come last.
    let is_ours = |rule: &SavedRule| rule.hash.is_some();
    let from = rest.iter().position(is_ours).unwrap_or(rest.len());
    let to = rest.iter().rposition(is_ours).map_or(from, |at| at + 1);
    if same(top, &first) && rest.get(from..to).is_some_and(|ours| same(ours, &last)) {
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

/// The next step towards a table without what is ours in it and nobody wants: rules are taken out of the kernel's own
/// chains and chains are emptied; those that have been are deleted. Not both at once: iptables-nft can't delete a chain in
/// the transaction that removes the last jump to it.
pub(super) fn sweep(
    id: Table,
    saved: &SavedTable,
    table: Option<&TableRules>,
    wanted: Option<&Wanted>,
) -> Swept {
    let mut lines = String::new();
    let unwanted = || saved.chains.iter().filter(|(name, _)| is_unwanted(name, wanted));
    let base = saved.base.iter().filter(|(chain, _)| !is_hook(table, chain));
    let base = base.flat_map(|(chain, there)| there.iter().map(move |rule| (chain, rule.text.as_deref())));
    for (chain, text) in base.filter_map(|(chain, text)| Some((chain, text?))) {
        let _infallible = writeln!(lines, "-D {chain} {text}");
    }
    // Where all are empty, nothing can lead to them.
    let all = lines.is_empty() && unwanted().all(|(_, rules)| rules.is_empty());
    let (deleted, emptied): (BTreeSet<_>, BTreeSet<_>) =
        unwanted().map(|(name, _)| name.clone()).partition(|name| all || saved.emptied.contains(name));
    let declare: String = emptied.iter().map(|name| format!(":{name} - [0:0]\n")).collect();
    let delete: String = deleted.iter().map(|name| format!("-X {name}\n")).collect();
    Swept { input: input(id, &(declare + &lines + &delete)), emptied, deleted }
}

/// Notes a step that was taken.
pub(super) fn note_swept(saved: &mut SavedTable, wanted: Option<&TableRules>, swept: Swept) {
    for (_, rules) in saved.base.iter_mut().filter(|(chain, _)| !is_hook(wanted, chain)) {
        rules.retain(|rule| rule.hash.is_none());
    }
    saved.chains.retain(|name, _| !swept.deleted.contains(name));
    for (_, rules) in saved.chains.iter_mut().filter(|(name, _)| swept.emptied.contains(*name)) {
        rules.clear();
    }
    saved.emptied = swept.emptied;
}

fn is_hook(wanted: Option<&TableRules>, chain: &str) -> bool {
    wanted.is_some_and(|table| table.base.keys().any(|hook| hook.name() == chain))
}

fn is_unwanted(name: &str, wanted: Option<&Wanted>) -> bool {
    name.starts_with(CHAIN_PREFIX) && !wanted.is_some_and(|wanted| wanted.contains_key(name))
}
