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
    /// A set is wanted again before it was destroyed, or with another type: the kernel has to be asked.
    unknown: bool,
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
                self.unknown |= self.tracked.contains_key(&name) || was_unwanted;
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
        if self.tracked.remove(name).is_some_and(|set| set.kernel != Kernel::Absent) {
            self.unwanted.insert(name.to_owned());
        }
    }

    /// Nothing is left to write; unwanted sets may still exist.
    pub(super) fn settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the kernel has to be asked before anything is written.
    pub(super) const fn has_unknown(&self) -> bool {
        self.unknown
    }

    /// Whether sets exist that nobody wants.
    pub(super) fn has_unwanted(&self) -> bool {
        !self.unwanted.is_empty()
    }

    /// The kernel is about to be read: until it has said otherwise, it has nothing.
    pub(super) fn begin_learning(&mut self) {
        for set in self.tracked.values_mut() {
            set.kernel = Kernel::Absent;
            set.missing.clone_from(&set.wanted);
            set.stale.clear();
        }
        self.unwanted.clear();
        self.unknown = false;
    }

    /// The kernel was read: the differences are exact.
    pub(super) fn finish_learning(&mut self) {
        self.pending =
            self.tracked.iter().filter(|(_, set)| !set.settled()).map(|(name, _)| name.clone()).collect();
    }
}
