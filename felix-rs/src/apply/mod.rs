//! Brings the kernel's rules and sets to what is wanted, and keeps them there.
//!
//! One [`Applier`] owns one thread: it blocks while programs run. How a backend writes is told in its module; all
//! learn first what is there, adopt what is right, write the difference, delete what is ours and unwanted only once
//! the datastore is in sync, and leave a state that enforces wherever they are killed.

mod backend;
mod count;
mod error;
mod flows;
mod iptables;
mod loose;
mod nftables;
mod offload;
mod programs;
mod sets;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;

use backend::{Backend, Reader, Reading, Steps, Sweep};
pub use count::Count;
pub use error::{ApplyError, Failure};
pub use flows::{Cutter, first_packet};
use iptables::Iptables;
use iptables::programs::{Programs, Variant};
pub use loose::Loose;
use margay_netlink::ipset::Ipset;
use nftables::Nftables;
pub use offload::FlowTable;
use takeover::Takeover;

use crate::model::{BackendChoice, Delta, EndpointId, EnforcedState};
use crate::rules::{Compiler, DispatchBy, Family, Origin, Touched};

/// How often sets that are in use are tried again when their backend is not.
const BUSY: u8 = 20;

/// What an attempt has done so far, told to the observer after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Something may be left that is ours and nobody wants.
    pub unswept: bool,
    /// Sets of ours that can't be destroyed because foreign rules refer to them.
    pub leftovers: Vec<String>,
    /// Why the backend that was asked for can't be used: the one before enforces the state.
    pub refused: Option<String>,
}

impl Report {
    /// Adds what another backend did.
    fn merge(&mut self, other: Self) {
        self.restores += other.restores;
        self.chains_deleted += other.chains_deleted;
        self.sets_destroyed += other.sets_destroyed;
        self.leftovers.extend(other.leftovers);
    }

    /// Whether anything was written to the kernel.
    pub const fn wrote(&self) -> bool {
        self.restores + self.sets_created + self.sets_destroyed + self.members_added + self.members_removed
            > 0
    }
}

/// Settings of an applier.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What writes the rules.
    pub backend: BackendChoice,
    /// Folders to search for programs instead of `PATH`.
    pub folders: Option<Vec<PathBuf>>,
}

impl Options {
    /// Where programs are looked for.
    fn folders(&self) -> Vec<PathBuf> {
        self.folders.clone().unwrap_or_else(programs::search_path)
    }
}

/// When what is ours and unwanted is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sweeping {
    /// With what is written.
    #[default]
    AtOnce,
    /// When asked for.
    Later,
}

/// A look at the kernel that is still to be had.
pub struct Look(Reader);

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Look").finish_non_exhaustive()
    }
}

impl Look {
    /// Looks at the kernel, in the network namespace of the calling thread.
    pub fn take(self) -> Seen {
        Seen((self.0)())
    }
}

/// What a look at the kernel has found.
#[derive(Debug)]
pub struct Seen(Result<Reading, ApplyError>);

/// Writes the rules of the network namespace of the thread it is used on.
#[derive(Debug)]
pub struct Applier {
    options: Options,
    backend: Box<dyn Backend>,
    /// Other backends hold nothing of ours: they are emptied once the rules of the one in use are in the kernel.
    alone: bool,
    /// How often sets of theirs were still in use.
    busy: u8,
    takeover: Takeover,
    compiler: Compiler,
    in_sync: bool,
    /// When what nobody wants is removed.
    sweeping: Sweeping,
    /// Something may be there that nobody wants.
    unswept: bool,
    attempts: u32,
    steps: Steps,
}

impl Applier {
    /// Finds the programs and connects to the kernel; reads and writes nothing yet.
    ///
    /// # Errors
    /// The program is not installed, or no right to use netlink.
    pub fn new(options: &Options) -> Result<Self, ApplyError> {
        let folders = options.folders();
        let backend = open(options.backend, &folders)?;
        Ok(Self {
            options: options.clone(),
            compiler: Compiler::nothing(backend.dispatch_by()),
            backend,
            alone: false,
            busy: 0,
            takeover: Takeover::default(),
            in_sync: false,
            sweeping: Sweeping::default(),
            unswept: true,
            attempts: 0,
            steps: Steps::default(),
        })
    }

    /// Calls this after every step; breaking off ends the attempt with [`ApplyError::Stopped`].
    pub fn observe(&mut self, observer: impl FnMut(Step) -> ControlFlow<()> + Send + 'static) {
        self.steps = Steps(Some(Box::new(observer)));
    }

    /// From now on what is ours in the kernel and not wanted is removed. To be called once the datastore is in
    /// sync: before, something may be missing from the state that is only not known yet.
    pub const fn set_in_sync(&mut self) {
        self.in_sync = true;
    }

    /// From now on what is unwanted stays until [`Self::sweep`]: a change is in the kernel sooner, and what is wanted
    /// again soon is still there.
    pub const fn sweep_later(&mut self) {
        self.sweeping = Sweeping::Later;
    }

    /// Whether something may be there that nobody wants.
    pub const fn is_unswept(&self) -> bool {
        self.unswept
    }

    /// Removes some of what is ours and unwanted, if the datastore is in sync: as much as one execution of a program takes
    /// away. To be called until [`Self::is_unswept`] says no, with what is more urgent between.
    ///
    /// # Errors
    /// See [`Failure`]; call [`Self::retry`] later.
    pub fn sweep(&mut self) -> Result<Report, Failure> {
        let result = self.attempt(Sweep::Step);
        self.finish(result)
    }

    /// Makes the kernel enforce a whole state.
    ///
    /// # Errors
    /// See [`Failure`]; call [`Self::retry`] later.
    pub fn apply(&mut self, state: &EnforcedState) -> Result<Report, Failure> {
        let known = self.know();
        let by = self.backend.dispatch_by();
        let backend = &self.backend;
        let (compiler, changes) =
            Compiler::beside(by, state, &|chain, rules| backend.has_other(chain, rules));
        let tables = self.compiler.tables().keys().chain(compiler.tables().keys());
        self.backend.compare(tables.map(|id| (*id, Touched::All)).collect());
        self.compiler = compiler;
        self.backend.sets().replace(changes.sets);
        self.go_on(known)
    }

    /// Makes the kernel enforce a change of the state.
    ///
    /// # Errors
    /// See [`Failure`]; call [`Self::retry`] later, or apply the next change.
    pub fn apply_delta(&mut self, delta: &Delta) -> Result<Report, Failure> {
        let known = self.know();
        let backend = &self.backend;
        let changes = self.compiler.update(delta, &|chain, rules| backend.has_other(chain, rules));
        self.backend.compare(changes.tables);
        self.backend.sets().update(changes.sets);
        self.go_on(known)
    }

    /// Reads the kernel if nothing is known of it: new groups take names that are free there.
    fn know(&mut self) -> Result<(), ApplyError> {
        if self.backend.is_known() {
            return Ok(());
        }
        self.backend.read(self.compiler.tables(), &mut self.steps)
    }

    /// Writes what is to be written, unless the kernel could not be read before.
    fn go_on(&mut self, known: Result<(), ApplyError>) -> Result<Report, Failure> {
        match known {
            Ok(()) => self.retry(),
            Err(error) => self.finish(Err(error)),
        }
    }

    /// Enforces a whole state by this backend from now on. The rules of the one before stay until the new ones are in
    /// the kernel: a packet meets one, both, never none.
    ///
    /// A backend that can't be used is told in the report; the one before enforces the state then.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn switch(&mut self, backend: BackendChoice, state: &EnforcedState) -> Result<Report, Failure> {
        if backend == self.options.backend {
            return self.apply(state);
        }
        let options = Options { backend, ..self.options.clone() };
        let mut next = match Self::new(&options) {
            Ok(next) => next,
            Err(error) => {
                let report = self.apply(state)?;
                return Ok(Report { refused: Some(error.to_string()), ..report });
            }
        };
        next.in_sync = self.in_sync;
        next.sweeping = self.sweeping;
        next.steps = std::mem::take(&mut self.steps);
        *self = next;
        self.apply(state)
    }

    /// Reads the kernel again and repairs what somebody changed.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn recheck(&mut self) -> Result<Report, Failure> {
        self.backend.forget();
        self.retry()
    }

    /// Begins a look at the kernel, for [`Self::repair`]: others may take it while this one goes on writing.
    pub fn look(&mut self) -> Look {
        Look(self.backend.reader(self.compiler.tables()))
    }

    /// Repairs what somebody changed, by a look at the kernel. `None`: it failed, or rules were written since it began, and
    /// it says nothing.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn repair(&mut self, seen: Seen) -> Result<Option<Report>, Failure> {
        match seen.0.map(|reading| self.backend.learn(self.compiler.tables(), reading)) {
            Ok(true) => self.retry().map(Some),
            Ok(false) => Ok(None),
            // `nft` begins anew whenever something is written while it reads: where that never ends, this ends it.
            Err(error) => {
                tracing::debug!(%error, "a look at the kernel failed");
                Ok(None)
            }
        }
    }

    /// Writes what is still to be written.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn retry(&mut self) -> Result<Report, Failure> {
        let result = self.attempt(match self.sweeping {
            Sweeping::AtOnce => Sweep::Everything,
            Sweeping::Later => Sweep::Nothing,
        });
        self.finish(result)
    }

    /// The backend that was chosen.
    pub const fn choice(&self) -> BackendChoice {
        self.options.backend
    }

    /// What writes the rules, in words.
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    fn finish<T>(&mut self, result: Result<T, ApplyError>) -> Result<T, Failure> {
        match result {
            Ok(value) => {
                self.attempts = 0;
                Ok(value)
            }
            Err(source) => {
                self.backend.forget();
                self.attempts = self.attempts.saturating_add(1);
                Err(Failure { source, attempt: self.attempts, next_retry: error::backoff(self.attempts) })
            }
        }
    }

    fn attempt(&mut self, sweep: Sweep) -> Result<Report, ApplyError> {
        let sweep = if self.in_sync { sweep } else { Sweep::Nothing };
        let mut report = self.backend.write(self.compiler.tables(), sweep, &mut self.steps)?;
        report.live = self.compiler.endpoints().cloned().collect();
        if sweep == Sweep::Nothing {
            report.unswept |= self.unswept || (self.in_sync && self.may_be_shared());
        } else if !report.unswept {
            // Its last step. What others left holds nobody up, and is tried again with the sweep behind the next write.
            if let Err(error) = self.take_over(&mut report) {
                tracing::warn!("what other backends or Calico's Felix left is still there: {error}");
            }
        }
        self.unswept = report.unswept;
        Ok(report)
    }

    /// Whether other backends or Calico's Felix may have left something.
    fn may_be_shared(&self) -> bool {
        !(self.alone && self.takeover.is_over())
    }

    fn take_over(&mut self, report: &mut Report) -> Result<(), ApplyError> {
        self.empty_others(report)?;
        let clean = self.backend.without_felix();
        self.takeover.finish(&self.options.folders(), clean, report)
    }

    /// Removes what backends that are not in use hold.
    fn empty_others(&mut self, report: &mut Report) -> Result<(), ApplyError> {
        if !self.alone {
            let mut free = true;
            for mut other in others(&*self.backend, &self.options.folders()) {
                let removed = other.remove_all(&mut self.steps)?;
                free &= removed.leftovers.is_empty();
                report.merge(removed);
            }
            // The kernel lets go of a deleted rule's sets a moment later; rules of others may keep one for ever.
            self.busy = if free { 0 } else { self.busy + 1 };
            self.alone = free || self.busy >= BUSY;
        }
        Ok(())
    }

    /// Packets and bytes each rule of each policy has matched, both families together. A rule counts from when its
    /// chain was last written.
    ///
    /// # Errors
    /// A program failed.
    pub fn counters(&self) -> Result<BTreeMap<Origin, Count>, ApplyError> {
        self.backend.counters(self.compiler.tables())
    }

    /// What [`Self::cleanup`] would remove, in words: chains, rules in chains of others, tables, sets.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn holdings(&self) -> Result<Vec<String>, ApplyError> {
        let others = others(&*self.backend, &self.options.folders());
        let mut all: Vec<String> =
            others.iter().chain([&self.backend]).flat_map(|backend| backend.holdings()).collect();
        all.extend(own_sets()?.map(|name| format!("ip set {name}")));
        all.extend(self.flow_table().map(|table| table.name()));
        Ok(all)
    }

    /// The flow table, if there is one.
    fn flow_table(&self) -> Option<FlowTable> {
        FlowTable::find(&self.options.folders()).ok().filter(FlowTable::is_there)
    }

    /// Removes every rule, chain, set and flow table of ours, also from backends that are not in use.
    ///
    /// # Errors
    /// See [`Failure`]; what is left is removed by another call.
    pub fn cleanup(&mut self) -> Result<Report, Failure> {
        let result = self.remove_all();
        self.finish(result)
    }

    fn remove_all(&mut self) -> Result<Report, ApplyError> {
        self.compiler = Compiler::nothing(self.backend.dispatch_by());
        // First: nothing must go on passing by rules that are no more.
        self.flow_table().map_or(Ok(()), |table| table.write(&[]))?;
        let mut report = Report::default();
        self.empty_others(&mut report)?;
        // Sets may have been in use by another variant's rules.
        report.leftovers.clear();
        report.merge(self.backend.remove_all(&mut self.steps)?);
        Ok(report)
    }
}

/// Reads a text as that of `iptables-save -c` in every way it is read, for the fuzz target.
#[doc(hidden)]
pub fn read_saved(text: &str) {
    iptables::read_saved(text);
    takeover::read_saved(text);
}

/// Opens the backend that was chosen.
fn open(choice: BackendChoice, folders: &[PathBuf]) -> Result<Box<dyn Backend>, ApplyError> {
    let variant = match choice {
        BackendChoice::Auto => None,
        BackendChoice::IptablesNft => Some(Variant::Nft),
        BackendChoice::IptablesLegacy => Some(Variant::Legacy),
        BackendChoice::Nftables => return Ok(Box::new(Nftables::new(folders)?)),
    };
    match Programs::find(folders, variant) {
        Err(missing) if choice == BackendChoice::Auto => match Nftables::new(folders) {
            Ok(nftables) => Ok(Box::new(nftables)),
            Err(_) => Err(missing),
        },
        programs => Ok(Box::new(Iptables::new(programs?, false)?)),
    }
}

/// Names of the kernel's ip sets of ours.
fn own_sets() -> Result<impl Iterator<Item = String>, ApplyError> {
    let sets = Ipset::open()?.headers()?.into_iter().map(|set| set.name);
    Ok(sets.filter(|name| iptables::is_own_set(name)))
}

/// Every other backend of this machine that holds something of ours.
fn others(in_use: &dyn Backend, folders: &[PathBuf]) -> Vec<Box<dyn Backend>> {
    let sets_in_use = in_use.dispatch_by() == DispatchBy::Sets;
    let mut others: Vec<Box<dyn Backend>> = Vec::new();
    for variant in [Variant::Nft, Variant::Legacy] {
        if let Ok(programs) = Programs::find(folders, Some(variant))
            && let Ok(backend) = Iptables::new(programs, sets_in_use)
        {
            others.push(Box::new(backend));
        }
    }
    if let Ok(backend) = Nftables::new(folders) {
        others.push(Box::new(backend));
    }
    others.retain(|backend| backend.name() != in_use.name());
    // Sets stay behind where an agent was killed between rules and sets.
    let sets_left = !sets_in_use && own_sets().is_ok_and(|mut sets| sets.next().is_some());
    let owns_sets = |backend: &dyn Backend| sets_left && backend.dispatch_by() == DispatchBy::Sets;
    others.retain(|backend| owns_sets(&**backend) || !backend.holdings().is_empty());
    others
}
