//! Questions. They change nothing.

use super::Speaker;
use super::peer::Peer;
use super::routes::seconds;
use crate::egress::{EgressProfile, Group, Told};
use crate::family::Family;
use crate::rib::{Entry, EntryId, Path, SourceId, compare, multipath_equal};
use crate::status::{
    FamilyStatus, GroupStatus, PeerStatus, PrefixPage, RouteInfo, RouteQuery, RouteSource, Totals,
};
use crate::wire::PathAttributes;
use ipnet::IpNet;
use std::net::IpAddr;

fn communities(attributes: &PathAttributes) -> Vec<String> {
    let plain = attributes.communities.iter().map(ToString::to_string);
    let large = attributes.large_communities.iter().map(ToString::to_string);
    plain.chain(large).chain(attributes.extended_communities.iter().map(ToString::to_string)).collect()
}

impl Speaker {
    /// Every configured peer, by address.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.by_address
            .values()
            .filter_map(|id| self.peers.get(id))
            .map(|peer| self.peer_status(peer))
            .collect()
    }

    /// Addresses whose connections wait to be configured, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<IpAddr> {
        self.parked.iter().map(|parked| parked.remote).collect()
    }

    fn peer_status(&self, peer: &Peer) -> PeerStatus {
        let group = self.egress.group_of_member(peer.id);
        let (lag_bytes, resyncs, sent) = self.egress.progress(peer.id);
        let families = Family::ALL
            .into_iter()
            .filter(|family| peer.config.families.contains(family))
            .map(|family| {
                let counts = self.rib.counts(peer.id, family);
                FamilyStatus {
                    family,
                    received: counts.received.into(),
                    filtered: counts.filtered.into(),
                    stale: counts.stale.into(),
                    advertised: group.map_or(0, |(_, group)| group.advertised(family)),
                    end_of_rib_received: peer.families[family.index()].end_of_rib,
                    end_of_rib_sent: sent,
                }
            })
            .collect();
        PeerStatus {
            remote: peer.config.remote,
            remote_as: peer.config.remote_as,
            remote_id: peer.remote_id,
            local: peer.main.local,
            kind: peer.config.kind,
            description: peer.config.description.clone(),
            state: peer.main.state,
            since_secs: peer.changed_at.map(|at| self.now.since(at).as_secs()),
            established_count: peer.established_count,
            last_error: peer.last_error.as_ref().map(|(_, text)| text.clone()),
            last_error_secs: peer.last_error.as_ref().map(|(at, _)| self.now.since(*at).as_secs()),
            last_reset: peer.last_reset.as_ref().map(|(_, text)| text.clone()),
            last_reset_secs: peer.last_reset.as_ref().map(|(at, _)| self.now.since(*at).as_secs()),
            negotiated: peer.session().map(crate::session::negotiate::Session::status),
            messages: peer.counters,
            families,
            lag_bytes: lag_bytes + peer.main.in_flight as u64,
            resyncs,
            group: group.map(|(id, _)| id.0),
            bfd: peer.config.bfd.map(|_| peer.bfd.unwrap_or_default()),
        }
    }

    fn info(&self, entry: Entry<'_>, index: usize, path: &Path, equal: usize) -> RouteInfo {
        let route = self.rib.attrs.get(path.attrs);
        let attributes = &route.attributes;
        let source = self.rib.sources.get(&path.source).map_or(RouteSource::Local, |source| source.source);
        let reason = match path.filtered {
            Some(reason) => reason.text().to_owned(),
            None if path.unreachable => "its next hop cannot be reached".to_owned(),
            None if entry.paths.len() == 1 => "the only path".to_owned(),
            None if index == 0 => {
                let (_, step) = compare(entry.paths, 0, 1, &self.rib.attrs, &self.rib.sources);
                format!("best: {}", step.text())
            }
            None => {
                let (_, step) = compare(entry.paths, 0, index, &self.rib.attrs, &self.rib.sources);
                format!("the best path has: {}", step.text())
            }
        };
        RouteInfo {
            prefix: entry.prefix,
            next_hop: route.next_hop.map(|next_hop| next_hop.address()),
            source,
            path_id: (path.path_id != 0).then_some(path.path_id),
            best: index == 0 && path.filtered.is_none() && !path.unreachable,
            multipath: index < equal,
            reason,
            filtered: path.filtered.is_some(),
            stale: path.stale,
            long_lived_stale: path.long_lived,
            age_secs: seconds(self.now).saturating_sub(path.changed).into(),
            origin: attributes.origin.to_string(),
            as_path: attributes.as_path.to_string(),
            local_pref: attributes.local_pref,
            med: attributes.med,
            communities: communities(attributes),
            originator_id: attributes.originator_id,
            cluster_list: attributes.cluster_list.to_vec(),
        }
    }

    pub(super) fn infos(&self, entry: Entry<'_>) -> Vec<RouteInfo> {
        let equal = multipath_equal(entry.paths, &self.rib.attrs, &self.rib.sources);
        entry.paths.iter().enumerate().map(|(index, path)| self.info(entry, index, path, equal)).collect()
    }

    /// One configured peer.
    #[must_use]
    pub fn peer(&self, remote: IpAddr) -> Option<PeerStatus> {
        let id = self.by_address.get(&remote.to_canonical())?;
        Some(self.peer_status(self.peers.get(id)?))
    }

    /// Routes by prefix, best path first. Changes that wait for the next flush may not be ranked yet.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteInfo> {
        let mut prefixes = self.prefixes(query, 0, u32::MAX).prefixes;
        prefixes.sort_unstable();
        let mut out = Vec::new();
        for prefix in prefixes {
            out.extend(self.paths(&prefix, query));
            if query.limit > 0 && out.len() >= query.limit {
                out.truncate(query.limit);
                break;
            }
        }
        out
    }

    /// The prefixes of a query among `count` entries, beginning with number `from`.
    #[must_use]
    pub fn prefixes(&self, query: &RouteQuery, from: u32, count: u32) -> PrefixPage {
        let exact = match (query.prefix, query.address) {
            (Some(prefix), _) if !query.longer => Some(prefix.trunc()),
            (None, Some(address)) => self.longest_match(address),
            _ => None,
        };
        if query.address.is_some() || exact.is_some() {
            let found = exact.filter(|prefix| self.rib.find(prefix).is_some());
            return PrefixPage { prefixes: found.into_iter().collect(), next: None };
        }
        let to = query.advertised.map(|remote| self.group_of(remote));
        let end = from.saturating_add(count).min(self.rib.bound());
        let matches = |id: EntryId, entry: &Entry<'_>| {
            query.family.is_none_or(|family| Family::of(&entry.prefix) == family)
                && query.prefix.is_none_or(|prefix| prefix.contains(&entry.prefix))
                && to.is_none_or(|group| group.is_some_and(|group| group.is_advertised(id)))
        };
        let entries = (from..end).map(EntryId).filter_map(|id| Some((id, self.rib.entry(id)?)));
        let prefixes = entries.filter(|(id, entry)| matches(*id, entry)).map(|(_, entry)| entry.prefix);
        PrefixPage { prefixes: prefixes.collect(), next: (end < self.rib.bound()).then_some(end) }
    }

    /// The paths of a prefix that a query asks for, best first.
    #[must_use]
    pub fn paths(&self, prefix: &IpNet, query: &RouteQuery) -> Vec<RouteInfo> {
        let Some(entry) = self.rib.find(prefix) else { return Vec::new() };
        if let Some(remote) = query.advertised {
            return self.advertised_paths(remote, entry);
        }
        let wanted = query.peer.map(|peer| RouteSource::Peer(peer.to_canonical()));
        let mut infos = self.infos(entry);
        infos.retain(|info| {
            (!query.best || info.best)
                && (!query.filtered || info.filtered)
                && wanted.is_none_or(|source| info.source == source)
        });
        infos
    }

    fn longest_match(&self, address: IpAddr) -> Option<IpNet> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefixes = (0..=bits).rev().filter_map(|len| IpNet::new(address, len).ok());
        prefixes.map(|prefix| prefix.trunc()).find(|prefix| self.rib.find(prefix).is_some())
    }

    fn group_of(&self, remote: IpAddr) -> Option<&Group> {
        let id = self.by_address.get(&remote.to_canonical())?;
        self.egress.group_of_member(*id).map(|(_, group)| group)
    }

    /// What a peer has been sent or will be, as it is sent, by prefix. Empty for a peer that is not up.
    #[must_use]
    pub fn advertised(&self, remote: IpAddr) -> Vec<RouteInfo> {
        self.routes(&RouteQuery { advertised: Some(remote), ..RouteQuery::default() })
    }

    fn advertised_paths(&self, remote: IpAddr, entry: Entry<'_>) -> Vec<RouteInfo> {
        let group = self.group_of(remote).zip(self.rib.find_id(&entry.prefix));
        let Some((group, id)) = group else { return Vec::new() };
        group.sent(id, entry).filter_map(|path| self.advertised_path(&group.profile, entry, path)).collect()
    }

    fn advertised_path(
        &self,
        profile: &EgressProfile,
        entry: Entry<'_>,
        (path_id, path): (Option<u32>, &Path),
    ) -> Option<RouteInfo> {
        let told = Told::of(path, &self.rib);
        let outgoing = profile.outgoing(&self.rib, self.identity(), entry.prefix, told).ok()?;
        let attributes = &outgoing.attributes;
        Some(RouteInfo {
            path_id,
            next_hop: Some(outgoing.next_hop.address()),
            origin: attributes.origin.to_string(),
            as_path: attributes.as_path.to_string(),
            local_pref: attributes.local_pref,
            med: attributes.med,
            communities: communities(attributes),
            originator_id: attributes.originator_id,
            cluster_list: attributes.cluster_list.to_vec(),
            reason: "advertised".to_owned(),
            ..self.info(entry, 0, path, 1)
        })
    }

    /// Sizes of the tables.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let (prefixes, paths) = self.rib.size();
        let groups = self.egress.groups().map(|(id, group, members)| GroupStatus {
            id: id.0,
            members: members as u64,
            log_bytes: group.log.bytes(),
            messages: group.log.messages(),
            advertised: Family::ALL.into_iter().map(|family| group.advertised(family)).sum(),
        });
        Totals {
            prefixes: prefixes as u64,
            paths,
            attribute_sets: self.rib.attrs.len() as u64,
            pending: self.parked.len() as u64,
            groups: groups.collect(),
            stations: self.stations(),
        }
    }

    /// Whether the first full table has been received.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// Whether advertising still waits for the table to be complete.
    #[must_use]
    pub fn is_withholding(&self) -> bool {
        self.withhold_until.is_some()
    }

    /// Distinct attribute sets held, for metrics.
    #[must_use]
    pub fn attribute_sets(&self) -> usize {
        self.rib.attrs.len()
    }

    /// Octets held for peers that lag, for metrics.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.egress.log_bytes()
    }

    /// Routes originated here.
    #[must_use]
    pub fn originated(&self) -> usize {
        self.rib.counts(SourceId::LOCAL, Family::Ipv4).received as usize
            + self.rib.counts(SourceId::LOCAL, Family::Ipv6).received as usize
    }
}
