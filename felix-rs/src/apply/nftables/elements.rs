//! Elements of nftables sets. Where an ip set holds nested networks side by side, an interval set refuses what
//! overlaps: it gets the outermost of the wanted networks, and what they covered when they go.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;

use crate::rules::{ChainName, Member};

/// Elements to delete, then elements to add, in one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) deleted: BTreeSet<Member>,
    pub(super) added: BTreeSet<Member>,
}

impl Difference {
    /// Elements named.
    pub(super) fn len(&self) -> usize {
        self.deleted.len() + self.added.len()
    }

    fn delete(&mut self, there: &mut BTreeSet<Member>, member: &Member) {
        if there.remove(member) && !self.added.remove(member) {
            self.deleted.insert(member.clone());
        }
    }

    fn add(&mut self, there: &mut BTreeSet<Member>, member: &Member) {
        if there.insert(member.clone()) && !self.deleted.remove(member) {
            self.added.insert(member.clone());
        }
    }
}

/// What to do for members that are missing or stale, and `there` as it is afterwards. No two elements of `there`
/// overlap, before and after.
pub(super) fn difference(
    there: &mut BTreeSet<Member>,
    wanted: &BTreeSet<Member>,
    missing: &BTreeSet<Member>,
    stale: &BTreeSet<Member>,
) -> Difference {
    let mut change = Difference::default();
    let mut candidates: Vec<&Member> = Vec::new();
    for member in stale.iter().filter(|member| !wanted.contains(*member)) {
        change.delete(there, member);
        candidates.extend(covered(wanted, member));
    }
    candidates.extend(missing);
    // The outermost first: a network sorts before those in it.
    candidates.sort_unstable();
    for member in candidates {
        if is_covered(there, member) {
            continue;
        }
        let inner: Vec<Member> = covered(there, member).cloned().collect();
        for member in &inner {
            change.delete(there, member);
        }
        change.add(there, member);
    }
    change
}

/// The least member of a network and interface.
fn least(like: &Member, net: IpNet) -> Member {
    match like {
        Member::Net(_) => Member::Net(net),
        Member::IpPort(..) => like.clone(),
        Member::NetIface(_, interface) => Member::NetIface(net, Arc::clone(interface)),
        Member::Dispatch(_, interface, _) => {
            Member::Dispatch(net, Arc::clone(interface), ChainName(Arc::default()))
        }
    }
}

const fn network(member: &Member) -> Option<IpNet> {
    match member {
        Member::Net(net) | Member::NetIface(net, _) | Member::Dispatch(net, ..) => Some(*net),
        Member::IpPort(..) => None,
    }
}

fn interface(member: &Member) -> Option<&str> {
    match member {
        Member::NetIface(_, interface) | Member::Dispatch(_, interface, _) => Some(interface),
        Member::Net(_) | Member::IpPort(..) => None,
    }
}

/// Members of a set inside another member, itself included; a map's values don't matter.
fn covered<'a>(set: &'a BTreeSet<Member>, outer: &'a Member) -> impl Iterator<Item = &'a Member> {
    let net = network(outer);
    let start = match (outer, net) {
        // The least interface name, not this one: others may lie between.
        (Member::NetIface(..), Some(net)) => Member::NetIface(net, Arc::default()),
        (Member::Dispatch(..), Some(net)) => Member::Dispatch(net, Arc::default(), ChainName(Arc::default())),
        _ => outer.clone(),
    };
    set.range((Bound::Included(start), Bound::Unbounded))
        .take_while(move |member| match (net, network(member)) {
            (Some(outer), Some(inner)) => outer.contains(&inner),
            _ => *member == outer,
        })
        .filter(move |member| interface(member) == interface(outer))
}

/// Whether a set has a member that overlaps from outside, or the same.
fn is_covered(set: &BTreeSet<Member>, member: &Member) -> bool {
    let Some(net) = network(member) else { return set.contains(member) };
    if let Member::Net(_) = member {
        // Nothing in the set overlaps: what covers a network comes right before it.
        let before = set.range((Bound::Unbounded, Bound::Included(member))).next_back();
        return before.and_then(network).is_some_and(|outer| outer.contains(&net));
    }
    (0..=net.prefix_len()).any(|length| {
        let Ok(outer) = IpNet::new(net.addr(), length) else { return false };
        let least = least(member, outer.trunc());
        let next = set.range((Bound::Included(&least), Bound::Unbounded)).next();
        next.is_some_and(|found| network(found) == network(&least) && interface(found) == interface(member))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlap(one: &Member, other: &Member) -> bool {
        match (network(one), network(other)) {
            (Some(a), Some(b)) => interface(one) == interface(other) && (a.contains(&b) || b.contains(&a)),
            _ => one == other,
        }
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        (0..8u8, prop_oneof![Just(5u8), Just(6), Just(7), Just(8), Just(32)])
            .prop_map(|(first, length)| IpNet::new([first, 0, 0, 0].into(), length).unwrap().trunc())
    }

    /// Members of one kind of set.
    fn any_member(kind: u8) -> impl Strategy<Value = Member> {
        let name = prop_oneof![Just("mgya"), Just("mgyb")];
        let chain = prop_oneof![Just("mgy-1"), Just("mgy-2")];
        (any_net(), name, chain).prop_map(move |(net, name, chain)| match kind {
            0 => Member::Net(net),
            1 => Member::NetIface(net, name.into()),
            _ => Member::Dispatch(net, name.into(), ChainName(chain.into())),
        })
    }

    fn any_steps() -> impl Strategy<Value = Vec<BTreeSet<Member>>> {
        (0..3u8).prop_flat_map(|kind| {
            proptest::collection::vec(proptest::collection::btree_set(any_member(kind), 0..8), 1..6)
        })
    }

    proptest! {
        /// Whatever comes and goes: nothing overlaps, every wanted network is covered, nothing else is.
        #[test]
        fn elements_stay_disjoint_and_cover_what_is_wanted(steps in any_steps()) {
            let mut there = BTreeSet::new();
            let mut before = BTreeSet::new();
            for wanted in steps {
                let missing = wanted.difference(&before).cloned().collect();
                let stale = before.difference(&wanted).cloned().collect();
                let mut replayed = there.clone();
                let change = difference(&mut there, &wanted, &missing, &stale);
                for member in &change.deleted {
                    prop_assert!(replayed.remove(member), "{member:?} is not there");
                }
                for member in &change.added {
                    prop_assert!(replayed.iter().all(|other| !overlap(other, member)), "{member:?} overlaps");
                    replayed.insert(member.clone());
                }
                prop_assert_eq!(&replayed, &there);
                prop_assert!(there.is_subset(&wanted));
                for member in &wanted {
                    prop_assert!(there.iter().any(|other| overlap(other, member)
                        && network(other).unwrap().contains(&network(member).unwrap())));
                }
                before = wanted;
            }
        }
    }
}
