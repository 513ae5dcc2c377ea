//! The sets in the kernel against the sets that are wanted, as the difference still to be written.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::{Family, Member, SetKey, SetType, SetUpdate};

/// A set that is wanted.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) family: Family,
    pub(super) kind: SetType,
    pub(super) wanted: BTreeSet<Member>,
    /// Wanted and not in the kernel.
    pub(super) missing: BTreeSet<Member>,
    /// In the kernel and not wanted.
    pub(super) stale: BTreeSet<Member>,
    pub(super) kernel: Kernel,
}

/// What the kernel has under the name of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Absent,
    /// Present with the right type and room for so many members.
    Present {
        max: u32,
    },
    /// A set of that name has another type.
    OtherType,
}

impl Tracked {
    fn settled(&self) -> bool {
        matches!(self.kernel, Kernel::Present { .. }) && self.missing.is_empty() && self.stale.is_empty()
    }

    /// The kernel's set was read.
    pub(super) fn found(&mut self, there: &BTreeSet<Member>, max: u32) {
        self.kernel = Kernel::Present { max };
        self.missing = self.wanted.difference(there).cloned().collect();
        self.stale = there.difference(&self.wanted).cloned().collect();
    }

    /// What the kernel's set holds.
    pub(super) fn kernel_members(&self) -> BTreeSet<Member> {
        let present: BTreeSet<_> = self.wanted.difference(&self.missing).cloned().collect();
        present.union(&self.stale).cloned().collect()
    }
}

/// All sets of ours, by the kernel's name.
#[derive(Debug, Default)]
pub(super) struct Sets {
    pub(super) tracked: BTreeMap<String, Tracked>,
    /// Names with something to write.
    pub(super) pending: BTreeSet<String>,
    /// In the kernel, ours, not wanted.
    pub(super) unwanted: BTreeSet<String>,
    /// Wanted again before they were destroyed, or with another type: the kernel has to be asked.
    unknown: BTreeSet<String>,
    /// Changed since the last look at the kernel began.
    touched: BTreeSet<String>,
}

/// What the kernel has under a name of ours.
#[derive(Debug)]
pub(super) struct Found {
    /// `None`: no type of ours.
    pub(super) kind: Option<SetType>,
    pub(super) members: BTreeSet<Member>,
    /// Most members it can hold.
    pub(super) max: u32,
}

/// Which sets a look at the kernel speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All.
    All,
    /// Those that have not been changed since it began.
    Untouched,
    /// Those of which nothing is known.
    Unknown,
}

impl Sets {
    /// Replaces what is wanted by exactly these sets.
    pub(super) fn replace(&mut self, updates: BTreeMap<SetKey, SetUpdate>) {
        let names: BTreeSet<_> = updates.keys().map(|(name, family)| name.kernel_name(*family)).collect();
        let gone: Vec<_> = self.tracked.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.forget_wanted(&name);
        }
        self.update(updates);
    }

    /// Takes changes in.
    pub(super) fn update(&mut self, updates: BTreeMap<SetKey, SetUpdate>) {
        for ((name, family), update) in updates {
            let name = name.kernel_name(family);
            self.touched.insert(name.clone());
            match update {
                SetUpdate::Whole { kind, members } => self.whole(name, family, kind, members),
                SetUpdate::Change { added, removed } => self.change(name, added, removed),
                SetUpdate::Gone => self.forget_wanted(&name),
            }
        }
    }

    fn whole(&mut self, name: String, family: Family, kind: SetType, members: BTreeSet<Member>) {
        let was_unwanted = self.unwanted.remove(&name);
        match self.tracked.get_mut(&name).filter(|set| set.kind == kind) {
            Some(set) => {
                let kernel = set.kernel_members();
                set.missing = members.difference(&kernel).cloned().collect();
                set.stale = kernel.difference(&members).cloned().collect();
                set.wanted = members;
                if set.settled() {
                    self.pending.remove(&name);
                } else {
                    self.pending.insert(name);
                }
            }
            None => {
                if self.tracked.contains_key(&name) || was_unwanted {
                    self.unknown.insert(name.clone());
                }
                let missing = members.clone();
                let (stale, kernel) = (BTreeSet::new(), Kernel::Absent);
                let set = Tracked { family, kind, missing, wanted: members, stale, kernel };
                self.pending.insert(name.clone());
                self.tracked.insert(name, set);
            }
        }
    }

    fn change(&mut self, name: String, added: BTreeSet<Member>, removed: BTreeSet<Member>) {
        let Some(set) = self.tracked.get_mut(&name) else { return };
        for member in added {
            if !set.stale.remove(&member) && !set.wanted.contains(&member) {
                set.missing.insert(member.clone());
            }
            set.wanted.insert(member);
        }
        for member in removed {
            if set.wanted.remove(&member) && !set.missing.remove(&member) {
                set.stale.insert(member);
            }
        }
        if !set.settled() {
            self.pending.insert(name);
        }
    }

    fn forget_wanted(&mut self, name: &str) {
        self.pending.remove(name);
        self.unknown.remove(name);
        if self.tracked.remove(name).is_some_and(|set| set.kernel != Kernel::Absent) {
            self.unwanted.insert(name.to_owned());
        }
    }

    /// Nothing is left to write; unwanted sets may still exist.
    pub(super) fn settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Names of which the kernel has to be asked before anything is written.
    pub(super) const fn unknown(&self) -> &BTreeSet<String> {
        &self.unknown
    }

    /// Whether sets exist that nobody wants.
    pub(super) fn has_unwanted(&self) -> bool {
        !self.unwanted.is_empty()
    }

    /// A look at the kernel begins: what changes from now on it can't speak for.
    pub(super) fn watch(&mut self) {
        self.touched = self.pending.union(&self.unwanted).cloned().collect();
    }

    /// Takes in what a look at the kernel found: the differences to what it speaks for are exact. Says which sets it does
    /// not speak for because they were changed since.
    pub(super) fn learn(&mut self, seen: &BTreeMap<String, Found>, scope: Scope) -> BTreeSet<String> {
        let (touched, unknown) = (std::mem::take(&mut self.touched), std::mem::take(&mut self.unknown));
        let within = |name: &String| match scope {
            Scope::All => true,
            Scope::Untouched => !touched.contains(name),
            Scope::Unknown => unknown.contains(name),
        };
        for (name, set) in self.tracked.iter_mut().filter(|(name, _)| within(name)) {
            match seen.get(name) {
                Some(found) if found.kind == Some(set.kind) => set.found(&found.members, found.max),
                found => {
                    set.kernel = found.map_or(Kernel::Absent, |_| Kernel::OtherType);
                    set.missing.clone_from(&set.wanted);
                    set.stale.clear();
                }
            }
            if set.settled() {
                self.pending.remove(name);
            } else {
                self.pending.insert(name.clone());
            }
        }
        self.unwanted.retain(|name| !within(name));
        let unwanted = seen.keys().filter(|name| within(name) && !self.tracked.contains_key(*name));
        self.unwanted.extend(unwanted.cloned());
        match scope {
            Scope::All => BTreeSet::new(),
            Scope::Untouched => {
                self.unknown = unknown.intersection(&touched).cloned().collect();
                touched
            }
            Scope::Unknown => {
                self.touched = touched;
                BTreeSet::new()
            }
        }
    }
}
