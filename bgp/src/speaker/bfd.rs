//! What BFD means for BGP (RFC 5882).
//!
//! *BFD was up and failed, the session is up:* it ends with Cease/BFD Down (RFC 9384). The peer's routes then are not kept
//! for its restart time, as they would be when the hold timer expires: traffic must not go on into the hole for minutes.
//! Where long-lived graceful restart was negotiated they stay as long-lived stale at once, so that any other path is
//! preferred, and a node that has lost its last reflector goes on forwarding; else they are dropped
//! ([`crate::session::restart::retention`]).
//!
//! *BFD was up and failed, the session had ended before:* a graceful restart is going on. If the peer's BFD does not share
//! the fate of its BGP (C bit, RFC 5882 section 4.3.1) its forwarding is gone as well, and the restart is aborted. Else
//! BFD failed because the peer's process did, and the restart goes on (section 4.3.2). The RFC wants the bit of both sides;
//! ours is never set, but we, who are there to see it, have not restarted.
//!
//! *An administrator took the peer's BFD down* (that is also what our own daemons do when they stop): nothing.

use super::Speaker;
use super::fsm::Cause;
use super::peer::Slot;
use crate::bfd::{SessionStatus, State};
use crate::config::PeerConfig;
use crate::io::Output;
use crate::rib::SourceId;
use crate::session::fsm::Event as FsmEvent;
use crate::status::{Event, PeerState};
use crate::wire::{CeaseSubcode, Notification};
use std::net::IpAddr;

impl Speaker {
    /// The peer's settings changed.
    pub(super) fn change_bfd(&mut self, id: SourceId, old: &PeerConfig, new: &PeerConfig) {
        let (session, interface) = (new.bfd_session(), new.interface.clone());
        if (old.bfd_session(), &old.interface) != (session, &interface) {
            self.outputs.push_back(Output::Bfd { remote: new.remote, interface, session });
        }
        let waits = |config: &PeerConfig| config.bfd.is_some_and(|bfd| bfd.strict);
        if new.bfd.is_none()
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.bfd = None;
        }
        if waits(old) && !waits(new) {
            self.resume(id);
        }
    }

    pub(super) fn bfd_changed(&mut self, remote: IpAddr, status: SessionStatus) {
        let remote = remote.to_canonical();
        let Some(&id) = self.by_address.get(&remote) else { return };
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.config.bfd.is_some()) else { return };
        let before = peer.bfd.replace(status).unwrap_or_default();
        if before.state != status.state {
            let event = Event::BfdChanged { remote, state: status.state, reason: status.diagnostic };
            self.outputs.push_back(Output::Event(event));
        }
        if status.failures > before.failures {
            // The C bit is that of the time when the session was up.
            self.bfd_failed(id, before.remote_independent, &status);
        }
        // One of a range may have been kept for it.
        self.may_be_gone(id);
        if status.state == State::Up {
            self.resume(id);
        } else if self
            .peers
            .get(&id)
            .is_some_and(|peer| peer.awaits_bfd() && peer.main.state < PeerState::OpenSent)
        {
            // No use in dialling until BFD is back.
            self.stop_peer(id, Notification::cease(CeaseSubcode::BfdDown), false);
        }
    }

    fn bfd_failed(&mut self, id: SourceId, independent: bool, status: &SessionStatus) {
        for slot in [Slot::Rival, Slot::Main] {
            let state = self.peers.get(&id).and_then(|peer| peer.conn(slot)).map(|conn| conn.state);
            if state.is_some_and(|state| state >= PeerState::OpenSent) {
                let cause = Cause { text: format!("BFD failed: {}", status.diagnostic), ..Cause::default() };
                self.event(id, slot, FsmEvent::BfdFailed, Some(cause));
            }
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| independent && !peer.is_up()) else { return };
        for family in &mut peer.families {
            family.stale_until = family.stale_until.map(|_| now);
        }
        self.schedule(id);
    }

    /// Starts a peer that had to wait for BFD.
    fn resume(&mut self, id: SourceId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.main.state == PeerState::Idle && peer.idle_until.is_none() {
            self.start(id);
        }
    }
}
