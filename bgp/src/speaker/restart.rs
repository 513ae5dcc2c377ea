//! Sessions that come and go, and what becomes of their routes (RFC 4724, 8538, 9494).

use super::Speaker;
use super::fsm::Cause;
use super::peer::{FamilyState, Peer, Slot};
use crate::config::{NextHopMode, PeerKind};
use crate::egress::EgressProfile;
use crate::family::Family;
use crate::io::Log;
use crate::rib::SourceId;
use crate::session::negotiate;
use crate::session::restart::{retention, survives_open};
use crate::status::PeerState;
use crate::wire::{Community, FamilySet, Negotiated};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

impl Speaker {
    pub(super) fn session_up(&mut self, id: SourceId, slot: Slot) {
        if slot == Slot::Rival {
            self.promote_rival(id);
        } else if let Some(rival) = self.peers.get_mut(&id).and_then(|peer| peer.rival.take())
            && let Some(conn) = rival.id
        {
            self.close(conn);
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(session) = peer.main.session.clone() else { return };
        peer.changed_at = Some(now);
        peer.established_count += 1;
        peer.failed_dials = 0;
        peer.retry_wait = peer.config.timers.connect_retry;
        peer.error_wait = peer.config.timers.error_wait;
        peer.remote_id = Some(session.remote_id);
        peer.interface = peer.main.link.as_ref().map(|link| Arc::clone(&link.interface));
        let stale_time = peer.config.graceful_restart.stale_path_time;
        let mut drop_stale = Vec::new();
        for family in Family::ALL {
            let held_stale = self.rib.counts(id, family).stale > 0;
            let state = &mut peer.families[family.index()];
            let before = *state;
            *state = FamilyState { near_limit: before.near_limit, ..FamilyState::default() };
            if !held_stale {
                continue;
            }
            if survives_open(&session, family, before.long_lived_until.is_some()) {
                state.stale_until = Some(now + stale_time);
                // RFC 9494 section 4.2: it runs on, whatever sessions come and go before End-of-RIB.
                state.long_lived_until = before.long_lived_until;
            } else {
                drop_stale.push(family);
            }
        }
        for family in drop_stale {
            self.rib.update_source(id, family, |_, path, _| !path.stale);
        }
        let known = self.rib.sources.get(&id).map(|source| source.id);
        if let Some(source) = self.rib.sources.get_mut(&id) {
            source.id = session.remote_id;
        }
        if known != Some(session.remote_id) {
            self.rib.touch_source(id);
        }
        self.monitor_up(id);
        let Some(profile) = self.profile(id) else { return };
        // A new group learns the settled table. One that exists has its log: what has changed since comes in it, and
        // thousands who connect at once need not wait for a flush each.
        if !self.egress.has_group(&profile) {
            self.flush();
        }
        let (withheld, us) = (self.withhold_until.is_some(), self.identity());
        self.egress.join(id, profile, withheld, &self.rib, us);
        self.to_pump.insert(id);
    }

    /// The rival is up first: the main machine's attempt is given up for it.
    fn promote_rival(&mut self, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(rival) = peer.rival.take() else { return };
        let main = std::mem::replace(&mut peer.main, *rival);
        peer.idle_until = None;
        if let Some(conn) = main.id {
            self.close(conn);
        }
        self.report(id, PeerState::Established, "the peer's own connection is up");
    }

    /// What the stream to a peer depends on.
    pub(super) fn profile(&self, id: SourceId) -> Option<EgressProfile> {
        let peer = self.peers.get(&id)?;
        let session = peer.session()?;
        Some(EgressProfile {
            kind: peer.config.kind,
            negotiated: Negotiated { add_path_receive: FamilySet::NONE, ..session.negotiated },
            paths: match session.negotiated.add_path_send {
                FamilySet::NONE => 0,
                _ => peer.config.add_path_send,
            },
            local_as: negotiate::local_as(&self.config, &peer.config),
            next_hop: peer.config.next_hop,
            local: peer.main.local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            local_other: peer.config.local_other,
            // A reflector says next hops as they are: its clients share a stream whatever links they are on.
            link: peer.main.link.clone().filter(|_| {
                peer.config.kind != PeerKind::InternalClient
                    || peer.config.next_hop == NextHopMode::SelfAddress
            }),
            export: Arc::clone(&peer.config.export),
            long_lived: session.long_lived.iter().any(Option::is_some),
            enhanced_refresh: session.enhanced_refresh,
            no_policy: peer.config.lacks(&peer.config.export),
            draining: self.draining,
            alone: if self.ungrouped { id.0 } else { 0 },
        })
    }

    pub(super) fn session_down(&mut self, id: SourceId, cause: &Cause) {
        let now = self.now;
        self.monitor_down(id, cause);
        self.egress.leave(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.changed_at = Some(now);
        peer.last_reset = Some((now, cause.text.clone()));
        let session = peer.main.session.take();
        let loss = Self::loss(cause);
        for family in Family::ALL {
            let kept = session.as_ref().and_then(|session| retention(session, family, loss));
            let state = &mut peer.families[family.index()];
            let end_of_rib = state.end_of_rib;
            let before = *state;
            *state = FamilyState::default();
            let Some(kept) = kept else {
                self.rib.update_source(id, family, |_, _, _| false);
                continue;
            };
            // RFC 4724 section 4.2 deletes what was stale already; RFC 9494 section 4.2 lets it live on its first timer.
            let keep_stale = kept.long_lived.is_some() || end_of_rib;
            self.rib.update_source(id, family, |_, path, _| {
                let keep = !path.stale || keep_stale;
                path.stale = true;
                path.unrefreshed = false;
                keep
            });
            if self.rib.counts(id, family).stale > 0 {
                state.stale_until = Some(now + kept.restart);
                state.long_lived = kept.long_lived;
                state.long_lived_until = before.long_lived_until;
            }
        }
    }

    pub(super) fn end_of_rib_received(&mut self, id: SourceId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let state = &mut peer.families[family.index()];
        state.end_of_rib = true;
        state.stale_until = None;
        state.long_lived_until = None;
        if self.rib.counts(id, family).stale > 0 {
            self.rib.update_source(id, family, |_, path, _| !path.stale);
        }
        self.monitor_complete(id, family);
    }

    pub(super) fn run_restart_timers(&mut self, id: SourceId) {
        self.may_be_gone(id);
        for family in Family::ALL {
            let now = self.now;
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let up = peer.is_up();
            let state = &mut peer.families[family.index()];
            if state.stale_until.is_some_and(|at| at <= now) {
                state.stale_until = None;
                match state.long_lived.take().filter(|_| !up) {
                    Some(time) => {
                        state.long_lived_until.get_or_insert(now + time);
                        self.rib.update_source(id, family, |_, path, route| {
                            path.long_lived = path.stale;
                            !(path.stale && route.attributes.communities.has(&Community::NO_LLGR))
                        });
                    }
                    None => {
                        // What becomes stale later has its own time.
                        state.long_lived_until = None;
                        self.rib.update_source(id, family, |_, path, _| !path.stale);
                    }
                }
            }
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let state = &mut peer.families[family.index()];
            if state.long_lived_until.is_some_and(|at| at <= now) {
                state.long_lived_until = None;
                self.rib.update_source(id, family, |_, path, _| !path.stale);
            }
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let state = &mut peer.families[family.index()];
            if state.refresh_until.is_some_and(|at| at <= now) {
                state.refresh_until = None;
                let remote = peer.config.remote;
                self.rib.update_source(id, family, |_, path, _| !path.unrefreshed);
                self.log(Log::RefreshUnfinished(remote));
            }
        }
    }

    /// The datastore says that the peer is gone.
    pub(super) fn prune_stale(&mut self, remote: IpAddr) {
        let Some(&id) = self.by_address.get(&remote.to_canonical()) else { return };
        self.may_be_gone(id);
        for family in Family::ALL {
            self.rib.update_source(id, family, |_, path, _| !path.stale);
            if let Some(peer) = self.peers.get_mut(&id).filter(|peer| !Peer::is_up(peer)) {
                peer.families[family.index()] = FamilyState::default();
            }
        }
    }
}
