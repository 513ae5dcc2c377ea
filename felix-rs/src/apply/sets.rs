//! The sets in the kernel against the sets that are wanted, as the difference still to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_netlink::ipset::{self, Entry, Ipset, IpsetError};

use super::Report;
use super::error::ApplyError;
use crate::rules::names::SET_PREFIXES;
use crate::rules::{Family, Member, SetKey, SetType, SetUpdate};

/// Sets made while another one is enlarged; one that is found was left by a process that was killed.
const TEMPORARY: [&str; 2] = ["mgy4t", "mgy6t"];

#[derive(Debug)]
struct Tracked {
    family: Family,
    kind: SetType,
    wanted: BTreeSet<Member>,
    /// Wanted and not in the kernel.
    missing: BTreeSet<Member>,
    /// In the kernel and not wanted.
    stale: BTreeSet<Member>,
    kernel: Kernel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Absent,
    /// Present with this type and room for so many members.
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
}

/// All sets of ours.
#[derive(Debug, Default)]
pub(super) struct Sets {
    tracked: BTreeMap<String, Tracked>,
    /// Names with something to write.
    pending: BTreeSet<String>,
    /// In the kernel, ours, not wanted.
    unwanted: BTreeSet<String>,
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
                let kernel = kernel_members(set);
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

    /// Reads the kernel's sets: afterwards the differences are exact.
    pub(super) fn learn(&mut self, connection: &mut Ipset) -> Result<(), ApplyError> {
        for set in self.tracked.values_mut() {
            set.kernel = Kernel::Absent;
            set.missing.clone_from(&set.wanted);
            set.stale.clear();
        }
        self.unwanted.clear();
        self.unknown = false;
        for header in connection.headers()? {
            let ours = SET_PREFIXES.iter().chain(&TEMPORARY).any(|prefix| header.name.starts_with(prefix));
            if !ours {
                continue;
            }
            let Some(set) = self.tracked.get_mut(&header.name) else {
                self.unwanted.insert(header.name);
                continue;
            };
            if header.kind != Some(kernel_type(set.kind)) || header.family != kernel_family(set.family) {
                set.kernel = Kernel::OtherType;
                continue;
            }
            set.kernel = Kernel::Present { max: header.max_elements };
            let there: BTreeSet<Member> =
                connection.members(&header.name)?.into_iter().map(from_entry).collect();
            set.missing = set.wanted.difference(&there).cloned().collect();
            set.stale = there.difference(&set.wanted).cloned().collect();
        }
        self.pending =
            self.tracked.iter().filter(|(_, set)| !set.settled()).map(|(name, _)| name.clone()).collect();
        Ok(())
    }

    /// Creates sets and adds members: afterwards every set holds at least what is wanted.
    pub(super) fn extend(&mut self, connection: &mut Ipset, report: &mut Report) -> Result<(), ApplyError> {
        for name in &self.pending {
            let Some(set) = self.tracked.get_mut(name) else { continue };
            if set.kernel == Kernel::OtherType {
                connection.destroy(name).map_err(|error| in_use(name, error))?;
                set.kernel = Kernel::Absent;
            }
            if set.kernel == Kernel::Absent {
                let max = room(set.wanted.len());
                connection.create(name, kernel_type(set.kind), kernel_family(set.family), max)?;
                set.kernel = Kernel::Present { max };
                report.sets_created += 1;
            }
            if set.missing.is_empty() {
                continue;
            }
            let missing: Vec<_> = set.missing.iter().map(to_entry).collect();
            match connection.add(name, kernel_family(set.family), &missing) {
                Err(error) if error.is_full() => enlarge(connection, name, set)?,
                result => result?,
            }
            report.members_added += missing.len();
            set.missing.clear();
        }
        Ok(())
    }

    /// Deletes members nobody wants: to be done once no rule needs them.
    pub(super) fn shrink(&mut self, connection: &mut Ipset, report: &mut Report) -> Result<(), ApplyError> {
        for name in &self.pending {
            let Some(set) = self.tracked.get_mut(name).filter(|set| !set.stale.is_empty()) else { continue };
            let stale: Vec<_> = set.stale.iter().map(to_entry).collect();
            connection.remove(name, kernel_family(set.family), &stale)?;
            report.members_removed += stale.len();
            set.stale.clear();
        }
        self.pending.clear();
        Ok(())
    }

    /// Destroys unwanted sets. One that foreign rules refer to stays and is reported.
    pub(super) fn sweep(&mut self, connection: &mut Ipset, report: &mut Report) -> Result<(), ApplyError> {
        let mut busy = BTreeSet::new();
        for name in std::mem::take(&mut self.unwanted) {
            match connection.destroy(&name) {
                Ok(()) => report.sets_destroyed += 1,
                Err(error) if error.is_busy() => {
                    busy.insert(name);
                }
                Err(error) => return Err(error.into()),
            }
        }
        report.leftovers.extend(busy.iter().cloned());
        self.unwanted = busy;
        Ok(())
    }
}

fn kernel_members(set: &Tracked) -> BTreeSet<Member> {
    let present: BTreeSet<_> = set.wanted.difference(&set.missing).cloned().collect();
    present.union(&set.stale).cloned().collect()
}

/// A set without room is replaced by a larger one with the same and the missing members, in one step for the
/// rules that refer to it.
fn enlarge(connection: &mut Ipset, name: &str, set: &mut Tracked) -> Result<(), ApplyError> {
    let Kernel::Present { max } = set.kernel else { return Ok(()) };
    let family = kernel_family(set.family);
    let larger = room(set.wanted.len() + set.stale.len()).max(max.saturating_mul(2));
    let temporary = format!("mgy{}t{}", set.family.version(), name.get(5..).unwrap_or_default());
    connection.destroy(&temporary)?;
    connection.create(&temporary, kernel_type(set.kind), family, larger)?;
    let all: Vec<_> = set.wanted.union(&set.stale).map(to_entry).collect();
    connection.add(&temporary, family, &all)?;
    connection.swap(name, &temporary)?;
    connection.destroy(&temporary)?;
    set.kernel = Kernel::Present { max: larger };
    Ok(())
}

/// Members to make room for: twice what is needed, at least the usual limit.
fn room(members: usize) -> u32 {
    u32::try_from(members.saturating_mul(2)).unwrap_or(u32::MAX).max(ipset::MAX_ELEMENTS)
}

fn in_use(name: &str, error: IpsetError) -> ApplyError {
    if error.is_busy() { ApplyError::SetType { name: name.to_owned() } } else { error.into() }
}

const fn kernel_type(kind: SetType) -> ipset::SetType {
    match kind {
        SetType::Net => ipset::SetType::HashNet,
        SetType::IpPort => ipset::SetType::HashIpPort,
        SetType::NetIface => ipset::SetType::HashNetIface,
    }
}

const fn kernel_family(family: Family) -> ipset::Family {
    match family {
        Family::V4 => ipset::Family::V4,
        Family::V6 => ipset::Family::V6,
    }
}

fn to_entry(member: &Member) -> Entry {
    match member {
        Member::Net(net) => Entry::Net(*net),
        Member::IpPort(address, protocol, port) => Entry::IpPort(*address, *protocol, *port),
        Member::NetIface(net, interface) => Entry::NetIface(*net, Arc::clone(interface)),
    }
}

fn from_entry(entry: Entry) -> Member {
    match entry {
        Entry::Net(net) => Member::Net(net),
        Entry::IpPort(address, protocol, port) => Member::IpPort(address, protocol, port),
        Entry::NetIface(net, interface) => Member::NetIface(net, interface),
    }
}
