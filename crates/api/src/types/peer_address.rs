use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::serde_as_string;
use crate::error::ValueError;

/// `BGPPeer.spec.peerIP`: `a.b.c.d`, `a.b.c.d:port`, a v6 address, or `[v6]:port`; a link-local v6 address with its
/// interface (`fe80::1%eth0`, `[fe80::1%eth0]:port`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// The peer's address.
    pub ip: IpAddr,
    /// Interface of a link-local address (RFC 4007 section 11), at most 15 octets.
    pub zone: Option<String>,
    /// TCP port, when not 179.
    pub port: Option<u16>,
}

/// Longest interface name (`IFNAMSIZ` of linux/if.h less the final zero).
const MAX_NAME: usize = 15;

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, &self.zone) {
            (None, None) => self.ip.fmt(f),
            (None, Some(zone)) => write!(f, "{}%{zone}", self.ip),
            (Some(port), None) => SocketAddr::new(self.ip, port).fmt(f),
            (Some(port), Some(zone)) => write!(f, "[{}%{zone}]:{port}", self.ip),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        parse(text).ok_or_else(|| {
            ValueError::new(
                "not a peer address: use 192.0.2.1, 192.0.2.1:179, 2001:db8::1, [2001:db8::1]:179, or for a \
                 link-local address fe80::1%eth0",
            )
        })
    }
}

fn parse(text: &str) -> Option<PeerAddress> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.rsplit_once(']')? {
            (address, "") => (address, None),
            (address, port) => (address, Some(port.strip_prefix(':')?)),
        },
        None => match text.parse::<SocketAddr>() {
            Ok(SocketAddr::V4(_)) => text.rsplit_once(':').map(|(address, port)| (address, Some(port)))?,
            _ => (text, None),
        },
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    let bracketed = text.starts_with('[');
    let (ip, zone) = match address.split_once('%') {
        Some((ip, zone)) => {
            let ip: Ipv6Addr = ip.parse().ok().filter(Ipv6Addr::is_unicast_link_local)?;
            let is_name = |c: char| !c.is_whitespace() && !c.is_control() && !"/[]%:".contains(c);
            let named = !zone.is_empty() && zone.len() <= MAX_NAME && zone.chars().all(is_name);
            (IpAddr::V6(ip), Some(zone.to_owned()).filter(|_| named)?.into())
        }
        None => (address.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() || !bracketed)?, None),
    };
    (port != Some(0)).then_some(PeerAddress { ip, zone, port })
}
serde_as_string!(PeerAddress, "a peer address such as 192.0.2.1 or [2001:db8::1]:179");
