//! Rules by `nft`: one table per family, changed in one transaction.
//!
//! A change is made in steps that each leave a state that enforces (see `write_family`); a packet sees the rules before
//! or after. A table that is not as this version writes it, or that a change was refused for twice, is
//! replaced as a whole, in one transaction too.

mod elements;
mod filling;
mod listing;
mod reading;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use filling::Fill;
use listing::ListedChain;
use margay_netlink::nftset::NftSets;
pub(super) use reading::Reading;
use reading::{has_table, listing, read};
use script::{Script, rules};

use super::backend::{self, Backend, Reader, Steps, Sweep, Tables};
use super::programs;
use super::sets::{Found, Kernel, Scope, Sets, Tracked};
use super::{ApplyError, Count, Report, Step};
use crate::render::hash::RuleHash;
use crate::render::nftables::{self as render, BaseChain};
use crate::rules::{ChainName, DispatchBy, Family, Member, Origin, Rule, Table, TableId, Touched};

/// Refused transactions in a row after which the table is replaced.
const REFUSALS: u32 = 2;
/// Elements of one command, or of one transaction by netlink: a message has to fit into the socket's buffer.
const ELEMENTS: usize = 1024;

/// A chain that is wanted. Its hashes are kept while its rules are the same.
#[derive(Debug)]
struct WantedChain {
    base: Option<BaseChain>,
    table: Table,
    rules: Arc<Vec<Rule>>,
    hashes: Vec<RuleHash>,
}

/// `nft`, and what is known of our tables.
#[derive(Debug)]
pub(super) struct Nftables {
    nft: PathBuf,
    connection: NftSets,
    sets: Sets,
    /// Elements in the kernel, by set.
    elements: BTreeMap<String, BTreeSet<Member>>,
    /// The kernel's chains; a family without a table is not there. `None`: has to be read.
    kernel: Option<BTreeMap<Family, BTreeMap<String, ListedChain>>>,
    /// The chains that are wanted, as of the last write.
    rendered: BTreeMap<Family, BTreeMap<String, WantedChain>>,
    /// Families whose rules have to be compared with the kernel.
    dirty: BTreeSet<Family>,
    /// Families whose table is to be written from nothing.
    replace: BTreeSet<Family>,
    /// Families that may hold what nobody wants.
    unswept: BTreeSet<Family>,
    refusals: u32,
    /// A look at the kernel that began before now is out of date.
    looks_outdated: bool,
}

impl Nftables {
    /// Finds the program; reads and writes nothing yet.
    pub(super) fn new(folders: &[PathBuf]) -> Result<Self, ApplyError> {
        Ok(Self {
            nft: programs::find(folders, "nft", "nftables")?,
            connection: NftSets::open()?,
            sets: Sets::default(),
            elements: BTreeMap::new(),
            kernel: None,
            rendered: BTreeMap::new(),
            dirty: BTreeSet::new(),
            replace: BTreeSet::new(),
            unswept: BTreeSet::new(),
            refusals: 0,
            looks_outdated: true,
        })
    }

    /// The chains a family has to have, from the last time where their rules are the same.
    fn wanted_chains(&mut self, wanted: &Tables, family: Family) -> BTreeMap<String, WantedChain> {
        let mut before = self.rendered.remove(&family).unwrap_or_default();
        let mut chains = BTreeMap::new();
        let mut add = |table, name: String, base: Option<BaseChain>, rules: Arc<Vec<Rule>>| {
            let kept = before.remove(&name).filter(|kept| kept.rules == rules && kept.base == base);
            let chain = kept.unwrap_or_else(|| {
                let rendered = render::chain(family, table, &name, &rules).into_iter();
                WantedChain { base, table, hashes: rendered.map(|(hash, _)| hash).collect(), rules }
            });
            chains.insert(name, chain);
        };
        for id in Table::ALL {
            let Some(table) = wanted.get(&(family, id)) else { continue };
            for (name, rules) in &table.chains {
                add(id, render::chain_name(id, name), None, Arc::clone(rules));
            }
            for (hook, base) in &table.base {
                let rules = Arc::new(render::base_rules(base));
                add(id, BaseChain::name(id, *hook), Some(BaseChain::of(id, *hook)), rules);
            }
        }
        chains
    }

    /// Brings one family up to date. A table that is there is changed in four steps: sets hold at least what is wanted; rules;
    /// maps lead to the wanted chains and sets hold exactly what is wanted; what nobody wants is gone. Elements go by
    /// netlink: `nft` would read all elements of all sets before it changes one.
    fn write_family(
        &mut self,
        wanted: &Tables,
        family: Family,
        sweep: bool,
        report: &mut Report,
        steps: &mut Steps,
    ) -> Result<(), ApplyError> {
        let needed = wanted.keys().any(|(own, _)| *own == family);
        if !needed {
            let there = self.kernel.as_mut().filter(|_| sweep).and_then(|kernel| kernel.remove(&family));
            if let Some(chains) = there {
                self.delete_table(family, &chains, report)?;
                self.forget_family(family, report);
            }
            return Ok(());
        }
        let chains = self.wanted_chains(wanted, family);
        let mut there = self.kernel.as_mut().and_then(|kernel| kernel.remove(&family));
        let misplaced = |there: &BTreeMap<String, ListedChain>| {
            chains.iter().any(|(name, chain)| there.get(name).is_some_and(|own| !same_place(chain, own)))
        };
        let replace = self.replace.remove(&family) || there.as_ref().is_some_and(misplaced);
        let mut script = Script::new(family);
        if replace || there.is_none() {
            let is_new = there.take().is_none();
            if !is_new {
                script.line("delete table", "");
                self.forget_elements(family);
            }
            script.line("add table", "");
            self.declare(family, &mut script, report);
            let (base, own): (Vec<_>, _) = chains.iter().partition(|(_, chain)| chain.base.is_some());
            rules(&mut script, family, own.into_iter(), report);
            for (name, change) in &self.fill(family, Fill::All, report) {
                script.elements("add element", name, &change.added);
            }
            // A transaction's rules run a moment before its elements are found (`nf_tables_commit` publishes concatenated
            // ranges last): what is new meets packets when all of it is there. A table that is replaced must not
            // leave the hooks for that long: it may drop what comes in that moment.
            if is_new {
                self.execute(&mut script, report)?;
                steps.done(Step::SetsExtended)?;
            }
            rules(&mut script, family, base.into_iter(), report);
            self.execute(&mut script, report)?;
            steps.done(Step::RulesWritten(family))?;
        } else {
            self.declare(family, &mut script, report);
            self.execute(&mut script, report)?;
            let missing = self.fill(family, Fill::Extend, report);
            self.change_elements(family, &missing)?;
            if !missing.is_empty() {
                steps.done(Step::SetsExtended)?;
            }
            let differs = |(name, chain): &(&String, &WantedChain)| {
                !is_right(chain, there.as_ref().and_then(|there| there.get(*name)))
            };
            rules(&mut script, family, chains.iter().filter(differs), report);
            if self.execute(&mut script, report)? {
                steps.done(Step::RulesWritten(family))?;
            }
            let rest = self.fill(family, Fill::All, report);
            self.change_elements(family, &rest)?;
            if !rest.is_empty() {
                steps.done(Step::SetsShrunk)?;
            }
        }
        let mut now = there.unwrap_or_default();
        if sweep {
            let unwanted: Vec<_> = now.keys().filter(|name| !chains.contains_key(*name)).cloned().collect();
            unwanted.iter().for_each(|name| script.line("flush chain", name));
            // Maps lead to chains.
            self.drop_unwanted(family, &mut script, report);
            unwanted.iter().for_each(|name| script.line("delete chain", name));
            report.chains_deleted += unwanted.len();
            if self.execute(&mut script, report)? {
                steps.done(Step::ChainsDeleted(family))?;
            }
            now.retain(|name, _| chains.contains_key(name));
        }
        now.extend(chains.iter().map(|(name, chain)| (name.clone(), listed(chain))));
        self.kernel.as_mut().map(|kernel| kernel.insert(family, now));
        self.rendered.insert(family, chains);
        Ok(())
    }

    /// Elements only: what changed of sets whose rules are right.
    fn write_elements(&mut self, family: Family, report: &mut Report) -> Result<(), ApplyError> {
        let changes = self.fill(family, Fill::All, report);
        self.change_elements(family, &changes)
    }

    /// First no packet goes through its rules any more: one that still does while its maps go finds nothing in them, and
    /// what is unknown is dropped.
    fn delete_table(
        &mut self,
        family: Family,
        chains: &BTreeMap<String, ListedChain>,
        report: &mut Report,
    ) -> Result<(), ApplyError> {
        let mut script = Script::new(family);
        let base = chains.iter().filter(|(_, chain)| chain.base.is_some());
        base.for_each(|(name, _)| script.line("flush chain", name));
        self.execute(&mut script, report)?;
        script.line("delete table", "");
        self.execute(&mut script, report)?;
        Ok(())
    }

    /// Executes a script if it does anything, and empties it.
    fn execute(&mut self, script: &mut Script, report: &mut Report) -> Result<bool, ApplyError> {
        let text = std::mem::take(&mut script.text);
        if std::mem::take(&mut script.work) == 0 {
            return Ok(false);
        }
        self.run(&text)?;
        report.restores += 1;
        Ok(true)
    }

    fn run(&mut self, script: &str) -> Result<(), ApplyError> {
        self.looks_outdated = true;
        let result = programs::run(&self.nft, &["-f", "/dev/stdin"], script);
        match result {
            Ok(_) => self.refusals = 0,
            Err(_) => self.refusals += 1,
        }
        result.map(drop)
    }
}

fn same_place(wanted: &WantedChain, there: &ListedChain) -> bool {
    match (&wanted.base, &there.base) {
        (None, None) => true,
        (Some(wanted), Some((kind, hook, priority))) => {
            wanted.kind == kind && wanted.hook == *hook && i64::from(wanted.priority) == *priority
        }
        _ => false,
    }
}

fn is_right(wanted: &WantedChain, there: Option<&ListedChain>) -> bool {
    there.is_some_and(|there| there.rules.iter().copied().eq(wanted.hashes.iter().copied().map(Some)))
}

fn listed(chain: &WantedChain) -> ListedChain {
    let base = chain.base.as_ref();
    ListedChain {
        base: base.map(|base| (base.kind.to_owned(), base.hook.clone(), base.priority.into())),
        rules: chain.hashes.iter().copied().map(Some).collect(),
        counts: Vec::new(),
    }
}

impl Backend for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn holdings(&self) -> Vec<String> {
        let there = Family::ALL.into_iter().filter(|family| has_table(&self.nft, *family).unwrap_or(false));
        there.map(|family| format!("nftables table {}", render::table(family))).collect()
    }

    fn dispatch_by(&self) -> DispatchBy {
        DispatchBy::Map
    }

    fn sets(&mut self) -> &mut Sets {
        &mut self.sets
    }

    fn compare(&mut self, tables: BTreeMap<TableId, Touched>) {
        self.dirty.extend(tables.into_keys().map(|(family, _)| family));
    }

    fn is_known(&self) -> bool {
        self.kernel.is_some()
    }

    fn has_other(&self, chain: &ChainName, rules: &[Rule]) -> bool {
        let name = render::chain_name(Table::Filter, chain);
        self.kernel.iter().flatten().any(|(family, there)| {
            let own = || render::chain(*family, Table::Filter, &name, rules).into_iter();
            let same =
                |there: &ListedChain| there.rules.iter().copied().eq(own().map(|(hash, _)| Some(hash)));
            there.get(&name).is_some_and(|there| !same(there))
        })
    }

    fn forget(&mut self) {
        self.kernel = None;
        self.looks_outdated = true;
    }

    fn reader(&mut self, _wanted: &Tables) -> Reader {
        self.sets.watch();
        self.looks_outdated = false;
        let nft = self.nft.clone();
        Box::new(move || read(&nft).map(backend::Reading::Nftables))
    }

    fn learn(&mut self, _wanted: &Tables, reading: backend::Reading) -> bool {
        let backend::Reading::Nftables(reading) = reading else { return false };
        if std::mem::replace(&mut self.looks_outdated, true) {
            return false;
        }
        let scope = if self.kernel.is_none() { Scope::All } else { Scope::Untouched };
        let passed_over = self.sets.learn(&reading.sets, scope);
        let wrong = |set: &&Tracked| set.kernel == Kernel::OtherType;
        self.replace.extend(self.sets.tracked.values().filter(wrong).map(|set| set.family));
        self.elements.retain(|name, _| passed_over.contains(name));
        let seen = reading.sets.into_iter().filter(|(name, _)| !passed_over.contains(name));
        self.elements.extend(seen.map(|(name, found)| (name, found.members)));
        self.dirty.extend(Family::ALL);
        self.kernel = Some(reading.chains);
        true
    }

    fn write(&mut self, wanted: &Tables, sweep: Sweep, steps: &mut Steps) -> Result<Report, ApplyError> {
        let sweep = sweep != Sweep::Nothing;
        if self.kernel.is_none() {
            self.read(wanted, steps)?;
        }
        let known = self.sets.unknown().iter();
        let known: BTreeMap<_, _> = known
            .filter_map(|name| {
                let kind = self.sets.tracked.get(name)?.kind;
                let members = self.elements.get(name)?.clone();
                Some((name.clone(), Found { kind: Some(kind), members, max: u32::MAX }))
            })
            .collect();
        self.sets.learn(&known, Scope::Unknown);
        if self.refusals >= REFUSALS {
            self.replace.extend(Family::ALL);
            self.dirty.extend(Family::ALL);
        }
        let mut report = Report::default();
        for family in Family::ALL {
            let dirty = self.dirty.contains(&family);
            let unswept = self.unswept.contains(&family) || self.sets.has_unwanted();
            let pending = self.sets.pending.iter().filter_map(|name| self.sets.tracked.get(name));
            let pending: Vec<_> = pending.filter(|set| set.family == family).collect();
            let to_create = pending.iter().any(|set| !matches!(set.kernel, Kernel::Present { .. }));
            if dirty || to_create || (sweep && unswept) {
                self.write_family(wanted, family, sweep, &mut report, steps)?;
            } else if !pending.is_empty() {
                self.write_elements(family, &mut report)?;
            }
            self.dirty.remove(&family);
            if sweep {
                self.unswept.remove(&family);
            } else if dirty {
                self.unswept.insert(family);
            }
        }
        report.unswept = !sweep && report.wrote();
        Ok(report)
    }

    fn counters(&self, wanted: &Tables) -> Result<BTreeMap<Origin, Count>, ApplyError> {
        let mut totals: BTreeMap<Origin, Count> = BTreeMap::new();
        for family in Family::ALL {
            let Some(table) = wanted.get(&(family, Table::Filter)) else { continue };
            let Some(listing) = listing(&self.nft, family, false)? else { continue };
            for (name, rules) in &table.chains {
                let Some(chain) = listing.chains.get(&render::chain_name(Table::Filter, name)) else {
                    continue;
                };
                for (rule, count) in rules.iter().zip(&chain.counts) {
                    if let Some(origin) = &rule.origin {
                        *totals.entry(origin.clone()).or_default() += *count;
                    }
                }
            }
        }
        Ok(totals)
    }

    fn remove_all(&mut self, steps: &mut Steps) -> Result<Report, ApplyError> {
        self.sets.replace(BTreeMap::new());
        let mut report = Report::default();
        for family in Family::ALL {
            let Some(listing) = listing(&self.nft, family, false)? else { continue };
            self.delete_table(family, &listing.chains, &mut report)?;
            report.chains_deleted += listing.chains.len();
            report.sets_destroyed += listing.sets.len();
            steps.done(Step::ChainsDeleted(family))?;
        }
        self.kernel = None;
        Ok(report)
    }
}
