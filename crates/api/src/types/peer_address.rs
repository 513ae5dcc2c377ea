use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::serde_as_string;
use crate::error::ValueError;

/// `BGPPeer.spec.peerIP`: `a.b.c.d`, `a.b.c.d:port`, a v6 address, or `[v6]:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    /// The peer's address.
    pub ip: IpAddr,
    /// TCP port, when not 179.
    pub port: Option<u16>,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || {
            ValueError::new(
                "not a peer address: use 192.0.2.1, 192.0.2.1:179, 2001:db8::1 or [2001:db8::1]:179",
            )
        };
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, port: None });
        }
        if let Some(ip) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return ip
                .parse::<Ipv6Addr>()
                .map(|ip| Self { ip: IpAddr::V6(ip), port: None })
                .map_err(|_cause| wrong());
        }
        let socket: SocketAddr = text.parse().map_err(|_cause| wrong())?;
        if socket.port() == 0 {
            return Err(wrong());
        }
        Ok(Self { ip: socket.ip(), port: Some(socket.port()) })
    }
}
serde_as_string!(PeerAddress, "a peer address such as 192.0.2.1 or [2001:db8::1]:179");
