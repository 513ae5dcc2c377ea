//! What protects a session's sockets: keys, and TTLs as GTSM wants them (RFC 5082).

use super::auth;
use super::sockopt::set;
use crate::security::SocketOptions;
use socket2::SockRef;
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// Applies a session's options to its socket. `remote` is the other end. Fails closed: what cannot be set is an error.
pub(super) fn apply(socket: impl AsFd, remote: IpAddr, options: &SocketOptions) -> io::Result<()> {
    let socket = socket.as_fd();
    auth::change(socket, auth::Kind::Connection, remote.into(), None, options.password.as_ref())?;
    let reference = SockRef::from(&socket);
    if let Some(ttl) = options.ttl() {
        match remote {
            IpAddr::V4(_) => reference.set_ttl_v4(u32::from(ttl))?,
            IpAddr::V6(_) => reference.set_unicast_hops_v6(u32::from(ttl))?,
        }
    }
    if let Some(least) = options.least_ttl() {
        let least = c_int::from(least);
        match remote {
            IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least)?,
            IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least)?,
        }
    }
    Ok(())
}

/// Options of a listener: handshakes go out with the largest TTL, so that peers with GTSM see them.
pub(super) fn prepare_listener(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_ttl_v4(u32::from(u8::MAX)),
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(u32::from(u8::MAX)),
    }
}
