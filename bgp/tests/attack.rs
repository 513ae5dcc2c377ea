//! A reflector under attack by a client, and an agent's speaker by a router of another AS, on real sockets: whatever one peer
//! or stranger does, the others notice nothing, memory stays bounded, and the log and the counters name who it was.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "says what was skipped")]

use bytes::BytesMut;
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::wire::{
    AfiSafi, AsPath, Capability, Message, Negotiated, NextHop, Nlri, Open, PathAttributes,
    PeerKind as WireKind, Update, UpdateEncoder,
};
use margay_bgp::{
    Event, MaxPrefix, Originated, PeerConfig, PeerKind, PeerState, PeerStatus, PendingLimits, RouteQuery,
    SpeakerConfig, Timers,
};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

const AS: u32 = 64512;
const ROUTER_AS: u32 = 64999;
const PORT: u16 = 17_180;
/// Longest time in which a change must reach the other good node while the attack goes on.
const PROMPT: Duration = Duration::from_secs(10);

/// Memory is that of the process: one attack at a time.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

mod log {
    //! Everything that was logged, line by line.

    use super::{Mutex, PoisonError};
    use std::fmt::{Debug, Write};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Capture;
    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }

    impl Subscriber for Capture {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::INFO
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    pub(super) fn start() {
        // Another test of this process has done it if it fails.
        let _already = tracing::subscriber::set_global_default(Capture);
        LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Lines with all of these words.
    pub(super) fn with(words: &[&str]) -> usize {
        let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ip(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 78, net, last)
}

async fn eventually<F: Future<Output = Option<T>>, T>(what: &str, mut check: impl FnMut() -> F) -> T {
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
enum Role {
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

    fn negotiated(self) -> Negotiated {
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
struct Scene {
    role: Role,
    net: u8,
    centre: BgpHandle,
    nodes: [BgpHandle; 2],
    _events: Vec<mpsc::Receiver<Event>>,
    probes: u32,
    before: u64,
}

const CENTRE: u8 = 1;
const BAD: u8 = 66;

impl Scene {
    async fn new(role: Role, net: u8, adjust: impl FnOnce(&mut SpeakerConfig, &mut PeerConfig)) -> Self {
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
    async fn probe(&mut self) {
        self.probes += 1;
        let begun = Instant::now();
        match self.role {
            Reflector => self.change(&self.nodes[0], 2, &self.nodes[1]).await,
            Agent => {
                self.change(&self.nodes[0], 2, &self.centre).await;
                self.change(&self.centre, CENTRE, &self.nodes[1]).await;
            }
        }
        assert!(self.before == 0 || begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
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

    async fn status(&self, last: u8) -> PeerStatus {
        let peers = self.centre.peers().await.unwrap();
        peers.into_iter().find(|peer| peer.remote == IpAddr::V4(ip(self.net, last))).unwrap()
    }

    /// The good nodes never lost their sessions, and memory grew by at most so many MiB.
    async fn unharmed(&mut self, most: u64) {
        self.probe().await;
        for last in [2, 3] {
            let status = self.status(last).await;
            assert_eq!((status.state, status.established_count), (PeerState::Established, 1), "{status:?}");
        }
        let grown = resident().saturating_sub(self.before) / 1024;
        assert!(grown <= most, "memory grew by {grown} MiB");
    }

    async fn connect(&self) -> TcpStream {
        connect(ip(self.net, BAD), ip(self.net, 1)).await
    }

    /// The attacker's session, up.
    async fn session(&self, hold: u16) -> TcpStream {
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

async fn connect(from: Ipv4Addr, to: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(SocketAddr::from((to, PORT))).await.unwrap()
}

/// UPDATEs that announce /32s of 10/8, with a MULTI_EXIT_DISC.
fn announcements(role: Role, net: u8, addresses: std::ops::Range<u32>, med: u32) -> BytesMut {
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

/// Set for the process that plays the strangers: this test itself, executed again.
const PLAY_STRANGERS: &str = "ATTACK_PLAY_STRANGERS";
const STRANGERS: u32 = 10_000;

/// Connects from 10,000 addresses, a line for every thousandth, and holds the connections until standard input ends.
async fn play_strangers(net: u8) {
    let mut open = Vec::new();
    for n in 0..STRANGERS {
        let [_, _, high, low] = n.to_be_bytes();
        open.push(connect(Ipv4Addr::new(127, 79, high, low), ip(net, CENTRE)).await);
        if (n + 1) % 1000 == 0 {
            println!("stranger {}", n + 1);
        }
    }
    std::io::read_to_string(std::io::stdin()).unwrap();
}

/// Room for the descriptors of one end of every connection.
fn raise_descriptor_limit() -> bool {
    let process = std::process::id().to_string();
    let raise = |limit| {
        let arguments = ["--pid", &process, limit];
        std::process::Command::new("prlimit").args(arguments).status().is_ok_and(|status| status.success())
    };
    raise("--nofile=12000:") || raise("--nofile=12000:12000")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_open_connections() {
    let _one = ONE.lock().await;
    if !raise_descriptor_limit() {
        assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "12,000 file descriptors are needed");
        println!("skipped: 12,000 file descriptors are needed");
        return;
    }
    if let Ok(net) = std::env::var(PLAY_STRANGERS) {
        play_strangers(net.parse().unwrap()).await;
        return;
    }
    half_open(Reflector, 1).await;
    half_open(Agent, 11).await;
}

async fn half_open(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |speaker, _| {
        speaker.pending = PendingLimits { max: 4096, timeout: Duration::from_secs(120) };
    })
    .await;
    let mut strangers = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ten_thousand_half_open_connections", "--nocapture"])
        .env(PLAY_STRANGERS, net.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(strangers.stdout.take().unwrap()).lines();
    let mut connected = 0;
    while connected < STRANGERS {
        let line = lines.next_line().await.unwrap().expect("all strangers connect");
        if let Some(count) = line.strip_prefix("stranger ") {
            connected = count.parse().unwrap();
            scene.probe().await;
        }
    }
    eventually("all are parked or gone", || async {
        (log::with(&["waits"]) >= STRANGERS as usize).then_some(())
    })
    .await;
    assert_eq!(scene.centre.pending().await.unwrap().len(), 4096);
    assert_eq!(log::with(&["too many connections wait"]), STRANGERS as usize - 4096);
    scene.unharmed(96).await;
    // Who is configured needs no place to wait.
    scene.session(90).await;
    drop(strangers.stdin.take());
    assert!(strangers.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_floods() {
    let _one = ONE.lock().await;
    flood(Reflector, 2).await;
    flood(Agent, 12).await;
}

async fn flood(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |_, _| ()).await;
    let mut stream = scene.session(90).await;
    let flood = tokio::spawn(async move {
        let mut out = BytesMut::new();
        let told = Update::end_of_rib(AfiSafi::Ipv4Unicast);
        Message::Update(told).encode(&role.negotiated(), &mut out).unwrap();
        stream.write_all(&out).await.unwrap();
        let begun = Instant::now();
        let bad = ip(net, BAD).to_string();
        let named = || log::with(&[&bad, "changes its routes over and over"]) > 0;
        let mut round = 0;
        while begun.elapsed() < Duration::from_secs(3) || !named() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the log does not name who floods");
            round += 1;
            stream.write_all(&announcements(role, net, 0..200, round)).await.unwrap();
        }
        (stream, round)
    });
    while !flood.is_finished() {
        scene.probe().await;
    }
    let (_stream, rounds) = flood.await.unwrap();
    assert!(rounds > 100, "{rounds}");
    let last = RouteQuery { prefix: "10.0.0.7/32".parse().ok(), best: true, ..RouteQuery::default() };
    eventually("the last state of what was flooded", || async {
        let routes = scene.nodes[1].routes(last.clone()).await.unwrap();
        routes.first().filter(|route| route.med == Some(rounds)).map(|_| ())
    })
    .await;
    let status = scene.status(BAD).await;
    assert!(status.messages.received.update >= u64::from(rounds), "{:?}", status.messages);
    scene.unharmed(96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads() {
    let _one = ONE.lock().await;
    never_reads(Reflector, 3).await;
    never_reads(Agent, 13).await;
}

async fn never_reads(role: Role, net: u8) {
    let bad = ip(net, BAD).to_string();
    let mut scene = Scene::new(role, net, |speaker, bad| {
        speaker.egress.log_bytes = 512 << 10;
        bad.timers.send_hold = Duration::from_secs(4);
    })
    .await;
    let stream = scene.session(0).await;
    let own = |round: u32| {
        let route = move |n: u32| Originated {
            med: Some(round * 10_000 + n),
            ..Originated::new(
                ipnet::IpNet::new(Ipv4Addr::from(0x0a00_0000 | n).into(), 32).unwrap(),
                Some(ip(net, 3).into()),
            )
        };
        (0..2000).map(route).collect::<Vec<_>>()
    };
    // Every round is some 120 KiB that the bad client doesn't take.
    let mut lag = 0;
    let mut round = 0;
    while log::with(&[&bad, "Idle", "send hold timer"]) == 0 {
        round += 1;
        scene.nodes[1].set_originated(own(round)).await.unwrap();
        scene.probe().await;
        lag = lag.max(scene.status(BAD).await.lag_bytes);
        assert!(round < 2000, "the send hold timer has not ended the session");
    }
    assert!(lag > 64 << 10, "the counter shows the lag: {lag}");
    scene.unharmed(64).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_and_a_stranger_that_say_an_octet_a_second() {
    let _one = ONE.lock().await;
    says_little(Reflector, 4).await;
    says_little(Agent, 14).await;
}

async fn says_little(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |speaker, _| {
        speaker.pending = PendingLimits { max: 100, timeout: Duration::from_secs(3) };
    })
    .await;
    let mut session = scene.session(3).await;
    let mut stranger = connect(Ipv4Addr::new(127, 79, 0, 1), ip(net, CENTRE)).await;
    let mut keepalive = BytesMut::new();
    Message::Keepalive.encode(&role.negotiated(), &mut keepalive).unwrap();
    for octet in keepalive.chunks(1).take(6) {
        // Either may have been closed meanwhile, which is what should happen.
        let _closed = session.write_all(octet).await;
        let _closed = stranger.write_all(octet).await;
        scene.probe().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(log::with(&["127.79.0.1", "nobody configured it in time"]), 1);
    assert!(log::with(&[&ip(net, BAD).to_string(), "Idle", "hold timer expired"]) > 0);
    assert_eq!(scene.status(BAD).await.last_error.as_deref(), Some("hold timer expired"));
    scene.unharmed(32).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_announces_a_million_prefixes() {
    let _one = ONE.lock().await;
    million(Reflector, 5).await;
    million(Agent, 15).await;
}

async fn million(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |_, bad| {
        // What a router may announce is a matter of filters.
        bad.authorised_origins = (role == Reflector).then(|| vec!["10.1.0.0/16".parse().unwrap()].into());
        bad.max_prefix = Some(MaxPrefix { limit: 1000, warn_percent: 80, restart: Duration::from_secs(60) });
    })
    .await;
    let (mut read, mut write) = scene.session(90).await.into_split();
    let flood = tokio::spawn(async move {
        for block in 0..1000 {
            if write.write_all(&announcements(role, net, block * 1000..(block + 1) * 1000, 1)).await.is_err()
            {
                return;
            }
        }
    });
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(60), read.read_to_end(&mut said)).await.unwrap();
    // The rest of what it sends may meet a closed socket.
    assert!(end.is_ok() || said.len() > 21);
    flood.await.unwrap();
    let status = scene.status(BAD).await;
    assert_eq!(status.state, PeerState::Idle);
    assert!(
        status.last_error.as_ref().is_some_and(|error| error.contains("the limit is 1000")),
        "{status:?}"
    );
    assert_eq!(status.messages.unauthorised > 0, role == Reflector);
    assert_eq!(status.messages.over_limit, 1);
    assert!(status.families.iter().all(|family| family.received == 0), "{status:?}");
    let bad = ip(net, BAD).to_string();
    assert_eq!(log::with(&[&bad, "not its own"]) > 0, role == Reflector);
    assert!(log::with(&[&bad, "the limit is 1000"]) > 0);
    assert!(log::with(&[&bad, "nears its prefix limit"]) <= 1);
    assert!(log::with(&[&bad, "exceeds its prefix limit"]) > 0);
    let mut again = scene.connect().await;
    assert_eq!(again.read(&mut [0; 64]).await.unwrap(), 0, "barred");
    assert!(log::with(&[&bad, "exceeded its prefix limit"]) > 0);
    scene.unharmed(48).await;
}
