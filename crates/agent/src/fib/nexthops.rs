//! Nexthop objects: which id stands for which next hop, and what the kernel has of them.
//!
//! Every route of a node refers to the node's one object, so that a node that moves is one message. Several next hops are
//! a group of such objects. An object lives as long as a route wants it or, in the kernel, refers to it: to delete
//! it earlier would take the route along.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use margay_netlink::delta::{Change, Tracker};
use margay_netlink::{Error, Netlink, Nexthop, NexthopChange, NexthopTarget};
use margay_routing::{HopKey, Protocol};

/// Ids of ours. What has another protocol in here is somebody else's all the same.
const IDS: Range<u32> = 1_810_000_000..1_820_000_000;

/// What an object stands for.
#[derive(Debug)]
enum Key {
    /// A next hop.
    Hop(HopKey),
    /// Equally good next hops, by their ids, sorted.
    Group(Vec<u32>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Nexthops {
    objects: Tracker<u32, NexthopTarget>,
    hops: HashMap<HopKey, u32>,
    groups: HashMap<Vec<u32>, u32>,
    /// What each id stands for, and how many routes (or groups) want it.
    users: BTreeMap<u32, (Key, usize)>,
    /// Ids in our range that others use.
    foreign: BTreeSet<u32>,
    /// Where to look for the next free id: one that was just freed is used again last.
    next: u32,
}

/// Made by us: by its mark and its id.
pub(super) fn is_ours(nexthop: &Nexthop) -> bool {
    nexthop.protocol == Protocol::Cluster.number() && IDS.contains(&nexthop.id)
}

impl Nexthops {
    pub(super) fn new() -> Self {
        let mut objects = Tracker::new();
        objects.desired_complete();
        Self {
            objects,
            hops: HashMap::new(),
            groups: HashMap::new(),
            users: BTreeMap::new(),
            foreign: BTreeSet::new(),
            next: IDS.start,
        }
    }

    /// Takes note of all objects of the kernel. False if somebody has taken an id that we gave out: then every route
    /// has to be asked about again, after [`forget_ids`](Self::forget_ids).
    pub(super) fn learn_all(&mut self, found: Vec<Nexthop>) -> bool {
        let (ours, foreign): (Vec<_>, Vec<_>) = found.into_iter().partition(is_ours);
        self.foreign = foreign.into_iter().map(|nexthop| nexthop.id).filter(|id| IDS.contains(id)).collect();
        self.objects.learn_all(ours.into_iter().map(|nexthop| (nexthop.id, nexthop.target)));
        !self.foreign.iter().any(|id| self.users.contains_key(id))
    }

    /// Takes note of one object of ours that somebody else wrote.
    pub(super) fn learn(&mut self, nexthop: Nexthop) {
        self.objects.learn(nexthop.id, nexthop.target);
    }

    /// An object with this id is in the kernel and ours, as far as we know.
    pub(super) fn is_in_kernel(&self, id: u32) -> bool {
        self.objects.present(&id).is_some()
    }

    /// Some object of ours leads out of this interface.
    pub(super) fn uses_device(&self, index: u32) -> bool {
        self.objects
            .all_present()
            .any(|(_, target)| matches!(target, NexthopTarget::Via { device, .. } | NexthopTarget::Device { device, .. } if *device == index))
    }

    /// One more route wants the object of this next hop to lead to `target`; returns its id. `hint`: the object a route of the
    /// kernel refers to now, which is taken over if it fits, as after a restart.
    pub(super) fn acquire(
        &mut self,
        hop: &HopKey,
        target: NexthopTarget,
        hint: impl FnOnce() -> Option<u32>,
    ) -> u32 {
        let id = match self.hops.get(hop) {
            Some(id) => *id,
            None => {
                let id = self.give_out(Key::Hop(hop.clone()), &target, hint());
                self.hops.insert(hop.clone(), id);
                id
            }
        };
        self.hold(id, target)
    }

    /// The same for several next hops at once, by their ids.
    pub(super) fn acquire_group(&mut self, mut members: Vec<u32>, hint: impl FnOnce() -> Option<u32>) -> u32 {
        members.sort_unstable();
        members.dedup();
        let target = NexthopTarget::Group(members.iter().map(|id| (*id, 1)).collect());
        let id = match self.groups.get(&members) {
            Some(id) => *id,
            None => {
                let id = self.give_out(Key::Group(members.clone()), &target, hint());
                self.groups.insert(members, id);
                id
            }
        };
        self.hold(id, target)
    }

    /// One more route wants these objects, which another one has just been given.
    pub(super) fn hold_too(&mut self, ids: &[u32]) {
        for id in ids {
            if let Some((_, count)) = self.users.get_mut(id) {
                *count += 1;
            }
        }
    }

    fn give_out(&mut self, key: Key, target: &NexthopTarget, hint: Option<u32>) -> u32 {
        let id = hint.and_then(|hint| self.adopt(hint, target)).unwrap_or_else(|| self.free_id());
        self.users.insert(id, (key, 0));
        id
    }

    fn hold(&mut self, id: u32, target: NexthopTarget) -> u32 {
        if let Some((_, count)) = self.users.get_mut(&id) {
            *count += 1;
        }
        self.objects.set(id, target);
        id
    }

    /// The object itself, or the member of the group, that leads to `target` and stands for nothing yet.
    fn adopt(&self, hint: u32, target: &NexthopTarget) -> Option<u32> {
        let members = match self.objects.present(&hint)? {
            NexthopTarget::Group(members) => members.as_slice(),
            _ => &[],
        };
        let mut candidates = std::iter::once(hint).chain(members.iter().map(|(member, _)| *member));
        candidates.find(|id| self.objects.present(id) == Some(target) && !self.users.contains_key(id))
    }

    fn free_id(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = if id + 1 < IDS.end { id + 1 } else { IDS.start };
            let taken = self.users.contains_key(&id) || self.foreign.contains(&id) || self.is_in_kernel(id);
            if !taken {
                return id;
            }
        }
    }

    /// One route less wants it.
    pub(super) fn release(&mut self, id: u32) {
        let Some((key, count)) = self.users.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            match key {
                Key::Hop(hop) => self.hops.remove(hop),
                Key::Group(members) => self.groups.remove(members),
            };
            self.users.remove(&id);
            self.objects.unset(&id);
        }
    }

    /// Gives up all ids: every route will ask anew.
    pub(super) fn forget_ids(&mut self) {
        for id in std::mem::take(&mut self.users).into_keys() {
            self.objects.unset(&id);
        }
        self.hops.clear();
        self.groups.clear();
    }

    /// Makes and changes objects, groups after their members.
    pub(super) fn write(&mut self, netlink: &mut Netlink) -> Vec<Error> {
        let mut changes = Vec::new();
        for change in self.objects.changes() {
            let nexthop = |target: &NexthopTarget| Nexthop {
                id: *change.key(),
                protocol: Protocol::Cluster.number(),
                target: target.clone(),
            };
            match change {
                Change::Add { value, .. } => changes.push(NexthopChange::Add(nexthop(value))),
                Change::Update { to, .. } => changes.push(NexthopChange::Replace(nexthop(to))),
                Change::Delete { .. } => {}
            }
        }
        changes.sort_by_key(|change| {
            matches!(change, NexthopChange::Add(n) | NexthopChange::Replace(n) if is_group(&n.target))
        });
        self.perform(netlink, &changes)
    }

    /// Deletes what nobody wants and no route of the kernel (`in_use`) refers to, members after their groups.
    pub(super) fn sweep(
        &mut self,
        netlink: &mut Netlink,
        in_use: impl FnOnce() -> BTreeSet<u32>,
    ) -> Vec<Error> {
        let mut unwanted: Vec<u32> = self.objects.deletes().map(|(id, _)| *id).collect();
        if unwanted.is_empty() {
            return Vec::new();
        }
        let mut in_use = in_use();
        unwanted.retain(|id| !in_use.contains(id));
        for (id, target) in self.objects.all_present() {
            if let (NexthopTarget::Group(members), false) = (target, unwanted.contains(id)) {
                in_use.extend(members.iter().map(|(member, _)| *member));
            }
        }
        unwanted.retain(|id| !in_use.contains(id));
        unwanted.sort_by_key(|id| !self.objects.present(id).is_some_and(is_group));
        let changes: Vec<_> = unwanted.into_iter().map(NexthopChange::Delete).collect();
        self.perform(netlink, &changes)
    }

    fn perform(&mut self, netlink: &mut Netlink, changes: &[NexthopChange]) -> Vec<Error> {
        let mut errors = Vec::new();
        for (change, result) in changes.iter().zip(netlink.apply_nexthops(changes)) {
            let (id, is_delete) = match change {
                NexthopChange::Add(nexthop) | NexthopChange::Replace(nexthop) => (nexthop.id, false),
                NexthopChange::Delete(id) => (*id, true),
            };
            match result {
                Ok(()) => self.objects.succeeded(&id),
                Err(error) if is_delete && error.is_not_found() => self.objects.forget(&id),
                Err(error) => {
                    self.objects.failed(&id);
                    errors.push(error);
                }
            }
        }
        errors
    }
}

fn is_group(target: &NexthopTarget) -> bool {
    matches!(target, NexthopTarget::Group(_))
}
