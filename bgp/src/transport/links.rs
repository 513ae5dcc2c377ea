//! The link a connection runs over, from the kernel's list of IPv6 addresses.

use crate::io::Link;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The list of the network namespace that the calling thread is in.
const ADDRESSES: &str = "/proc/thread-self/net/if_inet6";

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    address: Ipv6Addr,
    index: u32,
    prefix_len: u8,
    interface: String,
}

/// `address index prefix-length scope flags name`, numbers in hexadecimal (net/ipv6/addrconf.c).
fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    let index = u32::from_str_radix(words.next()?, 16).ok()?;
    let prefix_len = u8::from_str_radix(words.next()?, 16).ok()?;
    let interface = words.nth(2)?.to_owned();
    Some(Entry { address: address.into(), index, prefix_len, interface })
}

fn entries() -> io::Result<Vec<Entry>> {
    Ok(std::fs::read_to_string(ADDRESSES)?.lines().filter_map(parse).collect())
}

/// Number of an interface.
fn index(name: &str) -> io::Result<u32> {
    let found = entries()?.into_iter().find(|entry| entry.interface == name);
    found.map(|entry| entry.index).ok_or_else(|| {
        let text = format!("interface {name} of the link-local peer does not exist or has no IPv6 address");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// The address to dial: a link-local one with the number of its interface.
pub(super) fn scoped(remote: SocketAddr, interface: Option<&str>) -> io::Result<SocketAddr> {
    match (remote, interface) {
        (SocketAddr::V6(address), Some(name)) => {
            Ok(SocketAddrV6::new(*address.ip(), address.port(), 0, index(name)?).into())
        }
        _ => Ok(remote),
    }
}

/// Whether a connection from a link-local peer came in on the peer's interface.
pub(super) fn check(remote: SocketAddr, interface: &str) -> io::Result<()> {
    let SocketAddr::V6(address) = remote else { return Ok(()) };
    if address.scope_id() == index(interface)? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it did not come in on {interface}")))
}

/// The link between two ends of a connection, if there is none in between (IPv6 only).
pub(super) fn between(local: SocketAddr, remote: SocketAddr) -> Option<Link> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (local.ip().to_canonical(), remote.ip().to_canonical()) else {
        return None;
    };
    let scope = match remote {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    shared(&entries().ok()?, from, to, scope)
}

fn shared(entries: &[Entry], from: Ipv6Addr, to: Ipv6Addr, scope: u32) -> Option<Link> {
    let own = entries.iter().find(|entry| entry.address == from && (scope == 0 || entry.index == scope))?;
    let here = || entries.iter().filter(|entry| entry.index == own.index);
    let subnet = |entry: &Entry| ipnet::Ipv6Net::new(entry.address, entry.prefix_len).ok();
    if from.is_loopback() || !here().filter_map(subnet).any(|subnet| subnet.contains(&to)) {
        return None;
    }
    let address = |link_local: bool| {
        here().map(|entry| entry.address).find(|address| address.is_unicast_link_local() == link_local)
    };
    Some(Link { interface: own.interface.as_str().into(), link_local: address(true), global: address(false) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000001 0c 40 00 80     eth0
fe800000000000000000000000000001 0c 40 20 80     eth0
fe800000000000000000000000000001 0d 40 20 80     eth1
";

    #[test]
    fn a_link_is_shared_by_neighbours_only() {
        let list: Vec<Entry> = LIST.lines().filter_map(parse).collect();
        assert_eq!(list.len(), 4);
        let link = |from: &str, to: &str, scope| {
            shared(&list, from.parse().unwrap(), to.parse().unwrap(), scope)
                .map(|link| (link.interface.to_string(), link.link_local.is_some(), link.global.is_some()))
        };
        assert_eq!(link("2001:db8::1", "2001:db8::2", 0), Some(("eth0".into(), true, true)));
        assert_eq!(link("2001:db8::1", "2001:db8:1::2", 0), None, "behind a router");
        assert_eq!(link("fe80::1", "fe80::2", 13), Some(("eth1".into(), true, false)));
        assert_eq!(link("fe80::1", "fe80::2", 14), None, "no such interface");
        assert_eq!(link("::1", "::1", 0), None, "loopback is no link");
    }
}
