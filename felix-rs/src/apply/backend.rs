//! What a way of writing rules and sets into the kernel has to be able to do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use super::iptables::programs::Variant;
use super::sets::Sets;
use super::{ApplyError, Count, Report, Step, iptables, nftables};
use crate::rules::{ChainName, DispatchBy, Origin, Rule, TableId, TableRules, Touched};

/// What every table has to hold.
pub(super) type Tables = BTreeMap<TableId, TableRules>;

pub(super) type Observer = Box<dyn FnMut(Step) -> ControlFlow<()> + Send>;

/// Tells the caller's observer what was done.
#[derive(Default)]
pub(super) struct Steps(pub(super) Option<Observer>);

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steps").field(&self.0.is_some()).finish()
    }
}

impl Steps {
    pub(super) fn done(&mut self, step: Step) -> Result<(), ApplyError> {
        match self.0.as_mut().map(|observer| observer(step)) {
            Some(ControlFlow::Break(())) => Err(ApplyError::Stopped(step)),
            _ => Ok(()),
        }
    }
}

/// How much of what is ours and unwanted is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    Nothing,
    /// As much as one execution of a program takes away, so that what is more urgent can come between.
    Step,
    Everything,
}

/// What a backend's look at the kernel has found.
#[derive(Debug)]
pub(super) enum Reading {
    Iptables(iptables::Reading),
    Nftables(nftables::Reading),
}

/// A look at the kernel, to be had on any thread of its network namespace.
pub(super) type Reader = Box<dyn FnOnce() -> Result<Reading, ApplyError> + Send>;

/// Owns what it finds by our prefixes, and nothing else.
pub(super) trait Backend: fmt::Debug + Send {
    /// In words.
    fn name(&self) -> &'static str;

    /// What the kernel holds of ours in the tables it writes, in words.
    fn holdings(&self) -> Vec<String>;

    /// The variant of iptables whose tables held nothing of Calico's Felix when they were read.
    fn without_felix(&self) -> Option<Variant> {
        None
    }

    /// How its rules find the group of a packet's endpoint.
    fn dispatch_by(&self) -> DispatchBy;

    /// The sets that are wanted.
    fn sets(&mut self) -> &mut Sets;

    /// So much of these tables has to be compared with the kernel.
    fn compare(&mut self, tables: BTreeMap<TableId, Touched>);

    /// Whether the kernel was read.
    fn is_known(&self) -> bool;

    /// Whether the kernel, as far as it is known, has a chain of this name that is not made of these rules.
    fn has_other(&self, chain: &ChainName, rules: &[Rule]) -> bool;

    /// Nothing is known of the kernel any more: the next write reads it first.
    fn forget(&mut self);

    /// Begins a look at the kernel's rules and sets.
    fn reader(&mut self, wanted: &Tables) -> Reader;

    /// Takes in what a look has found, as far as nothing was written since it began; false if rules were.
    fn learn(&mut self, wanted: &Tables, reading: Reading) -> bool;

    /// Reads the kernel's rules and sets.
    fn read(&mut self, wanted: &Tables, steps: &mut Steps) -> Result<(), ApplyError> {
        let reading = self.reader(wanted)()?;
        self.learn(wanted, reading);
        steps.done(Step::Learnt)
    }

    /// Makes the kernel hold what is wanted; what is ours and unwanted goes as far as `sweep` says.
    fn write(&mut self, wanted: &Tables, sweep: Sweep, steps: &mut Steps) -> Result<Report, ApplyError>;

    /// What each rule of each policy has matched, both families together.
    fn counters(&self, wanted: &Tables) -> Result<BTreeMap<Origin, Count>, ApplyError>;

    /// Removes everything of ours.
    fn remove_all(&mut self, steps: &mut Steps) -> Result<Report, ApplyError>;
}
