//! Socket options that only the kernel's headers know.
//!
//! The one place of the crate with unsafe code: a wrapper of `setsockopt(2)`.

use std::ffi::c_int;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

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
