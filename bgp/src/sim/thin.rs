//! A client of reflectors that costs a byte per prefix: real messages and the real state machine, but instead of a RIB a
//! row of versions per reflector. Every client of a group is sent the same shared bytes, so each message is decoded once
//! for all of them; one that arrives cut in two is decoded by whom it reaches.

use super::cluster::Cluster;
use crate::config::{PeerConfig, SpeakerConfig};
use crate::family::Family;
use crate::io::{ConnId, Input, Output, StopMode};
use crate::session::fsm::{self, Action, Event as FsmEvent};
use crate::session::negotiate::{self, Session};
use crate::session::restart::{Loss, retention, survives_open};
use crate::status::PeerState;
use crate::time::{Rng, Time};
use crate::wire::{
    self, CeaseSubcode, Framer, Message, Negotiated, NextHop, Notification, NotificationCode, PathAttributes,
    Reach, RefreshKind, Update,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod pieces;

pub(super) use pieces::Pieces;

use pieces::{Change, Changes};

/// A prefix is held with this version, 1 to 31: the MULTI_EXIT_DISC that its node originates it with.
pub(crate) const VERSIONS: u8 = 0x1f;
/// Came by way of another reflector: right while the reflector has not heard from the node itself.
const INDIRECT: u8 = 0x20;
/// Not repeated yet in the refresh under way.
const UNREFRESHED: u8 = 0x40;
/// Kept over the session's end.
const STALE: u8 = 0x80;
/// Wait for OPEN.
const LARGE_HOLD: Duration = Duration::from_secs(240);

/// A session with one reflector.
#[derive(Debug)]
struct Uplink {
    peer: Arc<PeerConfig>,
    state: PeerState,
    conn: Option<ConnId>,
    framer: Framer,
    session: Option<Box<Session>>,
    retry: Option<Time>,
    wait: Duration,
    hold: Option<Time>,
    keepalive: Option<Time>,
    known: Vec<u8>,
    /// The reflector has told everything once since the session came up.
    end_of_rib: bool,
    established: u32,
    dialled: u64,
    last_error: String,
}

/// A thin client. It originates one prefix and knows what every reflector tells it.
#[derive(Debug)]
pub(crate) struct Thin {
    index: usize,
    config: SpeakerConfig,
    version: u8,
    uplinks: Vec<Uplink>,
    outputs: VecDeque<Output>,
    rng: Rng,
    now: Time,
    /// The first thing a reflector said that is not right.
    wrong: Option<String>,
}

impl Thin {
    /// Node `index` of a cluster of `count`, a client of these reflectors.
    pub(crate) fn new(
        index: usize,
        count: usize,
        config: SpeakerConfig,
        version: u8,
        reflectors: Vec<Arc<PeerConfig>>,
        now: Time,
    ) -> Self {
        let uplinks = reflectors
            .into_iter()
            .map(|peer| Uplink {
                state: PeerState::Idle,
                conn: None,
                framer: Framer::new(),
                session: None,
                retry: Some(now),
                wait: peer.timers.connect_retry,
                peer,
                hold: None,
                keepalive: None,
                known: vec![0; count],
                end_of_rib: false,
                established: 0,
                dialled: 0,
                last_error: String::new(),
            })
            .collect();
        let rng = Rng::new(config.seed);
        Self { index, config, version, uplinks, outputs: VecDeque::new(), rng, now, wrong: None }
    }

    /// What each reflector says, a version per node and 0 for nothing.
    pub(crate) fn known(&self) -> impl Iterator<Item = &[u8]> {
        self.uplinks.iter().map(|uplink| uplink.known.as_slice())
    }

    /// Sessions up, and how often each was established.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (bool, u32)> {
        self.uplinks.iter().map(|uplink| (uplink.state == PeerState::Established, uplink.established))
    }

    /// Something that a reflector said and may not, or the last error of a session that is down.
    pub(crate) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Why sessions ended.
    pub(crate) fn last_errors(&self) -> impl Iterator<Item = &str> {
        self.uplinks.iter().map(|uplink| uplink.last_error.as_str())
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.uplinks.iter().flat_map(|uplink| [uplink.retry, uplink.hold, uplink.keepalive]).flatten().min()
    }

    pub(super) fn handle(&mut self, now: Time, input: Input, pieces: &mut Pieces) {
        self.now = self.now.max(now);
        match input {
            Input::Connected { conn, .. } => {
                if let Some(at) = self.of(conn) {
                    self.event(at, FsmEvent::TcpUp, None);
                }
            }
            Input::Closed { conn, reason } => {
                if let Some(at) = self.of(conn) {
                    if let Some(uplink) = self.uplinks.get_mut(at) {
                        uplink.conn = None;
                        uplink.last_error = reason;
                    }
                    self.event(at, FsmEvent::TcpFails, None);
                }
            }
            Input::Received { conn, data } => self.received(conn, &data, pieces),
            Input::Stop(mode) => self.stop(mode),
            _ => {}
        }
        self.run_timers();
    }

    fn of(&self, conn: ConnId) -> Option<usize> {
        self.uplinks.iter().position(|uplink| uplink.conn == Some(conn))
    }

    fn stop(&mut self, mode: StopMode) {
        for at in 0..self.uplinks.len() {
            let note = match &mode {
                StopMode::Shutdown(text) => Some(
                    Notification::cease_with_text(CeaseSubcode::AdministrativeShutdown, text)
                        .into_hard_reset(),
                ),
                StopMode::Restart => None,
            };
            self.event(at, if note.is_some() { FsmEvent::Stop } else { FsmEvent::TcpFails }, note);
        }
    }

    fn run_timers(&mut self) {
        for at in 0..self.uplinks.len() {
            let Some(uplink) = self.uplinks.get_mut(at) else { return };
            let now = self.now;
            let mut fired = Vec::new();
            let idle = uplink.state == PeerState::Idle;
            let retry = if idle { FsmEvent::Start } else { FsmEvent::ConnectRetryExpired };
            for (timer, event) in [
                (&mut uplink.hold, FsmEvent::HoldExpired),
                (&mut uplink.keepalive, FsmEvent::KeepaliveExpired),
                (&mut uplink.retry, retry),
            ] {
                if timer.is_some_and(|due| due <= now) {
                    *timer = None;
                    fired.push(event);
                }
            }
            for event in fired {
                self.event(at, event, None);
            }
        }
    }

    fn event(&mut self, at: usize, event: FsmEvent, mut note: Option<Notification>) {
        let Some(uplink) = self.uplinks.get_mut(at) else { return };
        let (state, actions) = fsm::step(uplink.state, event);
        uplink.state = state;
        for action in actions {
            self.act(at, action, &mut note);
        }
        if let Some(uplink) = self.uplinks.get_mut(at)
            && uplink.state == PeerState::Idle
            && uplink.retry.is_none()
        {
            uplink.retry = Some(self.now + self.rng.jitter(uplink.wait));
        }
    }

    fn act(&mut self, at: usize, action: Action, note: &mut Option<Notification>) {
        let now = self.now;
        let Some(uplink) = self.uplinks.get_mut(at) else { return };
        match action {
            Action::Dial => {
                uplink.dialled += 1;
                // Numbers of this node's uplinks must differ.
                let number = uplink.dialled * 16 + u64::try_from(at).unwrap_or(0);
                let conn = ConnId::dialled(number);
                uplink.conn = Some(conn);
                uplink.framer = Framer::new();
                uplink.session = None;
                let remote = SocketAddr::new(uplink.peer.remote, uplink.peer.port);
                let options = uplink.peer.socket();
                self.outputs.push_back(Output::Dial { conn, remote, local: None, options });
            }
            Action::Close => {
                if let Some(conn) = uplink.conn.take() {
                    self.outputs.push_back(Output::Close { conn });
                }
            }
            Action::SendOpen => {
                let open = negotiate::open(&self.config, &uplink.peer, false);
                self.send(at, &Message::Open(open));
            }
            Action::SendKeepalive => self.send(at, &Message::Keepalive),
            Action::Notify(code) => {
                if let Some(code) = code {
                    *note = Some(Notification::new(code));
                }
                if let Some(note) = note.clone() {
                    uplink.last_error = note.to_string();
                    self.send(at, &Message::Notification(note));
                }
            }
            Action::StartConnectRetry => {
                uplink.retry = Some(now + self.rng.jitter(uplink.wait));
                uplink.wait = (uplink.wait * 2).min(uplink.peer.timers.connect_retry_max);
            }
            Action::StopConnectRetry => uplink.retry = None,
            Action::ResetRetryCounter | Action::CountRetry => {}
            Action::StartLargeHold => uplink.hold = Some(now + LARGE_HOLD),
            Action::StartHold => {
                let hold = uplink.session.as_ref().map_or(LARGE_HOLD, |session| session.hold);
                uplink.hold = (!hold.is_zero()).then(|| now + hold);
            }
            Action::StartKeepalive => {
                let interval = uplink.session.as_ref().map(|session| session.keepalive).unwrap_or_default();
                uplink.keepalive = (!interval.is_zero()).then(|| now + self.rng.jitter(interval));
            }
            Action::StopTimers => (uplink.retry, uplink.hold, uplink.keepalive) = (None, None, None),
            Action::SessionUp => self.session_up(at),
            Action::SessionDown => self.session_down(at, note.as_ref()),
        }
    }

    fn send(&mut self, at: usize, message: &Message) {
        let Some(uplink) = self.uplinks.get(at) else { return };
        let Some(conn) = uplink.conn else { return };
        let negotiated = negotiated(uplink);
        let mut out = BytesMut::new();
        match message.encode(&negotiated, &mut out) {
            Ok(()) => self.outputs.push_back(Output::Write { conn, data: out.freeze() }),
            Err(error) => self.wrong = Some(error.to_string()),
        }
    }

    fn session_up(&mut self, at: usize) {
        let Some(uplink) = self.uplinks.get_mut(at) else { return };
        uplink.established += 1;
        uplink.end_of_rib = false;
        uplink.wait = uplink.peer.timers.connect_retry;
        if !uplink.session.as_ref().is_some_and(|session| survives_open(session, Family::Ipv4, false)) {
            drop_marked(&mut uplink.known, STALE);
        }
        self.announce(at);
        for family in Family::ALL {
            self.send(at, &Message::Update(Update::end_of_rib(family.into())));
        }
    }

    fn announce(&mut self, at: usize) {
        let reach = Reach {
            next_hop: NextHop::from(Cluster::address(self.index)),
            nlri: std::iter::once(Cluster::block(self.index).into()).collect(),
        };
        let attributes = PathAttributes {
            local_pref: Some(100),
            med: Some(u32::from(self.version)),
            ..PathAttributes::default()
        };
        self.send(at, &Message::Update(Update { reach: Some(reach), attributes, ..Update::default() }));
    }

    fn session_down(&mut self, at: usize, note: Option<&Notification>) {
        let Some(uplink) = self.uplinks.get_mut(at) else { return };
        let loss = note.map_or(Loss::Connection, Loss::Notification);
        let kept = uplink.session.as_ref().and_then(|session| retention(session, Family::Ipv4, loss));
        // Long-lived: longer than any simulation.
        for version in uplink.known.iter_mut().filter(|version| **version != 0) {
            *version = if kept.is_some() { (*version & !UNREFRESHED) | STALE } else { 0 };
        }
    }

    fn received(&mut self, conn: ConnId, data: &Bytes, pieces: &mut Pieces) {
        let Some(at) = self.of(conn) else { return };
        let Some(uplink) = self.uplinks.get_mut(at) else { return };
        let negotiated = negotiated(uplink);
        let shared = uplink.state == PeerState::Established;
        let changes = pieces.decode(&mut uplink.framer, &negotiated, uplink.peer.remote, data, shared);
        self.apply(at, &changes);
    }

    fn apply(&mut self, at: usize, changes: &[Changes]) {
        let mut updates = false;
        for change in changes.iter().flat_map(Changes::iter) {
            let Some(uplink) = self.uplinks.get_mut(at) else { return };
            let known = &mut uplink.known;
            match change {
                Change::Set(index, version) => {
                    updates = true;
                    if let Some(known) = known.get_mut(usize::from(*index)) {
                        *known = *version;
                    }
                }
                Change::Clear(index) => {
                    updates = true;
                    if let Some(known) = known.get_mut(usize::from(*index)) {
                        *known = 0;
                    }
                }
                Change::EndOfRib => {
                    updates = true;
                    uplink.end_of_rib = true;
                    drop_marked(known, STALE);
                }
                // RFC 7313 section 4: before End-of-RIB nothing is old.
                Change::Refresh(RefreshKind::BeginOfRefresh) if !uplink.end_of_rib => {}
                Change::Refresh(RefreshKind::BeginOfRefresh) => {
                    known
                        .iter_mut()
                        .filter(|version| **version != 0)
                        .for_each(|version| *version |= UNREFRESHED);
                }
                Change::Refresh(RefreshKind::EndOfRefresh) => drop_marked(known, UNREFRESHED),
                Change::Refresh(_) => {
                    self.announce(at);
                }
                Change::Keepalive => self.event(at, FsmEvent::Keepalive, None),
                Change::Other(message) => self.other(at, message),
                Change::Wrong(what) => {
                    self.wrong.get_or_insert_with(|| what.to_string());
                }
            }
        }
        if updates {
            self.event(at, FsmEvent::Update, None);
        }
    }

    fn other(&mut self, at: usize, message: &Message) {
        let Some(uplink) = self.uplinks.get_mut(at) else { return };
        match message {
            Message::Open(open) if uplink.state == PeerState::OpenSent => {
                match negotiate::negotiate(&self.config, &uplink.peer, open) {
                    Ok(session) => {
                        uplink.framer.set_max_len(session.negotiated.max_message_len());
                        uplink.session = Some(Box::new(session));
                        self.event(at, FsmEvent::Open, None);
                    }
                    Err((note, _)) => self.event(at, FsmEvent::OpenError, Some(note)),
                }
            }
            Message::Notification(note) => {
                uplink.last_error = format!("received {note}");
                let version = note.code == NotificationCode::Open(wire::OpenSubcode::UnsupportedVersion);
                let event = if version { FsmEvent::NotificationVersion } else { FsmEvent::Notification };
                self.event(at, event, Some(note.clone()));
            }
            other => {
                self.wrong.get_or_insert_with(|| format!("a reflector says {other:?}"));
            }
        }
    }
}

fn negotiated(uplink: &Uplink) -> Negotiated {
    let session = uplink.session.as_ref().map(|session| session.negotiated);
    session.unwrap_or_else(|| negotiate::before_open(&uplink.peer))
}

fn drop_marked(known: &mut [u8], mark: u8) {
    known.iter_mut().filter(|version| **version & mark != 0).for_each(|version| *version = 0);
}
