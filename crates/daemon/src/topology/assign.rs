//! Which reflectors serve a node: all of a few, else some, chosen by rendezvous hashing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Up to so many reflectors serve every node; of more, each node takes at least so many.
pub(super) const ENOUGH: usize = 3;

/// The reflectors of the cluster with their cluster ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reflectors(pub(super) BTreeMap<String, Ipv4Addr>);

impl Reflectors {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `reflector` serves `node`.
    pub(super) fn serves(&self, reflector: &str, node: &str) -> bool {
        match self.0.get(reflector) {
            None => false,
            Some(_) if self.0.len() <= ENOUGH => true,
            Some(cluster) => self.clusters_of(node).contains(cluster),
        }
    }

    /// The clusters whose reflectors serve a node, at least two where there are two. A cluster serves as a whole:
    /// its reflectors do not use each other's routes (RFC 4456 section 7), so a client of some is unknown to the rest.
    fn clusters_of(&self, node: &str) -> BTreeSet<Ipv4Addr> {
        let mut sizes: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        for cluster in self.0.values() {
            *sizes.entry(*cluster).or_default() += 1;
        }
        let mut ranked: Vec<_> =
            sizes.into_iter().map(|(cluster, size)| (weight(node, cluster), cluster, size)).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        let mut chosen = BTreeSet::new();
        let mut count = 0;
        for (_, cluster, size) in ranked {
            if count >= ENOUGH && chosen.len() >= 2 {
                break;
            }
            chosen.insert(cluster);
            count += size;
        }
        chosen
    }
}

/// The rendezvous weight of a cluster for a node: FNV-1a, mixed as splitmix64 does. Every program of a cluster must
/// come to the same, so it must never change.
fn weight(node: &str, cluster: Ipv4Addr) -> u64 {
    let bytes = node.bytes().chain([0]).chain(cluster.octets());
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut mixed = bytes.fold(0xcbf2_9ce4_8422_2325, fnv);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reflectors `rr0..`, whose clusters are the numbers given.
    fn reflectors(clusters: &[u8]) -> Reflectors {
        let named = clusters.iter().enumerate();
        Reflectors(named.map(|(at, id)| (format!("rr{at}"), Ipv4Addr::new(10, 0, 0, *id))).collect())
    }

    fn of(reflectors: &Reflectors, node: &str) -> Vec<String> {
        reflectors.0.keys().filter(|reflector| reflectors.serves(reflector, node)).cloned().collect()
    }

    #[test]
    fn up_to_three_serve_everybody_and_of_more_each_node_has_three() {
        assert_eq!(of(&reflectors(&[1, 2, 3]), "n1").len(), 3);
        assert_eq!(of(&reflectors(&[1, 2, 3, 4]), "n1").len(), 3);
        assert_eq!(of(&reflectors(&[7, 7, 7, 7, 7]), "n1").len(), 5, "one cluster cannot be shared out");
        assert_eq!(of(&reflectors(&[7, 7, 7, 7, 8]), "n1").len(), 5, "nobody depends on one cluster");
        assert!(!reflectors(&[1]).serves("rr9", "n1"));
    }

    #[test]
    fn the_weight_is_for_ever() {
        assert_eq!(weight("node1", Ipv4Addr::new(10, 0, 0, 1)), 8_639_939_901_349_441_570);
    }

    #[test]
    fn the_load_is_even() {
        let all = reflectors(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut load = BTreeMap::new();
        for node in 0..4000 {
            for reflector in of(&all, &format!("node-{node}")) {
                *load.entry(reflector).or_insert(0) += 1;
            }
        }
        // 1500 each on average.
        assert!(load.len() == 8 && load.values().all(|count| (1350..1650).contains(count)), "{load:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_reflector_more_or_less_moves_few_nodes(
            clusters in prop::collection::btree_set(any::<u8>(), 5..12),
        ) {
            let clusters: Vec<u8> = clusters.into_iter().collect();
            let (fewer, all) = (reflectors(&clusters[..clusters.len() - 1]), reflectors(&clusters));
            let newest = format!("rr{}", clusters.len() - 1);
            let mut moved = 0;
            for node in 0..300 {
                let node = format!("node-{node}");
                let (before, after) = (of(&fewer, &node), of(&all, &node));
                prop_assert!(before.len() == 3 && after.len() == 3);
                if before != after {
                    moved += 1;
                    // The newest takes the place of one; the two others stay.
                    prop_assert!(after.contains(&newest));
                    prop_assert_eq!(before.iter().filter(|one| after.contains(one)).count(), 2);
                }
            }
            // 3/N of the nodes, with a wide margin for chance.
            let share = 300 * 3 / clusters.len();
            prop_assert!(moved > share / 2 && moved < share * 3 / 2, "{} of 300, {} on average", moved, share);
        }

        #[test]
        fn clusters_serve_whole_and_nobody_depends_on_one(
            clusters in prop::collection::vec(0u8..5, 4..12), node in "[a-z]{1,8}",
        ) {
            let all = reflectors(&clusters);
            let chosen = of(&all, &node);
            let ids: BTreeSet<Ipv4Addr> = chosen.iter().map(|name| all.0[name]).collect();
            let known: BTreeSet<&Ipv4Addr> = all.0.values().collect();
            prop_assert!(chosen.len() >= ENOUGH && ids.len() >= known.len().min(2));
            for (name, id) in &all.0 {
                prop_assert_eq!(chosen.contains(name), ids.contains(id));
            }
        }
    }
}
