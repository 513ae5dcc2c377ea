//! Runs the state machine of a connection: events in, actions done.

use super::peer::{Conn, Slot};
use super::{Owner, Speaker};
use crate::egress;
use crate::io::{ConnId, Output};
use crate::rib::SourceId;
use crate::session::fsm::{self, Action, Event as FsmEvent};
use crate::session::negotiate;
use crate::session::restart::Loss;
use crate::status::{Event, PeerState};
use crate::wire::{CeaseSubcode, Message, MessageType, Notification, NotificationCode};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// Hold time while waiting for OPEN (RFC 4271 section 8.2.2 suggests 4 minutes).
const LARGE_HOLD: Duration = Duration::from_secs(240);

/// What came with an event.
#[derive(Debug, Default)]
pub(super) struct Cause {
    /// NOTIFICATION received, or to be sent.
    pub(super) notification: Option<Notification>,
    /// The message that is the event.
    pub(super) message: Option<MessageType>,
    /// In words.
    pub(super) text: String,
    /// The NOTIFICATION was received.
    pub(super) received: bool,
    /// The session is replaced by another connection of the restarted peer.
    pub(super) replaced: bool,
    /// The wait before the next attempt is short: nothing is wrong with the peer.
    pub(super) again_soon: bool,
}

impl Cause {
    /// A message, nothing wrong with it but maybe the moment.
    pub(super) fn message(kind: MessageType) -> Option<Self> {
        Some(Self { message: Some(kind), ..Self::default() })
    }

    /// An error of the machine itself: of an unexpected message it names the type (RFC 6608 section 3).
    fn error(&self, code: NotificationCode) -> Notification {
        match (code, self.message) {
            (NotificationCode::Fsm(_), Some(kind)) => Notification::with_data(code, vec![kind as u8]),
            _ => Notification::new(code),
        }
    }
}

impl Speaker {
    pub(super) fn event(&mut self, id: SourceId, slot: Slot, event: FsmEvent, cause: Option<Cause>) {
        let mut cause = cause.unwrap_or_default();
        let Some(conn) = self.peers.get_mut(&id).and_then(|peer| peer.conn_mut(slot)) else { return };
        let before = conn.state;
        let (state, actions) = fsm::step(before, event);
        conn.state = state;
        for action in actions {
            if let Action::Notify(Some(code)) = action {
                cause.notification = Some(cause.error(code));
            }
            self.act(id, slot, action, before, &mut cause);
        }
        if state != before {
            self.record_state(id, slot, before, state);
            self.state_changed(id, slot, state, event, &cause);
        }
        self.schedule(id);
    }

    fn act(&mut self, id: SourceId, slot: Slot, action: Action, before: PeerState, cause: &mut Cause) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let timers = peer.config.timers;
        match action {
            Action::Dial => self.dial(id, slot),
            Action::Close => {
                if let Some(conn) = peer.conn_mut(slot).and_then(Conn::disconnect) {
                    self.close(conn);
                }
            }
            Action::SendOpen => {
                // The R bit belongs into the first session with each peer, while it may hold routes of our predecessor.
                let window = self.started + peer.config.graceful_restart.restart_time;
                let restarting = self.config.restarting && peer.established_count == 0 && now <= window;
                let open = negotiate::open(&self.config, &peer.config, restarting);
                self.send(id, slot, &Message::Open(open));
            }
            Action::SendKeepalive => self.send(id, slot, &Message::Keepalive),
            Action::Notify(_) => self.notify(id, slot, cause),
            Action::StartConnectRetry if peer.config.passive => {}
            Action::StartConnectRetry => {
                let wait = self.rng.jitter(peer.retry_wait);
                peer.retry_wait = (peer.retry_wait * 2).min(timers.connect_retry_max);
                if let Some(conn) = peer.conn_mut(slot) {
                    conn.connect_retry = Some(now + wait);
                }
            }
            Action::StopConnectRetry => {
                if let Some(conn) = peer.conn_mut(slot) {
                    conn.connect_retry = None;
                }
            }
            Action::ResetRetryCounter => peer.retries = 0,
            Action::CountRetry => peer.retries += 1,
            Action::StartLargeHold => {
                if let Some(conn) = peer.conn_mut(slot) {
                    conn.hold = Some(now + LARGE_HOLD);
                }
            }
            Action::StartHold => {
                if let Some(conn) = peer.conn_mut(slot) {
                    let hold = conn.session.as_ref().map_or(LARGE_HOLD, |session| session.hold);
                    conn.hold = (!hold.is_zero()).then(|| now + hold);
                }
            }
            Action::StartKeepalive => {
                let interval = peer.conn(slot).and_then(|conn| conn.session.as_ref()).map(|s| s.keepalive);
                let interval = interval.unwrap_or_default();
                let wait = self.rng.jitter(interval);
                if let Some(conn) = peer.conn_mut(slot) {
                    conn.keepalive = (!interval.is_zero()).then(|| now + wait);
                }
            }
            Action::StopTimers => {
                if let Some(conn) = peer.conn_mut(slot) {
                    conn.connect_retry = None;
                    conn.hold = None;
                    conn.keepalive = None;
                    conn.send_hold = None;
                }
            }
            Action::SessionUp => self.session_up(id, slot),
            Action::SessionDown => {
                debug_assert_eq!(before, PeerState::Established);
                self.session_down(id, cause);
            }
        }
    }

    fn dial(&mut self, id: SourceId, slot: Slot) {
        let number = ConnId::dialled(self.next_dial);
        self.next_dial += 1;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let remote = SocketAddr::new(peer.config.remote, peer.config.port);
        let local = peer.config.local;
        let options = peer.config.socket();
        if let Some(conn) = peer.conn_mut(slot) {
            conn.attach(number, true, None);
        }
        self.conns.insert(number, Owner::Peer(id));
        self.outputs.push_back(Output::Dial { conn: number, remote, local, options });
    }

    /// Queues a message ahead of bulk.
    pub(super) fn send(&mut self, id: SourceId, slot: Slot, message: &Message) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let before = negotiate::before_open(&peer.config);
        if let Some(conn) = peer.conn_mut(slot) {
            let bytes = egress::control(message, &conn.negotiated(before));
            if !bytes.is_empty() {
                if let (Message::Open(_), Some(number)) = (message, conn.id) {
                    self.watchers.open_sent(number, &bytes);
                }
                conn.control.push_back(bytes);
                peer.counters.sent.count(message.message_type());
            }
        }
        if slot == Slot::Main && peer.is_up() {
            self.to_pump.insert(id);
        } else {
            self.drain_control(id, slot);
        }
    }

    /// Hands the queued control messages to the socket, whatever its window.
    pub(super) fn drain_control(&mut self, id: SourceId, slot: Slot) {
        let queued: Vec<Bytes> = match self.peers.get_mut(&id).and_then(|peer| peer.conn_mut(slot)) {
            Some(conn) => conn.control.drain(..).collect(),
            None => return,
        };
        for data in queued {
            self.write(id, slot, data);
        }
    }

    pub(super) fn write(&mut self, id: SourceId, slot: Slot, data: Bytes) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let send_hold = peer.config.timers.send_hold;
        let Some(conn) = peer.conn_mut(slot) else { return };
        let Some(number) = conn.id else { return };
        if conn.in_flight == 0 && !send_hold.is_zero() {
            conn.send_hold = Some(now + send_hold);
        }
        conn.in_flight += data.len();
        peer.counters.bytes_out += data.len() as u64;
        self.outputs.push_back(Output::Write { conn: number, data });
    }

    fn notify(&mut self, id: SourceId, slot: Slot, cause: &mut Cause) {
        let Some(notification) = cause.notification.clone() else { return };
        let connected = self
            .peers
            .get(&id)
            .and_then(|peer| peer.conn(slot))
            .is_some_and(|conn| conn.connected && conn.id.is_some());
        if !connected {
            return;
        }
        if cause.text.is_empty() {
            cause.text = notification.to_string();
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            let before = negotiate::before_open(&peer.config);
            if let Some(conn) = peer.conn_mut(slot) {
                let bytes = egress::control(&Message::Notification(notification), &conn.negotiated(before));
                conn.control.push_back(bytes);
                peer.counters.sent.count(MessageType::Notification);
            }
        }
        self.drain_control(id, slot);
    }

    pub(super) fn connection_lost(&mut self, id: SourceId, slot: Slot, reason: &str) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&id) {
            if let Some(conn) = peer.conn_mut(slot) {
                let dialled = !conn.connected;
                // Nothing to close any more.
                conn.id = None;
                conn.connected = false;
                if dialled {
                    peer.failed_dials = peer.failed_dials.saturating_add(1);
                }
            }
            peer.last_error = Some((now, reason.to_owned()));
        }
        let cause = Cause { text: reason.to_owned(), again_soon: true, ..Cause::default() };
        self.event(id, slot, FsmEvent::TcpFails, Some(cause));
    }

    /// Ends a session with a NOTIFICATION of ours.
    pub(super) fn reset(
        &mut self,
        id: SourceId,
        slot: Slot,
        event: FsmEvent,
        note: Notification,
        text: String,
    ) {
        let cause = Cause { notification: Some(note), text, ..Cause::default() };
        self.event(id, slot, event, Some(cause));
    }

    pub(super) fn shut_down(&mut self, id: SourceId, message: &str) {
        let note = Notification::cease_with_text(CeaseSubcode::AdministrativeShutdown, message);
        self.stop_peer(id, note, true);
    }

    /// Stops a peer with a Cease; as a Hard Reset where that is needed for the peer to drop our routes (RFC 8538).
    pub(super) fn stop_peer(&mut self, id: SourceId, note: Notification, hard: bool) {
        for slot in [Slot::Rival, Slot::Main] {
            let Some(conn) = self.peers.get(&id).and_then(|peer| peer.conn(slot)) else { continue };
            let n_bit = conn
                .session
                .as_ref()
                .and_then(|session| session.restart.as_ref())
                .is_some_and(|restart| restart.notification);
            let note = if hard && n_bit { note.clone().into_hard_reset() } else { note.clone() };
            let text = note.to_string();
            self.reset(id, slot, FsmEvent::Stop, note, text);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.idle_until = peer.barred_until.filter(|until| *until > self.now);
        }
        self.schedule(id);
    }

    fn state_changed(&mut self, id: SourceId, slot: Slot, state: PeerState, event: FsmEvent, cause: &Cause) {
        let now = self.now;
        if state == PeerState::Idle
            && !cause.text.is_empty()
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.last_error = Some((now, cause.text.clone()));
            if cause.notification.is_some() {
                peer.last_reset.clone_from(&peer.last_error);
            }
        }
        match (slot, state) {
            (Slot::Rival, PeerState::Idle | PeerState::Active) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.rival = None;
                }
            }
            (Slot::Rival, _) => {}
            (Slot::Main, _) => {
                self.report(id, state, &cause.text);
                if matches!(state, PeerState::Idle | PeerState::Active) {
                    self.may_be_gone(id);
                    self.main_is_free(id, state, event, cause);
                }
            }
        }
    }

    pub(super) fn report(&mut self, id: SourceId, state: PeerState, reason: &str) {
        if let Some(peer) = self.peers.get(&id) {
            let remote = peer.config.remote;
            let event = Event::PeerChanged { remote, state, reason: reason.to_owned() };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// The main machine has no connection: the rival takes its place, or a wait begins.
    fn main_is_free(&mut self, id: SourceId, state: PeerState, event: FsmEvent, cause: &Cause) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(rival) = peer.rival.take() {
            peer.main = *rival;
            peer.idle_until = None;
            let state = peer.main.state;
            self.report(id, state, "the peer's own connection goes on");
            return;
        }
        if state != PeerState::Idle || event == FsmEvent::Stop {
            return;
        }
        let wait = match peer.barred_until.filter(|until| *until > now) {
            Some(until) => until.since(now),
            None if cause.again_soon || cause.replaced => {
                let wait = self.rng.jitter(peer.retry_wait);
                peer.retry_wait = (peer.retry_wait * 2).min(peer.config.timers.connect_retry_max);
                wait
            }
            None => {
                let wait = self.rng.jitter(peer.error_wait);
                peer.error_wait = (peer.error_wait * 2).min(peer.config.timers.error_wait_max);
                wait
            }
        };
        peer.idle_until = Some(now + wait);
    }

    /// The loss that a cause stands for.
    pub(super) fn loss(cause: &Cause) -> Loss<'_> {
        match &cause.notification {
            _ if cause.replaced => Loss::Replaced,
            Some(notification) => Loss::Notification(notification),
            None => Loss::Connection,
        }
    }

    /// Collision and restart: an OPEN came in on `slot` and is valid (RFC 4271 section 6.8). False if that connection
    /// lost.
    pub(super) fn collide(
        &mut self,
        id: SourceId,
        slot: Slot,
        restarted: bool,
        remote_id: std::net::Ipv4Addr,
    ) -> bool {
        let now = self.now;
        let Some(peer) = self.peers.get(&id) else { return false };
        let other = match slot {
            Slot::Main => Slot::Rival,
            Slot::Rival => Slot::Main,
        };
        let Some(other_conn) = peer.conn(other) else { return true };
        let ours = (self.config.router_id, negotiate::local_as(&self.config, &peer.config));
        let theirs = (remote_id, peer.config.remote_as);
        match other_conn.state {
            PeerState::OpenConfirm => {
                let keep_outgoing = crate::session::collision::keep_ours(ours, theirs);
                let this_outgoing = peer.conn(slot).is_some_and(|conn| conn.outgoing);
                if other_conn.outgoing == this_outgoing || this_outgoing == keep_outgoing {
                    self.dump(id, other);
                    true
                } else {
                    self.dump(id, slot);
                    false
                }
            }
            PeerState::Established => {
                // RFC 4724 section 4.2: the peer has restarted before we noticed. Two connections that crossed look the
                // same, but then the session is young.
                let resumable = peer.main.session.as_ref().is_some_and(|session| session.restart.is_some());
                let age = peer.changed_at.map_or(Duration::ZERO, |at| now.since(at));
                if resumable && (restarted || age > Duration::from_secs(10)) {
                    self.replace_session(id);
                    true
                } else {
                    self.dump(id, slot);
                    false
                }
            }
            _ => true,
        }
    }

    fn dump(&mut self, id: SourceId, slot: Slot) {
        let cause = Cause {
            text: NotificationCode::Cease(CeaseSubcode::ConnectionCollision).to_string(),
            again_soon: true,
            ..Cause::default()
        };
        self.event(id, slot, FsmEvent::CollisionDump, Some(cause));
    }

    fn replace_session(&mut self, id: SourceId) {
        let cause = Cause {
            text: "the peer restarted and opened a new connection".to_owned(),
            replaced: true,
            ..Cause::default()
        };
        self.event(id, Slot::Main, FsmEvent::TcpFails, Some(cause));
    }
}
