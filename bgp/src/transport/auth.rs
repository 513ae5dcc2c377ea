//! Keys of sockets: TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925).

use super::sockopt::{AnyAddress, set, sockaddr};
use crate::security::{AoKey, Password, Secret};
use ipnet::IpNet;
use std::ffi::c_int;
use std::io;
use std::os::fd::BorrowedFd;

/// `tcpm_prefixlen` is valid (linux/tcp.h).
const MD5_PREFIX: u8 = 1;
/// Socket options of linux/tcp.h since Linux 6.7.
const TCP_AO_ADD_KEY: c_int = 38;
const TCP_AO_DEL_KEY: c_int = 39;
const TCP_AO_INFO: c_int = 40;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Sig {
    address: AnyAddress,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: c_int,
    key: [u8; libc::TCP_MD5SIG_MAXKEYLEN],
}

/// `struct tcp_ao_add` of linux/tcp.h.
#[repr(C, align(8))]
struct AoAdd {
    address: AnyAddress,
    algorithm: [u8; 64],
    interface: i32,
    flags: u32,
    reserved: u16,
    prefix_len: u8,
    send_id: u8,
    receive_id: u8,
    mac_len: u8,
    key_flags: u8,
    key_len: u8,
    key: [u8; 80],
}

/// `struct tcp_ao_del`.
#[repr(C, align(8))]
struct AoDel {
    address: AnyAddress,
    interface: i32,
    flags: u32,
    reserved: u16,
    prefix_len: u8,
    send_id: u8,
    receive_id: u8,
    current: u8,
    next: u8,
    key_flags: u8,
}

/// `struct tcp_ao_info_opt`.
#[repr(C, align(8))]
struct AoInfo {
    flags: u32,
    reserved: u16,
    current: u8,
    next: u8,
    counters: [u64; 5],
}

// What follows from the header's field sizes: a mistake here would let the kernel read something else.
const _: () = assert!(size_of::<Md5Sig>() == 216 && std::mem::offset_of!(Md5Sig, key) == 136);
const _: () = assert!(size_of::<AoAdd>() == 288 && std::mem::offset_of!(AoAdd, key) == 208);
const _: () = assert!(size_of::<AoDel>() == 144 && std::mem::offset_of!(AoDel, key_flags) == 143);
const _: () = assert!(size_of::<AoInfo>() == 48 && std::mem::offset_of!(AoInfo, counters) == 8);

/// `set_current` and `set_rnext`, the first two bits of the flags.
const CURRENT_AND_NEXT: u32 = if cfg!(target_endian = "big") { 3 << 30 } else { 3 };

/// Which socket's keys are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Listener,
    Connection,
}

/// Changes the keys for segments from `from`; of several prefixes on a listener the longest counts. On a connection
/// TCP-AO keys may change while it is up, if one of them stays (RFC 5925 section 7.3).
pub(super) fn change(
    socket: BorrowedFd<'_>,
    kind: Kind,
    from: IpNet,
    old: Option<&Password>,
    new: Option<&Password>,
) -> io::Result<()> {
    let old = old.map(Password::secret);
    match (old, new.map(Password::secret)) {
        (Some(Secret::Ao(old)), Some(Secret::Ao(new))) => roll_over(socket, kind, from, old, new),
        (old, new) => {
            match old {
                Some(Secret::Ao(keys)) => roll_over(socket, kind, from, keys, &[])?,
                Some(Secret::Md5(_)) if !matches!(new, Some(Secret::Md5(_))) => md5(socket, from, &[])?,
                _ => {}
            }
            match new {
                Some(Secret::Ao(keys)) => roll_over(socket, kind, from, &[], keys),
                Some(Secret::Md5(key)) => md5(socket, from, key),
                None => Ok(()),
            }
        }
    }
}

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Sets the TCP-MD5 key, or with an empty one removes it.
fn md5(socket: BorrowedFd<'_>, from: IpNet, key: &[u8]) -> io::Result<()> {
    let mut sig = Md5Sig {
        address: sockaddr(from.network()),
        flags: 0,
        prefix_len: 0,
        key_len: u16::try_from(key.len()).map_err(io::Error::other)?,
        interface: 0,
        key: padded(key),
    };
    let name = if is_host(from) { libc::TCP_MD5SIG } else { libc::TCP_MD5SIG_EXT };
    if !is_host(from) {
        sig.flags = MD5_PREFIX;
        sig.prefix_len = from.prefix_len();
    }
    match set(socket, libc::IPPROTO_TCP, name, &sig) {
        Err(error) if key.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|error| explain(&error, "TCP-MD5 (CONFIG_TCP_MD5SIG)")),
    }
}

/// From the old keys to the new: there is always one in force, and the first of the new is the one to send with.
fn roll_over(
    socket: BorrowedFd<'_>,
    kind: Kind,
    from: IpNet,
    old: &[AoKey],
    new: &[AoKey],
) -> io::Result<()> {
    let fresh = || new.iter().filter(|key| !old.contains(key));
    let id_is_taken = |key: &&AoKey| old.iter().any(|other| other.id == key.id);
    for key in fresh().filter(|key| !id_is_taken(key)) {
        add(socket, from, key)?;
    }
    let usable = |key: &&AoKey| old.contains(key) || !id_is_taken(key);
    if let Some(first) = new.iter().find(usable) {
        send_with(socket, kind, first)?;
    }
    for key in old.iter().filter(|key| !new.contains(key)) {
        delete(socket, from, key)?;
    }
    for key in fresh().filter(id_is_taken) {
        add(socket, from, key)?;
    }
    new.first().map_or(Ok(()), |first| send_with(socket, kind, first))
}

fn add(socket: BorrowedFd<'_>, from: IpNet, key: &AoKey) -> io::Result<()> {
    let request = AoAdd {
        address: sockaddr(from.network()),
        algorithm: padded(key.algorithm.kernel_name().as_bytes()),
        interface: 0,
        flags: 0,
        reserved: 0,
        prefix_len: from.prefix_len(),
        send_id: key.id,
        receive_id: key.id,
        mac_len: key.algorithm.mac_len(),
        key_flags: 0,
        key_len: u8::try_from(key.octets.len()).map_err(io::Error::other)?,
        key: padded(&key.octets),
    };
    match set(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &request) {
        // An accepted connection has the listener's keys already.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map_err(explain_ao),
    }
}

fn delete(socket: BorrowedFd<'_>, from: IpNet, key: &AoKey) -> io::Result<()> {
    let request = AoDel {
        address: sockaddr(from.network()),
        interface: 0,
        flags: 0,
        reserved: 0,
        prefix_len: from.prefix_len(),
        send_id: key.id,
        receive_id: key.id,
        current: 0,
        next: 0,
        key_flags: 0,
    };
    match set(socket, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, &request) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(explain_ao),
    }
}

/// The key to send with, and the one the peer is asked to send with. Listeners have none.
fn send_with(socket: BorrowedFd<'_>, kind: Kind, key: &AoKey) -> io::Result<()> {
    if kind == Kind::Listener {
        return Ok(());
    }
    let request =
        AoInfo { flags: CURRENT_AND_NEXT, reserved: 0, current: key.id, next: key.id, counters: [0; 5] };
    set(socket, libc::IPPROTO_TCP, TCP_AO_INFO, &request).map_err(explain_ao)
}

/// Zeros behind; what is too long is cut (keys never are, their length is checked when they are made).
fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (place, octet) in out.iter_mut().zip(octets) {
        *place = *octet;
    }
    out
}

fn explain_ao(error: io::Error) -> io::Error {
    explain(&error, "TCP-AO (CONFIG_TCP_AO, Linux 6.7 or later)")
}

fn explain(error: &io::Error, what: &str) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EINVAL | libc::ENOENT) => {
            format!("this kernel has no {what}: run without it, or another kernel")
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => {
            "too many keys on one socket: raise the sysctl net.core.optmem_max".to_owned()
        }
        _ => format!("cannot set the key of {what}"),
    };
    io::Error::new(error.kind(), format!("{hint} ({error})"))
}
