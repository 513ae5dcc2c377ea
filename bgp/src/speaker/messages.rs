//! Octets and messages from peers.

use super::fsm::Cause;
use super::peer::Slot;
use super::{Owner, Speaker};
use crate::family::Family;
use crate::io::{ConnId, Log};
use crate::rib::SourceId;
use crate::session::fsm::Event as FsmEvent;
use crate::session::negotiate;
use crate::status::PeerState;
use crate::wire::{
    self, Decoded, FaultAction, Framer, Message, MessageType, Notification, NotificationCode, Open,
    OpenSubcode, RefreshKind, RouteRefresh,
};

/// Capabilities' R bit of an OPEN.
fn restarted(open: &Open) -> bool {
    open.capabilities
        .iter()
        .any(|capability| matches!(capability, wire::Capability::GracefulRestart(gr) if gr.restarted))
}

impl Speaker {
    pub(super) fn received(&mut self, conn: ConnId, data: &[u8]) {
        match self.conns.get(&conn) {
            Some(Owner::Parked) => self.parked_received(conn, data),
            Some(Owner::Peer(id)) => {
                let id = *id;
                self.peer_received(id, conn, data);
            }
            None => {}
        }
    }

    fn peer_received(&mut self, id: SourceId, conn: ConnId, data: &[u8]) {
        // The framer is taken out while its messages are handled, which may end or move the connection.
        let mut framer = match self.peers.get_mut(&id) {
            Some(peer) => {
                peer.counters.bytes_in += data.len() as u64;
                match peer.slot_of(conn).and_then(|slot| peer.conn_mut(slot)) {
                    Some(c) => std::mem::take(&mut c.framer),
                    None => return,
                }
            }
            None => return,
        };
        self.cut(id, conn, &mut framer, data);
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some(slot) = peer.slot_of(conn)
            && let Some(c) = peer.conn_mut(slot)
        {
            c.framer = framer;
        }
        self.schedule(id);
    }

    fn cut(&mut self, id: SourceId, conn: ConnId, framer: &mut Framer, mut data: &[u8]) {
        loop {
            let Some(peer) = self.peers.get(&id) else { return };
            let Some(slot) = peer.slot_of(conn) else { return };
            let Some(c) = peer.conn(slot) else { return };
            let negotiated = c.negotiated(negotiate::before_open(&peer.config));
            framer.set_max_len(negotiated.max_message_len());
            let mut rest = data;
            let (kind, decoded) = match framer.next_frame(&mut rest) {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    self.watchers.received(
                        self.now,
                        &self.config,
                        (conn, c, &peer.config),
                        &negotiated,
                        frame,
                    );
                    (Some(frame.kind()), wire::decode(frame, &negotiated))
                }
                Err(reset) => (None, Err(reset)),
            };
            let taken = data.len() - rest.len();
            data = data.get(taken..).unwrap_or_default();
            if let (Some(peer), Some(kind)) = (self.peers.get_mut(&id), kind) {
                peer.counters.received.count(kind);
            }
            match decoded {
                Ok(decoded) => self.message(id, slot, decoded),
                Err(reset) => {
                    let event = match kind {
                        None => FsmEvent::HeaderError,
                        Some(MessageType::Open) => FsmEvent::OpenError,
                        Some(_) => FsmEvent::UpdateError,
                    };
                    let text = reset.to_string();
                    self.reset(id, slot, event, reset.notification, text);
                    return;
                }
            }
        }
    }

    fn message(&mut self, id: SourceId, slot: Slot, decoded: Decoded) {
        match decoded.message {
            Message::Open(open) => self.open_received(id, slot, &open),
            Message::Keepalive => {
                self.event(id, slot, FsmEvent::Keepalive, Cause::message(MessageType::Keepalive));
            }
            Message::Notification(notification) => self.notification_received(id, slot, notification),
            Message::Update(update) => {
                let up = slot == Slot::Main && self.peers.get(&id).is_some_and(|peer| peer.is_up());
                self.event(id, slot, FsmEvent::Update, Cause::message(MessageType::Update));
                if !up {
                    return;
                }
                self.log_faults(id, &decoded.faults);
                self.update_received(id, &update);
            }
            Message::RouteRefresh(refresh) => {
                let up = slot == Slot::Main && self.peers.get(&id).is_some_and(|peer| peer.is_up());
                self.event(id, slot, FsmEvent::Update, Cause::message(MessageType::RouteRefresh));
                if up {
                    self.refresh_received(id, refresh);
                }
            }
        }
    }

    fn log_faults(&mut self, id: SourceId, faults: &[wire::AttributeFault]) {
        let Some(first) = faults.first() else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if faults.iter().any(|fault| fault.action == FaultAction::TreatAsWithdraw) {
            peer.counters.treated_as_withdraw += 1;
        }
        let remote = peer.config.remote;
        let text = match faults.len() {
            1 => first.to_string(),
            more => format!("{first} (and {} more faults)", more - 1),
        };
        self.log(Log::Malformed(remote, text));
    }

    fn open_received(&mut self, id: SourceId, slot: Slot, open: &Open) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(conn) = peer.conn(slot) else { return };
        if conn.state != PeerState::OpenSent {
            self.event(id, slot, FsmEvent::Open, Cause::message(MessageType::Open));
            return;
        }
        let number = conn.id;
        let session = match negotiate::negotiate(&self.config, &peer.config, open) {
            Ok(session) => session,
            Err((notification, text)) => {
                self.reset(id, slot, FsmEvent::OpenError, notification, text);
                return;
            }
        };
        if !self.collide(id, slot, restarted(open), open.bgp_id) {
            return;
        }
        // The collision may have moved this connection to the main machine.
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(slot) = number.and_then(|number| peer.slot_of(number)) else { return };
        if let Some(conn) = peer.conn_mut(slot) {
            conn.session = Some(Box::new(session));
        }
        self.event(id, slot, FsmEvent::Open, None);
    }

    fn notification_received(&mut self, id: SourceId, slot: Slot, notification: Notification) {
        let version = notification.code == NotificationCode::Open(OpenSubcode::UnsupportedVersion);
        let event = if version { FsmEvent::NotificationVersion } else { FsmEvent::Notification };
        let collision = notification.code == NotificationCode::Cease(wire::CeaseSubcode::ConnectionCollision);
        let cause = Cause {
            text: format!("the peer sent: {notification}"),
            notification: Some(notification),
            again_soon: collision,
            received: true,
            ..Cause::default()
        };
        self.event(id, slot, event, Some(cause));
    }

    fn refresh_received(&mut self, id: SourceId, refresh: RouteRefresh) {
        let Some(family) = Family::from_wire(refresh.family) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.session().is_some_and(|session| session.has(family)) {
            return;
        }
        match refresh.kind {
            RefreshKind::Request => {
                self.egress.refresh(id, family);
                self.to_pump.insert(id);
            }
            RefreshKind::BeginOfRefresh => {
                let restarts = peer.session().is_some_and(|session| session.restart.is_some());
                let state = &mut peer.families[family.index()];
                if restarts && !state.end_of_rib {
                    // RFC 7313 section 4: without End-of-RIB the table isn't complete, and nothing in it is old.
                    let remote = peer.config.remote;
                    self.log(Log::EarlyRefresh(remote));
                    return;
                }
                state.refresh_until = Some(self.now + peer.config.graceful_restart.stale_path_time);
                self.rib.update_source(id, family, |_, path, _| {
                    path.unrefreshed = true;
                    true
                });
            }
            RefreshKind::EndOfRefresh => {
                if peer.families[family.index()].refresh_until.take().is_some() {
                    self.rib.update_source(id, family, |_, path, _| !path.unrefreshed);
                }
            }
            RefreshKind::Other(subtype) => {
                let remote = peer.config.remote;
                self.log(Log::UnknownRefresh(remote, subtype));
            }
        }
    }
}
