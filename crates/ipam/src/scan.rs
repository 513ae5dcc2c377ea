//! Which block a node claims next.

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::range::{Family, RangeSet, bounds, masked, prefix};

/// Resource name of the block: the prefix with `.`, `:` and `/` as dashes, as Calico names it
/// (`10.65.1.0/24` is `10-65-1-0-24`). Creating the resource of this name is the claim.
pub fn block_name(block: &IpNet) -> String {
    masked(block).to_string().replace(['.', ':', '/'], "-")
}

/// The free block of `pool` a node should claim next; absent when every block is taken or reserved.
///
/// The search starts at a position that depends on `seed` (the node's name), so that nodes starting together
/// rarely try the same block, and goes round once. `taken` are the blocks that exist, of any size; a block that is
/// reserved as a whole is of no use and is passed over. Runs in the number of taken ranges, not of blocks.
pub fn next_block(
    pool: &IpNet,
    block_len: u8,
    seed: &str,
    taken: &RangeSet,
    reserved: &RangeSet,
) -> Option<IpNet> {
    let family = Family::of(pool);
    if block_len < pool.prefix_len() || block_len > family.bits() {
        return None;
    }
    let (pool_first, _) = bounds(pool);
    let last_index = low_bits(block_len - pool.prefix_len());
    let host_bits = u32::from(family.bits() - block_len);
    let block_of = |index: u128| {
        let offset = index.checked_shl(host_bits).unwrap_or(0);
        prefix(family, pool_first + offset, block_len)
    };
    let start = seed_position(seed, last_index);
    // Two runs, from the start to the end of the pool and from its beginning to the start.
    for (mut index, end) in [(start, last_index), (0, start.saturating_sub(1))] {
        while index <= end {
            let block = block_of(index)?;
            let blocked_until = taken
                .overlap_end(&block)
                .or_else(|| if reserved.covers(&block) { reserved.overlap_end(&block) } else { None });
            let Some(until) = blocked_until else { return Some(block) };
            // First index that starts after the obstacle. A reserved range may end inside a later block, which is then
            // looked at again: it isn't covered, so it is free.
            let past = (until - pool_first).checked_shr(host_bits).unwrap_or(0);
            let ends_inside = until < bounds(&block_of(past).unwrap_or(block)).1;
            let next = if ends_inside && past > index { past } else { past.saturating_add(1) };
            if next <= index {
                break;
            }
            index = next;
        }
    }
    None
}

fn low_bits(count: u8) -> u128 {
    u128::MAX.checked_shr(128 - u32::from(count)).unwrap_or(0)
}

/// A position in `0..=last`, the same for the same name on every machine and in every release.
fn seed_position(seed: &str, last: u128) -> u128 {
    let digest = Sha256::digest(seed.as_bytes());
    let number = digest.iter().take(16).fold(0u128, |n, byte| (n << 8) | u128::from(*byte));
    match last.checked_add(1) {
        Some(count) => number % count,
        None => number,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn names_are_those_of_calico() {
        assert_eq!(block_name(&net("10.65.1.0/24")), "10-65-1-0-24");
        assert_eq!(block_name(&net("fd80:24e2::40/122")), "fd80-24e2--40-122");
    }

    #[test]
    fn every_block_is_found_exactly_once_then_none() {
        let pool = net("10.65.0.0/16");
        let mut taken = BTreeSet::new();
        for _ in 0..256 {
            let set = RangeSet::new(&taken);
            let block = next_block(&pool, 24, "node-1", &set, &RangeSet::default()).unwrap();
            assert!(pool.contains(&block) && block.prefix_len() == 24);
            assert!(taken.insert(block));
        }
        assert_eq!(next_block(&pool, 24, "node-1", &RangeSet::new(&taken), &RangeSet::default()), None);
    }

    #[test]
    fn nodes_start_at_different_places_and_always_the_same_one() {
        let pool = net("10.0.0.0/8");
        let first =
            |name: &str| next_block(&pool, 26, name, &RangeSet::default(), &RangeSet::default()).unwrap();
        let starts: BTreeSet<IpNet> = (0..100).map(|i| first(&format!("node-{i}"))).collect();
        assert!(starts.len() > 95, "{}", starts.len());
        // Pinned: a change of the start would make every node of a running cluster race for new places.
        assert_eq!(first("n1"), first("n1"));
    }

    #[test]
    fn a_huge_pool_and_a_pool_of_one_block() {
        let taken = RangeSet::default();
        let block = next_block(&net("fd00::/8"), 122, "a", &taken, &taken).unwrap();
        assert!(net("fd00::/8").contains(&block));
        assert!(next_block(&net("::/0"), 128, "a", &taken, &taken).is_some());
        assert_eq!(next_block(&net("10.0.0.0/24"), 24, "a", &taken, &taken), Some(net("10.0.0.0/24")));
        assert_eq!(next_block(&net("10.0.0.0/24"), 23, "a", &taken, &taken), None);
        assert_eq!(next_block(&net("10.0.0.0/24"), 33, "a", &taken, &taken), None);
    }

    #[test]
    fn a_block_reserved_as_a_whole_is_passed_over_a_half_reserved_one_is_not() {
        let pool = net("10.0.0.0/30");
        let reserved = RangeSet::new(&[net("10.0.0.0/31"), net("10.0.0.2/32")]);
        for seed in ["a", "b", "c", "d"] {
            assert_eq!(
                next_block(&pool, 31, seed, &RangeSet::default(), &reserved),
                Some(net("10.0.0.2/31"))
            );
        }
    }

    proptest! {
        #[test]
        fn a_free_block_is_found_when_there_is_one(
            taken in proptest::collection::vec((any::<u8>(), 26u8..=32), 0..12),
            reserved in proptest::collection::vec((any::<u8>(), 26u8..=32), 0..6),
            len in 24u8..=32,
            seed in "[a-z]{1,4}",
        ) {
            let pool = net("10.0.0.0/24");
            let to_nets = |list: Vec<(u8, u8)>| -> Vec<IpNet> {
                list.into_iter()
                    .map(|(h, l)| IpNet::new(std::net::Ipv4Addr::new(10, 0, 0, h).into(), l).unwrap().trunc())
                    .collect()
            };
            let (taken, reserved) = (RangeSet::new(&to_nets(taken)), RangeSet::new(&to_nets(reserved)));
            let usable: Vec<IpNet> = pool
                .subnets(len).unwrap()
                .filter(|b| !taken.overlaps(b) && !reserved.covers(b))
                .collect();
            match next_block(&pool, len, &seed, &taken, &reserved) {
                Some(block) => prop_assert!(usable.contains(&block)),
                None => prop_assert!(usable.is_empty(), "missed {:?}", usable),
            }
        }
    }
}
