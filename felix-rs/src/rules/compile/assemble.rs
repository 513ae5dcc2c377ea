//! Whole tables: fixed chains, and the chains of units that are reached from them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Compiler, Unit, is_host};
use crate::rules::changes::{Changes, Touched};
use crate::rules::fixed::{self, Inputs};
use crate::rules::hosts::Hosts;
use crate::rules::language::{Action, ChainName, Family, Rule, Table, TableRules};
use crate::rules::{group, names};

impl Compiler {
    /// Puts fixed chains and units together and notes which tables differ.
    pub(super) fn assemble(&mut self, changes: &mut Changes) {
        let dispatch = &self.dispatch;
        let inputs = Inputs { settings: &self.settings, marks: self.marks, dispatch };
        let endpoints = self.endpoints.values().map(|(_, endpoint)| endpoint.as_ref());
        let hosts = Hosts {
            settings: &self.settings,
            marks: self.marks,
            endpoints: endpoints.filter(|endpoint| is_host(&endpoint.id)).collect(),
            known: self,
        };
        let mut tables = BTreeMap::new();
        for family in fixed::families(&self.settings) {
            let units = self.chains_of_units(family);
            let mut own = fixed::tables(&inputs, family);
            hosts.extend(family, &mut own);
            for (id, mut table) in own {
                let mapped = dispatch.mapped(family).filter(|_| id == Table::Filter);
                link(&mut table, &units, mapped);
                if self.writer().rejects {
                    deny_loudly(id, &mut table);
                }
                inline(&mut table);
                if self.writer().appends {
                    append(&mut table);
                }
                tables.insert((family, id), table);
            }
        }
        let ids: BTreeSet<_> = tables.keys().chain(self.tables.keys()).copied().collect();
        let differ = ids.into_iter().filter(|id| tables.get(id) != self.tables.get(id));
        changes.tables.extend(differ.map(|id| (id, Touched::All)));
        self.tables = tables;
    }

    /// Whether chains of units are in the table of policies only, as their units have them.
    pub(super) fn is_fixed_apart(&self) -> bool {
        !self.writer().rejects && !self.endpoints.keys().any(is_host)
    }

    /// Puts chains of units that changed into the tables: all else in them is as it was.
    pub(super) fn relink(&mut self, dirty: &BTreeSet<Unit>, changes: &mut Changes) {
        for family in fixed::families(&self.settings) {
            let id = (family, Table::Filter);
            let Some(table) = self.tables.get_mut(&id) else { continue };
            let mut touched = BTreeSet::new();
            let mut concerned = HashSet::new();
            for unit in dirty {
                if !unit.leads_on() {
                    concerned.extend(unit.chains());
                    continue;
                }
                let new = self.units.get(unit).into_iter().flat_map(|unit| &unit.chains);
                for ((_, name), new) in new.filter(|((own, _), _)| *own == family) {
                    // That of a group without endpoints of this family is not there.
                    let Some(there) = table.chains.get_mut(name).filter(|there| *there != new) else {
                        continue;
                    };
                    let [old, new_targets] =
                        [&*there, new].map(|rules| targets(rules).collect::<HashSet<_>>());
                    concerned.extend(old.symmetric_difference(&new_targets).copied().cloned());
                    *there = Arc::clone(new);
                    touched.insert(name.clone());
                }
            }
            let units =
                || self.units.iter().flat_map(|(unit, own)| own.chains.iter().map(move |own| (unit, own)));
            let groups = units().filter(|(unit, _)| unit.leads_on());
            let groups = groups.filter_map(|(_, ((_, name), _))| table.chains.get(name));
            let led_to: HashSet<&ChainName> =
                groups.flat_map(|rules| targets(rules)).filter(|name| concerned.contains(*name)).collect();
            let (wanted, unwanted): (HashSet<_>, HashSet<_>) =
                concerned.iter().cloned().partition(|name| led_to.contains(name));
            let wanted = units().filter(|(_, ((own, name), _))| *own == family && wanted.contains(name));
            for (_, ((_, name), rules)) in wanted {
                if table.chains.get(name) != Some(rules) {
                    table.chains.insert(name.clone(), Arc::clone(rules));
                    touched.insert(name.clone());
                }
            }
            touched.extend(unwanted.into_iter().filter(|name| table.chains.remove(name).is_some()));
            if !touched.is_empty() {
                changes.tables.insert(id, Touched::Chains(touched));
            }
        }
    }

    fn chains_of_units(&self, family: Family) -> HashMap<&ChainName, Chain<'_>> {
        let chains = self.units.iter().flat_map(|(unit, rendered)| {
            let leads_on = unit.leads_on();
            rendered.chains.iter().map(move |(key, rules)| (key, rules, leads_on))
        });
        chains
            .filter(|((own, _), ..)| *own == family)
            .map(|((_, name), rules, leads_on)| (name, Chain { name, rules, leads_on }))
            .collect()
    }
}

/// A chain of a unit.
#[derive(Clone, Copy)]
struct Chain<'a> {
    name: &'a ChainName,
    rules: &'a Arc<Vec<Rule>>,
    /// Those of policies and profiles lead to no other.
    leads_on: bool,
}

/// Adds the chains of units that a table's chains or its maps lead to: a chain nobody goes to is not written.
fn link(
    table: &mut TableRules,
    units: &HashMap<&ChainName, Chain<'_>>,
    mapped: impl Iterator<Item = ChainName>,
) {
    let find = |name: &ChainName| units.get(name).copied();
    let mapped = mapped.filter_map(|name| find(&name));
    let mut open: Vec<Chain<'_>> =
        table.chains.values().flat_map(|rules| targets(rules)).filter_map(find).chain(mapped).collect();
    let mut reached = HashMap::with_capacity(units.len());
    while let Some(unit) = open.pop() {
        if reached.insert(unit.name, unit.rules).is_none() && unit.leads_on {
            open.extend(targets(unit.rules).filter_map(find));
        }
    }
    let reached = reached.into_iter().map(|(name, rules)| (name.clone(), Arc::clone(rules)));
    // Collected, not extended: what is sorted already is put together at once.
    table.chains = std::mem::take(&mut table.chains).into_iter().chain(reached).collect();
}

/// Chains that rules lead to.
fn targets(rules: &[Rule]) -> impl Iterator<Item = &ChainName> {
    rules.iter().filter_map(|rule| match &rule.action {
        Action::Jump(name) | Action::Goto(name) => Some(name),
        _ => None,
    })
}

/// With `FilterDenyAction: Reject` the table of policies tells senders, wherever Felix does; the kernel knows no `REJECT` before routing.
fn deny_loudly(id: Table, table: &mut TableRules) {
    let (from, to) = match id {
        Table::Filter => (Action::Drop, Action::Reject),
        _ => (Action::Reject, Action::Drop),
    };
    // These have settings of their own: serviceLoopPrevention, defaultEndpointToHostAction.
    let spared = [names::fixed("FORWARD"), names::fixed("wl-to-host")];
    for (_, rules) in table.chains.iter_mut().filter(|(name, _)| !spared.contains(name)) {
        if rules.iter().any(|rule| rule.action == from) {
            group::replace(Arc::make_mut(rules).as_mut_slice(), &from, &to);
        }
    }
}

/// With `chainInsertMode: Append` all of our rules come behind those of others.
fn append(table: &mut TableRules) {
    for base in table.base.values_mut() {
        let last = std::mem::take(&mut base.last);
        base.last = std::mem::take(&mut base.first);
        base.last.extend(last);
    }
}

/// Puts the only rule of a chain in the place of our jump to it in a chain of the kernel's: every packet of the node pays
/// for a jump. Not more rules than one: somebody else's could come between them.
fn inline(table: &mut TableRules) {
    for rule in table.base.values_mut().flat_map(|base| &mut base.first) {
        let Action::Jump(name) = &rule.action else { continue };
        let name = name.clone();
        let Some([only]) = table.chains.get(&name).map(|body| body.as_slice()) else { continue };
        if rule.matches.is_empty() && matches!(only.action, Action::Accept | Action::Drop) {
            *rule = only.clone();
            table.chains.remove(&name);
        }
    }
}
