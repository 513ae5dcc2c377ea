//! The sockets of BFD: where packets come in, where they go out, and which are dropped before they wake anybody.

use crate::bfd::{MULTIHOP_PORT, SINGLE_HOP_PORT, SessionConfig};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// The longest packet, by its length field.
pub(super) const LONGEST: usize = 255;
/// First source port (RFC 5881 section 4) and how many there are.
const PORTS: (u16, u16) = (49_152, 16_384);
/// Ports tried for one session.
const ATTEMPTS: u16 = 64;
/// Class of network control (CS6) in the octet of DSCP and ECN.
const NETWORK_CONTROL: u32 = 0xc0;

/// Where packets come in: our address (or any) and whether it is the port of multihop sessions.
pub(super) type Place = (IpAddr, bool);

pub(super) fn port(multihop: bool) -> u16 {
    if multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT }
}

/// Where to bind: our address of the session, or any of the family. A link-local one would need its interface, and packets
/// tell theirs anyway.
pub(super) fn own(local: Option<IpAddr>, remote: IpAddr) -> IpAddr {
    match (local, remote) {
        (Some(IpAddr::V6(address)), _) if address.is_unicast_link_local() => Ipv6Addr::UNSPECIFIED.into(),
        (Some(address), _) => address,
        (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Number of the interface of a link-local address, else 0.
pub(super) fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

pub(super) fn place(remote: IpAddr, session: &SessionConfig) -> Place {
    (own(session.local, remote), session.multihop)
}

/// The next packet of any listener.
pub(super) async fn receive(
    listeners: &BTreeMap<Place, UdpSocket>,
    turn: usize,
    buffer: &mut [u8; LONGEST],
) -> (Place, SocketAddr, usize) {
    std::future::poll_fn(|context| {
        let first = turn.checked_rem(listeners.len()).unwrap_or_default();
        for (place, socket) in listeners.iter().skip(first).chain(listeners.iter().take(first)) {
            let mut space = ReadBuf::new(buffer);
            while let Poll::Ready(received) = socket.poll_recv_from(context, &mut space) {
                match received {
                    Ok(from) => return Poll::Ready((*place, from, space.filled().len())),
                    Err(error) => tracing::debug!(%error, "BFD packet not received"),
                }
            }
        }
        Poll::Pending
    })
    .await
}

fn socket(address: IpAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(address, 0));
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A socket for packets to us. Single hop: only such as nobody has forwarded (RFC 5881 section 5); the kernel drops the
/// others before they wake anybody.
pub(super) fn listener((address, multihop): Place) -> io::Result<UdpSocket> {
    let socket = socket(address)?;
    if !multihop {
        socket.attach_filter(&ttl_filter(address))?;
    }
    socket.bind(&SocketAddr::new(address, port(multihop)).into())?;
    UdpSocket::from_std(socket.into())
}

/// A classic BPF program (linux/filter.h) that passes packets with a TTL, or hop limit, of 255.
fn ttl_filter(address: IpAddr) -> [SockFilter; 4] {
    /// Offsets from here on count from the network header (`SKF_NET_OFF`).
    const NETWORK: u32 = 0xfff0_0000;
    const LOAD_OCTET: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let ttl = if address.is_ipv4() { 8 } else { 7 };
    [
        SockFilter::new(LOAD_OCTET, 0, 0, NETWORK + ttl),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(u8::MAX)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// A session's socket for packets from us, with a port that no other session has.
pub(super) fn sender(local: IpAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket(local)?;
    match local {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(u32::from(u8::MAX))?;
            socket.set_tos_v4(NETWORK_CONTROL)?;
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(u32::from(u8::MAX))?;
            socket.set_tclass_v6(NETWORK_CONTROL)?;
        }
    }
    let (first, count) = PORTS;
    let random = RandomState::new();
    let mut result = Err(io::Error::from(io::ErrorKind::AddrInUse));
    for attempt in 0..ATTEMPTS {
        let offset = u16::try_from(random.hash_one(attempt) % u64::from(count)).unwrap_or_default();
        result = socket.bind(&SocketAddr::new(local, first + offset).into());
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    result?;
    Ok(socket.into())
}
