//! Rules by `iptables-restore`, sets by netlink.
//!
//! What is in the kernel is learnt first (adoption after a restart: a chain whose hashes are right is not
//! touched), then only the difference is written, in this order:
//!
//! 1. sets are created and extended: every set holds at least its wanted members;
//! 2. rules: one `iptables-restore --noflush` per family with the chains that differ, raw table first; both at once;
//! 3. members nobody wants are deleted from sets;
//! 4. (once the datastore is in sync) chains, then sets, that nobody wants are deleted.
//!
//! A process killed between two steps leaves a state that enforces: after 1 the old rules run with sets that
//! lack nothing; a table changes in one transaction, so a packet sees the old or the new chains and all sets either
//! refers to; what 3 and 4 remove is needed by neither. The next start finds the rest as a difference.
//! A change of set members only never executes a program.

mod chain;
mod ipsets;
mod plan;
pub(super) mod programs;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use margay_netlink::ipset::Ipset;

pub(super) use ipsets::is_own as is_own_set;
use plan::Wanted;
use programs::{Programs, Variant};
use saved::{SavedRule, SavedTable};

use super::backend::{self, Backend, Reader, Steps, Sweep, Tables};
use super::sets::{Found, Scope, Sets};
use super::{ApplyError, Count, Report, Step, takeover};
use crate::render::hash::RuleHash;
use crate::render::iptables;
use crate::rules::{ChainName, DispatchBy, Family, Origin, Rule, Table, TableId, Touched};

/// See [`super::read_saved`].
pub(super) fn read_saved(text: &str) {
    drop((saved::parse(text), saved::counters(text), saved::holdings(text)));
}

/// One variant of iptables, and ip sets.
pub(super) struct Iptables {
    programs: Programs,
    /// The sets are another backend's: both variants of iptables share them.
    rules_only: bool,
    connection: Ipset,
    sets: Sets,
    rendered: BTreeMap<TableId, Wanted>,
    /// The kernel's tables, `None` when they have to be read.
    kernel: Option<BTreeMap<TableId, SavedTable>>,
    /// What is there of IPv6 could not be read when nobody needed it.
    ipv6_unread: bool,
    /// What is to be compared with the kernel.
    dirty: BTreeMap<TableId, Touched>,
    /// Tables that may hold what nobody wants.
    unswept: BTreeSet<TableId>,
    /// The family of which the last step of a sweep took something away.
    swept_last: Option<Family>,
    /// Calico's Felix may have left something there.
    felix_left: bool,
    /// A look at the kernel's rules that began before now is out of date.
    looks_outdated: bool,
}

/// Rules of a family that are to be written.
struct Change {
    family: Family,
    input: String,
    /// The tables in it, and the chains.
    written: Vec<(TableId, Vec<ChainName>)>,
}

impl Change {
    /// What is to be written of the rules of a family, and of which chains.
    fn plan(
        family: Family,
        tables: &Tables,
        dirty: &BTreeMap<TableId, Touched>,
        kernel: &Option<BTreeMap<TableId, SavedTable>>,
        rendered: &mut BTreeMap<TableId, Wanted>,
    ) -> Option<Self> {
        let mut change = Self { family, input: String::new(), written: Vec::new() };
        for id in Table::ALL.map(|table| (family, table)) {
            let Some(touched) = dirty.get(&id) else { continue };
            let Some(table) = tables.get(&id) else {
                rendered.remove(&id);
                continue;
            };
            let wanted = rendered.entry(id).or_default();
            let touched = plan::render(family, table, wanted, touched);
            let empty = SavedTable::default();
            let saved = kernel.as_ref().and_then(|kernel| kernel.get(&id)).unwrap_or(&empty);
            let plan = plan::update(family, id.1, saved, &table.base, wanted, &touched);
            if !plan.input.is_empty() {
                change.input.push_str(&plan.input);
                change.written.push((id, plan.written));
            }
        }
        (!change.input.is_empty()).then_some(change)
    }
}

/// What the kernel has.
#[derive(Debug)]
pub(super) struct Reading {
    tables: BTreeMap<TableId, SavedTable>,
    felix: bool,
    ipv6_unread: bool,
    sets: BTreeMap<String, Found>,
}

/// The tables of a family, and whether Calico's Felix may have left something there.
fn saved_tables(
    programs: &Programs,
    family: Family,
) -> Result<(BTreeMap<TableId, SavedTable>, bool), ApplyError> {
    let text = programs.save(family)?;
    let tables = saved::parse(&text).into_iter().map(|(id, table)| ((family, id), table));
    Ok((tables.collect(), takeover::may_hold(&text)))
}

/// Reads the rules of both families and the sets, all at once.
fn read(programs: &Programs, ipv6_needed: bool) -> Result<Reading, ApplyError> {
    let (v4, v6, sets) = std::thread::scope(|scope| {
        let v6 = scope.spawn(|| saved_tables(programs, Family::V6));
        let sets = scope.spawn(|| ipsets::read(&mut Ipset::open()?));
        let v4 = saved_tables(programs, Family::V4);
        (v4, joined(v6), joined(sets))
    });
    let ((mut tables, mut felix), sets) = (v4?, sets?);
    let ipv6_unread = match v6 {
        Ok((v6, felix_v6)) => {
            tables.extend(v6);
            felix |= felix_v6;
            false
        }
        Err(error) if ipv6_needed => return Err(error),
        // A kernel without IPv6 holds no rules of ours either.
        Err(error) => {
            tracing::debug!(%error, "rules of an unused family not read");
            true
        }
    };
    Ok(Reading { tables, felix, ipv6_unread, sets })
}

fn needs_ipv6(wanted: &Tables) -> bool {
    wanted.keys().any(|(family, _)| *family == Family::V6)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl std::fmt::Debug for Iptables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iptables").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Iptables {
    /// Connects to the kernel; reads and writes nothing yet.
    pub(super) fn new(programs: Programs, rules_only: bool) -> Result<Self, ApplyError> {
        Ok(Self {
            programs,
            rules_only,
            connection: Ipset::open()?,
            sets: Sets::default(),
            rendered: BTreeMap::new(),
            kernel: None,
            ipv6_unread: false,
            dirty: BTreeMap::new(),
            unswept: BTreeSet::new(),
            swept_last: None,
            felix_left: true,
            looks_outdated: true,
        })
    }

    fn ask_for_unknown_sets(&mut self) -> Result<(), ApplyError> {
        if !self.sets.unknown().is_empty() {
            let unknown = self.sets.unknown();
            let found = ipsets::read_some(&mut self.connection, |name| unknown.contains(name))?;
            self.sets.learn(&found, Scope::Unknown);
        }
        Ok(())
    }

    /// Creates and extends sets, and plans what is to be written of the rules. Both take their time when all is new, and neither
    /// needs the other: then they share the processors.
    fn extend_and_plan(
        &mut self,
        tables: &Tables,
        report: &mut Report,
        steps: &mut Steps,
    ) -> Result<Vec<Change>, ApplyError> {
        let Self { sets, connection, rendered, kernel, dirty, .. } = self;
        let mut plan = || -> Vec<Change> {
            Family::ALL
                .into_iter()
                .filter_map(|of| Change::plan(of, tables, dirty, kernel, rendered))
                .collect()
        };
        if sets.settled() {
            return Ok(plan());
        }
        let (extended, changes) = if dirty.is_empty() {
            (ipsets::extend(sets, connection, report), Vec::new())
        } else {
            std::thread::scope(|scope| {
                let plan = scope.spawn(plan);
                (ipsets::extend(sets, connection, report), joined(plan))
            })
        };
        extended?;
        steps.done(Step::SetsExtended)?;
        Ok(changes)
    }

    /// Writes the rules that differ.
    fn write_rules(
        &mut self,
        tables: &Tables,
        changes: Vec<Change>,
        report: &mut Report,
        steps: &mut Steps,
    ) -> Result<(), ApplyError> {
        let inputs = changes.iter().map(|change| (change.family, change.input.as_str()));
        report.restores += self.restore(inputs)?;
        for Change { family, written, .. } in changes {
            for (id, chains) in written {
                report.chains_written += chains.len();
                self.note_written(tables, id, chains);
            }
            steps.done(Step::RulesWritten(family))?;
        }
        Ok(())
    }

    /// Gives each family's program its input, also if the other's fails; says how many were executed.
    ///
    /// One after the other: those of the legacy variant wait for one lock, and one of the nft variant begins anew when the
    /// other has committed since it looked.
    fn restore<'a>(&mut self, inputs: impl Iterator<Item = (Family, &'a str)>) -> Result<usize, ApplyError> {
        let results: Vec<_> = inputs.map(|(family, input)| self.programs.restore(family, input)).collect();
        self.looks_outdated |= !results.is_empty();
        let executed = results.len();
        results.into_iter().collect::<Result<(), _>>().map(|()| executed)
    }

    /// What the kernel's table holds after a successful write.
    fn note_written(&mut self, tables: &Tables, id: TableId, chains: Vec<ChainName>) {
        let (Some(kernel), Some(table), Some(wanted)) =
            (self.kernel.as_mut(), tables.get(&id), self.rendered.get(&id))
        else {
            return;
        };
        let saved = kernel.entry(id).or_default();
        for (name, chain) in chains.iter().filter_map(|name| wanted.get_key_value(name)) {
            saved.emptied.remove(&*name.0);
            saved.chains.insert(name.0.to_string(), chain.hashes.iter().copied().map(Some).collect());
        }
        for (hook, base) in &table.base {
            let rule =
                |(hash, text): (RuleHash, String)| SavedRule { hash: Some(hash), text: Some(text.into()) };
            let [first, last] = plan::base_rules(id.0, *hook, base);
            let chain = saved.base.entry(hook.name().to_owned()).or_default();
            let foreign = std::mem::take(chain).into_iter().filter(|rule| rule.hash.is_none());
            *chain = first.into_iter().map(rule).chain(foreign).chain(last.into_iter().map(rule)).collect();
        }
    }

    /// Takes the next step towards a kernel without what nobody wants; says whether there may be another.
    fn sweep(&mut self, wanted: &Tables, report: &mut Report, steps: &mut Steps) -> Result<bool, ApplyError> {
        let mut inputs: BTreeMap<Family, String> = BTreeMap::new();
        let mut swept = Vec::new();
        for id in self.unswept.clone() {
            let Some(saved) = self.kernel.as_ref().and_then(|kernel| kernel.get(&id)) else { continue };
            let step = plan::sweep(id.1, saved, wanted.get(&id), self.rendered.get(&id));
            if !step.input.is_empty() {
                inputs.entry(id.0).or_default().push_str(&step.input);
                swept.push((id, step));
            }
        }
        // One program at a time: a change that comes meanwhile waits for no other. The families take turns, for changes that
        // never end always leave something.
        let is_over = swept.is_empty();
        let turn = inputs.keys().copied().find(|family| Some(*family) != self.swept_last);
        self.swept_last = turn.or_else(|| inputs.keys().copied().next());
        inputs.retain(|family, _| Some(*family) == self.swept_last);
        swept.retain(|(id, _)| Some(id.0) == self.swept_last);
        report.restores += self.restore(inputs.iter().map(|(family, input)| (*family, input.as_str())))?;
        let mut done = BTreeSet::new();
        for (id, swept) in swept {
            let Some(saved) = self.kernel.as_mut().and_then(|kernel| kernel.get_mut(&id)) else { continue };
            report.chains_deleted += swept.deleted.len();
            let step = if swept.deleted.is_empty() { Step::ChainsEmptied } else { Step::ChainsDeleted };
            done.insert(step(id.0));
            plan::note_swept(saved, wanted.get(&id), swept);
        }
        done.into_iter().try_for_each(|step| steps.done(step))?;
        if !is_over {
            return Ok(true);
        }
        self.unswept.clear();
        if self.sets.has_unwanted() && !self.rules_only {
            ipsets::sweep(&mut self.sets, &mut self.connection, report)?;
            steps.done(Step::SetsDestroyed)?;
        }
        Ok(false)
    }
}

impl Backend for Iptables {
    fn dispatch_by(&self) -> DispatchBy {
        DispatchBy::Sets
    }

    fn without_felix(&self) -> Option<Variant> {
        self.programs.variant().filter(|_| !self.felix_left)
    }

    fn name(&self) -> &'static str {
        match self.programs.variant() {
            Some(Variant::Nft) => "iptables-nft",
            Some(Variant::Legacy) => "iptables-legacy",
            None => "iptables",
        }
    }

    fn holdings(&self) -> Vec<String> {
        let of_family = |family| {
            let text = self.programs.save(family).unwrap_or_default();
            let name = format!("{} IPv{}", self.name(), family.version());
            saved::holdings(&text).into_iter().map(move |what| format!("{name} {what}")).collect::<Vec<_>>()
        };
        Family::ALL.into_iter().flat_map(of_family).collect()
    }

    fn sets(&mut self) -> &mut Sets {
        &mut self.sets
    }

    fn compare(&mut self, tables: BTreeMap<TableId, Touched>) {
        for (id, touched) in tables {
            match self.dirty.entry(id) {
                Entry::Occupied(mut there) => there.get_mut().add(touched),
                Entry::Vacant(free) => drop(free.insert(touched)),
            }
        }
    }

    fn is_known(&self) -> bool {
        self.kernel.is_some()
    }

    fn has_other(&self, chain: &ChainName, rules: &[Rule]) -> bool {
        Family::ALL.into_iter().any(|family| {
            let table = self.kernel.as_ref().and_then(|kernel| kernel.get(&(family, Table::Filter)));
            let there = table.and_then(|table| table.chains.get(&*chain.0));
            let own = || iptables::hashes(family, &chain.0, rules).into_iter().map(Some);
            there.is_some_and(|there| !there.iter().copied().eq(own()))
        })
    }

    fn forget(&mut self) {
        self.kernel = None;
        self.looks_outdated = true;
    }

    fn reader(&mut self, wanted: &Tables) -> Reader {
        self.sets.watch();
        self.looks_outdated = false;
        let programs = self.programs.clone();
        let ipv6_needed = needs_ipv6(wanted);
        Box::new(move || read(&programs, ipv6_needed).map(backend::Reading::Iptables))
    }

    fn learn(&mut self, wanted: &Tables, reading: backend::Reading) -> bool {
        let backend::Reading::Iptables(reading) = reading else { return false };
        if std::mem::replace(&mut self.looks_outdated, true) {
            return false;
        }
        self.felix_left = reading.felix;
        self.ipv6_unread = reading.ipv6_unread;
        let scope = if self.kernel.is_none() { Scope::All } else { Scope::Untouched };
        self.sets.learn(&reading.sets, scope);
        self.dirty.extend(reading.tables.keys().chain(wanted.keys()).map(|id| (*id, Touched::All)));
        self.kernel = Some(reading.tables);
        true
    }

    fn write(&mut self, wanted: &Tables, sweep: Sweep, steps: &mut Steps) -> Result<Report, ApplyError> {
        if self.kernel.is_none() || (self.ipv6_unread && needs_ipv6(wanted)) {
            self.read(wanted, steps)?;
        }
        self.ask_for_unknown_sets()?;
        let mut report = Report::default();
        let changes = self.extend_and_plan(wanted, &mut report, steps)?;
        self.write_rules(wanted, changes, &mut report, steps)?;
        self.unswept.extend(std::mem::take(&mut self.dirty).into_keys());
        if !self.sets.settled() {
            ipsets::shrink(&mut self.sets, &mut self.connection, &mut report)?;
            steps.done(Step::SetsShrunk)?;
        }
        report.unswept = match sweep {
            Sweep::Nothing => report.wrote(),
            Sweep::Step => self.sweep(wanted, &mut report, steps)?,
            Sweep::Everything => {
                while self.sweep(wanted, &mut report, steps)? {}
                false
            }
        };
        Ok(report)
    }

    fn counters(&self, wanted: &Tables) -> Result<BTreeMap<Origin, Count>, ApplyError> {
        let mut totals: BTreeMap<Origin, Count> = BTreeMap::new();
        for family in Family::ALL {
            let Some(table) = wanted.get(&(family, Table::Filter)) else { continue };
            let counts = saved::counters(&self.programs.save(family)?);
            for (name, rules) in &table.chains {
                if rules.iter().all(|rule| rule.origin.is_none()) {
                    continue;
                }
                for (rule, hash) in rules.iter().zip(iptables::hashes(family, &name.0, rules)) {
                    let Some(origin) = &rule.origin else { continue };
                    let count = counts.get(&(Table::Filter, name.0.to_string(), hash));
                    *totals.entry(origin.clone()).or_default() += count.copied().unwrap_or_default();
                }
            }
        }
        Ok(totals)
    }

    fn remove_all(&mut self, steps: &mut Steps) -> Result<Report, ApplyError> {
        let nothing = Tables::new();
        self.sets.replace(BTreeMap::new());
        self.rendered.clear();
        self.read(&nothing, steps)?;
        self.unswept.extend(std::mem::take(&mut self.dirty).into_keys());
        let mut report = Report::default();
        while self.sweep(&nothing, &mut report, steps)? {}
        Ok(report)
    }
}
