//! How a prefix and its paths lie in memory: 32 octets for an IPv4 prefix with one path.

use super::path::{Path, SourceId};
use crate::family::Family;
use crate::hash::Keyed;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The paths of one prefix. One, which nearly every prefix has, needs no memory of its own.
#[derive(Debug, Default)]
pub(super) enum Paths {
    #[default]
    None,
    One(Path),
    #[expect(
        clippy::box_collection,
        reason = "a Vec would make every prefix larger for the few that have several"
    )]
    Many(Box<Vec<Path>>),
}

impl Paths {
    pub(super) fn as_slice(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(paths) => paths,
        }
    }

    pub(super) fn push(&mut self, path: Path) {
        match self {
            Self::None => *self = Self::One(path),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, path])),
            Self::Many(paths) => paths.push(path),
        }
    }

    /// Keeps the paths for which `keep` holds, in their order.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut Path) -> bool) {
        match self {
            Self::None => {}
            Self::One(path) => {
                if !keep(path) {
                    *self = Self::None;
                }
            }
            Self::Many(paths) => {
                paths.retain_mut(keep);
                match paths.as_slice() {
                    [] => *self = Self::None,
                    [path] => *self = Self::One(*path),
                    _ => {}
                }
            }
        }
    }
}

/// The addresses of IPv6 prefixes, which lie beside the slots: they would double what an IPv4 prefix takes.
#[derive(Debug, Default)]
pub(super) struct Wide {
    addresses: Vec<Ipv6Addr>,
    free: Vec<u32>,
}

impl Wide {
    fn insert(&mut self, address: Ipv6Addr) -> u32 {
        if let Some(number) = self.free.pop() {
            if let Some(place) = self.addresses.get_mut(number as usize) {
                *place = address;
            }
            return number;
        }
        self.addresses.push(address);
        u32::try_from(self.addresses.len() - 1).unwrap_or(u32::MAX)
    }

    fn get(&self, number: u32) -> Ipv6Addr {
        self.addresses.get(number as usize).copied().unwrap_or(Ipv6Addr::UNSPECIFIED)
    }
}

/// A prefix and its paths.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) paths: Paths,
    /// The IPv4 address, or where in [`Wide`] the IPv6 address is.
    address: u32,
    len: u8,
    ipv6: bool,
    /// Awaits settling.
    pub(super) dirty: bool,
    /// Holds a prefix.
    pub(super) live: bool,
}

const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    pub(super) fn new(prefix: IpNet, wide: &mut Wide) -> Self {
        let (address, ipv6) = match prefix {
            IpNet::V4(net) => (net.addr().to_bits(), false),
            IpNet::V6(net) => (wide.insert(net.addr()), true),
        };
        Self { paths: Paths::None, address, len: prefix.prefix_len(), ipv6, dirty: false, live: true }
    }

    /// Whether it holds a path of a source and is of a family.
    pub(super) fn has(&self, source: SourceId, family: Family) -> bool {
        self.live
            && self.ipv6 == (family == Family::Ipv6)
            && self.paths.as_slice().iter().any(|path| path.source == source)
    }

    pub(super) fn prefix(&self, wide: &Wide) -> IpNet {
        // The length was that of a prefix of the family.
        if self.ipv6 {
            Ipv6Net::new(wide.get(self.address), self.len).unwrap_or_default().into()
        } else {
            Ipv4Net::new(Ipv4Addr::from_bits(self.address), self.len).unwrap_or_default().into()
        }
    }

    /// Ends the life of a slot; another prefix may have it.
    pub(super) fn clear(&mut self, wide: &mut Wide) {
        if self.ipv6 {
            wide.free.push(self.address);
        }
        self.live = false;
    }

    pub(super) fn is(&self, prefix: &IpNet, wide: &Wide) -> bool {
        match prefix {
            IpNet::V4(net) => {
                !self.ipv6 && self.len == net.prefix_len() && self.address == net.addr().to_bits()
            }
            IpNet::V6(net) => {
                self.ipv6 && self.len == net.prefix_len() && wide.get(self.address) == net.addr()
            }
        }
    }

    pub(super) fn hash(&self, keyed: Keyed, wide: &Wide) -> u64 {
        hash(&self.prefix(wide), keyed)
    }
}

/// The hash of a prefix.
pub(super) fn hash(prefix: &IpNet, keyed: Keyed) -> u64 {
    let mut hasher = keyed.build_hasher();
    match prefix {
        IpNet::V4(net) => {
            hasher.write_u64(u64::from(net.addr().to_bits()) << 8 | u64::from(net.prefix_len()))
        }
        IpNet::V6(net) => {
            hasher.write(&net.addr().octets());
            hasher.write_u8(net.prefix_len());
        }
    }
    hasher.finish()
}
