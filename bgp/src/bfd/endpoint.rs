//! All sessions of a speaker: who a packet is for, and when which session must be looked at.

use super::config::SessionConfig;
use super::packet::{PACKET_LEN, Packet, State};
use super::session::{Answer, Session};
use super::status::SessionStatus;
use crate::time::{Rng, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Time passed.
    Tick,
    /// A session with a peer, or none any more (the peer is told that this is no failure).
    Set(IpAddr, Option<SessionConfig>),
    /// A payload came in.
    Received {
        /// The sender's address.
        from: IpAddr,
        /// On the port of multihop sessions; else its TTL was 255.
        multihop: bool,
        /// The UDP payload.
        payload: &'a [u8],
    },
    /// Everything ends now: every peer is told that this is no failure.
    Stop,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send a packet to a peer, with TTL 255, from a port of 49152 to 65535 that is the session's own.
    Send {
        /// The peer.
        remote: IpAddr,
        /// From this address; `None` lets the system choose.
        local: Option<IpAddr>,
        /// Which port it goes to.
        multihop: bool,
        /// Payload.
        packet: [u8; PACKET_LEN],
    },
    /// A session changed.
    Changed(IpAddr, SessionStatus),
    /// Nothing more will be sent to the peer.
    Gone(IpAddr),
}

#[derive(Debug)]
struct Entry {
    session: Session,
    reported: Option<SessionStatus>,
    scheduled: Option<Time>,
}

/// All sessions of a [`Bfd`], for another that goes on with them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handover {
    now: Time,
    rng: Rng,
    sessions: Vec<(IpAddr, Session)>,
}

impl Handover {
    /// The time to go on with.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }
}

/// BFD without IO. Give it what happens with [`Self::handle`], do what [`Self::poll_output`] says until it is silent,
/// come back no later than [`Self::next_deadline`].
#[derive(Debug)]
pub struct Bfd {
    now: Time,
    rng: Rng,
    sessions: BTreeMap<IpAddr, Entry>,
    by_discriminator: BTreeMap<u32, IpAddr>,
    timers: BTreeSet<(Time, IpAddr)>,
    outputs: VecDeque<Output>,
}

impl Bfd {
    /// Without sessions. Discriminators and jitter follow from the seed; others must not be able to guess it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            rng: Rng::new(seed),
            sessions: BTreeMap::new(),
            by_discriminator: BTreeMap::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// What another needs to go on with the sessions. This one may go on as well for a moment: both say the same.
    #[must_use]
    pub fn hand_over(&self) -> Handover {
        let sessions = self.sessions.iter().map(|(remote, entry)| (*remote, entry.session.clone()));
        Handover { now: self.now, rng: self.rng.clone(), sessions: sessions.collect() }
    }

    /// Goes on with the sessions of another, and reports each as it is.
    #[must_use]
    pub fn restore(state: Handover) -> Self {
        let mut bfd = Self { now: state.now, rng: state.rng, ..Self::new(0) };
        for (remote, session) in state.sessions {
            bfd.by_discriminator.insert(session.discriminator(), remote);
            bfd.sessions.insert(remote, Entry { session, reported: None, scheduled: None });
            bfd.settle(remote);
        }
        bfd
    }

    /// Takes one input. `now` must not be before that of earlier calls; if it is, the earlier one counts.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Set(remote, Some(config)) => self.set(remote.to_canonical(), config),
            Input::Set(remote, None) => self.remove(remote.to_canonical()),
            Input::Received { from, multihop, payload } => {
                self.receive(from.to_canonical(), multihop, payload);
            }
            Input::Stop => self.stop(),
        }
        self.run_timers();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle`] must be called at the latest, if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A session as it is now.
    #[must_use]
    pub fn status(&self, remote: IpAddr) -> Option<SessionStatus> {
        self.sessions.get(&remote.to_canonical()).map(|entry| entry.session.status())
    }

    fn set(&mut self, remote: IpAddr, config: SessionConfig) {
        let config = SessionConfig { multiplier: config.multiplier.max(1), ..config };
        if let Some(entry) = self.sessions.get_mut(&remote) {
            // Another address or port is another session.
            let old = entry.session.config();
            if (old.local, old.multihop) == (config.local, config.multihop) {
                if entry.session.reconfigure(config, &mut self.rng) {
                    self.send(remote, false);
                }
                self.settle(remote);
                return;
            }
            self.forget(remote);
        }
        let discriminator = self.discriminator();
        self.by_discriminator.insert(discriminator, remote);
        let session = Session::new(config, discriminator, self.now);
        self.sessions.insert(remote, Entry { session, reported: None, scheduled: None });
        self.settle(remote);
    }

    /// Unused and not 0.
    fn discriminator(&mut self) -> u32 {
        loop {
            let candidate = u32::try_from(self.rng.next_u64() >> 32).unwrap_or_default();
            if candidate != 0 && !self.by_discriminator.contains_key(&candidate) {
                return candidate;
            }
        }
    }

    fn remove(&mut self, remote: IpAddr) {
        let Some(entry) = self.sessions.get_mut(&remote) else { return };
        if !entry.session.is_leaving() {
            entry.session.leave(self.now);
            self.send(remote, false);
            self.settle(remote);
        }
    }

    fn forget(&mut self, remote: IpAddr) {
        if let Some(entry) = self.sessions.remove(&remote) {
            self.by_discriminator.remove(&entry.session.discriminator());
            if let Some(at) = entry.scheduled {
                self.timers.remove(&(at, remote));
            }
            self.outputs.push_back(Output::Gone(remote));
        }
    }

    fn stop(&mut self) {
        let remotes: Vec<IpAddr> = self.sessions.keys().copied().collect();
        for remote in remotes {
            let Some(entry) = self.sessions.get_mut(&remote) else { continue };
            let up = entry.session.status().state == State::Up;
            entry.session.leave(self.now);
            // There is no later: as many as the peer would miss, so that one arrives.
            for _ in 0..if up { entry.session.config().multiplier.clamp(1, 5) } else { 1 } {
                self.send(remote, false);
            }
            self.forget(remote);
        }
    }

    /// RFC 5880 section 6.8.6 from the choice of the session on.
    fn receive(&mut self, from: IpAddr, multihop: bool, payload: &[u8]) {
        let Ok(packet) = Packet::decode(payload) else { return };
        // A session has one peer with one address, so a discriminator that belongs to another one is a mistake, or a lie.
        if packet.your != 0 && self.by_discriminator.get(&packet.your) != Some(&from) {
            return;
        }
        let Some(entry) = self.sessions.get_mut(&from) else { return };
        if entry.session.config().multihop != multihop || packet.authenticated {
            return;
        }
        match entry.session.receive(self.now, &packet, &mut self.rng) {
            Some(Answer::Final) => self.send(from, true),
            Some(Answer::News) => self.send(from, false),
            None => {}
        }
        self.settle(from);
    }

    fn send(&mut self, remote: IpAddr, last: bool) {
        let Some(entry) = self.sessions.get_mut(&remote) else { return };
        let packet = entry.session.packet(self.now, last, &mut self.rng).encode();
        let SessionConfig { local, multihop, .. } = *entry.session.config();
        self.outputs.push_back(Output::Send { remote, local, multihop, packet });
    }

    /// Reports what changed and puts the session into its place in the queue.
    fn settle(&mut self, remote: IpAddr) {
        let Some(entry) = self.sessions.get_mut(&remote) else { return };
        let status = entry.session.status();
        if !entry.session.is_leaving() && entry.reported.replace(status) != Some(status) {
            self.outputs.push_back(Output::Changed(remote, status));
        }
        let next = entry.session.next_deadline();
        if next != entry.scheduled {
            if let Some(at) = std::mem::replace(&mut entry.scheduled, next) {
                self.timers.remove(&(at, remote));
            }
            if let Some(at) = next {
                self.timers.insert((at, remote));
            }
        }
    }

    fn run_timers(&mut self) {
        while let Some(&(at, remote)) = self.timers.first() {
            if at > self.now {
                break;
            }
            let Some(entry) = self.sessions.get_mut(&remote) else {
                self.timers.pop_first();
                continue;
            };
            if entry.session.is_gone(self.now) {
                self.forget(remote);
                continue;
            }
            let news = entry.session.run_timers(self.now);
            if news || entry.session.is_due(self.now) {
                self.send(remote, false);
            }
            self.settle(remote);
        }
    }
}
