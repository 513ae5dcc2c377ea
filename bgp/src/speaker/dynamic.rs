//! Neighbours that nobody configured one by one: whoever connects from a range becomes a peer, until it is gone.

use super::Speaker;
use crate::config::{PeerConfig, PeerRange};
use crate::family::Family;
use crate::io::Log;
use crate::rib::SourceId;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

impl Speaker {
    pub(super) fn set_ranges(&mut self, ranges: Vec<PeerRange>) {
        let old = std::mem::replace(&mut self.ranges, ranges);
        for range in &mut self.ranges {
            range.prefix = range.prefix.trunc();
        }
        let mut keys = Vec::new();
        let key_of = |ranges: &[PeerRange], prefix: IpNet| {
            ranges
                .iter()
                .find(|range| range.prefix == prefix)
                .and_then(|range| range.template.password.clone())
        };
        for prefix in old.iter().chain(&self.ranges).map(|range| range.prefix) {
            let key = key_of(&self.ranges, prefix);
            if key != key_of(&old, prefix) && !keys.iter().any(|(known, _)| *known == prefix) {
                keys.push((prefix, key));
            }
        }
        for (prefix, key) in keys {
            self.authenticate(prefix, key);
        }
        let dynamic: Vec<(SourceId, IpAddr)> = self
            .peers
            .values()
            .filter(|peer| peer.dynamic.is_some())
            .map(|peer| (peer.id, peer.config.remote))
            .collect();
        for (id, remote) in dynamic {
            match self.range_of(remote).map(|range| (range.prefix, range.peer(remote))) {
                Some((prefix, config)) => self.change_peer(id, config, Some(prefix)),
                None => self.remove_peer(remote),
            }
        }
        let waiting: Vec<IpAddr> = self.parked.iter().map(|parked| parked.remote).collect();
        for remote in waiting {
            self.welcome(remote);
        }
    }

    /// The range of the longest prefix with this address.
    fn range_of(&self, remote: IpAddr) -> Option<&PeerRange> {
        let within = self.ranges.iter().filter(|range| range.prefix.contains(&remote));
        within.max_by_key(|range| range.prefix.prefix_len())
    }

    /// Makes a peer of an address in a range.
    pub(super) fn welcome(&mut self, remote: IpAddr) -> Option<SourceId> {
        let range = self.range_of(remote)?;
        let (prefix, max, config) = (range.prefix, range.max, range.peer(remote));
        if self.peers.values().filter(|peer| peer.dynamic == Some(prefix)).count() >= max {
            self.log(Log::Refused(remote, "its range has as many peers as it may have"));
            return None;
        }
        Some(self.add_peer(config, Some(prefix)))
    }

    /// Forgets peers of ranges that are gone and left no routes. One that needs BFD is there while that is, and for a time
    /// after it was refused.
    pub(super) fn forget_gone(&mut self) {
        for id in std::mem::take(&mut self.maybe_gone) {
            let Some(peer) = self.peers.get(&id) else { continue };
            let connected = peer.main.id.is_some() || peer.rival.is_some();
            let waits = peer.is_barred(self.now) || peer.kept_until.is_some_and(|until| until > self.now);
            let alive = peer.config.bfd.is_some_and(|bfd| bfd.strict) && !peer.awaits_bfd();
            let routes = Family::ALL.iter().any(|family| self.rib.counts(id, *family).received > 0);
            if peer.dynamic.is_some() && !connected && !waits && !alive && !routes {
                let remote = peer.config.remote;
                self.remove_peer(remote);
            }
        }
    }

    /// A peer lost its connection, or its last routes.
    pub(super) fn may_be_gone(&mut self, id: SourceId) {
        if self.peers.get(&id).is_some_and(|peer| peer.dynamic.is_some()) {
            self.maybe_gone.insert(id);
        }
    }
}

impl PeerRange {
    fn peer(&self, remote: IpAddr) -> Arc<PeerConfig> {
        Arc::new(PeerConfig { remote, passive: true, ..self.template.clone() })
    }
}
