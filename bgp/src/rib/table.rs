//! The table itself.

use super::decide;
use super::intern::{AttrId, Interner, RouteAttributes};
use super::path::{Counts, FilterReason, Path, SourceId, SourceInfo};
use super::slot::{Slot, Wide, hash};
use crate::family::Family;
use crate::hash::{Keyed, Table};
use crate::status::NextHopState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use ipnet::IpNet;

/// Number of a prefix in the table. Reused only after [`Rib::sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(pub(crate) u32);

/// A prefix and its paths, as they are now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) prefix: IpNet,
    /// Best first once settled.
    pub(crate) paths: &'a [Path],
}

impl<'a> Entry<'a> {
    /// The best path, if one is eligible. Only after settling.
    pub(crate) fn best(&self) -> Option<&'a Path> {
        self.leading().filter(|path| !path.unreachable)
    }

    /// The best path, or the first of those whose next hops cannot be reached from here if there are no others: peers
    /// that are told next hops as they are may be able to reach them. Only after settling.
    pub(crate) fn leading(&self) -> Option<&'a Path> {
        self.paths.first().filter(|path| path.filtered.is_none())
    }
}

/// What an announcement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    /// A path that wasn't there.
    New,
    /// A path with other contents.
    Changed,
    /// Nothing but, maybe, staleness.
    Same,
}

/// The routing table.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    pub(crate) attrs: Interner,
    pub(crate) sources: Table<SourceId, SourceInfo>,
    counts: Table<SourceId, [Counts; 2]>,
    keyed: Keyed,
    /// Numbers of slots by the hash of their prefixes.
    index: HashTable<u32>,
    slots: Vec<Slot>,
    wide: Wide,
    free: Vec<u32>,
    dirty: Vec<EntryId>,
}

impl Rib {
    /// Adds or replaces a path. Takes over one reference to `attrs`.
    pub(crate) fn announce(
        &mut self,
        source: SourceId,
        prefix: IpNet,
        path_id: u32,
        attrs: AttrId,
        filtered: Option<FilterReason>,
        now_secs: u32,
    ) -> Announced {
        let id = self.slot_of(&prefix);
        let counts = counts_of(&mut self.counts, source, Family::of(&prefix));
        let Some(slot) = self.slots.get_mut(id as usize) else { return Announced::Same };
        let fresh = Path {
            source,
            path_id,
            attrs,
            changed: now_secs,
            filtered,
            unreachable: false,
            stale: false,
            long_lived: false,
            unrefreshed: false,
        };
        let known = |path: &&mut Path| path.source == source && path.path_id == path_id;
        let result = match slot.paths.as_mut_slice().iter_mut().find(known) {
            None => {
                counts.add(&fresh);
                slot.paths.push(fresh);
                Announced::New
            }
            Some(path) => {
                let same = path.attrs == attrs && path.filtered == filtered;
                let was_stale = path.stale || path.long_lived;
                counts.remove(path);
                self.attrs.release(path.attrs);
                *path = if same {
                    Path { changed: path.changed, unreachable: path.unreachable, ..fresh }
                } else {
                    fresh
                };
                counts.add(path);
                if same && !was_stale {
                    return Announced::Same;
                }
                if same { Announced::Same } else { Announced::Changed }
            }
        };
        mark(&mut self.dirty, slot, id);
        result
    }

    /// Removes a path; whether it was there.
    pub(crate) fn withdraw(&mut self, source: SourceId, prefix: IpNet, path_id: u32) -> bool {
        let Some(EntryId(id)) = self.find_id(&prefix) else { return false };
        let Some(slot) = self.slots.get_mut(id as usize) else { return false };
        let mut removed = None;
        slot.paths.retain(|path| {
            let stays = path.source != source || path.path_id != path_id;
            if !stays {
                removed = Some(*path);
            }
            stays
        });
        let Some(path) = removed else { return false };
        counts_of(&mut self.counts, source, Family::of(&prefix)).remove(&path);
        self.attrs.release(path.attrs);
        mark(&mut self.dirty, slot, id);
        true
    }

    /// Changes or removes the paths of a source and family: `change` gets each with its prefix and attributes and says
    /// whether to keep it. Returns how many were removed.
    pub(crate) fn update_source(
        &mut self,
        source: SourceId,
        family: Family,
        mut change: impl FnMut(IpNet, &mut Path, &RouteAttributes) -> bool,
    ) -> usize {
        let mut removed = 0;
        if self.counts(source, family).received == 0 {
            return removed;
        }
        let counts = counts_of(&mut self.counts, source, family);
        for (id, slot) in (0..).zip(&mut self.slots) {
            if !slot.has(source, family) {
                continue;
            }
            let prefix = slot.prefix(&self.wide);
            let attrs = &mut self.attrs;
            let mut changed = false;
            slot.paths.retain(|path| {
                if path.source != source {
                    return true;
                }
                let before = *path;
                let keep = change(prefix, path, attrs.get(before.attrs));
                changed |= !keep || *path != before;
                counts.remove(&before);
                if keep {
                    counts.add(path);
                } else {
                    attrs.release(before.attrs);
                    removed += 1;
                }
                keep
            });
            if changed {
                mark(&mut self.dirty, slot, id);
            }
        }
        removed
    }

    /// Forgets a source without paths.
    pub(crate) fn forget_source(&mut self, source: SourceId) {
        self.sources.remove(&source);
        self.counts.remove(&source);
    }

    /// Paths held from a source.
    pub(crate) fn counts(&self, source: SourceId, family: Family) -> Counts {
        self.counts.get(&source).map_or_else(Counts::default, |counts| counts[family.index()])
    }

    /// The slot of a prefix, a new one if it has none.
    fn slot_of(&mut self, prefix: &IpNet) -> u32 {
        let (slots, wide, keyed) = (&mut self.slots, &mut self.wide, self.keyed);
        let at = |id: &u32| slots.get(*id as usize);
        let vacant = match self.index.entry(
            hash(prefix, keyed),
            |id| at(id).is_some_and(|slot| slot.is(prefix, wide)),
            |id| at(id).map_or(0, |slot| slot.hash(keyed, wide)),
        ) {
            Place::Occupied(place) => return *place.get(),
            Place::Vacant(vacant) => vacant,
        };
        let fresh = Slot::new(*prefix, wide);
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(place) = slots.get_mut(id as usize) {
                    *place = fresh;
                }
                id
            }
            None => {
                slots.push(fresh);
                // A table of 2^32 prefixes does not fit in memory.
                u32::try_from(slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        vacant.insert(id);
        id
    }

    /// Whether something awaits settling.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Frees attribute sets that came to nothing, such as those of prefixes that no route leads to. Where a flush is due
    /// it frees them; where none is, a peer could fill the memory with them.
    pub(crate) fn forget_unused(&mut self) {
        if !self.is_dirty() {
            self.attrs.sweep();
        }
    }

    /// The entries that changed since the last call, ranked, in order of change. Entries without paths among them must
    /// be given back with [`Self::sweep`].
    pub(crate) fn settle(&mut self) -> Vec<EntryId> {
        let dirty = std::mem::take(&mut self.dirty);
        for id in &dirty {
            if let Some(slot) = self.slots.get_mut(id.0 as usize) {
                slot.dirty = false;
                let paths = slot.paths.as_mut_slice();
                if self.attrs.next_hops.is_on() {
                    for path in paths.iter_mut().filter(|path| path.source != SourceId::LOCAL) {
                        path.unreachable = self.attrs.cost(path.attrs).is_none();
                    }
                }
                decide::rank(paths, &self.attrs, &self.sources);
            }
        }
        dirty
    }

    /// Marks the entries of a source as changed, for a decision that depends on more than paths (its identifier).
    pub(crate) fn touch_source(&mut self, source: SourceId) {
        for family in Family::ALL {
            if self.counts(source, family).received == 0 {
                continue;
            }
            for (id, slot) in (0..).zip(&mut self.slots) {
                if slot.has(source, family) {
                    mark(&mut self.dirty, slot, id);
                }
            }
        }
    }

    /// Takes over how far next hops are, and marks the entries that this concerns as changed. Looks through the whole
    /// table, but only when the way to one of its next hops has changed.
    pub(crate) fn set_next_hops(&mut self, states: &[NextHopState]) {
        let changed = self.attrs.next_hops.set(states);
        if changed.is_empty() {
            return;
        }
        let attrs = &self.attrs;
        for (id, slot) in (0..).zip(&mut self.slots) {
            let paths = slot.paths.as_slice();
            // A path without rivals is the best one however far its next hop is.
            let rivals = paths.len() > 1;
            let concerned = |path: &Path| {
                let next_hop = attrs.get(path.attrs).next_hop;
                let change = next_hop.and_then(|next_hop| changed.get(&next_hop.address()));
                change.is_some_and(|reach| *reach || rivals)
            };
            if slot.live && paths.iter().any(concerned) {
                mark(&mut self.dirty, slot, id);
            }
        }
    }

    /// Frees the settled entries that have no paths left, and unused attribute sets.
    pub(crate) fn sweep(&mut self, settled: &[EntryId]) {
        let keyed = self.keyed;
        for EntryId(id) in settled {
            let Some(slot) = self.slots.get_mut(*id as usize) else { continue };
            if !slot.live || slot.dirty || !slot.paths.as_slice().is_empty() {
                continue;
            }
            if let Ok(place) = self.index.find_entry(slot.hash(keyed, &self.wide), |other| other == id) {
                place.remove();
            }
            slot.clear(&mut self.wide);
            self.free.push(*id);
        }
        self.attrs.sweep();
    }

    /// The entry of a number.
    pub(crate) fn entry(&self, id: EntryId) -> Option<Entry<'_>> {
        self.slots.get(id.0 as usize).filter(|slot| slot.live).map(|slot| self.view(slot))
    }

    fn view<'a>(&self, slot: &'a Slot) -> Entry<'a> {
        Entry { prefix: slot.prefix(&self.wide), paths: slot.paths.as_slice() }
    }

    /// The entry of a prefix.
    pub(crate) fn find(&self, prefix: &IpNet) -> Option<Entry<'_>> {
        self.entry(self.find_id(prefix)?)
    }

    /// The number of a prefix.
    pub(crate) fn find_id(&self, prefix: &IpNet) -> Option<EntryId> {
        let is = |id: &u32| self.slots.get(*id as usize).is_some_and(|slot| slot.is(prefix, &self.wide));
        self.index.find(hash(prefix, self.keyed), is).copied().map(EntryId)
    }

    /// Prefixes, and paths of all sources.
    pub(crate) fn size(&self) -> (usize, u64) {
        let paths = self.counts.values().flatten().map(|counts| u64::from(counts.received)).sum();
        (self.index.len(), paths)
    }

    /// Numbers of entries are below this.
    pub(crate) fn bound(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Every entry, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, Entry<'_>)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.live).map(|(id, slot)| (EntryId(id), self.view(slot)))
    }
}

fn counts_of(counts: &mut Table<SourceId, [Counts; 2]>, source: SourceId, family: Family) -> &mut Counts {
    &mut counts.entry(source).or_default()[family.index()]
}

fn mark(dirty: &mut Vec<EntryId>, slot: &mut Slot, id: u32) {
    if !slot.dirty {
        slot.dirty = true;
        dirty.push(EntryId(id));
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
