//! One session: the state machine, timers and poll sequences of RFC 5880 section 6.8. No demultiplexing, no queue.

use super::config::SessionConfig;
use super::packet::{Diagnostic, Packet, State};
use super::status::SessionStatus;
use crate::time::{Rng, Time};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nobody may want to send faster while the session is not up (RFC 5880 section 6.8.3), in microseconds.
const SLOW: u32 = 1_000_000;

/// An interval of the wire.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1)
}

/// What the other side has told; as in RFC 5880 section 6.8.1 before it has told anything.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Remote {
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    demand: bool,
    independent: bool,
    min_tx: u32,
    min_rx: u32,
    multiplier: u8,
}

impl Remote {
    const SILENT: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        demand: false,
        independent: false,
        min_tx: 0,
        min_rx: 1,
        multiplier: 0,
    };
}

/// Our two intervals, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Intervals {
    tx: u32,
    rx: u32,
}

/// A poll sequence (RFC 5880 section 6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Poll {
    Idle,
    Asking,
    /// What is asked about has changed meanwhile: the answer that comes first may be to the old question.
    AskingAgain,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Session {
    config: SessionConfig,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    /// What our packets say.
    told: Intervals,
    /// What counts: where `told` would let the other side down, the older value until it has confirmed the new one.
    used: Intervals,
    poll: Poll,
    failures: u64,
    last_sent: Option<Time>,
    /// When the next periodic packet is due.
    send_at: Option<Time>,
    /// When the other side counts as gone.
    detect_at: Option<Time>,
    /// Removed: until then the other side is told so.
    gone_at: Option<Time>,
}

impl Session {
    pub(super) fn new(config: SessionConfig, discriminator: u32, now: Time) -> Self {
        let intervals = Intervals { tx: micros(config.idle_tx).max(SLOW), rx: micros(config.min_rx) };
        Self {
            config,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: Remote::SILENT,
            told: intervals,
            used: intervals,
            poll: Poll::Idle,
            failures: 0,
            last_sent: None,
            send_at: Some(now),
            detect_at: None,
            gone_at: None,
        }
    }

    pub(super) fn config(&self) -> &SessionConfig {
        &self.config
    }

    pub(super) fn discriminator(&self) -> u32 {
        self.discriminator
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.gone_at.is_some()
    }

    pub(super) fn is_gone(&self, now: Time) -> bool {
        self.gone_at.is_some_and(|at| at <= now)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        [self.send_at, self.detect_at, self.gone_at].into_iter().flatten().min()
    }

    pub(super) fn status(&self) -> SessionStatus {
        SessionStatus {
            state: self.state,
            diagnostic: self.diagnostic,
            remote_state: self.remote.state,
            remote_diagnostic: self.remote.diagnostic,
            remote_independent: self.remote.independent,
            tx_interval: Duration::from_micros(self.interval().into()),
            detection_time: self.detection_time(),
            multihop: self.config.multihop,
            failures: self.failures,
        }
    }

    /// Interval of our periodic packets before jitter (RFC 5880 section 6.8.2), in microseconds.
    fn interval(&self) -> u32 {
        self.used.tx.max(self.remote.min_rx)
    }

    /// RFC 5880 section 6.8.4.
    fn detection_time(&self) -> Duration {
        let interval = Duration::from_micros(self.used.rx.max(self.remote.min_tx).into());
        interval * u32::from(self.remote.multiplier)
    }

    /// Whether the other side wants no periodic packets (RFC 5880 section 6.8.7).
    fn is_quiet(&self) -> bool {
        let demand = self.remote.demand && self.state == State::Up && self.remote.state == State::Up;
        self.remote.min_rx == 0 || demand && self.poll == Poll::Idle
    }

    fn schedule_send(&mut self, rng: &mut Rng) {
        if self.is_quiet() {
            self.send_at = None;
            return;
        }
        let Some(last) = self.last_sent else { return };
        // 75 to 100 %; with a multiplier of 1 at most 90 %, or a packet on time would be late (RFC 5880 section 6.8.7).
        let range = if self.config.multiplier == 1 { 151 } else { 251 };
        let part = u32::try_from(750 + rng.next_u64() % range).unwrap_or(750);
        self.send_at = Some(last + Duration::from_micros(self.interval().into()) / 1000 * part);
    }

    /// The packet to send now. The next periodic one is counted from here.
    pub(super) fn packet(&mut self, now: Time, last: bool, rng: &mut Rng) -> Packet {
        self.last_sent = Some(now);
        self.schedule_send(rng);
        Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            poll: !last && self.poll != Poll::Idle,
            last,
            // This BFD is part of the process that speaks BGP.
            independent: false,
            authenticated: false,
            demand: false,
            multiplier: self.config.multiplier,
            own: self.discriminator,
            your: self.remote.discriminator,
            min_tx: self.told.tx,
            min_rx: self.told.rx,
            min_echo_rx: 0,
        }
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        self.send_at.is_some_and(|at| at <= now)
    }

    /// New intervals for the state and configuration, with a poll sequence where the other side must know first
    /// (RFC 5880 section 6.8.3).
    fn change_intervals(&mut self) {
        let up = self.state == State::Up;
        let tx = if up { micros(self.config.min_tx) } else { micros(self.config.idle_tx).max(SLOW) };
        let new = Intervals { tx, rx: micros(self.config.min_rx) };
        if !up {
            (self.told, self.used, self.poll) = (new, new, Poll::Idle);
            return;
        }
        if new == self.told {
            return;
        }
        // Slower sending, and expecting more, wait for the answer.
        self.used.tx = if new.tx > self.told.tx { self.used.tx } else { new.tx };
        self.used.rx = if new.rx < self.told.rx { self.used.rx } else { new.rx };
        self.told = new;
        self.poll = if self.poll == Poll::Idle { Poll::Asking } else { Poll::AskingAgain };
    }

    fn enter(&mut self, state: State, diagnostic: Diagnostic) {
        self.state = state;
        self.diagnostic = diagnostic;
        self.change_intervals();
    }

    /// A packet for this session. Says if and how it is to be answered at once.
    pub(super) fn receive(&mut self, now: Time, packet: &Packet, rng: &mut Rng) -> Option<Answer> {
        let (before, interval, quiet) = (self.state, self.interval(), self.is_quiet());
        self.remote = Remote {
            discriminator: packet.own,
            state: packet.state,
            diagnostic: packet.diagnostic,
            demand: packet.demand,
            independent: packet.independent,
            min_tx: packet.min_tx,
            min_rx: packet.min_rx,
            multiplier: packet.multiplier,
        };
        if packet.last {
            match self.poll {
                Poll::Idle => {}
                Poll::Asking => {
                    self.poll = Poll::Idle;
                    self.used = self.told;
                }
                Poll::AskingAgain => self.poll = Poll::Asking,
            }
        }
        if self.state == State::AdminDown {
            return None;
        }
        self.step(packet.state);
        self.detect_at = Some(now + self.detection_time());
        if self.interval() != interval || self.is_quiet() != quiet {
            self.schedule_send(rng);
        }
        match (packet.poll, self.state != before) {
            (true, _) => Some(Answer::Final),
            (false, true) => Some(Answer::News),
            (false, false) => None,
        }
    }

    /// The state machine of RFC 5880 section 6.8.6.
    fn step(&mut self, remote: State) {
        match (self.state, remote) {
            (State::Init | State::Up, State::AdminDown) => {
                self.enter(State::Down, Diagnostic::NEIGHBOR_DOWN);
            }
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::NONE),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE);
            }
            (State::Up, State::Down) => {
                self.failures += 1;
                self.enter(State::Down, Diagnostic::NEIGHBOR_DOWN);
            }
            _ => {}
        }
    }

    /// Detection time and departure. True if there is something new to tell the other side.
    pub(super) fn run_timers(&mut self, now: Time) -> bool {
        if self.detect_at.is_none_or(|at| at > now) {
            return false;
        }
        self.detect_at = None;
        self.remote = Remote { diagnostic: self.remote.diagnostic, ..Remote::SILENT };
        if self.send_at.is_none() {
            self.send_at = Some(now);
        }
        match self.state {
            State::Init | State::Up => {
                self.failures += u64::from(self.state == State::Up);
                self.enter(State::Down, Diagnostic::TIME_EXPIRED);
                true
            }
            State::AdminDown | State::Down => false,
        }
    }

    /// Takes other settings, or comes back from being removed. True if there is something new to tell.
    pub(super) fn reconfigure(&mut self, config: SessionConfig, rng: &mut Rng) -> bool {
        self.config = config;
        let interval = self.interval();
        if self.gone_at.take().is_some() {
            self.failures = 0;
            self.enter(State::Down, Diagnostic::NONE);
            return true;
        }
        self.change_intervals();
        if self.interval() != interval {
            self.schedule_send(rng);
        }
        false
    }

    /// Taken down by the administrator: told for as long as the other side may need to notice, then gone.
    pub(super) fn leave(&mut self, now: Time) {
        let time = Duration::from_micros(self.interval().into()) * u32::from(self.config.multiplier);
        self.detect_at = None;
        self.enter(State::AdminDown, Diagnostic::ADMIN_DOWN);
        // At the pace of before, not the slow one of a session that is down.
        self.used.tx = micros(self.config.min_tx);
        self.gone_at = Some(now + time);
    }
}

/// What a packet must be answered with at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The end of the other side's poll sequence.
    Final,
    /// Our new state.
    News,
}
