//! The decision process (RFC 4271 section 9.1.2.2, RFC 4456 section 9, RFC 9494) as a total order.
//!
//! MED compares only routes of one neighbouring AS, which is no order of pairs. It is one of sets: a path that loses on
//! MED against any path it ties with so far goes behind all that don't. So the result depends on the set only, never on
//! the order of arrival.

use super::intern::Interner;
use super::path::{Path, SourceId, SourceInfo};
use crate::hash::Table;
use crate::wire::Origin;
use std::cmp::{Ordering, Reverse};
use std::net::{IpAddr, Ipv4Addr};

/// LOCAL_PREF of a route that has none.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// The comparison that told two paths apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// One is filtered.
    Eligible,
    /// The next hop of one cannot be reached.
    Reachable,
    /// Originated here wins.
    Local,
    /// Not long-lived stale wins.
    LongLived,
    /// Higher LOCAL_PREF wins.
    LocalPref,
    /// Shorter AS_PATH wins.
    AsPath,
    /// Lower ORIGIN wins.
    Origin,
    /// Lower MED of the same neighbouring AS wins.
    Med,
    /// External wins.
    External,
    /// Nearer next hop wins.
    Cost,
    /// Not stale wins.
    Stale,
    /// Lower ORIGINATOR_ID or BGP identifier wins.
    RouterId,
    /// Shorter CLUSTER_LIST wins.
    ClusterList,
    /// Lower peer address wins.
    PeerAddress,
    /// Lower path identifier wins.
    PathId,
}

impl Step {
    /// In the order in which they are taken.
    pub(crate) const ORDER: [Self; 15] = [
        Self::Eligible,
        Self::Reachable,
        Self::Local,
        Self::LongLived,
        Self::LocalPref,
        Self::AsPath,
        Self::Origin,
        Self::Med,
        Self::External,
        Self::Cost,
        Self::Stale,
        Self::RouterId,
        Self::ClusterList,
        Self::PeerAddress,
        Self::PathId,
    ];

    /// What the winner has, in words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Eligible => "not filtered",
            Self::Reachable => "a next hop that can be reached",
            Self::Local => "originated here",
            Self::LongLived => "not long-lived stale",
            Self::LocalPref => "higher LOCAL_PREF",
            Self::AsPath => "shorter AS_PATH",
            Self::Origin => "lower ORIGIN",
            Self::Med => "lower MED from the same AS",
            Self::External => "external over internal",
            Self::Cost => "nearer next hop",
            Self::Stale => "not stale",
            Self::RouterId => "lower ORIGINATOR_ID or router id",
            Self::ClusterList => "shorter CLUSTER_LIST",
            Self::PeerAddress => "lower peer address",
            Self::PathId => "lower path id",
        }
    }
}

/// Everything that decides, most significant first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    filtered: bool,
    unreachable: bool,
    learned: bool,
    long_lived: bool,
    local_pref: Reverse<u32>,
    as_path: usize,
    origin: Origin,
    loses_med: bool,
    internal: bool,
    cost: u32,
    stale: bool,
    router_id: Ipv4Addr,
    cluster_list: usize,
    peer: Option<IpAddr>,
    path_id: u32,
}

fn key(path: &Path, attrs: &Interner, source: &SourceInfo) -> Key {
    let attributes = &attrs.get(path.attrs).attributes;
    Key {
        filtered: path.filtered.is_some(),
        unreachable: path.unreachable,
        learned: source.kind.is_some(),
        long_lived: path.is_last_resort(attributes),
        local_pref: Reverse(attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
        as_path: attributes.as_path.length(),
        origin: attributes.origin,
        loses_med: false,
        internal: source.kind.is_some() && !source.external(),
        cost: attrs.cost(path.attrs).unwrap_or(u32::MAX),
        stale: path.stale,
        router_id: attributes.originator_id.unwrap_or(source.id),
        cluster_list: attributes.cluster_list.len(),
        peer: source.address(),
        path_id: path.path_id,
    }
}

/// The part of the key down to ORIGIN: MED is compared among paths equal in it.
fn tie(key: &Key) -> (bool, bool, bool, bool, Reverse<u32>, usize, Origin) {
    (key.filtered, key.unreachable, key.learned, key.long_lived, key.local_pref, key.as_path, key.origin)
}

fn keys(paths: &[Path], attrs: &Interner, sources: &Table<SourceId, SourceInfo>) -> Vec<Key> {
    let unknown = SourceInfo {
        source: crate::status::RouteSource::Local,
        kind: Some(crate::config::PeerKind::Internal),
        id: Ipv4Addr::UNSPECIFIED,
        on_host: false,
    };
    let mut keys: Vec<Key> =
        paths.iter().map(|path| key(path, attrs, sources.get(&path.source).unwrap_or(&unknown))).collect();
    let med = |path: &Path| {
        let attributes = &attrs.get(path.attrs).attributes;
        (attributes.as_path.first(), attributes.med.unwrap_or(0))
    };
    for (index, path) in paths.iter().enumerate() {
        let (neighbour, own) = med(path);
        let loses = paths.iter().enumerate().any(|(other_index, other)| {
            let (other_neighbour, other_med) = med(other);
            other_med < own && other_neighbour == neighbour && tie(&keys[other_index]) == tie(&keys[index])
        });
        if loses {
            keys[index].loses_med = true;
        }
    }
    keys
}

/// Puts paths in order of preference, best first. Deterministic whatever order they come in.
pub(crate) fn rank(paths: &mut [Path], attrs: &Interner, sources: &Table<SourceId, SourceInfo>) {
    if paths.len() < 2 {
        return;
    }
    let mut keyed: Vec<(Key, Path)> =
        keys(paths, attrs, sources).into_iter().zip(paths.iter().copied()).collect();
    keyed.sort_by_key(|(key, path)| (*key, path.source));
    for (place, (_, path)) in paths.iter_mut().zip(keyed) {
        *place = path;
    }
}

/// How many of the ranked paths are as good as the first for forwarding, filtered and unreachable ones never.
pub(crate) fn multipath_equal(
    paths: &[Path],
    attrs: &Interner,
    sources: &Table<SourceId, SourceInfo>,
) -> usize {
    if paths.first().is_none_or(|path| path.filtered.is_some() || path.unreachable) {
        return 0;
    }
    if paths.len() == 1 {
        return 1;
    }
    let keys = keys(paths, attrs, sources);
    let Some(best) = keys.first() else { return 0 };
    keys.iter()
        .take_while(|key| {
            tie(key) == tie(best)
                && (key.loses_med, key.internal, key.cost) == (best.loses_med, best.internal, best.cost)
        })
        .count()
}

/// Compares the ranked paths `a` and `b` (indices) and says which step told them apart.
pub(crate) fn compare(
    paths: &[Path],
    a: usize,
    b: usize,
    attrs: &Interner,
    sources: &Table<SourceId, SourceInfo>,
) -> (Ordering, Step) {
    let keys = keys(paths, attrs, sources);
    let (Some(a), Some(b)) = (keys.get(a), keys.get(b)) else { return (Ordering::Equal, Step::PathId) };
    let steps = [
        (a.filtered.cmp(&b.filtered), Step::Eligible),
        (a.unreachable.cmp(&b.unreachable), Step::Reachable),
        (a.learned.cmp(&b.learned), Step::Local),
        (a.long_lived.cmp(&b.long_lived), Step::LongLived),
        (a.local_pref.cmp(&b.local_pref), Step::LocalPref),
        (a.as_path.cmp(&b.as_path), Step::AsPath),
        (a.origin.cmp(&b.origin), Step::Origin),
        (a.loses_med.cmp(&b.loses_med), Step::Med),
        (a.internal.cmp(&b.internal), Step::External),
        (a.cost.cmp(&b.cost), Step::Cost),
        (a.stale.cmp(&b.stale), Step::Stale),
        (a.router_id.cmp(&b.router_id), Step::RouterId),
        (a.cluster_list.cmp(&b.cluster_list), Step::ClusterList),
        (a.peer.cmp(&b.peer), Step::PeerAddress),
    ];
    steps
        .into_iter()
        .find(|(order, _)| *order != Ordering::Equal)
        .unwrap_or((a.path_id.cmp(&b.path_id), Step::PathId))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
