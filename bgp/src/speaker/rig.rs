//! A speaker whose peers are played by the test, message by message.

use super::Speaker;
use crate::config::{PeerConfig, PeerKind, SpeakerConfig};
use crate::family::Family;
use crate::io::{ConnId, Input, Log, Output};
use crate::monitor::MonitorConfig;
use crate::session::negotiate;
use crate::status::{Event, PeerStatus, RouteInfo, RouteQuery};
use crate::time::Time;
use crate::wire::{self, Framer, Message, Negotiated, NextHop, Nlri, Open, PathAttributes, Reach, Update};
use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(super) const AS: u32 = 64512;

pub(super) fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub(super) fn router_id(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn passive(last: u8, kind: PeerKind) -> PeerConfig {
    PeerConfig { passive: true, ..PeerConfig::new(address(last), AS, kind) }
}

/// An announcement of prefixes by way of 10.0.0.`last`.
pub(super) fn announce(last: u8, prefixes: &[&str], attributes: PathAttributes) -> Message {
    Message::Update(Update {
        reach: Some(Reach {
            next_hop: NextHop::from(address(last)),
            nlri: prefixes.iter().map(|prefix| Nlri::new(net(prefix))).collect(),
        }),
        attributes: PathAttributes { local_pref: Some(100), ..attributes },
        ..Update::default()
    })
}

pub(super) fn end_of_rib(family: Family) -> Message {
    Message::Update(Update::end_of_rib(family.into()))
}

#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) sent: Vec<u8>,
    pub(super) closed: bool,
    negotiated: Option<Negotiated>,
}

#[derive(Debug)]
pub(super) struct Rig {
    pub(super) speaker: Speaker,
    pub(super) now: Time,
    pub(super) wires: BTreeMap<ConnId, Wire>,
    pub(super) dials: Vec<(ConnId, IpAddr)>,
    pub(super) events: Vec<Event>,
    pub(super) logs: Vec<Log>,
    /// Keys set (true) and removed, by prefix.
    pub(super) keys: Vec<(String, bool)>,
    pub(super) protected: Vec<ConnId>,
    /// To BMP stations.
    pub(super) told: Vec<(crate::StationId, Option<Bytes>)>,
    /// MRT records.
    pub(super) records: Vec<Bytes>,
    pub(super) changed: Vec<IpNet>,
    pub(super) rekeyed: Vec<ConnId>,
    /// BFD sessions asked for and given up.
    pub(super) bfd: Vec<(IpAddr, Option<crate::bfd::SessionConfig>)>,
    /// Report octets as written at once.
    pub(super) reading: bool,
    /// Connections whose ends read nothing, with the octets that wait for them.
    pub(super) deaf: BTreeMap<ConnId, usize>,
    accepted: u64,
    config: SpeakerConfig,
    /// Of a speaker that takes over.
    pub(super) monitor: MonitorConfig,
}

impl Rig {
    /// The speaker is 10.0.0.100.
    pub(super) fn new(peers: Vec<PeerConfig>) -> Self {
        Self::with(SpeakerConfig::new(router_id(100), AS), peers)
    }

    pub(super) fn with(config: SpeakerConfig, peers: Vec<PeerConfig>) -> Self {
        Self::of(Speaker::new(config, Time::ZERO), peers)
    }

    pub(super) fn of(speaker: Speaker, peers: Vec<PeerConfig>) -> Self {
        let mut rig = Self {
            config: speaker.config.clone(),
            speaker,
            now: Time::ZERO,
            wires: BTreeMap::new(),
            dials: Vec::new(),
            events: Vec::new(),
            logs: Vec::new(),
            keys: Vec::new(),
            protected: Vec::new(),
            told: Vec::new(),
            records: Vec::new(),
            changed: Vec::new(),
            rekeyed: Vec::new(),
            bfd: Vec::new(),
            reading: true,
            deaf: BTreeMap::new(),
            monitor: MonitorConfig::default(),
            accepted: 0,
        };
        rig.input(Input::SetOriginated(Vec::new()));
        rig.input(Input::SetPeers(peers.into_iter().map(Into::into).collect()));
        rig
    }

    pub(super) fn input(&mut self, input: Input) {
        self.speaker.handle(self.now, input);
        self.drain();
        if self.speaker.next_deadline().is_some_and(|at| at <= self.now) {
            self.speaker.handle(self.now, Input::Tick);
            self.drain();
        }
    }

    /// Another speaker takes the place of this one.
    pub(super) fn hand_over(&mut self) {
        let state = self.speaker.hand_over(BTreeMap::new());
        let state = serde_json::to_string(&state).unwrap();
        self.drain();
        let state = serde_json::from_str(&state).unwrap();
        self.speaker = Speaker::restore(self.config.clone(), self.monitor.clone(), state).unwrap();
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Write { conn, data } => {
                    let wire = self.wires.entry(conn).or_default();
                    assert!(!wire.closed, "write after close");
                    wire.sent.extend_from_slice(&data);
                    if let Some(waiting) = self.deaf.get_mut(&conn) {
                        *waiting += data.len();
                    } else if self.reading {
                        self.speaker.handle(self.now, Input::Written { conn, bytes: data.len() });
                    }
                }
                Output::Close { conn } => self.wires.entry(conn).or_default().closed = true,
                Output::Dial { conn, remote, .. } => self.dials.push((conn, remote.ip())),
                Output::Event(event) => self.events.push(event),
                Output::Log(log) => self.logs.push(log),
                Output::Authenticate { from, password } => {
                    self.keys.push((from.to_string(), password.is_some()));
                }
                Output::Protect { conn, .. } => self.protected.push(conn),
                Output::Station { station, data } => self.told.push((station, data)),
                Output::Record { data } => self.records.push(data),
                Output::Changed(prefixes) => self.changed.extend(prefixes),
                Output::Rekey { conn, .. } => self.rekeyed.push(conn),
                Output::Bfd { remote, session, .. } => self.bfd.push((remote, session)),
            }
        }
    }

    /// A connection's end reads again.
    pub(super) fn hears(&mut self, conn: ConnId) {
        if let Some(bytes) = self.deaf.remove(&conn) {
            self.input(Input::Written { conn, bytes });
        }
    }

    /// Lets time pass, waking the speaker when it wants.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.speaker.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(deadline);
            self.input(Input::Tick);
        }
        self.now = end;
        self.input(Input::Tick);
    }

    pub(super) fn accept(&mut self, last: u8) -> ConnId {
        let conn = ConnId::accepted(self.accepted);
        self.accepted += 1;
        self.wires.insert(conn, Wire::default());
        let (remote, local) = (SocketAddr::new(address(last), 5000), SocketAddr::new(address(100), 179));
        self.input(Input::Accepted { conn, remote, local });
        conn
    }

    pub(super) fn send(&mut self, conn: ConnId, message: &Message) {
        let negotiated =
            self.wires[&conn].negotiated.unwrap_or(Negotiated::minimal(wire::PeerKind::Internal));
        let mut out = BytesMut::new();
        message.encode(&negotiated, &mut out).unwrap();
        self.input(Input::Received { conn, data: out.freeze() });
    }

    pub(super) fn send_raw(&mut self, conn: ConnId, data: &'static [u8]) {
        self.input(Input::Received { conn, data: Bytes::from_static(data) });
    }

    /// What was said on a connection since the last call.
    pub(super) fn said(&mut self, conn: ConnId) -> Vec<Message> {
        let wire = self.wires.get_mut(&conn).unwrap();
        let sent = std::mem::take(&mut wire.sent);
        let negotiated = wire.negotiated.unwrap_or(Negotiated::minimal(wire::PeerKind::Internal));
        let mut framer = Framer::new();
        framer.set_max_len(65_535);
        let mut rest = sent.as_slice();
        let mut out = Vec::new();
        loop {
            let mut left = rest;
            let Some(frame) = framer.next_frame(&mut left).unwrap() else { break };
            let decoded = wire::decode(frame, &negotiated).unwrap();
            assert!(decoded.faults.is_empty(), "{:?}", decoded.faults);
            out.push(decoded.message);
            rest = &rest[rest.len() - left.len()..];
        }
        out
    }

    /// The OPEN that one of our own speakers at 10.0.0.`last` would send.
    pub(super) fn open(last: u8, restarting: bool) -> Open {
        let peer = PeerConfig::new(address(100), AS, PeerKind::Internal);
        negotiate::open(&SpeakerConfig::new(router_id(last), AS), &peer, restarting)
    }

    /// Brings a session up on a connection that is up.
    pub(super) fn establish(&mut self, conn: ConnId, open: Open) {
        let ours = SpeakerConfig::new(open.bgp_id, AS);
        let peer = PeerConfig::new(address(100), AS, PeerKind::Internal);
        // Both sides agree on the same; seen from the peer.
        let theirs = self.speaker_open();
        let session = negotiate::negotiate(&ours, &peer, &theirs).unwrap();
        let four_octet_as = open.capabilities.iter().any(|c| matches!(c, wire::Capability::FourOctetAs(_)));
        let extended_message = open.capabilities.contains(&wire::Capability::ExtendedMessage);
        self.send(conn, &Message::Open(open));
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.negotiated = Some(Negotiated { four_octet_as, extended_message, ..session.negotiated });
        }
        self.send(conn, &Message::Keepalive);
    }

    fn speaker_open(&self) -> Open {
        Self::open(100, false)
    }

    /// What the test's end of a connection negotiated besides the usual.
    pub(super) fn renegotiate(&mut self, conn: ConnId, change: impl FnOnce(&mut Negotiated)) {
        change(self.wires.get_mut(&conn).unwrap().negotiated.as_mut().unwrap());
    }

    /// A session from 10.0.0.`last`.
    pub(super) fn up(&mut self, last: u8) -> ConnId {
        let conn = self.accept(last);
        self.establish(conn, Self::open(last, false));
        assert_eq!(self.peer(last).state, crate::PeerState::Established);
        conn
    }

    pub(super) fn peer(&self, last: u8) -> PeerStatus {
        self.speaker.peers().into_iter().find(|peer| peer.remote == address(last)).unwrap()
    }

    pub(super) fn routes(&mut self) -> Vec<RouteInfo> {
        self.pass(Duration::from_millis(100));
        self.speaker.routes(&RouteQuery::default())
    }

    pub(super) fn prefixes(&mut self) -> Vec<String> {
        self.routes().into_iter().filter(|route| route.best).map(|route| route.prefix.to_string()).collect()
    }
}
