//! The packet a verdict is asked for.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of IP in IP.
pub const IPIP: u8 = 4;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;
/// IP protocol number of UDPLite.
pub const UDPLITE: u8 = 136;

/// First packet of a flow, as it is on the wire between two endpoints (after any destination NAT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family as the source.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
    /// ICMP or ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
}

impl Packet {
    /// A packet of a protocol with ports, from an ephemeral source port.
    #[must_use]
    pub fn to_port(source: IpAddr, destination: IpAddr, protocol: u8, destination_port: u16) -> Self {
        Self { source, destination, protocol, source_port: 49152, destination_port, icmp: None }
    }

    /// An ICMP (or, between IPv6 addresses, ICMPv6) echo request.
    #[must_use]
    pub fn echo(source: IpAddr, destination: IpAddr) -> Self {
        let (protocol, kind) = if destination.is_ipv4() { (ICMP, 8) } else { (ICMPV6, 128) };
        Self { source, destination, protocol, source_port: 0, destination_port: 0, icmp: Some((kind, 0)) }
    }

    /// The packet that begins with these octets, an IP header first; `None` if they are no such thing, or stop before the
    /// ports. Of a fragment other than the first, ports read as 0.
    #[must_use]
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let (source, destination, protocol, payload) = match octets.first()? >> 4 {
            4 => {
                let header = octets.first_chunk::<20>()?;
                let rest = octets.get(usize::from(header[0] & 0xf) * 4..)?;
                let is_later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
                let address = |at| octets.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
                (address(12)?, address(16)?, header[9], (!is_later).then_some(rest))
            }
            6 => {
                let address = |at| octets.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
                let (protocol, rest) = behind_extensions(*octets.get(6)?, octets.get(40..)?)?;
                (address(8)?, address(24)?, protocol, rest)
            }
            _ => return None,
        };
        let mut packet =
            Self { source, destination, protocol, source_port: 0, destination_port: 0, icmp: None };
        let Some(payload) = payload else { return Some(packet) };
        if has_ports(protocol) {
            let [a, b, c, d] = *payload.first_chunk::<4>()?;
            packet.source_port = u16::from_be_bytes([a, b]);
            packet.destination_port = u16::from_be_bytes([c, d]);
        } else if matches!(protocol, ICMP | ICMPV6) {
            let [kind, code] = *payload.first_chunk::<2>()?;
            packet.icmp = Some((kind, code));
        }
        Some(packet)
    }

    /// 4 or 6.
    #[must_use]
    pub fn ip_version(&self) -> u8 {
        if self.destination.is_ipv4() { 4 } else { 6 }
    }
}

/// The upper-layer protocol of an IPv6 packet and its octets, which fragments other than the first don't have
/// (RFC 8200, section 4).
fn behind_extensions(mut next: u8, mut rest: &[u8]) -> Option<(u8, Option<&[u8]>)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    loop {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(*rest.get(1)?) + 1) * 8,
            FRAGMENT => {
                let offset = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) >> 3;
                if offset != 0 {
                    return Some((*rest.first()?, None));
                }
                8
            }
            _ => return Some((next, Some(rest))),
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
}

/// Whether packets of the protocol carry ports the kernel's `multiport` can match.
#[must_use]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP | UDPLITE)
}

/// Name of an IP protocol as policies spell it, in lower case, or its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        ICMP => "icmp".to_owned(),
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        SCTP => "sctp".to_owned(),
        UDPLITE => "udplite".to_owned(),
        other => other.to_string(),
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol);
        match self.icmp {
            Some((kind, code)) => {
                write!(f, "{protocol} type {kind} code {code} {} -> {}", self.source, self.destination)
            }
            None if has_ports(self.protocol) => {
                write!(f, "{protocol} {} -> {} port {}", self.source, self.destination, self.destination_port)
            }
            None => write!(f, "protocol {protocol} {} -> {}", self.source, self.destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0x46, 0, 0, 0, 0, 0];
        octets.extend(fragment.to_be_bytes());
        octets.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1]);
        octets.extend_from_slice(payload);
        octets
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        for last in [1, 2] {
            octets.extend([0xfd; 15]);
            octets.push(last);
        }
        octets.extend_from_slice(payload);
        octets
    }

    proptest::proptest! {
        #[test]
        fn random_octets_never_panic(version in 4..7u8, mut octets in proptest::collection::vec(0..=255u8, 1..120)) {
            octets[0] = version << 4 | octets[0] & 0xf;
            let _any = Packet::parse(&octets);
        }
    }

    #[test]
    fn headers_are_read() {
        let packet = Packet::parse(&v4(TCP, 0x4000, &[0xc0, 0, 0, 80])).unwrap();
        let expected = Packet::to_port([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), TCP, 80);
        assert_eq!(packet, expected, "behind options of the header");
        assert_eq!(Packet::parse(&v4(TCP, 0, &[0xc0, 0])), None, "cut within the ports");
        assert_eq!(Packet::parse(&v4(UDP, 5, &[])).unwrap().destination_port, 0, "a later fragment");
        assert_eq!(Packet::parse(&v4(ICMP, 0, &[8, 0])).unwrap().icmp, Some((8, 0)));

        let extensions = [UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 53];
        let packet = Packet::parse(&v6(0, &extensions)).unwrap();
        assert_eq!((packet.protocol, packet.source_port, packet.destination_port), (UDP, 49152, 53));
        let fragment = [TCP, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4];
        let packet = Packet::parse(&v6(44, &fragment)).unwrap();
        assert_eq!((packet.protocol, packet.destination_port), (TCP, 0));
        assert_eq!(Packet::parse(&v6(ICMPV6, &[128, 0])).unwrap().icmp, Some((128, 0)));
        assert_eq!(Packet::parse(&[]), None);
        assert_eq!(Packet::parse(&[0x50; 40]), None);
    }
}
