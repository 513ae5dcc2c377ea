//! Sets and maps of a family and their elements, which go by netlink.

use std::collections::BTreeSet;
use std::sync::Arc;

use margay_netlink::nftset::{Change, Element};

use super::elements::{self, Difference};
use super::script::Script;
use super::{ELEMENTS, Nftables};
use crate::apply::sets::Kernel;
use crate::apply::{ApplyError, Report};
use crate::render::nftables as render;
use crate::rules::{Family, Member, Table};

/// What is done with elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Those that are missing are added; maps wait for the chains they lead to.
    Extend,
    /// They are as wanted.
    All,
}

impl Nftables {
    /// Creates sets.
    pub(super) fn declare(&mut self, family: Family, script: &mut Script, report: &mut Report) {
        for name in &self.sets.pending {
            let Some(set) = self.sets.tracked.get_mut(name).filter(|set| set.family == family) else {
                continue;
            };
            if !matches!(set.kernel, Kernel::Present { .. }) {
                script.text.push_str(&render::set_definition(family, set.kind, name));
                script.text.push('\n');
                script.work += 1;
                set.kernel = Kernel::Present { max: u32::MAX };
                report.sets_created += 1;
            }
        }
    }

    /// What the sets' elements lack, and their elements as they are afterwards.
    pub(super) fn fill(
        &mut self,
        family: Family,
        what: Fill,
        report: &mut Report,
    ) -> Vec<(String, Difference)> {
        let mut changes = Vec::new();
        let names: Vec<String> = self.sets.pending.iter().cloned().collect();
        let nothing = BTreeSet::new();
        for name in names {
            let Some(set) = self.sets.tracked.get_mut(&name).filter(|set| set.family == family) else {
                continue;
            };
            let there = self.elements.entry(name.clone()).or_default();
            let change = match what {
                Fill::Extend if set.kind.is_map() => continue,
                Fill::Extend => elements::difference(there, &set.wanted, &set.missing, &nothing),
                Fill::All => elements::difference(there, &set.wanted, &set.missing, &set.stale),
            };
            report.members_removed += change.deleted.len();
            report.members_added += change.added.len();
            set.missing.clear();
            if what == Fill::All {
                set.stale.clear();
                self.sets.pending.remove(&name);
            }
            if change.len() > 0 {
                changes.push((name, change));
            }
        }
        changes
    }

    /// Changes elements by netlink, as many at a time as the kernel takes in one message.
    pub(super) fn change_elements(
        &mut self,
        family: Family,
        changes: &[(String, Difference)],
    ) -> Result<(), ApplyError> {
        let elements = |members: &mut dyn Iterator<Item = &Member>| members.map(to_element).collect();
        let mut batch = Vec::new();
        let mut room = ELEMENTS;
        for (set, change) in changes {
            if !change.deleted.is_empty() && change.len() > ELEMENTS {
                // What comes and what goes belongs together: `nft` can say that much at once.
                let mut script = Script::new(family);
                script.elements("delete element", set, &change.deleted);
                script.elements("add element", set, &change.added);
                self.run(&script.text)?;
                continue;
            }
            let mut added = change.added.iter();
            let mut deleted: Vec<Element> = elements(&mut change.deleted.iter());
            // What comes in the place of what goes comes with it.
            let needed = if change.deleted.is_empty() { 1 } else { change.len() };
            loop {
                if room < needed {
                    self.connection.change(
                        family == Family::V6,
                        render::TABLE,
                        &std::mem::take(&mut batch),
                    )?;
                    room = ELEMENTS;
                }
                let some: Vec<Element> = elements(&mut added.by_ref().take(room - deleted.len().min(room)));
                room -= (some.len() + deleted.len()).min(room);
                let intervals = self.sets.tracked.get(set).is_some_and(|set| set.kind.has_networks());
                let deleted = std::mem::take(&mut deleted);
                batch.push(Change { set: set.clone(), intervals, deleted, added: some });
                if added.len() == 0 {
                    break;
                }
            }
        }
        Ok(self.connection.change(family == Family::V6, render::TABLE, &batch)?)
    }

    pub(super) fn drop_unwanted(&mut self, family: Family, script: &mut Script, report: &mut Report) {
        let own = format!("mgy{}", family.version());
        let (gone, kept): (BTreeSet<String>, _) =
            std::mem::take(&mut self.sets.unwanted).into_iter().partition(|name| name.starts_with(&own));
        self.sets.unwanted = kept;
        for name in gone {
            // The kernel's sets and maps are the same thing.
            script.line("delete set", &name);
            self.elements.remove(&name);
            report.sets_destroyed += 1;
        }
    }

    /// The sets of a family are gone with their table.
    pub(super) fn forget_elements(&mut self, family: Family) {
        let own = format!("mgy{}", family.version());
        self.elements.retain(|name, _| !name.starts_with(&own));
        self.sets.unwanted.retain(|name| !name.starts_with(&own));
        for (name, set) in self.sets.tracked.iter_mut().filter(|(_, set)| set.family == family) {
            set.kernel = Kernel::Absent;
            set.missing.clone_from(&set.wanted);
            set.stale.clear();
            self.sets.pending.insert(name.clone());
        }
    }

    pub(super) fn forget_family(&mut self, family: Family, report: &mut Report) {
        let own = format!("mgy{}", family.version());
        report.sets_destroyed += self.elements.keys().filter(|name| name.starts_with(&own)).count();
        self.forget_elements(family);
    }
}

fn to_element(member: &Member) -> Element {
    match member {
        Member::Net(net) => Element::Net(*net),
        Member::IpPort(address, protocol, port) => Element::IpPort(*address, *protocol, *port),
        Member::NetIface(net, interface) => Element::NetIface(*net, Arc::clone(interface)),
        Member::Dispatch(net, interface, chain) => {
            let chain = render::chain_name(Table::Filter, chain);
            Element::NetIfaceGoto(*net, Arc::clone(interface), chain)
        }
    }
}
