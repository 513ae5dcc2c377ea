//! A group whose members are told several paths per prefix (RFC 7911): which of them they know, and by which
//! identifiers. What is common to all groups (log, snapshots, trimming) stays with the group.

use super::{Group, TOMBSTONES};
use crate::egress::encode::{self, Messages};
use crate::egress::profile::{EgressProfile, Identity, Outgoing, Told};
use crate::family::Family;
use crate::hash::Table;
use crate::rib::{EntryId, Path, Rib, SourceId};
use crate::wire::Nlri;
use bytes::Bytes;
use ipnet::IpNet;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A path that members know, its identifier there, from 1, and what they were told of it.
#[derive(Debug, Clone, Copy)]
struct Said {
    id: u32,
    source: SourceId,
    path_id: u32,
    told: Told,
}

impl Said {
    /// A path that has no identifier yet.
    fn new(path: &Path, rib: &Rib) -> Self {
        Self { id: 0, source: path.source, path_id: path.path_id, told: Told::of(path, rib) }
    }

    fn is_of(&self, source: SourceId, path_id: u32) -> bool {
        (self.source, self.path_id) == (source, path_id)
    }
}

/// The paths of one prefix, best first.
type Known = SmallVec<[Said; 2]>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// By entry number.
    known: Vec<Known>,
    /// Routes withdrawn, by log position of the withdrawal.
    tombstones: BTreeSet<(u64, Nlri)>,
}

/// Numbers the paths that members are to know from now on. One that they know keeps its identifier; a new one takes the
/// lowest that is free, and with it replaces what had it before.
fn number(paths: impl Iterator<Item = Said>, known: &[Said]) -> Known {
    let before = |said: &Said| known.iter().find(|before| before.is_of(said.source, said.path_id));
    let mut out: Known =
        paths.map(|said| Said { id: before(&said).map_or(0, |before| before.id), ..said }).collect();
    for index in 0..out.len() {
        let free = (1..).find(|id| out.iter().all(|said| said.id != *id));
        if let (Some(said), Some(free)) = (out.get_mut(index).filter(|said| said.id == 0), free) {
            said.id = free;
        }
    }
    out
}

/// Announcements by equal attributes, in order of first appearance.
#[derive(Debug, Default)]
struct Announcements {
    index: Table<(Arc<Outgoing>, Family), usize>,
    sets: Vec<(Arc<Outgoing>, Vec<Nlri>)>,
}

impl Announcements {
    fn add(&mut self, outgoing: Outgoing, nlri: Nlri) {
        let (outgoing, sets) = (Arc::new(outgoing), &mut self.sets);
        let place =
            *self.index.entry((Arc::clone(&outgoing), Family::of(&nlri.prefix))).or_insert_with(|| {
                sets.push((outgoing, Vec::new()));
                sets.len() - 1
            });
        if let Some((_, routes)) = sets.get_mut(place) {
            routes.push(nlri);
        }
    }

    fn encode(&self, out: &mut Messages) {
        for (outgoing, routes) in &self.sets {
            out.announce_routes(outgoing, routes);
        }
    }
}

impl Paths {
    /// What members know, in the order of entry numbers.
    pub(super) fn routes<'a>(
        &'a self,
        profile: &'a EgressProfile,
        rib: &'a Rib,
        us: Identity,
    ) -> impl Iterator<Item = (Nlri, Outgoing)> + 'a {
        let entries = (0..).map(EntryId).zip(&self.known);
        let entries = entries.filter_map(|(id, known)| Some((rib.entry(id)?.prefix, known)));
        entries.flat_map(move |(prefix, known)| {
            known.iter().filter_map(move |said| {
                let outgoing = profile.outgoing(rib, us, prefix, said.told).ok()?;
                Some((Nlri { prefix, path_id: Some(said.id) }, outgoing))
            })
        })
    }

    /// The identifier that members know a path by.
    pub(super) fn identifier(&self, id: EntryId, path: &Path) -> Option<u32> {
        let known = self.known.get(id.0 as usize)?;
        known.iter().find(|said| said.is_of(path.source, path.path_id)).map(|said| said.id)
    }

    pub(super) fn knows(&self, id: EntryId) -> bool {
        self.known.get(id.0 as usize).is_some_and(|known| !known.is_empty())
    }

    fn knows_route(&self, nlri: &Nlri, rib: &Rib) -> bool {
        let known = rib.find_id(&nlri.prefix).and_then(|id| self.known.get(id.0 as usize));
        known.is_some_and(|known| known.iter().any(|said| Some(said.id) == nlri.path_id))
    }

    pub(super) fn snapshot(&self, profile: &EgressProfile, rib: &Rib, us: Identity) -> [Vec<Bytes>; 2] {
        let mut families: [Announcements; 2] = Default::default();
        for (nlri, outgoing) in self.routes(profile, rib, us) {
            families[Family::of(&nlri.prefix).index()].add(outgoing, nlri);
        }
        families.map(|announcements| {
            let mut out = encode::messages(&profile.negotiated);
            announcements.encode(&mut out);
            out.finish()
        })
    }

    /// Withdrawals, encoded: what was withdrawn at or after a position and is not known now.
    pub(super) fn withdrawals_since(&self, position: u64, profile: &EgressProfile, rib: &Rib) -> Vec<Bytes> {
        let first = (position, Nlri { prefix: IpNet::V4(ipnet::Ipv4Net::default()), path_id: None });
        let gone = self.tombstones.range(first..).map(|(_, nlri)| *nlri);
        encode_withdrawals(gone.filter(|nlri| !self.knows_route(nlri, rib)), profile)
    }

    /// Withdrawals, encoded: what members of this group know and those of another don't.
    pub(super) fn withdrawals_towards(
        &self,
        other: &Self,
        profile: &EgressProfile,
        rib: &Rib,
        us: Identity,
    ) -> Vec<Bytes> {
        let routes = self.routes(profile, rib, us).map(|(nlri, _)| nlri);
        encode_withdrawals(routes.filter(|nlri| !other.knows_route(nlri, rib)), profile)
    }

    pub(super) fn trim(&mut self, oldest: u64) {
        while self.tombstones.first().is_some_and(|(position, _)| *position < oldest) {
            self.tombstones.pop_first();
        }
    }
}

fn encode_withdrawals(routes: impl Iterator<Item = Nlri>, profile: &EgressProfile) -> Vec<Bytes> {
    let routes: BTreeSet<Nlri> = routes.collect();
    let (v4, v6): (Vec<Nlri>, Vec<Nlri>) = routes.into_iter().partition(|nlri| nlri.prefix.addr().is_ipv4());
    let mut out = encode::messages(&profile.negotiated);
    out.withdraw_routes(&v4);
    out.withdraw_routes(&v6);
    out.finish()
}

impl Group {
    /// [`Self::apply`] in a group with several paths.
    pub(super) fn apply_paths(&mut self, rib: &Rib, us: Identity, ids: &[EntryId], log: bool) {
        let Some(paths) = &mut self.paths else { return };
        let profile = &self.profile;
        let mut withdrawn: [Vec<Nlri>; 2] = Default::default();
        let mut announced = Announcements::default();
        for id in ids {
            let Some(entry) = rib.entry(*id) else { continue };
            let index = id.0 as usize;
            if index >= paths.known.len() {
                paths.known.resize_with(index + 1, Known::new);
            }
            let Some(known) = paths.known.get_mut(index) else { continue };
            let prefix = entry.prefix;
            // In a family without identifiers there is one path, and it always has the same number.
            let limit = if profile.sends_paths(&prefix) { usize::from(profile.paths) } else { 1 };
            let eligible = entry.paths.iter().filter(|path| path.filtered.is_none());
            let sent = eligible
                .map(|path| Said::new(path, rib))
                .filter(|said| profile.outgoing(rib, us, prefix, said.told).is_ok());
            let now = number(sent.take(limit), known);
            let family = Family::of(&prefix).index();
            for before in known.iter().filter(|before| now.iter().all(|said| said.id != before.id)) {
                withdrawn[family].push(Nlri { prefix, path_id: Some(before.id) });
            }
            for said in &now {
                let told = |before: &Said| (before.id, before.told) == (said.id, said.told);
                if !known.iter().any(told)
                    && let Ok(outgoing) = profile.outgoing(rib, us, prefix, said.told)
                {
                    announced.add(outgoing, Nlri { prefix, path_id: Some(said.id) });
                }
            }
            self.prefixes[family] = self.prefixes[family] + now.len() as u64 - known.len() as u64;
            *known = now;
        }
        if !log {
            self.snapshot = None;
            return;
        }
        let position = self.log.head();
        let mut out = encode::messages(&profile.negotiated);
        for routes in withdrawn {
            out.withdraw_routes(&routes);
            paths.tombstones.extend(routes.into_iter().map(|nlri| (position, nlri)));
        }
        announced.encode(&mut out);
        self.log.append(out.finish());
        while paths.tombstones.len() > TOMBSTONES {
            if let Some((position, _)) = paths.tombstones.pop_first() {
                self.tombstone_floor = position + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Family;

    fn paths(of: &[(u32, u32)]) -> impl Iterator<Item = Said> {
        let mut rib = Rib::default();
        let prefix: IpNet = "10.0.0.0/24".parse().unwrap();
        for (source, path_id) in of {
            let attrs = rib.attrs.intern(None, &crate::wire::PathAttributes::default());
            rib.announce(SourceId(*source), prefix, *path_id, attrs, None, 0);
        }
        assert_eq!(Family::of(&prefix), Family::Ipv4);
        let said: Vec<Said> =
            rib.find(&prefix).unwrap().paths.iter().map(|path| Said::new(path, &rib)).collect();
        said.into_iter()
    }

    #[test]
    fn a_path_keeps_its_identifier_and_a_new_one_takes_the_lowest_that_is_free() {
        let numbers = |known: &Known| known.iter().map(|said| said.id).collect::<Vec<_>>();
        let first = number(paths(&[(1, 0), (2, 0), (2, 7)]), &[]);
        assert_eq!(numbers(&first), [1, 2, 3]);
        let second = number(paths(&[(2, 7), (1, 0)]), &first);
        assert_eq!(numbers(&second), [3, 1], "whatever the order of preference");
        let third = number(paths(&[(9, 0), (2, 7)]), &second);
        assert_eq!(numbers(&third), [1, 3], "the newcomer replaces what is gone");
    }
}
