//! A set of prefixes that answers quickly whether it covers another one.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Prefixes, those inside others left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<IpNet>")]
pub struct NetSet(Vec<IpNet>);

impl NetSet {
    /// Whether a prefix is one of these or inside one.
    #[must_use]
    pub fn covers(&self, prefix: &IpNet) -> bool {
        // None overlaps another, and a shorter prefix sorts before the longer ones in it: only the last can cover.
        let after = self.0.partition_point(|own| own <= prefix);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|own| own.contains(prefix))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IpNet> for NetSet {
    fn from_iter<T: IntoIterator<Item = IpNet>>(nets: T) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        nets.sort_unstable();
        nets.dedup_by(|inner, outer| outer.contains(&*inner));
        Self(nets)
    }
}

impl Extend<IpNet> for NetSet {
    fn extend<T: IntoIterator<Item = IpNet>>(&mut self, nets: T) {
        *self = std::mem::take(&mut self.0).into_iter().chain(nets).collect();
    }
}

impl From<Vec<IpNet>> for NetSet {
    fn from(nets: Vec<IpNet>) -> Self {
        nets.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn any_net() -> impl Strategy<Value = IpNet> {
        let v4 = (0..16u32, 26..=32u8)
            .prop_map(|(low, length)| IpNet::new(Ipv4Addr::from(low << 2).into(), length).unwrap());
        let v6 = (0..16u128, 124..=128u8)
            .prop_map(|(low, length)| IpNet::new(Ipv6Addr::from(low).into(), length).unwrap());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn covers_what_one_of_them_contains(nets in proptest::collection::vec(any_net(), 0..12), asked in any_net()) {
            let set: NetSet = nets.iter().copied().collect();
            let asked = asked.trunc();
            prop_assert_eq!(set.covers(&asked), nets.iter().any(|net| net.trunc().contains(&asked)));
        }
    }
}
