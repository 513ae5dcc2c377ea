//! Brings the kernel's rules and sets to what is wanted, and keeps them there.
//!
//! One [`Applier`] owns one thread: it blocks while programs run. What is in the kernel is learnt first
//! (adoption after a restart: a chain whose hashes are right is not touched), then only the difference is written,
//! in this order:
//!
//! 1. sets are created and extended: every set holds at least its wanted members;
//! 2. rules: one `iptables-restore --noflush` per family with the chains that differ, raw table first;
//! 3. members nobody wants are deleted from sets;
//! 4. (once the datastore is in sync) chains, then sets, that nobody wants are deleted.
//!
//! A process killed between two steps leaves a state that enforces: after 1 the old rules run with sets that
//! lack nothing; a table changes in one transaction, so a packet sees the old or the new chains and all sets either
//! refers to; what 3 and 4 remove is needed by neither. The next start finds the rest as a difference.
//! A change of set members only never executes a program.

mod error;
mod plan;
mod programs;
mod saved;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use margay_netlink::ipset::Ipset;

pub use error::{ApplyError, Failure};
use plan::Wanted;
pub use programs::{ProgramChoice, Programs, Variant};
pub use saved::Count;
use saved::{SavedRule, SavedTable};
use sets::Sets;

use crate::model::{Delta, EndpointId, EnforcedState};
use crate::render::iptables::{self, RuleHash};
use crate::rules::{ChainName, Compiler, Family, Marks, Origin, Rule, Table, TableId};

/// What an attempt has done so far, told to the observer after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The kernel's rules and sets were read.
    Learnt,
    /// Sets hold at least what is wanted.
    SetsExtended,
    /// The rules of a family are as wanted.
    RulesWritten(Family),
    /// Sets hold exactly what is wanted.
    SetsShrunk,
    /// Chains nobody wants are empty and unreferenced.
    ChainsEmptied(Family),
    /// Chains nobody wants are deleted.
    ChainsDeleted(Family),
    /// Sets nobody wants are destroyed.
    SetsDestroyed,
}

/// What an attempt did. After a success the kernel enforces the state for all of `live`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Endpoints whose policy is in the kernel.
    pub live: BTreeSet<EndpointId>,
    /// Executions of `iptables-restore`.
    pub restores: usize,
    /// Chains written.
    pub chains_written: usize,
    /// Chains deleted.
    pub chains_deleted: usize,
    /// Sets created.
    pub sets_created: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Members added.
    pub members_added: usize,
    /// Members deleted.
    pub members_removed: usize,
    /// Sets of ours that can't be destroyed because foreign rules refer to them.
    pub leftovers: Vec<String>,
}

impl Report {
    /// Whether anything was written to the kernel.
    pub const fn wrote(&self) -> bool {
        self.restores + self.sets_created + self.sets_destroyed + self.members_added + self.members_removed
            > 0
    }
}

/// Settings of an applier.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Bits of the packet mark.
    pub marks: Marks,
    /// Which iptables.
    pub programs: ProgramChoice,
}

type Observer = Box<dyn FnMut(Step) -> ControlFlow<()> + Send>;

/// Rendered hashes of a chain, kept while its rules are the same.
struct Hashes {
    rules: Arc<Vec<Rule>>,
    hashes: Vec<RuleHash>,
}

/// Writes the rules of the network namespace of the thread it is used on.
pub struct Applier {
    marks: Marks,
    programs: Programs,
    connection: Ipset,
    compiler: Compiler,
    sets: Sets,
    rendered: BTreeMap<TableId, BTreeMap<ChainName, Hashes>>,
    /// The kernel's tables, `None` when they have to be read.
    kernel: Option<BTreeMap<TableId, SavedTable>>,
    /// Tables to compare with the kernel.
    dirty: BTreeSet<TableId>,
    /// Tables that may hold what nobody wants.
    unswept: BTreeSet<TableId>,
    in_sync: bool,
    attempts: u32,
    observer: Option<Observer>,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Applier {
    /// Finds the programs and connects to the kernel; reads and writes nothing yet.
    ///
    /// # Errors
    /// No iptables, or no right to use netlink.
    pub fn new(options: &Options) -> Result<Self, ApplyError> {
        Ok(Self {
            marks: options.marks,
            programs: Programs::find(&options.programs)?,
            connection: Ipset::open()?,
            compiler: Compiler::nothing(options.marks),
            sets: Sets::default(),
            rendered: BTreeMap::new(),
            kernel: None,
            dirty: BTreeSet::new(),
            unswept: BTreeSet::new(),
            in_sync: false,
            attempts: 0,
            observer: None,
        })
    }

    /// Calls this after every step; breaking off ends the attempt with [`ApplyError::Stopped`].
    pub fn observe(&mut self, observer: impl FnMut(Step) -> ControlFlow<()> + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// From now on what is ours in the kernel and not wanted is removed. To be called once the datastore is in
    /// sync: before, something may be missing from the state that is only not known yet.
    pub const fn set_in_sync(&mut self) {
        self.in_sync = true;
    }

    /// Reads the kernel's rules and sets.
    ///
    /// # Errors
    /// A program or netlink failed.
    pub fn learn(&mut self) -> Result<(), Failure> {
        let result = self.read();
        self.finish(result)
    }

    /// Makes the kernel enforce a whole state.
    ///
    /// # Errors
    /// See [`Failure`]; call [`Self::retry`] later.
    pub fn apply(&mut self, state: &EnforcedState) -> Result<Report, Failure> {
        let (compiler, changes) = Compiler::new(self.marks, state);
        self.dirty.extend(self.compiler.tables().keys().chain(compiler.tables().keys()));
        self.compiler = compiler;
        self.sets.replace(changes.sets);
        self.retry()
    }

    /// Makes the kernel enforce a change of the state.
    ///
    /// # Errors
    /// See [`Failure`]; call [`Self::retry`] later, or apply the next change.
    pub fn apply_delta(&mut self, delta: &Delta) -> Result<Report, Failure> {
        let changes = self.compiler.update(delta);
        self.dirty.extend(changes.tables);
        self.sets.update(changes.sets);
        self.retry()
    }

    /// Reads the kernel again and repairs what somebody changed.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn recheck(&mut self) -> Result<Report, Failure> {
        self.kernel = None;
        self.retry()
    }

    /// Writes what is still to be written.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn retry(&mut self) -> Result<Report, Failure> {
        let result = self.attempt();
        self.finish(result)
    }

    /// Which programs are in use.
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    fn finish<T>(&mut self, result: Result<T, ApplyError>) -> Result<T, Failure> {
        match result {
            Ok(value) => {
                self.attempts = 0;
                Ok(value)
            }
            Err(source) => {
                self.kernel = None;
                self.attempts = self.attempts.saturating_add(1);
                Err(Failure { source, attempt: self.attempts, next_retry: error::backoff(self.attempts) })
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), ApplyError> {
        match self.observer.as_mut().map(|observer| observer(step)) {
            Some(ControlFlow::Break(())) => Err(ApplyError::Stopped(step)),
            _ => Ok(()),
        }
    }

    fn read(&mut self) -> Result<(), ApplyError> {
        let mut kernel = BTreeMap::new();
        for family in Family::ALL {
            let wanted = self.compiler.tables().keys().any(|(table, _)| *table == family);
            match self.programs.save(family) {
                Ok(text) => {
                    kernel.extend(saved::parse(&text).into_iter().map(|(id, table)| ((family, id), table)));
                }
                Err(error) if wanted || family == Family::V4 => return Err(error),
                // A kernel without IPv6 holds no rules of ours either.
                Err(error) => tracing::debug!(%error, "rules of an unused family not read"),
            }
        }
        self.sets.learn(&mut self.connection)?;
        self.dirty.extend(kernel.keys().chain(self.compiler.tables().keys()));
        self.kernel = Some(kernel);
        self.step(Step::Learnt)
    }

    fn attempt(&mut self) -> Result<Report, ApplyError> {
        if self.kernel.is_none() {
            self.read()?;
        } else if self.sets.has_unknown() {
            self.sets.learn(&mut self.connection)?;
        }
        let mut report = Report::default();
        if !self.sets.settled() {
            self.sets.extend(&mut self.connection, &mut report)?;
            self.step(Step::SetsExtended)?;
        }
        for family in Family::ALL {
            if self.write_rules(family, &mut report)? {
                self.step(Step::RulesWritten(family))?;
            }
        }
        self.unswept.append(&mut self.dirty);
        if !self.sets.settled() {
            self.sets.shrink(&mut self.connection, &mut report)?;
            self.step(Step::SetsShrunk)?;
        }
        if self.in_sync {
            self.sweep(&mut report)?;
        }
        report.live = self.compiler.endpoints().cloned().collect();
        Ok(report)
    }

    /// Hashes of what a table has to hold, from the cache where the rules are the same.
    fn hashes(&mut self, id: TableId) -> Wanted {
        let Some(table) = self.compiler.tables().get(&id) else {
            self.rendered.remove(&id);
            return Wanted::new();
        };
        let mut before = self.rendered.remove(&id).unwrap_or_default();
        let helpers = iptables::helper_chains(table);
        let mut now = BTreeMap::new();
        for (name, rules) in table.chains.iter().chain(&helpers) {
            let hashes =
                before.remove(name).filter(|hashes| hashes.rules == *rules).unwrap_or_else(|| Hashes {
                    rules: Arc::clone(rules),
                    hashes: iptables::chain(id.0, &name.0, rules).into_iter().map(|(hash, _)| hash).collect(),
                });
            now.insert(name.clone(), hashes);
        }
        let wanted = now.iter().map(|(name, hashes)| (name.clone(), hashes.hashes.clone())).collect();
        self.rendered.insert(id, now);
        wanted
    }

    fn write_rules(&mut self, family: Family, report: &mut Report) -> Result<bool, ApplyError> {
        let mut input = String::new();
        let mut written = Vec::new();
        for id in Table::ALL.map(|table| (family, table)) {
            if !self.dirty.contains(&id) {
                continue;
            }
            let hashes = self.hashes(id);
            let Some(wanted) = self.compiler.tables().get(&id) else { continue };
            let empty = SavedTable::default();
            let saved = self.kernel.as_ref().and_then(|kernel| kernel.get(&id)).unwrap_or(&empty);
            let rendered = self.rendered.get(&id);
            let plan = plan::update(family, id.1, saved, wanted, &hashes, |name| {
                rendered?.get(name).map(|hashes| Arc::clone(&hashes.rules))
            });
            if !plan.input.is_empty() {
                input.push_str(&plan.input);
                report.chains_written += plan.written;
                written.push((id, hashes));
            }
        }
        if input.is_empty() {
            return Ok(false);
        }
        self.programs.restore(family, &input)?;
        report.restores += 1;
        for (id, hashes) in written {
            self.note_written(id, hashes);
        }
        Ok(true)
    }

    /// What the kernel's table holds after a successful write.
    fn note_written(&mut self, id: TableId, hashes: Wanted) {
        let (Some(kernel), Some(wanted)) = (self.kernel.as_mut(), self.compiler.tables().get(&id)) else {
            return;
        };
        let saved = kernel.entry(id).or_default();
        for (name, hashes) in hashes {
            saved.chains.insert(name.0.to_string(), hashes.into_iter().map(Some).collect());
        }
        for (hook, base) in &wanted.base {
            let rule =
                |(hash, text): (RuleHash, String)| SavedRule { hash: Some(hash), text: Some(text.into()) };
            let [first, last] = plan::base_rules(id.0, *hook, base);
            let chain = saved.base.entry(hook.name().to_owned()).or_default();
            let foreign = std::mem::take(chain).into_iter().filter(|rule| rule.hash.is_none());
            *chain = first.into_iter().map(rule).chain(foreign).chain(last.into_iter().map(rule)).collect();
        }
    }

    fn sweep(&mut self, report: &mut Report) -> Result<(), ApplyError> {
        let unswept = std::mem::take(&mut self.unswept);
        for family in Family::ALL {
            let mut inputs = [String::new(), String::new()];
            for id in Table::ALL.map(|table| (family, table)).iter().filter(|id| unswept.contains(*id)) {
                let hashes = self.hashes(*id);
                let Some(saved) = self.kernel.as_mut().and_then(|kernel| kernel.get_mut(id)) else {
                    continue;
                };
                let plans = plan::sweep(id.1, saved, self.compiler.tables().get(id), &hashes);
                for (input, plan) in inputs.iter_mut().zip(&plans) {
                    input.push_str(&plan.input);
                    report.chains_deleted += plan.written;
                }
            }
            let steps = [Step::ChainsEmptied(family), Step::ChainsDeleted(family)];
            for (input, step) in inputs.iter().zip(steps).filter(|(input, _)| !input.is_empty()) {
                self.programs.restore(family, input)?;
                report.restores += 1;
                self.step(step)?;
            }
            for id in unswept.iter().filter(|id| id.0 == family) {
                self.note_swept(*id);
            }
        }
        if self.sets.has_unwanted() {
            self.sets.sweep(&mut self.connection, report)?;
            self.step(Step::SetsDestroyed)?;
        }
        Ok(())
    }

    fn note_swept(&mut self, id: TableId) {
        let wanted = self.rendered.get(&id);
        let hooks: Vec<_> = self
            .compiler
            .tables()
            .get(&id)
            .into_iter()
            .flat_map(|table| table.base.keys())
            .map(|hook| hook.name())
            .collect();
        let Some(saved) = self.kernel.as_mut().and_then(|kernel| kernel.get_mut(&id)) else { return };
        saved.chains.retain(|name, _| {
            wanted.is_some_and(|chains| chains.contains_key(&ChainName(name.as_str().into())))
        });
        for (chain, rules) in &mut saved.base {
            if !hooks.contains(&chain.as_str()) {
                rules.retain(|rule| rule.hash.is_none());
            }
        }
    }

    /// Packets and bytes each rule of each policy has matched, both families together. A rule counts from when its
    /// chain was last written.
    ///
    /// # Errors
    /// `iptables-save` failed.
    pub fn counters(&self) -> Result<BTreeMap<Origin, Count>, ApplyError> {
        let mut totals: BTreeMap<Origin, Count> = BTreeMap::new();
        for family in Family::ALL {
            let Some(table) = self.compiler.tables().get(&(family, Table::Filter)) else { continue };
            let counts = saved::counters(&self.programs.save(family)?);
            for (name, rules) in &table.chains {
                if rules.iter().all(|rule| rule.origin.is_none()) {
                    continue;
                }
                for (rule, (hash, _)) in rules.iter().zip(iptables::chain(family, &name.0, rules)) {
                    let Some(origin) = &rule.origin else { continue };
                    let count = counts.get(&(Table::Filter, name.0.to_string(), hash));
                    *totals.entry(origin.clone()).or_default() += count.copied().unwrap_or_default();
                }
            }
        }
        Ok(totals)
    }

    /// Removes every rule, chain and set of ours, also from the variant of iptables that is not in use.
    ///
    /// # Errors
    /// See [`Failure`]; what is left is removed by another call.
    pub fn cleanup(&mut self) -> Result<Report, Failure> {
        let result = self.remove_all();
        self.finish(result)
    }

    fn remove_all(&mut self) -> Result<Report, ApplyError> {
        self.compiler = Compiler::nothing(self.marks);
        self.sets.replace(BTreeMap::new());
        self.rendered.clear();
        let mut report = Report::default();
        let in_use = self.programs.clone();
        for programs in in_use.others().into_iter().chain([in_use]) {
            self.programs = programs;
            // Sets may be in use by the other variant's rules still.
            report.leftovers.clear();
            self.read()?;
            self.unswept.append(&mut self.dirty);
            self.sweep(&mut report)?;
        }
        Ok(report)
    }
}
