//! Routes as stations are told them: what is new since they were told last, and what import policy hides.

use super::{ALL_VIEWS, Feed};
use crate::family::Family;
use crate::hash::Table;
use crate::monitor::StationId;
use crate::monitor::bmp::{self, View};
use crate::monitor::station::Progress;
use crate::rib::{AttrId, Entry, EntryId, Path, Rib, RouteAttributes, SourceId};
use crate::time::Time;
use crate::wire::{NextHop, Nlri, UpdateEncoder};
use bytes::BytesMut;
use ipnet::IpNet;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Attributes as received, by prefix and path identifier.
pub(super) type Originals = Table<(IpNet, u32), Arc<RouteAttributes>>;

/// A path as stations know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    source: SourceId,
    path_id: u32,
    attrs: AttrId,
    eligible: bool,
    /// As of this second of virtual time. Alone it is no news.
    changed: u32,
}

impl Told {
    fn new(path: &Path) -> Self {
        let eligible = path.filtered.is_none();
        Self {
            source: path.source,
            path_id: path.path_id,
            attrs: path.attrs,
            eligible,
            changed: path.changed,
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.attrs == other.attrs && self.source == other.source && self.path_id == other.path_id
    }
}

#[derive(Debug, Default)]
pub(super) struct ToldEntry {
    paths: SmallVec<[Told; 1]>,
    best: Option<Told>,
}

/// News of one view, gathered so that equal attributes share a message.
#[derive(Debug, Default)]
pub(super) struct Batch {
    withdrawn: BTreeMap<SourceId, Vec<Nlri>>,
    announced: BTreeMap<(SourceId, u32, AttrId, Family), Vec<Nlri>>,
    /// With the attributes that policy has replaced.
    originals: Vec<(SourceId, u32, Arc<RouteAttributes>, Nlri)>,
}

impl Feed {
    /// A path was announced: its attributes as received, and whether import policy changed them.
    pub(crate) fn imported(
        &mut self,
        rib: &Rib,
        source: SourceId,
        nlri: &Nlri,
        received: impl FnOnce() -> RouteAttributes,
        changed: bool,
        now: Time,
    ) {
        let key = (nlri.prefix, nlri.path_id.unwrap_or(0));
        let received = if changed {
            let received = Arc::new(received());
            let originals = self.originals.entry(source).or_default();
            if originals.insert(key, Arc::clone(&received)).as_ref() == Some(&received) {
                return;
            }
            received
        } else {
            if self.originals.get_mut(&source).and_then(|originals| originals.remove(&key)).is_none() {
                return;
            }
            Arc::new(received())
        };
        // Where the table changes as well, stations hear of it then. Policy may make the same of the old and the new.
        let Some(id) = self.told_of(rib, source, nlri) else { return };
        let changed = u32::try_from(now.since(Time::ZERO).as_secs()).unwrap_or(u32::MAX);
        let batch = Batch { originals: vec![(source, changed, received, *nlri)], ..Batch::default() };
        let mut out = BytesMut::new();
        self.encode(View::PrePolicy, &batch, None, self.wall(now), &mut out);
        self.tell(out, |station| station.wants(View::PrePolicy) && station.knows_entry(id));
    }

    /// A path was withdrawn. One that stations were never told of leaves nothing to tell.
    pub(crate) fn withdrawn(&mut self, rib: &Rib, source: SourceId, nlri: &Nlri) {
        if self.has_originals(source) && self.told_of(rib, source, nlri).is_none() {
            let key = (nlri.prefix, nlri.path_id.unwrap_or(0));
            self.originals.get_mut(&source).and_then(|originals| originals.remove(&key));
        }
    }

    /// The entry of a path, if that was there when the table was settled last.
    fn told_of(&self, rib: &Rib, source: SourceId, nlri: &Nlri) -> Option<EntryId> {
        let id = rib.find_id(&nlri.prefix)?;
        let told = self.told.get(id.0 as usize)?;
        let is = |told: &Told| (told.source, told.path_id) == (source, nlri.path_id.unwrap_or(0));
        told.paths.iter().any(is).then_some(id)
    }

    /// Entries have been settled and not yet swept.
    pub(crate) fn settled(&mut self, now: Time, rib: &Rib, ids: &[EntryId]) {
        let stations: Vec<StationId> =
            (0..self.stations.len()).filter(|id| self.stations[*id].progress != Progress::Down).collect();
        let mut batches: Vec<[Batch; 3]> = stations.iter().map(|_| Default::default()).collect();
        for id in ids {
            let Some(entry) = rib.entry(*id) else { continue };
            let (before, after) = self.replace(*id, entry);
            for (batches, station) in batches.iter_mut().zip(&stations) {
                if self.stations[*station].knows_entry(*id) {
                    self.compare(entry.prefix, &before, &after, batches);
                }
            }
            for path in &before.paths {
                if !after.paths.iter().any(|it| (it.source, it.path_id) == (path.source, path.path_id)) {
                    self.originals
                        .get_mut(&path.source)
                        .and_then(|originals| originals.remove(&(entry.prefix, path.path_id)));
                }
            }
        }
        self.unsettled.clear();
        let wall = self.wall(now);
        for (batches, station) in batches.iter().zip(stations) {
            self.send(station, batches, rib, wall);
        }
        self.tell_complete();
    }

    pub(super) fn send(&mut self, station: StationId, batches: &[Batch; 3], rib: &Rib, wall: Duration) {
        for (view, batch) in ALL_VIEWS.into_iter().zip(batches) {
            if self.stations.get(station).is_some_and(|station| station.wants(view)) {
                let mut out = BytesMut::new();
                self.encode(view, batch, Some(rib), wall, &mut out);
                self.push(station, &out.freeze());
            }
        }
    }

    /// Notes the present state of an entry; returns the former and the new one.
    fn replace(&mut self, id: EntryId, entry: Entry<'_>) -> (ToldEntry, ToldEntry) {
        let present = |path: &&Path| !path.stale && self.peers.contains_key(&path.source);
        let after = ToldEntry {
            paths: entry.paths.iter().filter(present).map(Told::new).collect(),
            best: entry.best().map(Told::new),
        };
        let index = id.0 as usize;
        if index >= self.told.len() {
            self.told.resize_with(index + 1, ToldEntry::default);
        }
        let kept = ToldEntry { paths: after.paths.clone(), best: after.best };
        let before = self.told.get_mut(index).map(|place| std::mem::replace(place, kept));
        (before.unwrap_or_default(), after)
    }

    pub(super) fn compare(
        &self,
        prefix: IpNet,
        before: &ToldEntry,
        after: &ToldEntry,
        batches: &mut [Batch; 3],
    ) {
        let [pre, post, loc] = batches;
        for was in &before.paths {
            // What a lost session took with it was told by Peer Down.
            if !self.peers.contains_key(&was.source) {
                continue;
            }
            let is = after.paths.iter().find(|is| (is.source, is.path_id) == (was.source, was.path_id));
            let nlri = Nlri { prefix, path_id: Some(was.path_id) };
            if is.is_none() {
                pre.withdrawn.entry(was.source).or_default().push(nlri);
            }
            if was.eligible && is.is_none_or(|is| !is.eligible) {
                post.withdrawn.entry(was.source).or_default().push(nlri);
            }
        }
        for is in &after.paths {
            let was = before.paths.iter().find(|was| was.says_the_same(is));
            if was.is_none() {
                self.add(pre, prefix, is, View::PrePolicy);
            }
            if is.eligible && was.is_none_or(|was| !was.eligible) {
                self.add(post, prefix, is, View::PostPolicy);
            }
        }
        match (&before.best, &after.best) {
            (Some(was), Some(is)) if was.says_the_same(is) => {}
            (_, Some(is)) => self.add(loc, prefix, is, View::LocRib),
            (Some(_), None) => {
                loc.withdrawn.entry(SourceId::LOCAL).or_default().push(Nlri { prefix, path_id: None });
            }
            (None, None) => {}
        }
    }

    fn add(&self, batch: &mut Batch, prefix: IpNet, told: &Told, view: View) {
        let nlri = Nlri { prefix, path_id: Some(told.path_id) };
        if view == View::PrePolicy
            && let Some(originals) = self.originals.get(&told.source)
            && let Some(original) = originals.get(&(prefix, told.path_id))
        {
            batch.originals.push((told.source, told.changed, Arc::clone(original), nlri));
            return;
        }
        let key = (told.source, told.changed, told.attrs, Family::of(&prefix));
        batch.announced.entry(key).or_default().push(nlri);
    }

    fn encode(&self, view: View, batch: &Batch, rib: Option<&Rib>, wall: Duration, out: &mut BytesMut) {
        let mut updates = BytesMut::new();
        for (source, prefixes) in &batch.withdrawn {
            let (Some(header), Some(negotiated)) =
                (self.header(view, *source, wall), self.encoding(view, *source))
            else {
                continue;
            };
            let mut prefixes = prefixes.clone();
            prefixes.sort_unstable_by_key(|nlri| (nlri.family(), *nlri));
            UpdateEncoder::new(negotiated).withdraw(prefixes, &mut updates);
            bmp::route_monitoring(&header, &updates.split(), out);
        }
        let mut announce = |source: SourceId, changed: u32, route: &RouteAttributes, prefixes: &[Nlri]| {
            let at = self.wall_secs(changed);
            let (Some(header), Some(negotiated), Some(first)) =
                (self.header(view, source, at), self.encoding(view, source), prefixes.first())
            else {
                return;
            };
            let next_hop = route.next_hop.unwrap_or(match first.prefix {
                IpNet::V4(_) => NextHop::V4(Ipv4Addr::UNSPECIFIED),
                IpNet::V6(_) => NextHop::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            });
            let mut encoder = UpdateEncoder::new(negotiated);
            let prefixes = prefixes.iter().copied();
            // What has no form on the wire did not come over it either.
            if encoder.announce(&route.attributes, &next_hop, prefixes, &mut updates).is_ok() {
                bmp::route_monitoring(&header, &updates.split(), out);
            }
        };
        if let Some(rib) = rib {
            for ((source, changed, attrs, _), prefixes) in &batch.announced {
                announce(*source, *changed, rib.attrs.get(*attrs), prefixes);
            }
        }
        for (source, changed, route, nlri) in &batch.originals {
            announce(*source, *changed, route, &[*nlri]);
        }
    }
}
