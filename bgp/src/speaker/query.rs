//! Questions. They change nothing.

use super::Speaker;
use super::peer::Peer;
use super::routes::seconds;
use crate::egress::Outgoing;
use crate::family::Family;
use crate::rib::{Entry, Path, SourceId, compare, multipath_equal};
use crate::status::{
    AdvertisedTo, Explanation, FamilyStatus, PeerStatus, RouteInfo, RouteQuery, RouteSource,
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
            negotiated: peer.session().map(crate::session::negotiate::Session::status),
            messages: peer.counters,
            families,
            lag_bytes: lag_bytes + peer.main.in_flight as u64,
            resyncs,
            group: group.map(|(id, _)| id.0),
        }
    }

    fn info(&self, entry: &Entry, index: usize, path: &Path, equal: usize) -> RouteInfo {
        let route = self.rib.attrs.get(path.attrs);
        let attributes = &route.attributes;
        let source = self.rib.sources.get(&path.source).map_or(RouteSource::Local, |source| source.source);
        let reason = match path.filtered {
            Some(reason) => reason.text().to_owned(),
            None if path.unreachable => "its next hop cannot be reached".to_owned(),
            None if entry.paths.len() == 1 => "the only path".to_owned(),
            None if index == 0 => {
                let (_, step) = compare(&entry.paths, 0, 1, &self.rib.attrs, &self.rib.sources);
                format!("best: {}", step.text())
            }
            None => {
                let (_, step) = compare(&entry.paths, 0, index, &self.rib.attrs, &self.rib.sources);
                format!("the best path has: {}", step.text())
            }
        };
        RouteInfo {
            prefix: entry.prefix,
            next_hop: route.next_hop.map(|next_hop| next_hop.address()),
            source,
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

    fn infos(&self, entry: &Entry) -> Vec<RouteInfo> {
        let equal = multipath_equal(&entry.paths, &self.rib.attrs, &self.rib.sources);
        entry.paths.iter().enumerate().map(|(index, path)| self.info(entry, index, path, equal)).collect()
    }

    /// Routes by prefix, best path first. Changes that wait for the next flush may not be ranked yet.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteInfo> {
        let exact = match query.address {
            Some(address) => match self.longest_match(address) {
                Some(prefix) => Some(prefix),
                None => return Vec::new(),
            },
            None => None,
        };
        let mut entries: Vec<&Entry> = self
            .rib
            .iter()
            .map(|(_, entry)| entry)
            .filter(|entry| exact.is_none_or(|prefix| entry.prefix == prefix))
            .filter(|entry| query.family.is_none_or(|family| Family::of(&entry.prefix) == family))
            .filter(|entry| {
                query.prefix.is_none_or(|prefix| {
                    entry.prefix == prefix || (query.longer && prefix.contains(&entry.prefix))
                })
            })
            .collect();
        entries.sort_by_key(|entry| entry.prefix);
        let wanted = query.peer.map(|peer| RouteSource::Peer(peer.to_canonical()));
        let mut out = Vec::new();
        for entry in entries {
            let infos = self.infos(entry).into_iter();
            out.extend(
                infos
                    .filter(|info| !query.best || info.best)
                    .filter(|info| wanted.is_none_or(|source| info.source == source)),
            );
            if query.limit > 0 && out.len() >= query.limit {
                out.truncate(query.limit);
                break;
            }
        }
        out
    }

    /// Why a prefix is what it is.
    #[must_use]
    pub fn explain(&self, prefix: IpNet) -> Explanation {
        let prefix = prefix.trunc();
        let mut steps = Vec::new();
        let mut advertised = Vec::new();
        let mut paths = Vec::new();
        match self.rib.find(&prefix) {
            None => steps.push(format!("no path to {prefix} is known")),
            Some(entry) => {
                paths = self.infos(entry);
                for index in 1..entry.paths.len() {
                    let (_, step) =
                        compare(&entry.paths, index - 1, index, &self.rib.attrs, &self.rib.sources);
                    let name = |at: usize| match paths.get(at).map(|info| info.source) {
                        Some(RouteSource::Peer(peer)) => format!("the path from {peer}"),
                        _ => "the path originated here".to_owned(),
                    };
                    steps.push(format!(
                        "{} is preferred over {}: {}",
                        name(index - 1),
                        name(index),
                        step.text()
                    ));
                }
                if entry.best().is_none() {
                    steps.push("no path is eligible".to_owned());
                }
                if let Some(leading) = entry.leading() {
                    advertised = self.explain_advertised(entry, leading);
                }
            }
        }
        Explanation { prefix, paths, steps, advertised }
    }

    fn explain_advertised(&self, entry: &Entry, best: &Path) -> Vec<AdvertisedTo> {
        let us = self.identity();
        let peers = self.by_address.values().filter_map(|id| self.peers.get(id));
        peers
            .filter_map(|peer| {
                let profile = self.profile(peer.id)?;
                let (sent, reason) = match profile.outgoing(&self.rib, us, entry.prefix, best) {
                    Ok(outgoing) => (true, format!("next hop {}", outgoing.next_hop)),
                    Err(suppressed) => (false, suppressed.text().to_owned()),
                };
                Some(AdvertisedTo { peer: peer.config.remote, sent, reason })
            })
            .collect()
    }

    /// What a peer has been sent or will be, as it is sent, by prefix. Empty for a peer that is not up.
    #[must_use]
    pub fn advertised(&self, remote: IpAddr) -> Vec<RouteInfo> {
        let Some(id) = self.by_address.get(&remote.to_canonical()) else { return Vec::new() };
        let Some((_, group)) = self.egress.group_of_member(*id) else { return Vec::new() };
        let mut routes: Vec<(IpNet, Outgoing)> = group.routes(&self.rib, self.identity()).collect();
        routes.sort_by_key(|(prefix, _)| *prefix);
        routes.into_iter().filter_map(|(prefix, outgoing)| self.advertised_info(prefix, &outgoing)).collect()
    }

    fn advertised_info(&self, prefix: IpNet, outgoing: &Outgoing) -> Option<RouteInfo> {
        let entry = self.rib.find(&prefix)?;
        let path = entry.leading()?;
        let attributes = &outgoing.attributes;
        Some(RouteInfo {
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
