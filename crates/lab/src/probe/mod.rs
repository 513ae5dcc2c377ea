//! Probes: does a packet from here reach there, and from which address does the receiver see it come?
//!
//! A [`Responder`] answers in one namespace and tells the source it saw; [`reach`] asks once; a [`Stream`] asks every few
//! milliseconds and accounts for every loss.

mod icmp;
mod responder;
mod stream;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use margay_netlink::Netns;

use crate::error::{Error, Result};

pub use responder::Responder;
pub use stream::{Report, Stream};

/// What a probe is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A connection to a port.
    Tcp(u16),
    /// A datagram to a port.
    Udp(u16),
    /// An echo request.
    Icmp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Icmp => f.write_str("icmp"),
        }
    }
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Reached {
        /// The source address the receiver saw; `None` when the receiver is no [`Responder`] or hasn't said.
        source: Option<IpAddr>,
        /// Time from asking to the answer.
        after: Duration,
    },
    /// Nothing came back in time: dropped on the way.
    TimedOut,
    /// Someone said no: refused, unreachable, prohibited.
    Refused(String),
}

impl Outcome {
    /// It was answered.
    pub fn is_reached(&self) -> bool {
        matches!(self, Self::Reached { .. })
    }

    /// The source address the receiver saw.
    pub fn source(&self) -> Option<IpAddr> {
        match self {
            Self::Reached { source, .. } => *source,
            _ => None,
        }
    }
}

/// Length of the token that starts every UDP and ICMP payload.
const TOKEN: usize = 8;

/// Asks `target` once from the namespace `from`. For ICMP the source is what `responder`, the one at the target, has seen.
///
/// # Errors
/// Only when no socket can be made; what the network does is the [`Outcome`].
pub fn reach(
    from: &Netns,
    target: IpAddr,
    protocol: Protocol,
    responder: Option<&Responder>,
    timeout: Duration,
) -> Result<Outcome> {
    let start = Instant::now();
    let asked = from.run(|| match protocol {
        Protocol::Tcp(port) => tcp(SocketAddr::new(target, port), timeout),
        Protocol::Udp(port) => udp(SocketAddr::new(target, port), start + timeout),
        Protocol::Icmp => icmp_once(target, responder, start + timeout),
    });
    let answer = asked.map_err(|source| Error::Kernel { place: format!("probe of {target}"), source })??;
    Ok(match answer {
        Answer::From(source) => Outcome::Reached { source, after: start.elapsed() },
        Answer::Nothing => Outcome::TimedOut,
        Answer::No(reason) => Outcome::Refused(reason),
    })
}

enum Answer {
    From(Option<IpAddr>),
    Nothing,
    No(String),
}

/// What the network answers by means of an error; `None` when the error is ours.
fn answer_of(error: &std::io::Error) -> Option<Answer> {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Answer::Nothing),
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::PermissionDenied => Some(Answer::No(error.to_string())),
        _ => None,
    }
}

fn failed(what: &str, target: impl std::fmt::Display) -> impl Fn(std::io::Error) -> Error {
    let what = format!("{what} {target}");
    move |source| Error::Probe { what: what.clone(), source }
}

fn tcp(target: SocketAddr, timeout: Duration) -> Result<Answer> {
    let talk = || -> std::io::Result<String> {
        let stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        let mut text = String::new();
        stream.take(64).read_to_string(&mut text)?;
        Ok(text)
    };
    match talk() {
        Ok(text) => Ok(Answer::From(text.trim().parse().ok())),
        Err(error) => answer_of(&error).ok_or_else(|| failed("connect to", target)(error)),
    }
}

fn udp(target: SocketAddr, deadline: Instant) -> Result<Answer> {
    let error = failed("send a datagram to", target);
    let socket = bound_for(target.ip()).map_err(&error)?;
    let token = next_token().to_be_bytes();
    let mut buffer = [0; 128];
    if let Err(refused) = socket.connect(target).and_then(|()| socket.send(&token)) {
        return answer_of(&refused).ok_or_else(|| error(refused));
    }
    loop {
        let Some(left) = left(deadline) else { return Ok(Answer::Nothing) };
        socket.set_read_timeout(Some(left)).map_err(&error)?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(source) = answered(buffer.get(..length).unwrap_or_default(), &token) {
                    return Ok(Answer::From(source));
                }
            }
            Err(refused) => return answer_of(&refused).ok_or_else(|| error(refused)),
        }
    }
}

fn icmp_once(target: IpAddr, responder: Option<&Responder>, deadline: Instant) -> Result<Answer> {
    let error = failed("send an echo request to", target);
    let mut socket = icmp::Pinger::open(target).map_err(&error)?;
    let token = next_token();
    if let Err(refused) = socket.send(token) {
        return answer_of(&refused).ok_or_else(|| error(refused));
    }
    loop {
        let Some(left) = left(deadline) else { return Ok(Answer::Nothing) };
        match socket.receive(left) {
            Ok(Some(reply)) if reply == token => {
                return Ok(Answer::From(responder.and_then(|r| r.icmp_source(token, deadline))));
            }
            Ok(_) => {}
            Err(refused) => return answer_of(&refused).ok_or_else(|| error(refused)),
        }
    }
}

/// The source in a responder's datagram, if it answers `token`.
fn answered(datagram: &[u8], token: &[u8; TOKEN]) -> Option<Option<IpAddr>> {
    let text = datagram.strip_prefix(token)?;
    Some(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()))
}

fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

fn bound_for(target: IpAddr) -> std::io::Result<UdpSocket> {
    match target {
        IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// A number no other probe of this process uses.
fn next_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) | (u64::from(std::process::id()) << 40)
}
