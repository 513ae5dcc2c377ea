//! Deadlines: one entry per peer in a queue, never later than the peer's true next deadline.

use super::Speaker;
use super::peer::Slot;
use crate::rib::SourceId;
use crate::session::fsm::Event as FsmEvent;
use crate::time::Time;

impl Speaker {
    /// When [`Self::handle`] must be called at the latest, if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.stopped {
            return None;
        }
        let peers = self.timers.first().map(|(at, _)| *at);
        let parked = self.parked.front().map(|parked| parked.until);
        let sync = (!self.in_sync && self.now < self.sync_deadline).then_some(self.sync_deadline);
        let stations = self.stations_deadline();
        [peers, parked, sync, self.withhold_until, self.flush_deadline(), stations]
            .into_iter()
            .flatten()
            .min()
    }

    /// Puts a peer into the queue if its next deadline is earlier than its place there. A later deadline is found out
    /// when the early entry fires: hold timers restart with every message and must cost nothing.
    pub(super) fn schedule(&mut self, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(next) = peer.next_deadline() else { return };
        if peer.scheduled.is_none_or(|scheduled| next < scheduled) {
            if let Some(scheduled) = peer.scheduled {
                self.timers.remove(&(scheduled, id));
            }
            peer.scheduled = Some(next);
            self.timers.insert((next, id));
        }
    }

    pub(super) fn run_timers(&mut self) {
        self.expire_parked();
        while let Some(&(at, id)) = self.timers.first() {
            if at > self.now {
                break;
            }
            self.timers.pop_first();
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.scheduled = None;
                self.run_peer_timers(id);
                self.schedule(id);
            }
        }
    }

    fn run_peer_timers(&mut self, id: SourceId) {
        let now = self.now;
        let due = |timer: Option<Time>| timer.is_some_and(|at| at <= now);
        for slot in [Slot::Main, Slot::Rival] {
            let Some(conn) = self.peers.get_mut(&id).and_then(|peer| peer.conn_mut(slot)) else { continue };
            let owner = conn.id;
            let mut fired = Vec::new();
            for (timer, event) in [
                (&mut conn.hold, FsmEvent::HoldExpired),
                (&mut conn.send_hold, FsmEvent::SendHoldExpired),
                (&mut conn.keepalive, FsmEvent::KeepaliveExpired),
                (&mut conn.connect_retry, FsmEvent::ConnectRetryExpired),
            ] {
                if due(*timer) {
                    *timer = None;
                    fired.push(event);
                }
            }
            if fired.contains(&FsmEvent::ConnectRetryExpired)
                && let Some(peer) = self.peers.get_mut(&id)
                && peer.main.state == crate::status::PeerState::Connect
            {
                // The attempt has had its time.
                peer.failed_dials = peer.failed_dials.saturating_add(1);
            }
            for event in fired {
                self.event(id, slot, event, None);
                // Another connection may have taken its place: none of these are its timers.
                if self.peers.get(&id).and_then(|peer| peer.conn(slot)).is_none_or(|conn| conn.id != owner) {
                    break;
                }
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if due(peer.kept_until) {
            peer.kept_until = None;
        }
        if due(peer.idle_until) {
            peer.idle_until = None;
            peer.barred_until = None;
            self.start(id);
        }
        self.run_restart_timers(id);
    }

    /// Starts a peer's machine, unless it has to wait for something.
    pub(super) fn start(&mut self, id: SourceId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.awaits_bfd() || peer.is_barred(self.now) {
            return;
        }
        let event = if peer.config.passive { FsmEvent::StartPassive } else { FsmEvent::Start };
        self.event(id, Slot::Main, event, None);
    }
}
