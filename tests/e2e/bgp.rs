//! Bytes on the BGP port that are no BGP.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore};

use crate::labs::{Labs, sessions};

/// Daemons of both kinds.
const TARGETS: [&str; 3] = ["node1", "rr1", "rr2"];

/// Longest wait for a connection's end.
const TIMEOUT: Duration = Duration::from_secs(10);

/// RFC 4271 section 4.1: all ones.
const MARKER: [u8; 16] = [0xff; 16];

/// A message of this type and length field, whatever its body is.
fn message(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
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

/// Established sessions of a daemon, and since when they have been.
fn since(cluster: &Cluster, node: &str) -> Result<BTreeMap<IpAddr, Instant>> {
    let now = Instant::now();
    let peers = sessions(cluster, node)?;
    let up = peers.into_iter().filter(|peer| peer.state == "Established");
    let begun = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap_or(now);
    Ok(up.map(|peer| (peer.address, begun(peer.since_seconds))).collect())
}

/// The same sessions, none of them begun anew.
fn unharmed(cluster: &Cluster, before: &BTreeMap<&str, BTreeMap<IpAddr, Instant>>) -> Result<()> {
    for (node, sessions) in before {
        let now = since(cluster, node)?;
        ensure!(
            now.keys().eq(sessions.keys()),
            "{node}: {:?} were established, now {now:?}",
            sessions.keys()
        );
        for (peer, begun) in sessions {
            // Seconds are rounded down.
            let younger = now.get(peer).is_none_or(|again| *again > *begun + Duration::from_secs(2));
            ensure!(!younger, "{node}: the session with {peer} began anew");
        }
        let status = cluster.status(node)?;
        ensure!(status.ready, "{node} is not ready any more: {status:#?}");
    }
    Ok(())
}

fn all_sessions(cluster: &Cluster) -> Result<BTreeMap<&'static str, BTreeMap<IpAddr, Instant>>> {
    let mut all = BTreeMap::new();
    for (node, count) in [("node1", 2), ("node2", 2), ("node3", 2), ("rr1", 4), ("rr2", 4)] {
        let up = since(cluster, node)?;
        ensure!(up.len() == count, "{node} has {} sessions and not {count}", up.len());
        all.insert(node, up);
    }
    Ok(all)
}

/// A connection from a namespace.
fn connect(from: &Netns, target: IpAddr) -> Result<TcpStream> {
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

/// Connections that say nothing, or stop in the middle of a message, keep nobody else out.
pub(crate) fn half_open_connections(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let before = all_sessions(cluster)?;
    let mut held = Vec::new();
    for target in ["node1", "rr1", "rr2"] {
        let address = cluster.address(target)?;
        for from in ["r1", "node2"] {
            for number in 0..100 {
                let mut stream = connect(cluster.node(from)?.netns(), address)
                    .with_context(|| format!("connection {number} from {from} to {target}"))?;
                let part = message(29, 1, &[4, 0xfc]);
                // Some are refused at once, which is fine.
                let _sent = stream.write_all(part.get(..number % 20).unwrap_or_default());
                held.push(stream);
            }
        }
    }
    unharmed(cluster, &before)?;
    // A session that must be made anew finds its way past them.
    cluster.kill("node3")?;
    cluster.start("node3")?;
    cluster.wait_ready("node3", crate::labs::PATIENCE)?;
    margay_tests::cluster::wait(crate::labs::PATIENCE, || Ok(since(cluster, "node3")?.len() == 2))
        .with_context(|| format!("{:#?}", sessions(cluster, "node3")))?;
    let others = before.into_iter().filter(|(node, _)| matches!(*node, "node1" | "node2"));
    unharmed(cluster, &others.collect())?;
    drop(held);
    Ok(())
}
