//! From changed entries to the forwarding table and to peers, at once when idle, in batches when busy.

use super::Speaker;
use super::peer::Slot;
use crate::egress::Take;
use crate::hash::stable;
use crate::io::{Log, Output};
use crate::rib::{Entry, EntryId, Path, SourceId, multipath_equal};
use crate::session::fsm::Event as FsmEvent;
use crate::status::{Event, ForwardingHop, RouteChange};
use crate::time::Time;
use crate::wire::{CeaseSubcode, NextHop, Notification};
use std::time::Duration;

/// How often logs that nobody flushes any more are trimmed.
const TRIM: Duration = Duration::from_secs(1);
/// Route changes in one event.
const EVENT_ROUTES: usize = 4096;
/// What one more peer adds to the shortest wait between flushes: about what a system call costs, so that changes that
/// trickle in take half a processor at the most.
const PER_PEER: Duration = Duration::from_micros(5);
/// Changes in one flush from which on it is worth to wait longer for more of them.
const BULK: usize = 64;

/// When the next flush is allowed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// No flush before.
    pub(super) not_before: Time,
    /// The current wait between flushes; zero when idle.
    pub(super) wait: Duration,
    /// When to look at the logs again.
    trim_at: Option<Time>,
}

fn fingerprint(change: &RouteChange) -> u64 {
    // 0 stands for nothing.
    stable(&(&change.next_hops, change.stale)).max(1)
}

impl Speaker {
    pub(super) fn flush_deadline(&self) -> Option<Time> {
        let flush = self.rib.is_dirty().then_some(self.pace.not_before);
        [flush, self.pace.trim_at].into_iter().flatten().min()
    }

    /// Flushes if changes wait and enough time has passed since the last flush.
    pub(super) fn flush_if_due(&mut self) {
        if self.rib.is_dirty() && self.now >= self.pace.not_before {
            let limits = self.config.egress;
            let (changes, peers) = self.flush();
            let peers = u32::try_from(peers).unwrap_or(u32::MAX);
            let least = limits.batch_min.max(PER_PEER.saturating_mul(peers)).min(limits.batch_max);
            // Many changes that had to wait mean that it is busy: wait longer for more of them.
            let waited = self.now.since(self.pace.not_before) < limits.batch_min;
            let busy = waited && changes >= BULK && !self.pace.wait.is_zero();
            self.pace.wait = if busy { (self.pace.wait * 2).clamp(least, limits.batch_max) } else { least };
            self.pace.not_before = self.now + self.pace.wait;
        }
        if self.pace.trim_at.is_some_and(|at| at <= self.now) {
            self.egress.trim();
            let more = self.egress.log_bytes() > 0;
            self.pace.trim_at = more.then(|| self.now + TRIM);
        }
    }

    /// Settles and distributes every change now. Returns how many there were, and for how many peers.
    pub(super) fn flush(&mut self) -> (usize, usize) {
        if !self.rib.is_dirty() {
            return (0, 0);
        }
        let settled = self.rib.settle();
        self.tell_forwarding(&settled);
        let us = self.identity();
        self.egress.apply(&self.rib, us, &settled);
        self.tell_watchers(&settled);
        self.rib.sweep(&settled);
        let next_hops = self.rib.attrs.next_hops.take_changes();
        if !next_hops.is_empty() {
            self.outputs.push_back(Output::Event(Event::NextHops(next_hops)));
        }
        self.pace.trim_at.get_or_insert(self.now + TRIM);
        let up = self.peers.values().filter(|peer| peer.is_up()).map(|peer| peer.id);
        self.to_pump.extend(up);
        (settled.len(), self.to_pump.len())
    }

    fn tell_forwarding(&mut self, settled: &[EntryId]) {
        if !self.config.report_routes {
            return;
        }
        let mut changes = Vec::new();
        for id in settled {
            let Some(entry) = self.rib.entry(*id) else { continue };
            let change = self.route_change(entry);
            let told = if change.next_hops.is_empty() { 0 } else { fingerprint(&change) };
            let index = id.0 as usize;
            if index >= self.told.len() {
                self.told.resize(index + 1, 0);
            }
            if let Some(before) = self.told.get_mut(index)
                && std::mem::replace(before, told) != told
            {
                changes.push(change);
            }
        }
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let some = changes.by_ref().take(EVENT_ROUTES).collect();
            self.outputs.push_back(Output::Event(Event::RouteChanges(some)));
        }
    }

    /// What the forwarding table should hold for an entry.
    pub(super) fn route_change(&self, entry: Entry<'_>) -> RouteChange {
        let equal = multipath_equal(entry.paths, &self.rib.attrs, &self.rib.sources);
        let local = entry.best().is_some_and(|path| path.source == SourceId::LOCAL);
        let paths = entry.paths.get(..equal).unwrap_or_default();
        let mut next_hops: Vec<ForwardingHop> = if local {
            Vec::new()
        } else {
            paths.iter().filter_map(|path| self.forwarding_hop(path)).collect()
        };
        // The best path's next hop must be among those kept.
        let first = next_hops.first().cloned();
        next_hops.sort_unstable();
        next_hops.dedup();
        if next_hops.len() > self.config.multipath.max(1) {
            next_hops.retain(|next_hop| Some(next_hop) != first.as_ref());
            next_hops.truncate(self.config.multipath.max(1) - 1);
            next_hops.extend(first);
            next_hops.sort_unstable();
        }
        let stale = !next_hops.is_empty() && paths.iter().all(|path| path.stale);
        RouteChange { prefix: entry.prefix, next_hops, stale }
    }

    fn forwarding_hop(&self, path: &Path) -> Option<ForwardingHop> {
        let next_hop = self.rib.attrs.get(path.attrs).next_hop?;
        let link_local = match next_hop {
            NextHop::V6 { link_local: Some(link_local), .. } => {
                let interface = self.peers.get(&path.source).and_then(|peer| peer.interface.clone());
                interface.map(|interface| (link_local, interface))
            }
            _ => None,
        };
        Some(ForwardingHop { address: next_hop.address(), link_local })
    }

    /// Gives a peer what it can take.
    pub(super) fn pump(&mut self, id: SourceId) {
        let us = self.identity();
        let window = self.config.egress.window;
        loop {
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_up()) else { return };
            if let Some(data) = peer.main.control.pop_front() {
                self.write(id, Slot::Main, data);
                continue;
            }
            if peer.main.in_flight >= window {
                break;
            }
            let (remote, resyncs) = (peer.config.remote, self.egress.resyncs(id));
            match self.egress.take(id, &self.rib, us) {
                Take::Data(data) => self.write(id, Slot::Main, data),
                Take::UpToDate => break,
                Take::Lost => {
                    let note = Notification::cease(CeaseSubcode::OutOfResources);
                    let text = "the peer fell too far behind and has no enhanced route refresh".to_owned();
                    self.reset(id, Slot::Main, FsmEvent::Stop, note, text);
                    self.start(id);
                    return;
                }
            }
            if self.egress.resyncs(id) > resyncs {
                self.log(Log::Resync(remote));
            }
        }
        self.schedule(id);
    }
}
