//! Bytes on the BGP port that are no BGP.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::labs::{Labs, PATIENCE, applied, margay, sessions};

/// Daemons of both kinds.
const TARGETS: [&str; 3] = ["node1", "rr1", "rr2"];

/// Longest wait for a connection's end.
const TIMEOUT: Duration = Duration::from_secs(10);

/// RFC 4271 section 4.1: all ones.
const MARKER: [u8; 16] = [0xff; 16];

/// A message of this type and length field, whatever its body is.
pub(crate) fn message(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = MARKER.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// Bytes that look random and are the same in every run (xorshift, Marsaglia 2003).
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Every kind of nonsense, with the name a failure shows.
fn nonsense() -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("a web browser".to_owned(), b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n".to_vec()),
        ("a marker of zeros".to_owned(), vec![0; 19]),
        ("a length below 19".to_owned(), message(18, 1, &[])),
        ("a length above 4096".to_owned(), message(4097, 1, &[])),
        ("the longest length".to_owned(), message(0xffff, 2, &[0; 64])),
        ("an unknown type".to_owned(), message(19, 77, &[])),
        ("an OPEN without a body".to_owned(), message(19, 1, &[])),
        ("an OPEN of version 3".to_owned(), message(29, 1, &[3, 0xfc, 0, 0, 90, 10, 0, 0, 1, 0])),
        ("an OPEN with hold time 1".to_owned(), message(29, 1, &[4, 0xfc, 0, 0, 1, 10, 0, 0, 1, 0])),
        ("an OPEN with identifier 0".to_owned(), message(29, 1, &[4, 0xfc, 0, 0, 90, 0, 0, 0, 0, 0])),
        (
            "an OPEN whose parameters end early".to_owned(),
            message(32, 1, &[4, 0xfc, 0, 0, 90, 10, 0, 0, 1, 200, 2, 250, 1]),
        ),
        ("a KEEPALIVE first".to_owned(), message(19, 4, &[])),
        ("an UPDATE first".to_owned(), message(23, 2, &[0, 0, 0, 0])),
    ];
    for seed in 1..=20u64 {
        all.push((format!("noise {seed}"), noise(seed * 0x9e37_79b9, 700)));
        let kind = u8::try_from(seed % 6).unwrap_or(0);
        let body = noise(seed * 0x5851_f42d, 100);
        all.push((format!("noise {seed} behind a header of type {kind}"), message(119, kind, &body)));
    }
    all
}

/// Established sessions of a daemon, and how often each has been established.
pub(crate) fn established(cluster: &Cluster, node: &str) -> Result<BTreeMap<IpAddr, usize>> {
    let peers = sessions(cluster, node)?;
    let log = cluster.whole_log(node);
    let up = peers.into_iter().filter(|peer| peer.state == "Established").map(|peer| peer.address);
    Ok(up
        .map(|peer| (peer, log.matches(&format!("BGP session peer={peer} state=Established")).count()))
        .collect())
}

/// The same sessions, none of them begun anew.
pub(crate) fn unharmed(cluster: &Cluster, before: &BTreeMap<&str, BTreeMap<IpAddr, usize>>) -> Result<()> {
    for (node, sessions) in before {
        let now = established(cluster, node)?;
        ensure!(
            now == *sessions,
            "{node}: {sessions:?} before, {now:?} now; its log:\n{}",
            cluster.log(node)
        );
        let status = cluster.status(node)?;
        ensure!(status.ready, "{node} is not ready any more: {status:#?}");
    }
    Ok(())
}

pub(crate) fn all_sessions(cluster: &Cluster) -> Result<BTreeMap<&'static str, BTreeMap<IpAddr, usize>>> {
    let mut all = BTreeMap::new();
    for (node, count) in [("node1", 2), ("node2", 2), ("node3", 2), ("rr1", 4), ("rr2", 4)] {
        // A node is ready with its first session.
        wait(PATIENCE, || Ok(established(cluster, node)?.len() == count))
            .with_context(|| format!("{count} sessions of {node}: {:#?}", sessions(cluster, node)))?;
        let up = established(cluster, node)?;
        ensure!(
            up.values().all(|times| *times > 0),
            "{node}: its log names no session: {}",
            cluster.log(node)
        );
        all.insert(node, up);
    }
    Ok(all)
}

/// A connection from a namespace.
pub(crate) fn connect(from: &Netns, target: IpAddr) -> Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&SocketAddr::new(target, 179), TIMEOUT))??;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends bytes and sees what comes back until the end: nothing but whole messages, a NOTIFICATION as the last, if any.
fn talk(from: &Netns, target: IpAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = connect(from, target)?;
    // The other side may close before it has taken everything.
    let _sent = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("the connection is not closed"),
    }
    let mut rest = answer.as_slice();
    let mut last = None;
    while let Some((header, _)) = rest.split_first_chunk::<19>() {
        ensure!(header.starts_with(&MARKER), "an answer that is no BGP: {answer:02x?}");
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        last = Some(header[18]);
        rest = rest.get(length..).with_context(|| format!("an answer that ends early: {answer:02x?}"))?;
    }
    ensure!(matches!(last, None | Some(1 | 3 | 4)), "an answer of type {last:?}: {answer:02x?}");
    Ok(())
}

pub(crate) fn bytes_of_a_stranger(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    attack(cluster, "r1", &TARGETS)
}

/// Reflectors know node2: its sessions must survive what somebody else there sends.
pub(crate) fn bytes_from_a_peers_address(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    attack(cluster, "node2", &["rr1", "rr2"])
}

fn attack(cluster: &Cluster, from: &str, targets: &[&str]) -> Result<()> {
    let before = all_sessions(cluster)?;
    let netns = cluster.node(from)?.netns();
    for target in targets {
        let address = cluster.address(target)?;
        for (name, bytes) in nonsense() {
            talk(netns, address, &bytes).with_context(|| format!("{name} from {from} to {target}"))?;
            for end in [1, 15, 18, bytes.len() - 1] {
                let part = bytes.get(..end).unwrap_or(&bytes);
                talk(netns, address, part)
                    .with_context(|| format!("{end} bytes of {name} from {from} to {target}"))?;
            }
        }
    }
    unharmed(cluster, &before)
}

/// Reads one message: its type and body.
pub(crate) fn receive(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 19];
    stream.read_exact(&mut header).context("the header of a message")?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - header.len()];
    stream.read_exact(&mut body)?;
    Ok((header[18], body))
}

/// A registered node that opens its session as it should and then sends nonsense, or dies in the middle of a message.
pub(crate) fn a_peer_that_turns_bad(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let before = all_sessions(cluster)?;
    let fake: IpAddr = "172.30.1.1".parse()?;
    applied(
        cluster,
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: fake}\nspec: {bgp: {ipv4Address: 172.30.1.1/24}}\n",
    )?;
    let known = || Ok(sessions(cluster, "rr1")?.iter().any(|peer| peer.address == fake));
    wait(PATIENCE, known).context("the reflector knows the node")?;
    let address = cluster.address("rr1")?;
    let bad = [
        ("noise", noise(7, 300)),
        ("a length below 19", message(3, 2, &[])),
        ("an UPDATE whose attributes pass its end", message(25, 2, &[0, 0, 0xff, 0xff, 0x40, 1])),
        ("a second OPEN", message(19, 1, &[])),
        ("half an UPDATE", message(60, 2, &[0, 0, 0, 20])),
    ];
    for (name, bytes) in bad {
        let mut stream = connect(cluster.node("r1")?.netns(), address)?;
        // AS 64512, hold time 90 s, IPv4 unicast and 4-octet AS numbers.
        let capabilities = [2, 12, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0];
        let mut open = vec![4, 0xfc, 0, 0, 90, 172, 30, 1, 1, 14];
        open.extend_from_slice(&capabilities);
        stream.write_all(&message(43, 1, &open))?;
        let (kind, body) = receive(&mut stream)?;
        ensure!(kind == 1, "{name}: an answer of type {kind} to OPEN: {body:02x?}");
        stream.write_all(&message(19, 4, &[]))?;
        let up = || {
            let peers = sessions(cluster, "rr1")?;
            Ok(peers.iter().any(|peer| peer.address == fake && peer.state == "Established"))
        };
        wait(PATIENCE, up).with_context(|| format!("{name}: {:#?}", sessions(cluster, "rr1")))?;
        stream.write_all(&bytes)?;
        // What ends in the middle is a lost connection, about which nothing can be said any more.
        let half = name.starts_with("half");
        if half {
            stream.shutdown(std::net::Shutdown::Write)?;
        }
        let mut last = (0, Vec::new());
        while let Ok(next) = receive(&mut stream) {
            last = next;
        }
        ensure!(last.0 == 3 || half, "{name}: the last answer is {last:02x?}");
        wait(PATIENCE, || Ok(!up()?)).with_context(|| format!("{name}: the session goes on"))?;
    }
    unharmed(cluster, &before)?;
    margay(cluster, &["delete", "node", "fake"])?;
    wait(PATIENCE, || Ok(sessions(cluster, "rr1")?.iter().all(|peer| peer.address != fake)))
        .context("the reflector forgets the node")
}

/// A place to wait per address: more addresses than there are places.
const STRANGERS: u32 = 9_000;

/// As many addresses as that, and more.
const STRANGE_NET: &str = "10.77.0.0/16";
const STRANGE_ADDRESS: &str = "10.77.0.1/16";

const HALF_OPEN: usize = 10_000;

/// The start of an OPEN, or nothing of it.
fn says_part(mut stream: &TcpStream, number: usize) {
    let part = message(29, 1, &[4, 0xfc]);
    // Some are refused at once, which is fine.
    let _sent = stream.write_all(part.get(..number % 20).unwrap_or_default());
}

/// A connection from an address of the net, in the namespace of this thread.
fn connect_from(number: u32, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 77, 1, 0)) + number);
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Connections that say nothing, or stop in the middle of a message, keep nobody else out, and cost little.
pub(crate) fn half_open_connections(labs: &mut Labs) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    ensure!(most > 12_000, "10,000 connections need as many open files here, of which {most} are allowed");
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let before = all_sessions(cluster)?;
    // Every address of a net on the loopback device is one of r1.
    cluster.run_in("r1", "ip", &["link", "set", "lo", "up"])?;
    cluster.run_in("r1", "ip", &["address", "add", STRANGE_ADDRESS, "dev", "lo"])?;
    cluster.run_in("node1", "ip", &["route", "add", STRANGE_NET, "via", "172.30.1.1"])?;
    let used = cluster.resident("node1")?;
    let agent = SocketAddr::new(cluster.address("node1")?, 179);
    let strangers = || (0..STRANGERS).map(|number| connect_from(number, agent)).collect();
    let strangers: std::io::Result<Vec<TcpStream>> = cluster.node("r1")?.netns().run(strangers)?;
    let mut held = strangers.context("connections from strangers to node1")?;
    let of_node2 = cluster.node("node2")?.netns();
    while held.len() < HALF_OPEN {
        held.push(connect(of_node2, agent.ip()).context("connections from node2 to node1")?);
    }
    for target in ["rr1", "rr2"] {
        let address = cluster.address(target)?;
        for from in ["r1", "node2"] {
            for number in 0..100 {
                let stream = connect(cluster.node(from)?.netns(), address);
                held.push(stream.with_context(|| format!("connection {number} from {from} to {target}"))?);
            }
        }
    }
    held.iter().enumerate().for_each(|(number, stream)| says_part(stream, number));
    unharmed(cluster, &before)?;
    for said in ["too many connections wait", "from an address that is not configured (yet) waits"] {
        wait(PATIENCE, || Ok(cluster.whole_log("node1").contains(said)))
            .with_context(|| format!("the log does not say: {said}"))?;
    }
    let metrics = cluster.client("node1").get_text("/metrics")?;
    let waiting = metrics.lines().find_map(|line| line.strip_prefix("margay_bgp_pending_connections "));
    ensure!(
        waiting.and_then(|count| count.parse().ok()).is_some_and(|count: u32| count > 1000),
        "{waiting:?}"
    );
    let grown = cluster.resident("node1")?.saturating_sub(used);
    ensure!(grown < 128 << 10, "the agent's memory grew by {grown} KiB");

    // A session that must be made anew finds its way past them.
    cluster.kill("node3")?;
    cluster.start("node3")?;
    cluster.wait_ready("node3", PATIENCE)?;
    wait(PATIENCE, || Ok(established(cluster, "node3")?.len() == 2))
        .with_context(|| format!("{:#?}", sessions(cluster, "node3")))?;
    let others = before.into_iter().filter(|(node, _)| matches!(*node, "node1" | "node2"));
    unharmed(cluster, &others.collect())?;
    drop(held);
    cluster.run_in("node1", "ip", &["route", "del", STRANGE_NET])?;
    cluster.run_in("r1", "ip", &["address", "del", STRANGE_ADDRESS, "dev", "lo"])?;
    Ok(())
}
