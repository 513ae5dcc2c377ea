//! The hash of the tables: prefixes and attribute sets are looked up for every route, and SipHash was a third of that
//! work. Folded multiplication with a key of this process: peers cannot choose prefixes that collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

/// A table with this hash. Its order means nothing and must not reach any output.
pub(crate) type Table<K, V> = HashMap<K, V, Keyed>;

/// Odd, with bits everywhere (the fraction of the golden ratio).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes hashers with the key of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed(u64);

impl Default for Keyed {
    fn default() -> Self {
        static KEY: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(FACTOR));
        Self(*KEY)
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.0, key: self.0.rotate_left(32) | 1 }
    }
}

/// The hash of what was written so far.
#[derive(Debug)]
pub(crate) struct Folded {
    state: u64,
    key: u64,
}

/// FNV-1a.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// A hash that is the same in every process. For what nobody gains from making collide.
pub(crate) fn stable(value: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let halves = (product as u64, (product >> 64) as u64);
    halves.0 ^ halves.1
}

impl Folded {
    fn add(&mut self, word: u64) {
        // The key is in both factors: no word makes one of them zero but one in 2^64.
        self.state = fold(self.state ^ word, FACTOR ^ self.key).wrapping_add(word.rotate_left(23));
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        fold(self.state, FACTOR ^ self.key)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            self.add(rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.add(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.add(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbouring_prefixes_spread_over_all_buckets() {
        let keyed = Keyed::default();
        let nets = (0..4096u32).map(|n| ipnet::Ipv4Net::new_assert((0x0a80_0000 + n * 64).into(), 26));
        let hashes: Vec<u64> = nets.map(|net| keyed.hash_one(ipnet::IpNet::V4(net))).collect();
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), 4096, "no two are the same");
        // Tables use the low bits for the bucket and the high ones to tell entries of a bucket apart. 4096 balls in
        // 4096 bins fill some 63 % of them; in 128 bins of 32 each, all.
        let low: BTreeSet<u64> = hashes.iter().map(|hash| hash & 4095).collect();
        let high: BTreeSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(low.len() > 2300, "{}", low.len());
        assert_eq!(high.len(), 128);
    }
}
