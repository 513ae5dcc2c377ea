//! Whole tables: fixed chains, and the chains of units that are reached from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Compiler, is_host};
use crate::rules::changes::Changes;
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
            let mut own = fixed::tables(&inputs, family);
            hosts.extend(family, &mut own);
            for (id, mut table) in own {
                let mapped = dispatch.mapped(family).filter(|_| id == Table::Filter);
                self.link(family, &mut table, mapped);
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
        changes.tables.extend(ids.into_iter().filter(|id| tables.get(id) != self.tables.get(id)));
        self.tables = tables;
    }

    /// Adds the chains of units that a table's chains or its maps lead to: a chain nobody goes to is not written.
    fn link(&self, family: Family, table: &mut TableRules, mapped: impl Iterator<Item = ChainName>) {
        let pool: BTreeMap<&ChainName, &Arc<Vec<Rule>>> = self
            .units
            .values()
            .flat_map(|unit| &unit.chains)
            .filter(|((own, _), _)| *own == family)
            .map(|((_, name), rules)| (name, rules))
            .collect();
        for name in mapped {
            if let Some(target) = pool.get(&name) {
                table.chains.insert(name, Arc::clone(target));
            }
        }
        let mut open: Vec<Arc<Vec<Rule>>> = table.chains.values().cloned().collect();
        while let Some(rules) = open.pop() {
            for rule in rules.iter() {
                if let Action::Jump(name) | Action::Goto(name) = &rule.action
                    && !table.chains.contains_key(name)
                    && let Some(target) = pool.get(name)
                {
                    table.chains.insert(name.clone(), Arc::clone(target));
                    open.push(Arc::clone(target));
                }
            }
        }
    }
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
