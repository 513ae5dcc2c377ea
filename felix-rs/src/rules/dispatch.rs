//! From a packet to the chain of its endpoint's group, by (address, interface).
//!
//! A pod's packet is dispatched by what anti-spoofing has proven, and a packet to an address that is not
//! behind the interface it leaves by finds no group: unknown ends in DROP. Many groups are searched as a binary tree
//! over the bits of their hashes, so that the search grows with the logarithm of the number of groups, and never with
//! the number of endpoints. A backend with maps finds a group at once: in a hash table, and behind that in a map of networks
//! if an endpoint may use others' addresses.
//!
//! A set of the tree is named by the groups whose endpoints it holds, not by its place: while an endpoint goes from one
//! group to another it is a member of the sets of both, and the rules before and after the change know one of them
//! for certain. So it is found in either.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::language::{Action, ChainName, DispatchBy, Family, Match, Rule, SetName, SetType, Side};
use super::names::{self, GroupId};
use crate::model::Direction;

/// Set of every pod's (source, interface): who may send.
const SET_PODS: &str = "pods";
/// The same with networks, where these are apart.
const SET_NETS: &str = "pod-nets";
/// Up to this many groups are searched one after the other: one more test decides between two halves.
const FLAT: usize = 3;
/// Bits of a hash that are looked at.
const DEPTH: u8 = 16;

/// How the groups of a family are searched in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    /// In a map of addresses, and one of networks.
    Map { groups: Vec<GroupId>, networks: bool },
    /// In a tree.
    Tree { root: Node, kind: SetType },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// One after the other.
    Leaf(Vec<GroupId>),
    /// By a bit of the hash: endpoints of groups that have it set are in the set.
    Fork { bit: u8, set: SetName, ones: Box<Self>, zeros: Box<Self> },
}

/// Rules at the end of a dispatch chain, and the chains they need.
type Rules = (Vec<Rule>, BTreeMap<ChainName, Arc<Vec<Rule>>>);

/// How groups are found.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    searches: BTreeMap<(Family, Direction), Search>,
    /// Made when first asked for: most changes leave them as they are.
    rules: OnceCell<BTreeMap<(Family, Direction), Rules>>,
}

impl PartialEq for Dispatch {
    fn eq(&self, other: &Self) -> bool {
        self.searches == other.searches
    }
}

/// The groups to find.
pub(super) struct Groups<I> {
    /// In order.
    pub(super) groups: I,
    /// No endpoint shares an address with another, or may use others' addresses: the address alone tells which one it is.
    pub(super) distinct: bool,
    /// An endpoint may use a whole network.
    pub(super) networks: bool,
}

const fn side(direction: Direction) -> Side {
    match direction {
        Direction::Ingress => Side::Destination,
        Direction::Egress => Side::Source,
    }
}

fn in_set(set: SetName, kind: SetType, direction: Direction) -> Match {
    Match::Set { side: side(direction), set, kind, negated: false }
}

/// What addresses are found in, and networks if there are any.
fn tables([host, net]: [(&str, SetType); 2], networks: bool) -> Vec<(SetName, SetType)> {
    let net = networks.then_some(net);
    [host].into_iter().chain(net).map(|(name, kind)| (names::fixed_set(name), kind)).collect()
}

impl Node {
    fn of(groups: Vec<GroupId>, from: u8, kind: SetType) -> Self {
        if groups.len() <= FLAT {
            return Self::Leaf(groups);
        }
        for bit in from..DEPTH {
            let (ones, zeros): (Vec<_>, Vec<_>) = groups.iter().cloned().partition(|group| group.bit(bit));
            if !ones.is_empty() && !zeros.is_empty() {
                let set = names::group_tree_set(&ones, kind == SetType::Net);
                let [ones, zeros] = [ones, zeros].map(|some| Box::new(Self::of(some, bit + 1, kind)));
                return Self::Fork { bit, set, ones, zeros };
            }
        }
        Self::Leaf(groups)
    }

    fn sets<'a>(&'a self, group: &GroupId, kind: SetType, found: &mut Vec<(&'a SetName, SetType)>) {
        if let Self::Fork { bit, set, ones, zeros } = self {
            if group.bit(*bit) {
                found.push((set, kind));
                ones.sets(group, kind, found);
            } else {
                zeros.sets(group, kind, found);
            }
        }
    }

    /// Rules that end the search below a node whose place in the tree is `path`.
    fn rules(
        &self,
        direction: Direction,
        kind: SetType,
        path: &str,
        chains: &mut BTreeMap<ChainName, Vec<Rule>>,
    ) -> Vec<Rule> {
        match self {
            Self::Leaf(groups) => groups
                .iter()
                .map(|group| {
                    let found = in_set(group.set(), SetType::NetIface, direction);
                    Rule::new([found], Action::Goto(group.chain(direction)))
                })
                .chain([Rule::new([], Action::Drop).note("unknown endpoint")])
                .collect(),
            Self::Fork { set, ones, zeros, .. } => {
                let there = names::group_tree_chain(direction, path);
                let rules = ones.rules(direction, kind, &format!("{path}1"), chains);
                chains.insert(there.clone(), rules);
                let fork = Rule::new([in_set(set.clone(), kind, direction)], Action::Goto(there));
                let rest = zeros.rules(direction, kind, &format!("{path}0"), chains);
                std::iter::once(fork).chain(rest).collect()
            }
        }
    }
}

impl Dispatch {
    /// The way to search groups of every family and direction.
    pub(super) fn of<I: Iterator<Item = GroupId>>(
        by: DispatchBy,
        mut groups: impl FnMut(Family, Direction) -> Groups<I>,
    ) -> Self {
        let mut searches = BTreeMap::new();
        for family in Family::ALL {
            for direction in [Direction::Ingress, Direction::Egress] {
                let Groups { groups, distinct, networks } = groups(family, direction);
                let groups: Vec<_> = groups.collect();
                let search = match by {
                    DispatchBy::Map => Search::Map { groups, networks },
                    DispatchBy::Sets => {
                        let kind = if distinct { SetType::Net } else { SetType::NetIface };
                        Search::Tree { root: Node::of(groups, 0, kind), kind }
                    }
                };
                searches.insert((family, direction), search);
            }
        }
        Self { searches, rules: OnceCell::new() }
    }

    /// The sets an endpoint of the group is a member of.
    pub(super) fn sets(
        &self,
        family: Family,
        direction: Direction,
        group: &GroupId,
    ) -> impl Iterator<Item = (SetName, SetType)> {
        let mut found = Vec::new();
        let mut own = None;
        if let Some(Search::Tree { root, kind }) = self.searches.get(&(family, direction)) {
            root.sets(group, *kind, &mut found);
            own = Some((group.set(), SetType::NetIface));
        }
        found.into_iter().map(|(set, kind)| (set.clone(), kind)).chain(own)
    }

    /// The maps the endpoints of a family are found in, by the direction of the packet. Each is found in the first that
    /// takes it; so with [`Self::sources`].
    pub(super) fn maps(&self, family: Family, direction: Direction) -> Vec<(SetName, SetType)> {
        let Some(Search::Map { networks, .. }) = self.searches.get(&(family, direction)) else {
            return Vec::new();
        };
        let [host, net] = match direction {
            Direction::Ingress => ["to-pods", "to-nets"],
            Direction::Egress => ["from-pods", "from-nets"],
        };
        tables([(host, SetType::HostDispatch), (net, SetType::Dispatch)], *networks)
    }

    /// The sets of the endpoints' sources, with their interfaces.
    pub(super) fn sources(&self, family: Family) -> Vec<(SetName, SetType)> {
        match self.searches.get(&(family, Direction::Egress)) {
            Some(Search::Map { networks, .. }) => {
                tables([(SET_PODS, SetType::HostIface), (SET_NETS, SetType::NetIface)], *networks)
            }
            _ => vec![(names::fixed_set(SET_PODS), SetType::NetIface)],
        }
    }

    /// Chains that only maps lead to.
    pub(super) fn mapped(&self, family: Family) -> impl Iterator<Item = ChainName> {
        [Direction::Ingress, Direction::Egress].into_iter().flat_map(move |direction| {
            let groups = match self.searches.get(&(family, direction)) {
                Some(Search::Map { groups, .. }) => groups.as_slice(),
                _ => &[],
            };
            groups.iter().map(move |group| group.chain(direction))
        })
    }

    /// Rules at the end of the dispatch chain of a direction, and the chains they need.
    pub(super) fn rules(&self, family: Family, direction: Direction) -> Option<&Rules> {
        let all =
            self.rules.get_or_init(|| self.searches.keys().map(|key| (*key, self.search(*key))).collect());
        all.get(&(family, direction))
    }

    fn search(&self, (family, direction): (Family, Direction)) -> Rules {
        let mut chains = BTreeMap::new();
        let rules = match self.searches.get(&(family, direction)) {
            Some(Search::Tree { root, kind }) => root.rules(direction, *kind, "", &mut chains),
            Some(Search::Map { .. }) => {
                let maps = self.maps(family, direction).into_iter();
                maps.map(|(map, _)| Rule::new([], Action::GotoMapped { side: side(direction), map }))
                    .chain([Rule::new([], Action::Drop).note("unknown endpoint")])
                    .collect()
            }
            None => Vec::new(),
        };
        (rules, chains.into_iter().map(|(name, rules)| (name, Arc::new(rules))).collect())
    }
}
