//! Peers and strangers that mean no good: the others go on, memory is bounded, the log and the metrics say what happens.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use margay_bgp::wire::{
    AfiSafi, Capability, Message, Negotiated, NextHop, Nlri, Open, PathAttributes, PeerKind, UpdateEncoder,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{AS, Lab, PATIENCE, REFLECTOR, block, client, possible, wait};
use crate::ours::Ours;

/// Clients that behave; the bad ones come after them.
const GOOD: std::ops::Range<u16> = 0..3;
const NODES: u16 = 10;
const FLOODS: u16 = 3;
const NEVER_READS: u16 = 4;
const SAYS_LITTLE: u16 = 5;
const MILLION: u16 = 6;
const TRICKLES: u16 = 7;
/// Connections that say nothing: most from strangers, the others from the address of a node.
const STRANGERS: u16 = 9_000;
const HALF_OPEN: usize = 10_000;
/// What the reflector may grow by: sockets are the kernel's, 8192 parked connections and their log are ours.
const MEMORY: u64 = 128 << 10;

const SESSION: Negotiated = Negotiated { four_octet_as: true, ..Negotiated::minimal(PeerKind::Internal) };

fn connect(lab: &Lab, from: Ipv4Addr) -> TcpStream {
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_recv_buffer_size(4096)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&SocketAddr::from((REFLECTOR, 179)).into())?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok::<_, std::io::Error>(TcpStream::from(socket))
    };
    lab.clients.run(connect).unwrap().unwrap()
}

fn open(number: u16, hold: u16) -> BytesMut {
    let capabilities = vec![Capability::MultiProtocol(AfiSafi::Ipv4Unicast), Capability::FourOctetAs(AS)];
    let mut out = BytesMut::new();
    for message in [Message::Open(Open::new(AS, hold, client(number), capabilities)), Message::Keepalive] {
        message.encode(&SESSION, &mut out).unwrap();
    }
    out
}

/// A session of a bad client, with this hold time.
fn session(lab: &Lab, number: u16, hold: u16) -> TcpStream {
    let mut stream = connect(lab, client(number));
    stream.write_all(&open(number, hold)).unwrap();
    wait("the bad client's session", PATIENCE, || {
        let peers = lab.peers();
        let peer = peers.iter().find(|peer| peer.address == client(number))?;
        (peer.state == "Established").then_some(())
    });
    stream
}

/// UPDATEs with these /32s from the beginning of a net on.
fn announcements(number: u16, first: Ipv4Addr, count: u32, med: u32) -> BytesMut {
    let mut out = BytesMut::new();
    let nlri = (0..count).map(|offset| {
        let address = Ipv4Addr::from_bits(first.to_bits() + offset);
        Nlri::new(IpNet::V4(Ipv4Net::new_assert(address, 32)))
    });
    let attributes = PathAttributes { local_pref: Some(100), med: Some(med), ..PathAttributes::default() };
    let next_hop = NextHop::V4(client(number));
    UpdateEncoder::new(SESSION).announce(&attributes, &next_hop, nlri, &mut out).unwrap();
    out
}

/// Resident memory of the reflector, KiB.
fn resident(lab: &Lab) -> u64 {
    let [pid] = lab.all()[..] else { panic!("one process: {:?}", lab.all()) };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The good ones, and how much the reflector had before the attacks.
struct Scene {
    lab: Lab,
    ours: Ours,
    before: u64,
    med: u32,
}

impl Scene {
    /// A change of one good client reaches the others.
    fn probe(&mut self) {
        self.med += 1;
        self.ours.announce(GOOD.start, self.med);
        for at in GOOD.skip(1) {
            let arrived = || (self.ours.med(at, GOOD.start) == Some(self.med)).then_some(());
            wait("a good client's change", PATIENCE, arrived);
        }
    }

    fn unharmed(&mut self) {
        self.probe();
        assert_eq!(self.ours.undisturbed(), GOOD.len());
        let grown = resident(&self.lab).saturating_sub(self.before);
        assert!(grown < MEMORY, "memory grew by {grown} KiB");
    }

    fn logged(&self, what: &str) {
        wait(&format!("in the log: {what}"), PATIENCE, || self.lab.log().contains(what).then_some(()));
    }

    /// A counter or gauge, of a client or of all, is more than that.
    fn metric_above(&self, name: &str, labels: &str, least: u64) {
        let begins = format!("{name}{labels} ");
        wait(&format!("in the metrics: {begins}above {least}"), PATIENCE, || {
            let metrics = self.lab.control().get_text("/metrics").ok()?;
            let value = metrics.lines().find_map(|line| line.strip_prefix(&begins))?;
            value.parse::<u64>().ok().filter(|value| *value > least)
        });
    }

    /// The values of a metric of all update groups are like that.
    fn groups(&self, name: &str, is: impl Fn(&[u64]) -> bool) {
        let begins = format!("margay_bgp_group_{name}{{group=\"");
        wait(&format!("in the metrics: {begins}"), PATIENCE, || {
            let metrics = self.lab.control().get_text("/metrics").ok()?;
            let lines = metrics.lines().filter(|line| line.starts_with(&begins));
            let values: Option<Vec<u64>> = lines.map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
            values.filter(|values| is(values)).map(drop)
        });
    }

    fn metric(&self, line: &str) {
        wait(&format!("in the metrics: {line}"), PATIENCE, || {
            let metrics = self.lab.control().get_text("/metrics").ok()?;
            metrics.lines().any(|found| found == line).then_some(())
        });
    }
}

#[test]
fn attacks_harm_nobody_else() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if !possible(&[]) {
        return;
    }
    assert!(most > 12_000, "12,000 file descriptors are needed, the limit is {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut lab = Lab::new("attack", NODES);
    lab.start();
    let ours = Ours::start(&lab, GOOD);
    wait("the good clients", PATIENCE, || (ours.up() == GOOD.len()).then_some(()));
    let before = resident(&lab);
    let mut scene = Scene { lab, ours, before, med: 0 };
    // The table is withheld until all have come, or its time is over: the bad ones come, too.
    let bad: Vec<TcpStream> = (FLOODS..NODES)
        .map(|number| {
            let mut stream = session(&scene.lab, number, if number == TRICKLES { 3 } else { 90 });
            let mut out = BytesMut::new();
            let end = margay_bgp::wire::Update::end_of_rib(AfiSafi::Ipv4Unicast);
            Message::Update(end).encode(&SESSION, &mut out).unwrap();
            stream.write_all(&out).unwrap();
            stream
        })
        .collect();
    scene.probe();
    let sum = |values: &[u64]| values.iter().sum::<u64>();
    // The bad ones speak no refresh and no graceful restart: they are sent the same all the same. One says too little to stay.
    let sessions = u64::from(NODES - 1);
    scene.groups("members", |members| (sessions..=sessions + 1).contains(&sum(members)));
    scene.groups("messages_total", |messages| sum(messages) > 0);
    scene.groups("advertised_prefixes", |prefixes| prefixes.contains(&(GOOD.len() as u64)));

    trickles(&mut scene, &bad[usize::from(TRICKLES - FLOODS)]);
    half_open(&mut scene);
    says_little(&mut scene);
    errs(&mut scene, &bad[usize::from(SAYS_LITTLE - FLOODS)]);
    floods(&mut scene, &bad[usize::from(FLOODS - FLOODS)]);
    million(&mut scene, &bad[usize::from(MILLION - FLOODS)]);
    // The one that never reads has been there all the time.
    scene.unharmed();
    let peers = scene.lab.peers();
    let deaf = peers.iter().find(|peer| peer.address == client(NEVER_READS)).unwrap();
    assert_eq!(deaf.state, "Established");
}

fn half_open(scene: &mut Scene) {
    let mut held = Vec::new();
    for number in 0..STRANGERS {
        held.push(connect(&scene.lab, client(1000 + number)));
    }
    while held.len() < HALF_OPEN {
        held.push(connect(&scene.lab, client(NODES - 1)));
    }
    scene.unharmed();
    scene.logged("too many connections wait");
    scene.logged("BGP connection from an address that is not configured (yet) waits");
    scene.metric_above("margay_bgp_pending_connections", "", 1000);
}

/// An octet of a KEEPALIVE a second in a session: no message within the hold time, which may be over already.
fn trickles(scene: &mut Scene, mut stream: &TcpStream) {
    let peer = client(TRICKLES).to_string();
    let ended = |line: &str| line.contains(&peer) && line.contains("hold timer expired");
    let deadline = std::time::Instant::now() + PATIENCE;
    while !scene.lab.log().lines().any(ended) {
        assert!(std::time::Instant::now() < deadline, "nobody says that it says no message");
        let _refused = stream.write_all(&[0xff]);
        scene.probe();
        std::thread::sleep(Duration::from_secs(1));
    }
    scene.metric(&format!("margay_bgp_peer_up{{peer=\"{peer}\"}} 0"));
    scene.unharmed();
}

/// An OPEN at an octet at a time, on a second connection of a node whose first is a session.
fn says_little(scene: &mut Scene) {
    let mut stream = connect(&scene.lab, client(SAYS_LITTLE));
    for octet in open(SAYS_LITTLE, 90).iter().take(28) {
        // It may be refused in the middle, which is fine.
        let _refused = stream.write_all(&[*octet]);
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.unharmed();
    // The session that it has goes on.
    scene.metric(&format!("margay_bgp_peer_up{{peer=\"{}\"}} 1", client(SAYS_LITTLE)));
}

/// An attribute that is wrong is no reason to end a session (RFC 7606).
fn errs(scene: &mut Scene, mut stream: &TcpStream) {
    let mut update = announcements(SAYS_LITTLE, block(SAYS_LITTLE).addr(), 1, 0);
    // ORIGIN is the first attribute: 3 is none of its values.
    let origin = update.windows(3).position(|octets| octets == [0x40, 1, 1]).unwrap();
    update[origin + 3] = 3;
    stream.write_all(&update).unwrap();
    let peer = client(SAYS_LITTLE);
    scene.metric(&format!("margay_bgp_peer_treated_as_withdraw_total{{peer=\"{peer}\"}} 1"));
    scene.metric(&format!("margay_bgp_peer_up{{peer=\"{peer}\"}} 1"));
}

/// Ends what runs beside a test also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Changes of all its routes as fast as they go; one client reads none of what that becomes.
fn floods(scene: &mut Scene, stream: &TcpStream) {
    let done = AtomicBool::new(false);
    let mut stream = stream;
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                stream.write_all(&announcements(FLOODS, block(FLOODS).addr(), 200, round)).unwrap();
            }
            assert!(round > 10, "{round}");
        });
        let _done = Done(done);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !scene.lab.log().contains("peer changes its routes over and over") {
            assert!(std::time::Instant::now() < deadline, "nobody says who floods");
            scene.probe();
        }
        let deaf = format!("{{peer=\"{}\"}}", client(NEVER_READS));
        scene.metric_above("margay_bgp_peer_lag_bytes", &deaf, 1000);
        scene.groups("log_bytes", |octets| octets.iter().any(|octets| *octets > 1000));
    });
    let of_updates = format!("{{peer=\"{}\",type=\"update\"}}", client(FLOODS));
    scene.metric_above("margay_bgp_peer_messages_received_total", &of_updates, 100);
    scene.unharmed();
}

/// Far more prefixes than a node can have.
fn million(scene: &mut Scene, stream: &TcpStream) {
    let mut stream = stream;
    let first = Ipv4Addr::new(20, 0, 0, 0);
    let sent = stream.write_all(&announcements(MILLION, first, 1_000_000, 0));
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    assert!(sent.is_err() || read.is_err() || !rest.is_empty(), "the session is still there");
    scene.logged("peer exceeds its prefix limit and is cut off");
    scene.logged("peer announces prefixes that are not its own: filtered");
    let peer = client(MILLION);
    scene.metric_above("margay_bgp_peer_unauthorised_prefixes_total", &format!("{{peer=\"{peer}\"}}"), 0);
    scene.metric(&format!("margay_bgp_peer_limit_exceeded_total{{peer=\"{peer}\"}} 1"));
    scene.metric(&format!("margay_bgp_peer_up{{peer=\"{peer}\"}} 0"));
    scene.unharmed();
}
