//! Members of groups: positions in logs.

use super::encode;
use super::group::{Group, GroupId};
use super::profile::{EgressProfile, Identity};
use crate::config::EgressLimits;
use crate::family::Family;
use crate::rib::{EntryId, Rib, SourceId};
use crate::wire::{FamilySet, RefreshKind};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What a member can be sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Take {
    /// Whole messages.
    Data(Bytes),
    /// It has everything.
    UpToDate,
    /// It is too far behind and cannot be told what it missed: the session must be reset.
    Lost,
}

#[derive(Debug)]
struct Member {
    group: GroupId,
    position: u64,
    /// Goes out before the log.
    script: VecDeque<Bytes>,
    /// The table isn't complete yet: nothing goes out.
    withheld: bool,
    /// The initial table with its End-of-RIB has gone out.
    initial_done: bool,
    refresh: FamilySet,
    resyncs: u64,
    /// What it missed has been forgotten.
    lost: bool,
}

/// Where a member stands, besides its position.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Was {
    pub(crate) withheld: bool,
    pub(crate) initial_done: bool,
    pub(crate) resyncs: u64,
}

/// All groups and their members.
#[derive(Debug)]
pub(crate) struct Egress {
    groups: BTreeMap<GroupId, Group>,
    by_profile: HashMap<EgressProfile, GroupId>,
    members: BTreeMap<SourceId, Member>,
    next: u32,
    limits: EgressLimits,
}

impl Egress {
    pub(crate) fn new(limits: EgressLimits) -> Self {
        Self {
            groups: BTreeMap::new(),
            by_profile: HashMap::new(),
            members: BTreeMap::new(),
            next: 1,
            limits,
        }
    }

    /// Whether a profile has a group.
    pub(crate) fn has_group(&self, profile: &EgressProfile) -> bool {
        self.by_profile.contains_key(profile)
    }

    /// Adds a member. The table must be settled and applied unless the profile has a group. `withheld` delays everything until [`Self::release`].
    pub(crate) fn join(
        &mut self,
        who: SourceId,
        profile: EgressProfile,
        withheld: bool,
        rib: &Rib,
        us: Identity,
    ) {
        let group = self.group_of(profile, rib, us);
        let member = Member {
            group,
            position: 0,
            script: VecDeque::new(),
            withheld,
            initial_done: false,
            refresh: FamilySet::NONE,
            resyncs: 0,
            lost: false,
        };
        self.members.insert(who, member);
        if !withheld {
            self.start(who, rib, us);
        }
    }

    /// Adds a member that has been told all that its group says, by the speaker whose place this one takes.
    pub(crate) fn rejoin(
        &mut self,
        who: SourceId,
        profile: EgressProfile,
        was: Was,
        rib: &Rib,
        us: Identity,
    ) {
        let group = self.group_of(profile, rib, us);
        let position = self.groups.get(&group).map_or(0, |group| group.log.head());
        let member = Member {
            group,
            position,
            script: VecDeque::new(),
            withheld: was.withheld,
            initial_done: was.initial_done,
            refresh: FamilySet::NONE,
            resyncs: was.resyncs,
            lost: false,
        };
        self.members.insert(who, member);
    }

    /// Sends a member everything again (RFC 7313). Where End-of-RIB is still due it goes out first, and everything before
    /// it: no refresh begins earlier (section 4). False if the member can't be told to forget the rest.
    pub(crate) fn repeat(&mut self, who: SourceId, rib: &Rib, us: Identity) -> bool {
        let Some(member) = self.members.get_mut(&who) else { return true };
        let Some(group) = self.groups.get_mut(&member.group) else { return true };
        if !group.profile.enhanced_refresh {
            return false;
        }
        if !member.initial_done {
            initial(member, group, rib, us);
        }
        member.resyncs += 1;
        let families = group.profile.negotiated.families;
        repeat(member, group, families, rib, us)
    }

    /// Where a member stands.
    pub(crate) fn was(&self, who: SourceId) -> Was {
        self.members.get(&who).map_or_else(Was::default, |member| Was {
            withheld: member.withheld,
            initial_done: member.initial_done,
            resyncs: member.resyncs,
        })
    }

    fn group_of(&mut self, profile: EgressProfile, rib: &Rib, us: Identity) -> GroupId {
        if let Some(id) = self.by_profile.get(&profile) {
            return *id;
        }
        let id = GroupId(self.next);
        self.next += 1;
        let mut group = Group::new(profile.clone());
        let all: Vec<EntryId> = rib.iter().map(|(id, _)| id).collect();
        group.apply(rib, us, &all, false);
        self.by_profile.insert(profile, id);
        self.groups.insert(id, group);
        id
    }

    fn start(&mut self, who: SourceId, rib: &Rib, us: Identity) {
        let Some(member) = self.members.get_mut(&who) else { return };
        let Some(group) = self.groups.get_mut(&member.group) else { return };
        member.withheld = false;
        initial(member, group, rib, us);
    }

    /// Lets the withheld members begin. The table must be settled and applied.
    pub(crate) fn release(&mut self, rib: &Rib, us: Identity) {
        let withheld: Vec<SourceId> =
            self.members.iter().filter(|(_, member)| member.withheld).map(|(who, _)| *who).collect();
        for who in withheld {
            self.start(who, rib, us);
        }
    }

    /// Removes a member, and its group if it was the last.
    pub(crate) fn leave(&mut self, who: SourceId) {
        let Some(member) = self.members.remove(&who) else { return };
        if self.members.values().all(|other| other.group != member.group)
            && let Some(group) = self.groups.remove(&member.group)
        {
            self.by_profile.remove(&group.profile);
        }
    }

    /// Moves a member to another profile of the same session (other policy). It is sent what is different.
    pub(crate) fn change(&mut self, who: SourceId, profile: EgressProfile, rib: &Rib, us: Identity) {
        let Some(member) = self.members.get(&who) else { return };
        let old = member.group;
        if self.groups.get(&old).is_some_and(|group| group.profile == profile) {
            return;
        }
        let position = member.position;
        let id = self.group_of(profile, rib, us);
        // What the old group said and the new one doesn't must be withdrawn, also what the member missed there.
        let (Some(from), Some(to)) = (self.groups.get(&old), self.groups.get(&id)) else { return };
        let missed = from.withdrawals_since(position, rib);
        let not_said = from.withdrawals_towards(to, rib, us);
        let (Some(member), Some(group)) = (self.members.get_mut(&who), self.groups.get_mut(&id)) else {
            return;
        };
        let families = group.profile.negotiated.families;
        member.group = id;
        match missed {
            Some(withdrawals) => {
                let head = group.log.head();
                let snapshot = group.snapshot(rib, us, head);
                member.position = snapshot.position;
                if !member.withheld {
                    member.script.extend(withdrawals.into_iter().chain(not_said));
                    for family in Family::ALL.into_iter().filter(|family| families.has((*family).into())) {
                        member.script.extend(snapshot.families[family.index()].iter().cloned());
                    }
                }
            }
            // Forgotten: it can only be told to forget, too.
            None if group.profile.enhanced_refresh => {
                repeat(member, group, families, rib, us);
            }
            None => member.lost = true,
        }
        if self.members.values().all(|other| other.group != old)
            && let Some(group) = self.groups.remove(&old)
        {
            self.by_profile.remove(&group.profile);
        }
    }

    /// Takes over settled entries in every group.
    pub(crate) fn apply(&mut self, rib: &Rib, us: Identity, ids: &[EntryId]) {
        let reading: std::collections::BTreeSet<GroupId> =
            self.members.values().filter(|member| !member.withheld).map(|member| member.group).collect();
        for (id, group) in &mut self.groups {
            group.apply(rib, us, ids, reading.contains(id));
        }
        self.trim();
    }

    /// Forgets what every member has taken; bounds the rest.
    pub(crate) fn trim(&mut self) {
        let mut oldest: BTreeMap<GroupId, u64> = BTreeMap::new();
        for member in self.members.values().filter(|member| !member.withheld) {
            let position = oldest.entry(member.group).or_insert(u64::MAX);
            *position = member.position.min(*position);
        }
        let budget = (self.limits.log_bytes / self.groups.len().max(1)).max(self.limits.log_min);
        for (id, group) in &mut self.groups {
            let head = group.log.head();
            group.trim(oldest.get(id).copied().unwrap_or(head).min(head), budget);
        }
    }

    /// Every group and the number of its members.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (GroupId, &Group, usize)> {
        let members = |id| self.members.values().filter(|member| member.group == id).count();
        self.groups.iter().map(move |(id, group)| (*id, group, members(*id)))
    }

    /// Octets that logs hold.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.groups.values().map(|group| group.log.bytes()).sum()
    }

    /// The peer asks for a family again (RFC 2918).
    pub(crate) fn refresh(&mut self, who: SourceId, family: Family) {
        if let Some(member) = self.members.get_mut(&who)
            && let Some(wanted) = member.refresh.get_mut(family.into())
        {
            *wanted = true;
        }
    }

    /// What a member is sent next.
    pub(crate) fn take(&mut self, who: SourceId, rib: &Rib, us: Identity) -> Take {
        let Some(member) = self.members.get_mut(&who) else { return Take::UpToDate };
        let Some(group) = self.groups.get_mut(&member.group) else { return Take::UpToDate };
        if member.withheld {
            return Take::UpToDate;
        }
        if member.lost {
            return Take::Lost;
        }
        if let Some(data) = member.script.pop_front() {
            return Take::Data(data);
        }
        member.initial_done = true;
        if member.position < group.log.tail() {
            member.resyncs += 1;
            let families = group.profile.negotiated.families;
            if !repeat(member, group, families, rib, us) {
                return Take::Lost;
            }
        } else if let Some(data) = group.log.read(member.position) {
            member.position += data.len() as u64;
            return Take::Data(data);
        } else if member.refresh != FamilySet::NONE {
            let families = std::mem::take(&mut member.refresh);
            if !repeat(member, group, families, rib, us) {
                return Take::Lost;
            }
        }
        member.script.pop_front().map_or(Take::UpToDate, Take::Data)
    }

    /// The group of a member.
    pub(crate) fn group_of_member(&self, who: SourceId) -> Option<(GroupId, &Group)> {
        let id = self.members.get(&who)?.group;
        Some((id, self.groups.get(&id)?))
    }

    /// How often a member was resynchronised.
    pub(crate) fn resyncs(&self, who: SourceId) -> u64 {
        self.members.get(&who).map_or(0, |member| member.resyncs)
    }

    /// Octets that a member has yet to take, and how often it was resynchronised, and whether End-of-RIB has gone out.
    pub(crate) fn progress(&self, who: SourceId) -> (u64, u64, bool) {
        let Some(member) = self.members.get(&who) else { return (0, 0, false) };
        let head = self.groups.get(&member.group).map_or(0, |group| group.log.head());
        let script: usize = member.script.iter().map(Bytes::len).sum();
        let log = if member.withheld { 0 } else { head - member.position.min(head) };
        (script as u64 + log, member.resyncs, member.initial_done)
    }
}

/// Writes the initial table into the member's script: snapshot, what was logged since it was cut, End-of-RIB; then the log
/// goes on. End-of-RIB behind an old snapshot would say that the table is complete when it isn't (RFC 4724 section 2).
fn initial(member: &mut Member, group: &mut Group, rib: &Rib, us: Identity) {
    let snapshot = group.snapshot(rib, us, 0);
    member.position = snapshot.position;
    let families = group.profile.negotiated.families;
    for family in Family::ALL.into_iter().filter(|family| families.has((*family).into())) {
        member.script.extend(snapshot.families[family.index()].iter().cloned());
    }
    while let Some(data) = group.log.read(member.position) {
        member.position += data.len() as u64;
        member.script.push_back(data);
    }
    for family in Family::ALL.into_iter().filter(|family| families.has((*family).into())) {
        member.script.push_back(encode::end_of_rib(family, &group.profile.negotiated));
    }
}

/// Writes the repetition of families into the member's script (RFC 7313 where negotiated). False if what the member
/// missed has been forgotten.
fn repeat(member: &mut Member, group: &mut Group, families: FamilySet, rib: &Rib, us: Identity) -> bool {
    let enhanced = group.profile.enhanced_refresh;
    if !enhanced && member.position < group.log.tail() {
        let Some(withdrawals) = group.withdrawals_since(member.position, rib) else { return false };
        member.script.extend(withdrawals);
    }
    let snapshot = group.snapshot(rib, us, member.position);
    member.position = snapshot.position;
    let negotiated = group.profile.negotiated;
    for family in Family::ALL.into_iter().filter(|family| families.has((*family).into())) {
        if enhanced {
            member.script.push_back(encode::refresh(family, RefreshKind::BeginOfRefresh, &negotiated));
        }
        member.script.extend(snapshot.families[family.index()].iter().cloned());
        if enhanced {
            member.script.push_back(encode::refresh(family, RefreshKind::EndOfRefresh, &negotiated));
        }
    }
    true
}
