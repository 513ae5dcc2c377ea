//! Socket options that only the kernel's headers know: TCP-MD5 keys and the least TTL.
//!
//! The one place of the crate with unsafe code: a wrapper of `setsockopt(2)`.

use crate::security::{Password, SocketOptions};
use ipnet::IpNet;
use socket2::SockRef;
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `tcpm_prefixlen` is valid (linux/tcp.h).
const FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Sig {
    address: [u8; size_of::<libc::sockaddr_storage>()],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: c_int,
    key: [u8; libc::TCP_MD5SIG_MAXKEYLEN],
}

// What follows from the header's field sizes: a mistake here would let the kernel read something else.
const _: () = assert!(size_of::<Md5Sig>() == 216 && std::mem::offset_of!(Md5Sig, key) == 136);

/// Sets an option of fixed size.
fn set<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    #[allow(unsafe_code, reason = "setsockopt is not in std; the safe crates don't know these options")]
    // SAFETY: `socket` is open as long as it is borrowed; `value` points to `len` readable octets for the time of the
    // call, and the kernel only reads them.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The peer's address as the kernel's `sockaddr` octets.
fn sockaddr(address: IpAddr) -> [u8; size_of::<libc::sockaddr_storage>()] {
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

/// Sets, changes or (with `None`) removes the key for segments from `from` (RFC 2385). A listener may have many; the
/// longest prefix counts. Removing one that isn't there is no error.
pub(super) fn set_key(socket: impl AsFd, from: IpNet, key: Option<&Password>) -> io::Result<()> {
    let octets = key.map(Password::octets).unwrap_or_default();
    let mut sig = Md5Sig {
        address: sockaddr(from.network()),
        flags: 0,
        prefix_len: 0,
        key_len: u16::try_from(octets.len()).map_err(io::Error::other)?,
        interface: 0,
        key: [0; libc::TCP_MD5SIG_MAXKEYLEN],
    };
    for (place, octet) in sig.key.iter_mut().zip(octets) {
        *place = *octet;
    }
    let host = from.prefix_len() == from.max_prefix_len();
    let name = if host { libc::TCP_MD5SIG } else { libc::TCP_MD5SIG_EXT };
    if !host {
        sig.flags = FLAG_PREFIX;
        sig.prefix_len = from.prefix_len();
    }
    match set(socket.as_fd(), libc::IPPROTO_TCP, name, &sig) {
        Err(error) if key.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(explain(&error)),
        Ok(()) => Ok(()),
    }
}

fn explain(error: &io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EINVAL | libc::ENOENT) => {
            "this kernel has no TCP-MD5 (CONFIG_TCP_MD5SIG): run without a password, or another kernel"
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => {
            "too many passwords on one socket: raise the sysctl net.core.optmem_max"
        }
        _ => "cannot set the TCP-MD5 key",
    };
    io::Error::new(error.kind(), format!("{hint} ({error})"))
}

/// Applies a session's options to its socket. `remote` is the other end. Fails closed: what cannot be set is an error.
pub(super) fn apply(socket: impl AsFd, remote: IpAddr, options: &SocketOptions) -> io::Result<()> {
    let socket = socket.as_fd();
    if let Some(key) = &options.password {
        set_key(socket, remote.into(), Some(key))?;
    }
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
