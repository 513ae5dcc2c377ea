//! Arithmetic on address ranges: blocks of a pool, ordinals of a block.
//!
//! Addresses are handled as `u128` of one [`Family`]; an IPv4 address uses the low 32 bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// Family of a prefix.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Family of an address.
    pub fn of_addr(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Length of an address in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The address as a number.
pub(crate) fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The number as an address; IPv4 takes the low 32 bits.
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number & 0xffff_ffff).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// First and last address of a prefix as numbers.
pub(crate) fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// The prefix with its host bits cleared.
pub(crate) fn masked(net: &IpNet) -> IpNet {
    net.trunc()
}

/// Number of addresses minus one (so that `::/0` fits).
pub(crate) fn last_ordinal(net: &IpNet) -> u128 {
    let (first, last) = bounds(net);
    last - first
}

/// The address at `ordinal` of the block; absent when the block is smaller.
pub fn address_at(block: &IpNet, ordinal: u32) -> Option<IpAddr> {
    let (first, last) = bounds(block);
    let number = first.checked_add(u128::from(ordinal))?;
    (number <= last).then(|| address(Family::of(block), number))
}

/// The ordinal of an address in the block; absent when it is outside.
pub fn ordinal_of(block: &IpNet, addr: IpAddr) -> Option<u32> {
    if !block.contains(&addr) {
        return None;
    }
    u32::try_from(number(addr) - number(block.network())).ok()
}

/// Prefix of `family` starting at `first`; absent when `len` is longer than an address.
pub(crate) fn prefix(family: Family, first: u128, len: u8) -> Option<IpNet> {
    match address(family, first) {
        IpAddr::V4(a) => Ipv4Net::new(a, len).ok().map(|n| IpNet::V4(n.trunc())),
        IpAddr::V6(a) => Ipv6Net::new(a, len).ok().map(|n| IpNet::V6(n.trunc())),
    }
}

/// Disjoint, sorted ranges of addresses of both families; answers "what overlaps this?" in O(log n).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl RangeSet {
    /// Merges any prefixes, overlapping or not, in any order.
    pub fn new<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match Family::of(net) {
                Family::V4 => v4.push(bounds(net)),
                Family::V6 => v6.push(bounds(net)),
            }
        }
        Self { v4: merge(v4), v6: merge(v6) }
    }

    fn ranges(&self, family: Family) -> &[(u128, u128)] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Last address of the first range that overlaps `net`, as a number.
    pub(crate) fn overlap_end(&self, net: &IpNet) -> Option<u128> {
        let (first, last) = bounds(net);
        let ranges = self.ranges(Family::of(net));
        let at = ranges.partition_point(|&(_, end)| end < first);
        ranges.get(at).filter(|&&(start, _)| start <= last).map(|&(_, end)| end)
    }

    /// True when any address of `net` is in the set.
    pub fn overlaps(&self, net: &IpNet) -> bool {
        self.overlap_end(net).is_some()
    }

    /// True when every address of `net` is in the set.
    pub fn covers(&self, net: &IpNet) -> bool {
        let (first, last) = bounds(net);
        let ranges = self.ranges(Family::of(net));
        let at = ranges.partition_point(|&(_, end)| end < first);
        ranges.get(at).is_some_and(|&(start, end)| start <= first && last <= end)
    }

    /// True when the address is in the set.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.covers(&IpNet::from(addr))
    }
}

fn merge(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut out: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if last.1 == u128::MAX || start <= last.1 + 1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn ordinals_and_addresses_are_inverse() {
        let block = net("10.65.1.0/24");
        assert_eq!(address_at(&block, 0), Some("10.65.1.0".parse().unwrap()));
        assert_eq!(address_at(&block, 255), Some("10.65.1.255".parse().unwrap()));
        assert_eq!(address_at(&block, 256), None);
        assert_eq!(ordinal_of(&block, "10.65.2.0".parse().unwrap()), None);
        let v6 = net("fd00::40/122");
        assert_eq!(address_at(&v6, 63), Some("fd00::7f".parse().unwrap()));
        assert_eq!(ordinal_of(&v6, "fd00::41".parse().unwrap()), Some(1));
        assert_eq!(ordinal_of(&v6, "10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn the_whole_v6_space_does_not_overflow() {
        let set = RangeSet::new(&[net("::/0"), net("fd00::/8")]);
        assert!(set.covers(&net("ffff::/16")));
        assert_eq!(last_ordinal(&net("::/0")), u128::MAX);
    }

    proptest! {
        #[test]
        fn a_range_set_agrees_with_looking_at_every_prefix(
            members in proptest::collection::vec((any::<u8>(), 26u8..=32), 0..8),
            probe in (any::<u8>(), 26u8..=32),
        ) {
            let to_net = |(host, len): (u8, u8)| {
                IpNet::new(Ipv4Addr::new(10, 0, 0, host).into(), len).unwrap().trunc()
            };
            let nets: Vec<IpNet> = members.into_iter().map(to_net).collect();
            let set = RangeSet::new(&nets);
            let probe = to_net(probe);
            let inside = |n: u128| nets.iter().any(|m| { let (a, b) = bounds(m); a <= n && n <= b });
            let (first, last) = bounds(&probe);
            prop_assert_eq!(set.overlaps(&probe), (first..=last).any(inside));
            prop_assert_eq!(set.covers(&probe), (first..=last).all(inside));
        }
    }
}
