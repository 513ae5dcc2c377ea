//! Which chain judges a packet of an endpoint, by the rules and sets of any moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::rules::{ChainName, SetName, TableId, TableRules};

pub(super) type Sets = BTreeMap<SetKey, BTreeSet<Member>>;

/// What the kernel holds.
#[derive(Clone)]
pub(super) struct Moment {
    pub(super) tables: BTreeMap<TableId, TableRules>,
    pub(super) sets: Sets,
}

/// Where a packet of an address and interface goes.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) direction: Direction,
    pub(super) net: IpNet,
    pub(super) interface: Arc<str>,
}

/// Every place of the pods of a state.
pub(super) fn places(state: &EnforcedState) -> Vec<Place> {
    let pods = state.endpoints.values().filter(|pod| matches!(pod.id, EndpointId::Workload { .. }));
    let places = pods.flat_map(|pod| {
        let own = pod.addresses.iter().copied().map(IpNet::from);
        own.chain(pod.allowed_sources.iter().copied()).flat_map(|net| {
            let family = if net.addr().is_ipv4() { Family::V4 } else { Family::V6 };
            let interface = Arc::clone(&pod.interface);
            [Direction::Ingress, Direction::Egress].map(|direction| Place {
                family,
                direction,
                net,
                interface: Arc::clone(&interface),
            })
        })
    });
    places.collect()
}

fn is_group(chain: &ChainName) -> bool {
    chain.0.starts_with("mgy-gi-") || chain.0.starts_with("mgy-go-")
}

/// Whether a chain is of a group, or of the search for it.
pub(super) fn is_of_dispatch(chain: &ChainName) -> bool {
    let searching = ["mgy-ti-", "mgy-to-", "mgy-from-wl"].iter().any(|prefix| chain.0.starts_with(prefix));
    is_group(chain) || searching
}

/// Whether a set is of a group, or of the search for it.
pub(super) fn is_set_of_dispatch(name: &SetName) -> bool {
    ["g-", "t-", "to-pods", "from-pods", "to-nets", "from-nets"]
        .iter()
        .any(|prefix| name.0.starts_with(prefix))
}

impl Moment {
    /// The rules of the group that a packet is judged by.
    pub(super) fn judge(&self, place: &Place) -> Option<Arc<Vec<Rule>>> {
        let table = self.tables.get(&(place.family, Table::Filter))?;
        let mut name = names::fixed(match place.direction {
            Direction::Ingress => "to-wl",
            Direction::Egress => "from-wl",
        });
        while !is_group(&name) {
            let rules = table.chains.get(&name)?;
            name = rules.iter().find_map(|rule| self.leads(rule, place))?;
        }
        table.chains.get(&name).cloned()
    }

    fn members(&self, set: &SetName, family: Family) -> &BTreeSet<Member> {
        self.sets.get(&(set.clone(), family)).unwrap_or_else(|| panic!("no set {}", set.0))
    }

    fn leads(&self, rule: &Rule, place: &Place) -> Option<ChainName> {
        let of_place = |part: &Match| {
            let Match::Set { set, kind, .. } = part else { return false };
            self.members(set, place.family).contains(&match kind {
                SetType::NetIface => Member::NetIface(place.net, Arc::clone(&place.interface)),
                _ => Member::Net(place.net),
            })
        };
        match &rule.action {
            Action::Goto(name) => rule.matches.iter().all(of_place).then(|| name.clone()),
            Action::GotoMapped { map, .. } => {
                self.members(map, place.family).iter().find_map(|member| match member {
                    Member::Dispatch(net, interface, chain)
                        if *net == place.net && *interface == place.interface =>
                    {
                        Some(chain.clone())
                    }
                    _ => None,
                })
            }
            _ => None,
        }
    }

    /// Sets hold what they did and what they are to hold; maps lead to where they did.
    pub(super) fn extended(&self, next: &Self) -> Sets {
        let mut sets = self.sets.clone();
        for (key, members) in &next.sets {
            let set = sets.entry(key.clone()).or_default();
            set.extend(members.iter().filter(|member| !matches!(member, Member::Dispatch(..))).cloned());
        }
        sets
    }

    /// The rules of the next moment; what they do not want is still there.
    pub(super) fn unswept(&self, next: &Self) -> BTreeMap<TableId, TableRules> {
        let mut tables = next.tables.clone();
        for (id, table) in &mut tables {
            let Some(before) = self.tables.get(id) else { continue };
            for (name, rules) in &before.chains {
                table.chains.entry(name.clone()).or_insert_with(|| Arc::clone(rules));
            }
        }
        tables
    }
}
