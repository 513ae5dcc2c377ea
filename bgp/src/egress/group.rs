//! One update group: what has been said to its members, and the log of how.

mod paths;

use super::encode;
use super::log::Log;
use super::profile::{EgressProfile, Identity, Outgoing, Told};
use crate::family::Family;
use crate::hash::Table;
use crate::rib::{Entry, EntryId, Path, Rib};
use crate::wire::Nlri;
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

use paths::Paths;

/// Number of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) u32);

/// Withdrawals remembered for members without RFC 7313 that may fall off the log.
const TOMBSTONES: usize = 65_536;
/// A snapshot is used again while at most this much, or half its size, has been logged since.
const SNAPSHOT_SLACK: u64 = 256 << 10;

/// The whole table, encoded, as of a position of the log.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) position: u64,
    pub(crate) families: [Vec<Bytes>; 2],
    bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) profile: EgressProfile,
    pub(crate) log: Log,
    /// By entry number.
    told: Vec<Option<Told>>,
    prefixes: [u64; 2],
    /// Prefixes withdrawn, by log position of the withdrawal.
    tombstones: BTreeMap<(u64, IpNet), ()>,
    /// Withdrawals before this position have been forgotten.
    tombstone_floor: u64,
    snapshot: Option<Arc<Snapshot>>,
    /// With several paths per prefix: these instead of `told` and `tombstones`.
    paths: Option<Paths>,
}

impl Group {
    pub(crate) fn new(profile: EgressProfile) -> Self {
        Self {
            paths: (profile.paths > 1).then(Paths::default),
            profile,
            log: Log::default(),
            told: Vec::new(),
            prefixes: [0; 2],
            tombstones: BTreeMap::new(),
            tombstone_floor: 0,
            snapshot: None,
        }
    }

    /// Routes advertised in a family.
    pub(crate) fn advertised(&self, family: Family) -> u64 {
        self.prefixes[family.index()]
    }

    /// Whether a prefix is advertised.
    pub(crate) fn is_advertised(&self, id: EntryId) -> bool {
        match &self.paths {
            Some(paths) => paths.knows(id),
            None => self.told.get(id.0 as usize).is_some_and(Option::is_some),
        }
    }

    /// The paths of a prefix that are advertised, with their identifiers where members are told several (RFC 7911).
    pub(crate) fn sent<'a>(
        &'a self,
        id: EntryId,
        entry: Entry<'a>,
    ) -> impl Iterator<Item = (Option<u32>, &'a Path)> {
        let identified = self.profile.sends_paths(&entry.prefix);
        let several = self.paths.as_ref().filter(|_| identified).into_iter().flat_map(move |paths| {
            entry.paths.iter().filter_map(move |path| Some((Some(paths.identifier(id, path)?), path)))
        });
        let one = entry.leading().filter(|_| !identified && self.is_advertised(id));
        several.chain(one.map(|path| (None, path)))
    }

    /// Takes over settled entries. With `log`, what changed is encoded into the log, withdrawals first.
    pub(crate) fn apply(&mut self, rib: &Rib, us: Identity, ids: &[EntryId], log: bool) {
        if self.paths.is_some() {
            self.apply_paths(rib, us, ids, log);
            return;
        }
        let mut withdrawn: [Vec<IpNet>; 2] = Default::default();
        let mut announced = Batch::default();
        for id in ids {
            let Some(entry) = rib.entry(*id) else { continue };
            self.apply_entry(rib, us, *id, entry, &mut withdrawn, &mut announced);
        }
        if !log {
            self.snapshot = None;
            return;
        }
        let position = self.log.head();
        let mut out = encode::messages(&self.profile.negotiated);
        for family in Family::ALL {
            let prefixes = &withdrawn[family.index()];
            out.withdraw(prefixes);
            for prefix in prefixes {
                self.tombstones.insert((position, *prefix), ());
            }
        }
        announced.encode(&self.profile, rib, us, &mut out);
        self.log.append(out.finish());
        while self.tombstones.len() > TOMBSTONES {
            if let Some(((position, _), ())) = self.tombstones.pop_first() {
                self.tombstone_floor = position + 1;
            }
        }
    }

    fn apply_entry(
        &mut self,
        rib: &Rib,
        us: Identity,
        id: EntryId,
        entry: Entry<'_>,
        withdrawn: &mut [Vec<IpNet>; 2],
        announced: &mut Batch,
    ) {
        let index = id.0 as usize;
        if index >= self.told.len() {
            self.told.resize(index + 1, None);
        }
        let Some(slot) = self.told.get_mut(index) else { return };
        let place = entry.leading().and_then(|path| {
            let told = Told::of(path, rib);
            Some((told, announced.place(&self.profile, rib, us, entry.prefix, told)?))
        });
        let family = Family::of(&entry.prefix).index();
        match place {
            Some((told, _)) if *slot == Some(told) => {}
            Some((told, place)) => {
                self.prefixes[family] += u64::from(slot.is_none());
                *slot = Some(told);
                announced.entries.push((place, id));
            }
            None if slot.is_some() => {
                *slot = None;
                self.prefixes[family] -= 1;
                withdrawn[family].push(entry.prefix);
            }
            None => {}
        }
    }

    /// The table as of now or a little earlier, but not before a position; readers go on in the log at the snapshot's
    /// position. Reading the log from an earlier position than one has would repeat old states of prefixes.
    pub(crate) fn snapshot(&mut self, rib: &Rib, us: Identity, not_before: u64) -> Arc<Snapshot> {
        if let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| snapshot.position >= not_before) {
            let behind = self.log.head() - snapshot.position;
            let slack = SNAPSHOT_SLACK.max(snapshot.bytes / 2);
            if behind <= slack && snapshot.position >= self.log.tail() {
                return Arc::clone(snapshot);
            }
        }
        let snapshot = Arc::new(self.encode_snapshot(rib, us));
        self.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    fn encode_snapshot(&self, rib: &Rib, us: Identity) -> Snapshot {
        let mut batches: [Batch; 2] = Default::default();
        for (id, told, prefix) in self.told(rib) {
            let batch = &mut batches[Family::of(&prefix).index()];
            if let Some(place) = batch.place(&self.profile, rib, us, prefix, told) {
                batch.entries.push((place, id));
            }
        }
        let families = match &self.paths {
            Some(paths) => paths.snapshot(&self.profile, rib, us),
            None => batches.map(|batch| {
                let mut out = encode::messages(&self.profile.negotiated);
                batch.encode(&self.profile, rib, us, &mut out);
                out.finish()
            }),
        };
        let bytes = families.iter().flatten().map(|piece| piece.len() as u64).sum();
        Snapshot { position: self.log.head(), families, bytes }
    }

    /// What has been said, in the order of entry numbers, with the identifiers of paths.
    fn said<'a>(&'a self, rib: &'a Rib, us: Identity) -> impl Iterator<Item = (Nlri, Outgoing)> + 'a {
        let several = self.paths.iter().flat_map(move |paths| paths.routes(&self.profile, rib, us));
        let one = self.told(rib).filter_map(move |(_, told, prefix)| {
            Some((Nlri::new(prefix), self.profile.outgoing(rib, us, prefix, told).ok()?))
        });
        one.chain(several)
    }

    /// A number that is the same for equal sets of routes, in every process, whatever their order.
    pub(crate) fn digest(&self, rib: &Rib, us: Identity) -> u64 {
        self.said(rib, us).fold(0, |sum, route| sum.wrapping_add(crate::hash::stable(&route)))
    }

    fn told<'a>(&'a self, rib: &'a Rib) -> impl Iterator<Item = (EntryId, Told, IpNet)> + 'a {
        (0..).map(EntryId).zip(&self.told).filter_map(move |(id, told)| {
            let told = (*told)?;
            Some((id, told, rib.entry(id)?.prefix))
        })
    }

    /// Prefixes withdrawn at or after a position that are not advertised now, encoded; `None` if that has been
    /// forgotten.
    pub(crate) fn withdrawals_since(&self, position: u64, rib: &Rib) -> Option<Vec<Bytes>> {
        if position < self.tombstone_floor {
            return None;
        }
        if let Some(paths) = &self.paths {
            return Some(paths.withdrawals_since(position, &self.profile, rib));
        }
        let mut withdrawn: [Vec<IpNet>; 2] = Default::default();
        let first = (position, IpNet::V4(ipnet::Ipv4Net::default()));
        for (_, prefix) in self.tombstones.range(first..).map(|(key, ())| key) {
            let told = rib.find_id(prefix).is_some_and(|id| self.is_advertised(id));
            if !told {
                withdrawn[Family::of(prefix).index()].push(*prefix);
            }
        }
        let mut out = encode::messages(&self.profile.negotiated);
        for prefixes in &mut withdrawn {
            prefixes.sort_unstable();
            prefixes.dedup();
            out.withdraw(prefixes);
        }
        Some(out.finish())
    }

    /// Withdrawals of what this group has said and another doesn't, encoded.
    pub(crate) fn withdrawals_towards(&self, other: &Self, rib: &Rib, us: Identity) -> Vec<Bytes> {
        if let (Some(paths), Some(others)) = (&self.paths, &other.paths) {
            return paths.withdrawals_towards(others, &self.profile, rib, us);
        }
        let gone = rib.iter().filter(|(id, _)| self.is_advertised(*id) && !other.is_advertised(*id));
        let mut gone: Vec<IpNet> = gone.map(|(_, entry)| entry.prefix).collect();
        gone.sort_unstable();
        let mut out = encode::messages(&other.profile.negotiated);
        out.withdraw(&gone);
        out.finish()
    }

    /// Forgets what no member needs: everything before `oldest`, the snapshot's need included.
    pub(crate) fn trim(&mut self, oldest: u64, budget: usize) {
        let slack = |snapshot: &Snapshot| SNAPSHOT_SLACK.max(snapshot.bytes / 2);
        if self.snapshot.as_ref().is_some_and(|s| self.log.head() - s.position > slack(s)) {
            self.snapshot = None;
        }
        let needed = self.snapshot.as_ref().map_or(oldest, |s| s.position.min(oldest));
        self.log.trim(needed);
        self.log.limit(budget);
        if let Some(paths) = &mut self.paths {
            paths.trim(oldest);
        }
        while let Some((&(position, prefix), ())) = self.tombstones.first_key_value() {
            if position >= oldest {
                break;
            }
            self.tombstones.remove(&(position, prefix));
        }
    }
}

/// Announcements gathered by equal attributes, in order of first appearance.
#[derive(Debug, Default)]
struct Batch {
    /// Where equal paths belong, none if they aren't sent: only for policies that treat all prefixes alike.
    by_path: Table<(Told, Family), Option<u32>>,
    last: Option<((Told, Family), Option<u32>)>,
    /// Where equal results belong, for other policies.
    by_result: Table<(Arc<Outgoing>, Family), u32>,
    sets: Vec<Set>,
    /// What is in which set.
    entries: Vec<(u32, EntryId)>,
}

/// What some prefixes have in common.
#[derive(Debug)]
enum Set {
    /// Their path. What is sent for it is made when it is encoded: it takes much more memory.
    Path(Told),
    /// What is sent.
    Result(Arc<Outgoing>),
}

impl Batch {
    /// The set that a prefix belongs to; none if it isn't sent.
    fn place(
        &mut self,
        profile: &EgressProfile,
        rib: &Rib,
        us: Identity,
        prefix: IpNet,
        told: Told,
    ) -> Option<u32> {
        let family = Family::of(&prefix);
        let sets = &mut self.sets;
        let mut add = |set| {
            sets.push(set);
            u32::try_from(sets.len() - 1).unwrap_or(u32::MAX)
        };
        if profile.export.is_transparent() {
            let key = (told, family);
            if let Some((_, place)) = self.last.filter(|(last, _)| *last == key) {
                return place;
            }
            let sent = || profile.sends(rib, family, told).is_ok();
            let place = *self.by_path.entry(key).or_insert_with(|| sent().then(|| add(Set::Path(told))));
            self.last = Some((key, place));
            return place;
        }
        let outgoing = Arc::new(profile.outgoing(rib, us, prefix, told).ok()?);
        let place = self.by_result.entry((Arc::clone(&outgoing), family));
        Some(*place.or_insert_with(|| add(Set::Result(outgoing))))
    }

    fn encode(mut self, profile: &EgressProfile, rib: &Rib, us: Identity, out: &mut encode::Messages) {
        // Mostly in order: routes with equal attributes come together.
        self.entries.sort_unstable();
        let mut prefixes = Vec::new();
        for entries in self.entries.chunk_by(|(a, _), (b, _)| a == b) {
            for some in entries.chunks(encode::PREFIXES) {
                prefixes.clear();
                prefixes.extend(some.iter().filter_map(|(_, id)| Some(rib.entry(*id)?.prefix)));
                let set = some.first().and_then(|(place, _)| self.sets.get(*place as usize));
                match (set, prefixes.first()) {
                    (Some(Set::Path(told)), Some(prefix)) => {
                        if let Ok(outgoing) = profile.outgoing(rib, us, *prefix, *told) {
                            out.announce(&outgoing, &prefixes);
                        }
                    }
                    (Some(Set::Result(outgoing)), _) => out.announce(outgoing, &prefixes),
                    _ => {}
                }
            }
        }
    }
}
