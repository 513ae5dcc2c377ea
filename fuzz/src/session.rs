//! A reflector with two clients. One behaves, the other says whatever the input says once its session is up: messages,
//! right or wrong, in pieces, with time passing, with connections coming and going. The first must not notice, what
//! the speaker says must be valid, and its memory must stay within bounds.

use bytes::{Bytes, BytesMut};
use margay_bgp::wire::{
    AfiSafi, Capability, FamilySet, Framer, GracefulRestart, GracefulRestartFamily, Message, Negotiated,
    Open, PeerKind as WireKind, decode,
};
use margay_bgp::{
    ConnId, Input, MaxPrefix, Output, PeerConfig, PeerKind, PeerState, RouteQuery, Speaker, SpeakerConfig,
    Time,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const AS: u32 = 64512;
const LIMIT: u32 = 200;

struct World {
    speaker: Speaker,
    now: Time,
    next: u64,
    /// Framers of what the speaker says; closed connections are gone.
    said: BTreeMap<ConnId, Framer>,
    /// The connection that misbehaves.
    wild: ConnId,
    /// Does the wild one take octets?
    reads: bool,
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn negotiated() -> Negotiated {
    Negotiated {
        four_octet_as: true,
        extended_message: true,
        families: FamilySet::BOTH,
        ..Negotiated::minimal(WireKind::Internal)
    }
}

fn octets(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&negotiated(), &mut out).expect("fits");
    out.freeze()
}

fn open(last: u8) -> Message {
    let families = AfiSafi::SUPPORTED;
    let restart = GracefulRestart {
        restarted: false,
        notification: true,
        time: 120,
        families: families.map(|family| GracefulRestartFamily { family, forwarding: true }).to_vec(),
    };
    let mut capabilities = families.map(Capability::MultiProtocol).to_vec();
    capabilities.extend([
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::FourOctetAs(AS),
        Capability::EnhancedRouteRefresh,
        Capability::GracefulRestart(restart),
    ]);
    Message::Open(Open::new(AS, 90, Ipv4Addr::new(10, 0, 0, last), capabilities))
}

impl World {
    fn new() -> Self {
        let mut speaker = Speaker::new(SpeakerConfig::new(Ipv4Addr::new(10, 0, 0, 100), AS), Time::ZERO);
        let peers = [1, 2].map(|last| PeerConfig {
            passive: true,
            max_prefix: Some(MaxPrefix { limit: LIMIT, warn_percent: 80, restart: Duration::from_secs(5) }),
            ..PeerConfig::new(address(last), AS, PeerKind::InternalClient)
        });
        speaker.handle(Time::ZERO, Input::SetOriginated(Vec::new()));
        speaker.handle(Time::ZERO, Input::SetPeers(peers.map(Into::into).to_vec()));
        let mut world = Self {
            speaker,
            now: Time::ZERO,
            next: 0,
            said: BTreeMap::new(),
            wild: ConnId(u64::MAX),
            reads: true,
        };
        world.up(1);
        world.wild = world.up(2);
        world
    }

    fn accept(&mut self, last: u8) -> ConnId {
        let conn = ConnId::accepted(self.next);
        self.next += 1;
        self.said.insert(conn, Framer::new());
        let remote = SocketAddr::new(address(last), 40_000);
        self.input(Input::Accepted { conn, remote, local: SocketAddr::new(address(100), 179) });
        conn
    }

    fn up(&mut self, last: u8) -> ConnId {
        let conn = self.accept(last);
        self.input(Input::Received { conn, data: octets(&open(last)) });
        self.input(Input::Received { conn, data: octets(&Message::Keepalive) });
        conn
    }

    fn input(&mut self, input: Input) {
        self.speaker.handle(self.now, input);
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Write { conn, data } => {
                    let framer = self.said.get_mut(&conn).expect("nothing is written to what is closed");
                    framer.set_max_len(65_535);
                    let mut rest = &data[..];
                    while let Some(frame) = framer.next_frame(&mut rest).expect("what we say is framed right")
                    {
                        // What the wild one negotiated isn't tracked: its messages are only framed.
                        if conn != self.wild {
                            let decoded = decode(frame, &negotiated()).expect("what we say is right");
                            assert_eq!(decoded.faults, []);
                        }
                    }
                    assert_eq!(framer.buffered(), 0, "whole messages");
                    if conn != self.wild || self.reads {
                        self.speaker.handle(self.now, Input::Written { conn, bytes: data.len() });
                    }
                }
                Output::Close { conn } => {
                    self.said.remove(&conn);
                }
                _ => {}
            }
        }
    }

    /// Time passes; the first client keeps its session alive.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at) + Duration::from_nanos(1);
            self.input(Input::Tick);
        }
        self.now = self.now.max(end);
        self.input(Input::Received { conn: ConnId::accepted(0), data: octets(&Message::Keepalive) });
    }

    fn check(&self) {
        let peers = self.speaker.peers();
        let first = peers.first().expect("configured");
        assert_eq!((first.state, first.established_count), (PeerState::Established, 1), "{first:?}");
        let routes = self.speaker.routes(&RouteQuery::default());
        // A family may go over its limit by what one message holds until the session ends.
        let held: u64 = peers.iter().flat_map(|peer| &peer.families).map(|family| family.received).sum();
        assert_eq!(held, routes.len() as u64);
        assert!(
            peers.iter().flat_map(|peer| &peer.families).all(|family| family.received <= u64::from(LIMIT))
        );
    }
}

/// One input: operations on the session, one after the other.
pub fn session(data: &[u8]) {
    let mut world = World::new();
    let mut rest = data;
    // Bounded, so that long inputs don't only repeat themselves.
    for _ in 0..64 {
        let [operation, tail @ ..] = rest else { break };
        rest = tail;
        let mut take = |most: usize| {
            let (taken, tail) = rest.split_at(rest.len().min(most));
            rest = tail;
            taken
        };
        match operation {
            // A message with a right header; the wild one's length follows in two octets.
            0..=127 => {
                let [high, low] = *take(2) else { break };
                let body = take(usize::from(u16::from_be_bytes([high & 0x0f, low])));
                let data = crate::codec::message(1 + operation % 5, body).into();
                world.input(Input::Received { conn: world.wild, data });
            }
            // Octets as they are.
            128..=159 => {
                let data = Bytes::copy_from_slice(take(usize::from(*operation - 127)));
                world.input(Input::Received { conn: world.wild, data });
            }
            160..=191 => world.pass(Duration::from_millis(u64::from(*operation - 159).pow(3))),
            192..=199 => {
                world.said.remove(&world.wild);
                world.input(Input::Closed { conn: world.wild, reason: "reset".to_owned() });
                world.wild = world.up(2);
            }
            200..=207 => world.wild = world.up(2),
            208..=215 => world.wild = world.accept(2),
            216..=223 => world.reads = !world.reads,
            224..=231 => world.input(Input::PruneStale(address(2))),
            232..=239 => world.input(Input::Written { conn: world.wild, bytes: usize::from(*operation) }),
            _ => world.pass(Duration::from_secs(u64::from(*operation - 239))),
        }
        world.check();
    }
    world.pass(Duration::from_secs(1));
    world.check();
    // Sets without a route live until the next flush.
    assert!(world.speaker.attribute_sets() <= world.speaker.routes(&RouteQuery::default()).len() + 1);
}
