//! Events for a consumer that may be slow: only the last state of each prefix and peer is kept.

use crate::bfd::{Diagnostic, State};
use crate::status::{Event, NextHopUse, PeerState, RouteChange};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Route changes in one event: so few that the kernel takes the first while the next are decided about.
const ROUTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    routes: BTreeMap<IpNet, RouteChange>,
    peers: BTreeMap<IpAddr, (PeerState, String)>,
    next_hops: BTreeMap<IpAddr, bool>,
    bfd: BTreeMap<IpAddr, (State, Diagnostic)>,
    in_sync: bool,
}

impl Outbox {
    pub(super) fn push(&mut self, event: Event) {
        match event {
            Event::RouteChanges(changes) => {
                self.routes.extend(changes.into_iter().map(|change| (change.prefix, change)));
            }
            Event::NextHops(uses) => {
                self.next_hops.extend(uses.into_iter().map(|one| (one.address, one.used)));
            }
            Event::InSync => self.in_sync = true,
            Event::PeerChanged { remote, state, reason } => {
                self.peers.insert(remote, (state, reason));
            }
            Event::BfdChanged { remote, state, reason } => {
                self.bfd.insert(remote, (state, reason));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let peers = self.peers.is_empty() && self.bfd.is_empty();
        peers && self.routes.is_empty() && self.next_hops.is_empty() && !self.in_sync
    }

    /// The next event. Routes before `InSync`, which states that all were told.
    pub(super) fn pop(&mut self) -> Option<Event> {
        if !self.next_hops.is_empty() {
            let uses = std::mem::take(&mut self.next_hops).into_iter();
            return Some(Event::NextHops(uses.map(|(address, used)| NextHopUse { address, used }).collect()));
        }
        if !self.routes.is_empty() {
            let first = std::iter::from_fn(|| self.routes.pop_first()).take(ROUTES);
            return Some(Event::RouteChanges(first.map(|(_, change)| change).collect()));
        }
        if std::mem::take(&mut self.in_sync) {
            return Some(Event::InSync);
        }
        if let Some((remote, (state, reason))) = self.bfd.pop_first() {
            return Some(Event::BfdChanged { remote, state, reason });
        }
        let (remote, (state, reason)) = self.peers.pop_first()?;
        Some(Event::PeerChanged { remote, state, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(third: u8, next_hop: u8) -> RouteChange {
        RouteChange {
            prefix: format!("10.0.{third}.0/24").parse().unwrap(),
            next_hops: vec![IpAddr::from([192, 0, 2, next_hop]).into()],
            stale: false,
        }
    }

    #[test]
    fn changes_of_a_prefix_merge_and_in_sync_follows_them() {
        let mut outbox = Outbox::default();
        outbox.push(Event::InSync);
        for next_hop in 0..10 {
            outbox.push(Event::RouteChanges(vec![change(1, next_hop), change(2, next_hop)]));
        }
        assert_eq!(outbox.pop(), Some(Event::RouteChanges(vec![change(1, 9), change(2, 9)])));
        assert_eq!(outbox.pop(), Some(Event::InSync));
        assert_eq!(outbox.pop(), None);
        assert!(outbox.is_empty());
    }
}
