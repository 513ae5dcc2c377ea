//! Socket options, listeners and dialling.

use super::{links, protect};
use crate::security::SocketOptions;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Thousands of nodes may connect at the same instant (capped by net.core.somaxconn).
const BACKLOG: i32 = 8192;
/// Kernel memory per connection for octets on their way out: what a slow peer doesn't take stays in the shared log.
const SEND_BUFFER: usize = 128 << 10;
/// Not yet sent octets above which the socket isn't writable.
#[cfg(target_os = "linux")]
const NOT_SENT: u32 = 64 << 10;
/// The kernel gives up on unacknowledged octets after this (the send hold time's default, RFC 9687).
const USER_TIMEOUT: Duration = Duration::from_secs(480);
/// An attempt to connect takes at most this long.
pub(super) const DIAL: Duration = Duration::from_secs(20);

/// A listener on one address, which an interface may get later. An IPv6 one takes IPv6 only.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    protect::prepare_listener(&socket, address)?;
    #[cfg(target_os = "linux")]
    if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) }?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Options of every connection. Best effort: a kernel without one of them still carries BGP.
pub(super) fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let results = [
        socket.set_tcp_nodelay(true),
        socket.set_send_buffer_size(SEND_BUFFER),
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT)),
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(NOT_SENT),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "socket option not set");
    }
}

/// Opens a connection, from `local` if given.
pub(super) async fn dial(
    remote: SocketAddr,
    local: Option<IpAddr>,
    options: SocketOptions,
) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    protect::apply(&socket, remote.ip(), &options)?;
    if let Some(local) = local {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let remote = links::scoped(remote, options.interface.as_deref())?;
    match tokio::time::timeout(DIAL, socket.connect(remote)).await {
        Ok(stream) => stream,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "connection attempt timed out")),
    }
}
