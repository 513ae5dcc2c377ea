//! Echo requests and replies on raw sockets (RFC 792, RFC 4443).

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::TOKEN;

const HEADER: usize = 8;

/// Message types of a family.
#[derive(Debug, Clone, Copy)]
struct Types {
    request: u8,
    reply: u8,
}

fn types(ipv4: bool) -> Types {
    if ipv4 { Types { request: 8, reply: 0 } } else { Types { request: 128, reply: 129 } }
}

/// A raw socket for one family. The standard library's UDP type serves any socket whose addresses are Internet addresses.
pub(super) fn raw_socket(ipv4: bool) -> io::Result<UdpSocket> {
    let (domain, protocol) =
        if ipv4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    Ok(Socket::new(domain, Type::RAW, Some(protocol))?.into())
}

/// Sends echo requests and sees their replies.
#[derive(Debug)]
pub(super) struct Pinger {
    socket: UdpSocket,
    target: IpAddr,
    sequence: u16,
}

impl Pinger {
    pub(super) fn open(target: IpAddr) -> io::Result<Self> {
        let socket = raw_socket(target.is_ipv4())?;
        // Connected: only the target's packets arrive, and its refusals become errors.
        socket.connect(SocketAddr::new(target, 0))?;
        Ok(Self { socket, target, sequence: 0 })
    }

    /// Sends an echo request that carries `token`.
    pub(super) fn send(&mut self, token: u64) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        // Every request has an identifier of its own, so that it is a new flow to connection tracking.
        let [.., high, low] = token.to_be_bytes();
        let mut packet = vec![types(self.target.is_ipv4()).request, 0, 0, 0, high, low];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&token.to_be_bytes());
        if self.target.is_ipv4() {
            // For IPv6 the kernel fills in the checksum.
            let sum = checksum(&packet).to_be_bytes();
            packet[2] = sum[0];
            packet[3] = sum[1];
        }
        self.socket.send(&packet).map(|_| ())
    }

    /// Waits for the next packet: its token if it is an echo reply, `None` if it is something else.
    pub(super) fn receive(&self, timeout: Duration) -> io::Result<Option<u64>> {
        self.socket.set_read_timeout(Some(timeout))?;
        let mut buffer = [0; 256];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let packet = buffer.get(..length).unwrap_or_default();
                let ipv4 = self.target.is_ipv4();
                Ok(message(packet, ipv4).and_then(|message| token(message, types(ipv4).reply)))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The token of an echo request seen by a raw socket.
pub(super) fn request_token(packet: &[u8], ipv4: bool) -> Option<u64> {
    token(message(packet, ipv4)?, types(ipv4).request)
}

/// Raw IPv4 sockets deliver the IP header too, IPv6 ones don't.
fn message(packet: &[u8], ipv4: bool) -> Option<&[u8]> {
    if !ipv4 {
        return Some(packet);
    }
    let words = packet.first()? & 0x0f;
    packet.get(usize::from(words) * 4..)
}

fn token(message: &[u8], kind: u8) -> Option<u64> {
    if *message.first()? != kind {
        return None;
    }
    message.get(HEADER..HEADER + TOKEN)?.try_into().ok().map(u64::from_be_bytes)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }

    #[test]
    fn short_and_foreign_packets_have_no_token() {
        for length in 0..40 {
            assert_eq!(request_token(&vec![0x45; length], true), None);
            assert_eq!(request_token(&vec![0; length], false), None);
        }
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(request_token(&packet, true), Some(0x0102));
    }
}
