//! Socket options that only the kernel's headers know.
//!
//! The one place of the crate with unsafe code: a wrapper of `setsockopt(2)`.

use super::auth;
use crate::security::SocketOptions;
use socket2::SockRef;
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `struct sockaddr_storage`.
pub(super) type AnyAddress = [u8; size_of::<libc::sockaddr_storage>()];

/// Sets an option of fixed size.
pub(super) fn set<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    #[allow(unsafe_code, reason = "setsockopt is not in std; the safe crates don't know these options")]
    // SAFETY: `socket` is open as long as it is borrowed; `value` points to `len` readable octets for the time of the
    // call, and the kernel only reads them.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The peer's address as the kernel's `sockaddr` octets.
pub(super) fn sockaddr(address: IpAddr) -> AnyAddress {
    let mut out = [0; size_of::<libc::sockaddr_storage>()];
    let mut put = |at: usize, octets: &[u8]| {
        for (place, octet) in out.iter_mut().skip(at).zip(octets) {
            *place = *octet;
        }
    };
    match address {
        // sin_family, sin_port, sin_addr
        IpAddr::V4(address) => {
            put(0, &family(libc::AF_INET));
            put(4, &address.octets());
        }
        // sin6_family, sin6_port, sin6_flowinfo, sin6_addr
        IpAddr::V6(address) => {
            put(0, &family(libc::AF_INET6));
            put(8, &address.octets());
        }
    }
    out
}

fn family(family: c_int) -> [u8; 2] {
    u16::try_from(family).unwrap_or_default().to_ne_bytes()
}

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
