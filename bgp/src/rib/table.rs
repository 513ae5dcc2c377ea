//! The table itself.

use super::decide;
use super::intern::{AttrId, Interner, RouteAttributes};
use super::path::{Counts, FilterReason, Path, SourceId, SourceInfo};
use crate::family::Family;
use crate::hash::Table;
use crate::status::NextHopState;
use ipnet::IpNet;
use smallvec::SmallVec;

/// Number of a prefix in the table. Reused only after [`Rib::sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(pub(crate) u32);

/// A prefix and its paths.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) prefix: IpNet,
    /// Best first once settled.
    pub(crate) paths: SmallVec<[Path; 1]>,
    dirty: bool,
    live: bool,
    /// What the forwarding table was told last, as a fingerprint; 0 is nothing.
    pub(crate) told: u64,
}

impl Entry {
    /// The best path, if one is eligible. Only after settling.
    pub(crate) fn best(&self) -> Option<&Path> {
        self.leading().filter(|path| !path.unreachable)
    }

    /// The best path, or the first of those whose next hops cannot be reached from here if there are no others: peers
    /// that are told next hops as they are may be able to reach them. Only after settling.
    pub(crate) fn leading(&self) -> Option<&Path> {
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
    index: Table<IpNet, EntryId>,
    entries: Vec<Entry>,
    free: Vec<EntryId>,
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
        let id = self.entry_id(prefix);
        let counts = counts_of(&mut self.counts, source, prefix);
        let Some(entry) = self.entries.get_mut(id.0 as usize) else { return Announced::Same };
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
        let result =
            match entry.paths.iter_mut().find(|path| path.source == source && path.path_id == path_id) {
                None => {
                    counts.add(&fresh);
                    entry.paths.push(fresh);
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
        mark(&mut self.dirty, entry, id);
        result
    }

    /// Removes a path; whether it was there.
    pub(crate) fn withdraw(&mut self, source: SourceId, prefix: IpNet, path_id: u32) -> bool {
        let Some(&id) = self.index.get(&prefix) else { return false };
        self.retain(id, |path| path.source != source || path.path_id != path_id) > 0
    }

    /// Changes or removes the paths of a source and family: `change` gets each and says whether to keep it. Returns
    /// how many were removed.
    pub(crate) fn update_source(
        &mut self,
        source: SourceId,
        family: Family,
        mut change: impl FnMut(&mut Path, &RouteAttributes) -> bool,
    ) -> usize {
        let mut removed = 0;
        if self.counts(source, family).received == 0 {
            return removed;
        }
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            if !entry.live || Family::of(&entry.prefix) != family {
                continue;
            }
            if entry.paths.iter().all(|path| path.source != source) {
                continue;
            }
            let counts = counts_of(&mut self.counts, source, entry.prefix);
            let mut changed = false;
            let attrs = &mut self.attrs;
            let mut place = 0;
            while place < entry.paths.len() {
                let path = &mut entry.paths[place];
                if path.source != source {
                    place += 1;
                    continue;
                }
                let before = *path;
                let keep = change(path, attrs.get(before.attrs));
                changed |= !keep || *path != before;
                counts.remove(&before);
                if keep {
                    counts.add(path);
                    place += 1;
                } else {
                    attrs.release(before.attrs);
                    entry.paths.remove(place);
                    removed += 1;
                }
            }
            if changed {
                let id = EntryId(u32::try_from(index).unwrap_or(u32::MAX));
                mark(&mut self.dirty, entry, id);
            }
        }
        removed
    }

    /// Changes the paths of a source and family, knowing their prefixes.
    pub(crate) fn update_source_prefixes(
        &mut self,
        source: SourceId,
        family: Family,
        mut change: impl FnMut(IpNet, &mut Path),
    ) {
        for index in 0..self.entries.len() {
            let Some(entry) = self.entries.get_mut(index) else { continue };
            if !entry.live || Family::of(&entry.prefix) != family {
                continue;
            }
            let prefix = entry.prefix;
            let mut changed = false;
            for path in entry.paths.iter_mut().filter(|path| path.source == source) {
                let before = *path;
                change(prefix, path);
                if *path != before {
                    changed = true;
                    let counts = counts_of(&mut self.counts, source, prefix);
                    counts.remove(&before);
                    counts.add(path);
                }
            }
            if changed {
                mark(&mut self.dirty, entry, EntryId(u32::try_from(index).unwrap_or(u32::MAX)));
            }
        }
    }

    fn retain(&mut self, id: EntryId, mut keep: impl FnMut(&Path) -> bool) -> usize {
        let Some(entry) = self.entries.get_mut(id.0 as usize) else { return 0 };
        let before = entry.paths.len();
        let (prefix, counts, attrs) = (entry.prefix, &mut self.counts, &mut self.attrs);
        entry.paths.retain(|path| {
            let stays = keep(path);
            if !stays {
                counts_of(counts, path.source, prefix).remove(path);
                attrs.release(path.attrs);
            }
            stays
        });
        let removed = before - entry.paths.len();
        if removed > 0 {
            mark(&mut self.dirty, entry, id);
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

    fn entry_id(&mut self, prefix: IpNet) -> EntryId {
        if let Some(&id) = self.index.get(&prefix) {
            return id;
        }
        let fresh = Entry { prefix, paths: SmallVec::new(), dirty: false, live: true, told: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.entries.get_mut(id.0 as usize) {
                    *place = fresh;
                }
                id
            }
            None => {
                self.entries.push(fresh);
                EntryId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.index.insert(prefix, id);
        id
    }

    /// Whether something awaits settling.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The entries that changed since the last call, ranked, in order of change. Entries without paths among them must
    /// be given back with [`Self::sweep`].
    pub(crate) fn settle(&mut self) -> Vec<EntryId> {
        let dirty = std::mem::take(&mut self.dirty);
        for id in &dirty {
            if let Some(entry) = self.entries.get_mut(id.0 as usize) {
                entry.dirty = false;
                if self.attrs.next_hops.is_on() {
                    for path in entry.paths.iter_mut().filter(|path| path.source != SourceId::LOCAL) {
                        path.unreachable = self.attrs.cost(path.attrs).is_none();
                    }
                }
                decide::rank(&mut entry.paths, &self.attrs, &self.sources);
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
            let mut ids = Vec::new();
            for (index, entry) in self.entries.iter().enumerate() {
                if Family::of(&entry.prefix) == family
                    && entry.live
                    && entry.paths.iter().any(|path| path.source == source)
                {
                    ids.push(EntryId(u32::try_from(index).unwrap_or(u32::MAX)));
                }
            }
            for id in ids {
                if let Some(entry) = self.entries.get_mut(id.0 as usize) {
                    mark(&mut self.dirty, entry, id);
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
        let concerned = |path: &Path| {
            attrs.get(path.attrs).next_hop.is_some_and(|next_hop| changed.contains(&next_hop.address()))
        };
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if entry.live && entry.paths.iter().any(concerned) {
                mark(&mut self.dirty, entry, EntryId(u32::try_from(index).unwrap_or(u32::MAX)));
            }
        }
    }

    /// Frees the settled entries that have no paths left, and unused attribute sets.
    pub(crate) fn sweep(&mut self, settled: &[EntryId]) {
        for id in settled {
            if let Some(entry) = self.entries.get_mut(id.0 as usize)
                && entry.live
                && entry.paths.is_empty()
                && !entry.dirty
            {
                entry.live = false;
                self.index.remove(&entry.prefix);
                self.free.push(*id);
            }
        }
        self.attrs.sweep();
    }

    /// The entry of a number.
    pub(crate) fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id.0 as usize).filter(|entry| entry.live)
    }

    /// Like [`Self::entry`], to change it.
    pub(crate) fn entry_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(id.0 as usize).filter(|entry| entry.live)
    }

    /// The entry of a prefix.
    pub(crate) fn find(&self, prefix: &IpNet) -> Option<&Entry> {
        self.index.get(prefix).and_then(|id| self.entry(*id))
    }

    /// The number of a prefix.
    pub(crate) fn find_id(&self, prefix: &IpNet) -> Option<EntryId> {
        self.index.get(prefix).copied()
    }

    /// Prefixes, and paths of all sources.
    pub(crate) fn size(&self) -> (usize, u64) {
        let paths = self.counts.values().flatten().map(|counts| u64::from(counts.received)).sum();
        (self.index.len(), paths)
    }

    /// Numbers of entries are below this.
    pub(crate) fn bound(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Every entry, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.live)
            .map(|(index, entry)| (EntryId(u32::try_from(index).unwrap_or(u32::MAX)), entry))
    }
}

fn counts_of(counts: &mut Table<SourceId, [Counts; 2]>, source: SourceId, prefix: IpNet) -> &mut Counts {
    &mut counts.entry(source).or_default()[Family::of(&prefix).index()]
}

fn mark(dirty: &mut Vec<EntryId>, entry: &mut Entry, id: EntryId) {
    if !entry.dirty {
        entry.dirty = true;
        dirty.push(id);
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
