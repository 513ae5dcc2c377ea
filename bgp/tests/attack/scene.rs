//! Who is attacked, the good nodes around, and the attacker's address.

use crate::log;
use bytes::BytesMut;
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::wire::{
    AfiSafi, AsPath, Capability, Message, Negotiated, NextHop, Nlri, Open, PathAttributes,
    PeerKind as WireKind, UpdateEncoder,
};
use margay_bgp::{
    Event, Originated, PeerConfig, PeerKind, PeerState, PeerStatus, RouteQuery, SpeakerConfig, Timers,
};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

const AS: u32 = 64512;
const ROUTER_AS: u32 = 64999;
const PORT: u16 = 17_180;

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn ip(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 78, net, last)
}

pub(crate) async fn eventually<F: Future<Output = Option<T>>, T>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The good nodes are its clients, and so is the attacker.
    Reflector,
    /// The good nodes are its mesh; the attacker is the router next to it.
    Agent,
}

use Role::{Agent, Reflector};

impl Role {
    fn good(self) -> PeerKind {
        if self == Reflector { PeerKind::InternalClient } else { PeerKind::Internal }
    }

    /// The attacker's AS, as it says.
    fn bad_as(self) -> u32 {
        if self == Reflector { AS } else { ROUTER_AS }
    }

    pub(crate) fn negotiated(self) -> Negotiated {
        let kind = if self == Reflector { WireKind::Internal } else { WireKind::External };
        Negotiated { four_octet_as: true, ..Negotiated::minimal(kind) }
    }
}

fn peer(net: u8, own: u8, remote: u8, remote_as: u32, kind: PeerKind) -> PeerConfig {
    let quick = Duration::from_millis(200);
    PeerConfig {
        port: PORT,
        local: Some(ip(net, own).into()),
        passive: own == CENTRE,
        policy_required: false,
        timers: Timers { connect_retry: quick, connect_retry_max: quick, ..Timers::default() },
        ..PeerConfig::new(ip(net, remote).into(), remote_as, kind)
    }
}

/// Who is attacked at .1, good nodes at .2 and .3, and the attacker's address .66.
pub(crate) struct Scene {
    role: Role,
    net: u8,
    pub(crate) centre: BgpHandle,
    pub(crate) nodes: [BgpHandle; 2],
    _events: Vec<mpsc::Receiver<Event>>,
    probes: u32,
    before: u64,
}

pub(crate) const CENTRE: u8 = 1;
pub(crate) const BAD: u8 = 66;

impl Scene {
    pub(crate) async fn new(
        role: Role,
        net: u8,
        adjust: impl FnOnce(&mut SpeakerConfig, &mut PeerConfig),
    ) -> Self {
        log::start();
        let mut speaker = SpeakerConfig::new(ip(net, 1), AS);
        let kind = if role == Reflector { PeerKind::InternalClient } else { PeerKind::External };
        let mut bad = peer(net, CENTRE, BAD, role.bad_as(), kind);
        adjust(&mut speaker, &mut bad);
        let listen = vec![SocketAddr::from((ip(net, 1), PORT))];
        let (centre, events) = BgpService::spawn(ServiceConfig { speaker, listen }).unwrap();
        centre.set_originated(Vec::new()).await.unwrap();
        let good = [2, 3].map(|last| peer(net, CENTRE, last, AS, role.good()));
        centre.set_peers(good.into_iter().chain([bad]).collect()).await.unwrap();
        let mut all = vec![events];
        let mut nodes = Vec::new();
        for last in [2, 3] {
            let speaker = SpeakerConfig::new(ip(net, last), AS);
            let (node, events) = BgpService::spawn(ServiceConfig { speaker, listen: Vec::new() }).unwrap();
            node.set_originated(Vec::new()).await.unwrap();
            node.set_peers(vec![peer(net, last, CENTRE, AS, PeerKind::Internal)]).await.unwrap();
            nodes.push(node);
            all.push(events);
        }
        let mut scene =
            Self { role, net, centre, nodes: nodes.try_into().unwrap(), _events: all, probes: 0, before: 0 };
        scene.probe().await;
        scene.before = resident();
        scene
    }

    /// A change of one good node reaches the other in time; an agent hears of it, and is itself heard by the other.
    pub(crate) async fn probe(&mut self) {
        self.probes += 1;
        match self.role {
            Reflector => self.change(&self.nodes[0], 2, &self.nodes[1]).await,
            Agent => {
                self.change(&self.nodes[0], 2, &self.centre).await;
                self.change(&self.centre, CENTRE, &self.nodes[1]).await;
            }
        }
    }

    /// The route of this probe goes from one to another.
    async fn change(&self, from: &BgpHandle, address: u8, to: &BgpHandle) {
        let prefix = Ipv4Addr::from(0x0a4e_0000 + (self.probes << 8) + u32::from(address));
        let prefix = ipnet::IpNet::new(prefix.into(), 32).unwrap();
        from.set_originated(vec![Originated::new(prefix, Some(ip(self.net, address).into()))]).await.unwrap();
        let query = RouteQuery { prefix: Some(prefix), best: true, ..RouteQuery::default() };
        eventually("the probe", || async {
            (!to.routes(query.clone()).await.unwrap().is_empty()).then_some(())
        })
        .await;
    }

    pub(crate) async fn status(&self, last: u8) -> PeerStatus {
        let peers = self.centre.peers().await.unwrap();
        peers.into_iter().find(|peer| peer.remote == IpAddr::V4(ip(self.net, last))).unwrap()
    }

    /// The good nodes never lost their sessions, and memory grew by at most so many MiB.
    pub(crate) async fn unharmed(&mut self, most: u64) {
        self.probe().await;
        for last in [2, 3] {
            let status = self.status(last).await;
            assert_eq!((status.state, status.established_count), (PeerState::Established, 1), "{status:?}");
        }
        let grown = resident().saturating_sub(self.before) / 1024;
        assert!(grown <= most, "memory grew by {grown} MiB");
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        connect(ip(self.net, BAD), ip(self.net, 1)).await
    }

    /// The attacker's session, up.
    pub(crate) async fn session(&self, hold: u16) -> TcpStream {
        let mut stream = self.connect().await;
        let capabilities = vec![
            Capability::MultiProtocol(AfiSafi::Ipv4Unicast),
            Capability::FourOctetAs(self.role.bad_as()),
            Capability::RouteRefresh,
        ];
        let open = Open::new(self.role.bad_as(), hold, ip(self.net, BAD), capabilities);
        for message in [Message::Open(open), Message::Keepalive] {
            let mut out = BytesMut::new();
            message.encode(&self.role.negotiated(), &mut out).unwrap();
            stream.write_all(&out).await.unwrap();
        }
        eventually("the attacker's session", || async {
            (self.status(BAD).await.state == PeerState::Established).then_some(())
        })
        .await;
        stream
    }
}

pub(crate) async fn connect(from: Ipv4Addr, to: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(SocketAddr::from((to, PORT))).await.unwrap()
}

/// UPDATEs that announce /32s of 10/8, with a MULTI_EXIT_DISC.
pub(crate) fn announcements(role: Role, net: u8, addresses: std::ops::Range<u32>, med: u32) -> BytesMut {
    let mut out = BytesMut::new();
    let nlri = addresses.map(|n| {
        let address = Ipv4Addr::from(0x0a00_0000 | n);
        Nlri::new(ipnet::IpNet::new(address.into(), 32).unwrap())
    });
    let attributes = match role {
        Reflector => PathAttributes { local_pref: Some(100), ..PathAttributes::default() },
        Agent => PathAttributes { as_path: AsPath::sequence([ROUTER_AS]), ..PathAttributes::default() },
    };
    let attributes = PathAttributes { med: Some(med), ..attributes };
    let next_hop = NextHop::V4(ip(net, BAD));
    UpdateEncoder::new(role.negotiated()).announce(&attributes, &next_hop, nlri, &mut out).unwrap();
    out
}
