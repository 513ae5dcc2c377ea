//! From a packet to the chain of its endpoint's group, by (address, interface).
//!
//! A pod's packet is dispatched by what anti-spoofing has proven, and a packet to an address that is not
//! behind the interface it leaves by finds no group: unknown ends in DROP. With many groups the search goes
//! through buckets, so that its length grows with the square root of the number of groups, and never with
//! the number of endpoints. A backend with maps finds a group at once.

use std::collections::BTreeMap;

use super::language::{Action, ChainName, DispatchBy, Match, Rule, SetName, SetType, Side};
use super::names::{self, GroupId};
use crate::model::Direction;

/// Up to this many groups are searched one after the other.
const FLAT: usize = 16;
const BUCKETS: u32 = 16;

/// How groups are searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// In one map for each direction.
    Map(Vec<GroupId>),
    /// One after the other.
    Flat(Vec<GroupId>),
    /// By the first character of the group's hash.
    Buckets(BTreeMap<u32, Vec<GroupId>>),
}

const fn side(direction: Direction) -> Side {
    match direction {
        Direction::Ingress => Side::Destination,
        Direction::Egress => Side::Source,
    }
}

fn in_set(set: SetName, direction: Direction) -> Match {
    Match::Set { side: side(direction), set, kind: SetType::NetIface, negated: false }
}

fn bucket_of(group: &GroupId) -> u32 {
    u32::from(group.0.as_bytes().first().copied().unwrap_or_default()) % BUCKETS
}

/// Set of the endpoints of a bucket.
fn bucket_set(bucket: u32) -> SetName {
    names::fixed_set(&format!("b-{bucket}"))
}

fn map_name(direction: Direction) -> SetName {
    names::fixed_set(match direction {
        Direction::Ingress => "to-pods",
        Direction::Egress => "from-pods",
    })
}

fn bucket_chain(bucket: u32, direction: Direction) -> ChainName {
    names::fixed(&match direction {
        Direction::Ingress => format!("bi-{bucket}"),
        Direction::Egress => format!("bo-{bucket}"),
    })
}

impl Dispatch {
    /// The way to search these groups.
    pub(super) fn of(by: DispatchBy, groups: impl Iterator<Item = GroupId>) -> Self {
        let groups: Vec<_> = groups.collect();
        if by == DispatchBy::Map {
            return Self::Map(groups);
        }
        if groups.len() <= FLAT {
            return Self::Flat(groups);
        }
        let mut buckets: BTreeMap<u32, Vec<GroupId>> = BTreeMap::new();
        for group in groups {
            buckets.entry(bucket_of(&group)).or_default().push(group);
        }
        Self::Buckets(buckets)
    }

    /// The sets an endpoint of the group is a member of.
    pub(super) fn sets(&self, group: &GroupId) -> impl Iterator<Item = SetName> {
        let (bucket, own) = match self {
            Self::Map(_) => (None, None),
            Self::Flat(_) => (None, Some(group.set())),
            Self::Buckets(_) => (Some(bucket_set(bucket_of(group))), Some(group.set())),
        };
        bucket.into_iter().chain(own)
    }

    /// The maps an endpoint is found in, with the direction of the packet.
    pub(super) fn maps(&self) -> impl Iterator<Item = (SetName, Direction)> {
        let directions = [Direction::Ingress, Direction::Egress].into_iter();
        let used = matches!(self, Self::Map(_));
        directions.filter(move |_| used).map(|direction| (map_name(direction), direction))
    }

    /// Chains that only maps lead to.
    pub(super) fn mapped(&self) -> impl Iterator<Item = ChainName> {
        let groups = match self {
            Self::Map(groups) => groups.as_slice(),
            Self::Flat(_) | Self::Buckets(_) => &[],
        };
        groups
            .iter()
            .flat_map(|group| [Direction::Ingress, Direction::Egress].map(|direction| group.chain(direction)))
    }

    /// Rules at the end of the dispatch chain of a direction, and the chains they need.
    pub(super) fn rules(&self, direction: Direction) -> (Vec<Rule>, BTreeMap<ChainName, Vec<Rule>>) {
        let mut chains = BTreeMap::new();
        let mut rules = match self {
            Self::Map(_) => {
                vec![Rule::new([], Action::GotoMapped { side: side(direction), map: map_name(direction) })]
            }
            Self::Flat(groups) => groups_rules(groups, direction),
            Self::Buckets(buckets) => buckets
                .iter()
                .map(|(bucket, groups)| {
                    let name = bucket_chain(*bucket, direction);
                    let mut inner = groups_rules(groups, direction);
                    inner.push(unknown());
                    chains.insert(name.clone(), inner);
                    Rule::new([in_set(bucket_set(*bucket), direction)], Action::Goto(name))
                })
                .collect(),
        };
        rules.push(unknown());
        (rules, chains)
    }
}

fn groups_rules(groups: &[GroupId], direction: Direction) -> Vec<Rule> {
    groups
        .iter()
        .map(|group| Rule::new([in_set(group.set(), direction)], Action::Goto(group.chain(direction))))
        .collect()
}

fn unknown() -> Rule {
    Rule::new([], Action::Drop).note("unknown endpoint")
}
