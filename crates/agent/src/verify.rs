//! `margay explain --verify`: sends the first packet of a flow from its pod and asks the kernel what became of it.
//!
//! Connection tracking remembers a connection only once its first packet has passed every rule of the node, so a packet
//! that was dropped leaves nothing behind.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use felix_rs::verdict::{ICMP, ICMPV6, Packet, SCTP, TCP, UDP};
use margay_netlink::Netns;
use margay_netlink::conntrack::{Conntrack, Detail, Flow};
use socket2::{Domain, Protocol, Socket, Type};

/// A packet that is not remembered by then was dropped: the kernel handles it at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// First pause between looks; each is twice as long as the one before, because a long table takes long to read.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether the rules of this node let the packet of a pod, whose network namespace is at this path, through.
///
/// # Errors
/// A sentence: the namespace is gone, or the protocol has no socket to send by.
pub(crate) fn passes(namespace: &str, packet: &Packet) -> Result<bool, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let (kind, protocol) = match packet.protocol {
        TCP => (Type::STREAM, None),
        UDP => (Type::DGRAM, None),
        ICMP => (Type::RAW, Some(Protocol::ICMPV4)),
        ICMPV6 => (Type::RAW, Some(Protocol::ICMPV6)),
        // No association, and no module of the kernel's that makes one: a packet is enough.
        SCTP => (Type::RAW, Some(Protocol::SCTP)),
        _ => return Err("only tcp, udp, sctp and icmp can be verified".to_owned()),
    };
    let netns = Netns::open(namespace).map_err(|error| failed("the pod's network namespace", &error))?;
    let from = SocketAddr::new(packet.source, 0);
    let to = SocketAddr::new(packet.destination, packet.destination_port);
    let open = || {
        let socket = Socket::new(Domain::for_address(to), kind, protocol)?;
        socket.bind(&from.into())?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let opened: std::io::Result<Socket> =
        netns.run(open).map_err(|error| failed("the pod's network namespace", &error))?;
    let socket = opened.map_err(|error| failed("a socket in the pod", &error))?;
    let local = socket.local_addr().map_err(|error| failed("the pod's address", &error))?;
    static NUMBER: AtomicU16 = AtomicU16::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let port = match packet.protocol {
        // Dynamic ports (RFC 6335, section 6).
        SCTP => number | 0xc000,
        _ => local.as_socket().map_or(0, |address| address.port()),
    };
    // A connection under way is an error of a socket that does not wait, and a refusal is an answer.
    let _under_way = socket.connect(&to.into());
    let _refused = match packet.protocol {
        TCP => Ok(0),
        UDP => socket.send(&[]),
        SCTP => socket.send(&init(port, packet.destination_port)),
        _ => socket.send(&echo_request(packet, number)),
    };
    let is_ours = |flow: &Flow| {
        let is_it = match flow.original.detail {
            Detail::Ports { source, .. } => source == port,
            Detail::Icmp { id, .. } => id == number,
            Detail::None => false,
        };
        is_it && flow.original.protocol == packet.protocol && flow.original.source == packet.source
    };
    let mut conntrack = Conntrack::open().map_err(|error| failed("connection tracking", &error))?;
    let (begun, mut pause) = (Instant::now(), PAUSE);
    let passed = loop {
        let found = conntrack.flows(to.is_ipv6(), is_ours);
        if !found.map_err(|error| failed("connection tracking", &error))?.is_empty() {
            break true;
        }
        if begun.elapsed() > PATIENCE {
            break false;
        }
        std::thread::sleep(pause);
        pause *= 2;
    };
    // A server that has accepted is told at once that there is nothing to come.
    let _of_udp = socket.set_linger(Some(Duration::ZERO));
    Ok(passed)
}

/// A packet with an INIT chunk (RFC 9260, section 3.3.2) of an association that nobody means to have.
fn init(source: u16, destination: u16) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[..2].copy_from_slice(&source.to_be_bytes());
    packet[2..4].copy_from_slice(&destination.to_be_bytes());
    // Type and length of the chunk; tag, window, streams out and in, sequence number.
    packet[12..].copy_from_slice(&[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// RFC 9260, appendix A.
fn crc32c(octets: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !octets.iter().fold(!0, |crc, octet| (0..8).fold(crc ^ u32::from(*octet), |crc, _| bit(crc)))
}

/// An echo request with this identifier. The kernel makes the checksum of ICMPv6, nobody that of ICMP (RFC 792).
fn echo_request(packet: &Packet, id: u16) -> [u8; 8] {
    let kind = packet.icmp.map_or(8, |(kind, _)| kind);
    let sum = u32::from(kind) * 256 + u32::from(id);
    let folded = (sum & 0xffff) + (sum >> 16);
    let [high, low] = (!u16::try_from(folded).unwrap_or_default()).to_be_bytes();
    let [id_high, id_low] = id.to_be_bytes();
    [kind, 0, high, low, id_high, id_low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_sctp() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        let packet = init(49152, 9);
        assert_eq!(packet[8..12], crc32c(&[&packet[..8], &[0; 4], &packet[12..]].concat()).to_le_bytes());
    }
}
