//! The packet a verdict is asked for.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
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

    /// 4 or 6.
    #[must_use]
    pub fn ip_version(&self) -> u8 {
        if self.destination.is_ipv4() { 4 } else { 6 }
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
