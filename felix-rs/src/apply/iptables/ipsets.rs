//! Members of ip sets, over netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_netlink::ipset::{self, Entry, Ipset, IpsetError};

use crate::apply::sets::{Found, Kernel, Sets, Tracked};
use crate::apply::{ApplyError, Report};
use crate::rules::names::{self, SET_PREFIXES};
use crate::rules::{Family, Member, SetType};

/// Sets made while another one is enlarged; one that is found was left by a process that was killed.
const TEMPORARY: [&str; 2] = ["mgy4t", "mgy6t"];

/// Whether a set is ours, by its name.
pub(in crate::apply) fn is_own(name: &str) -> bool {
    SET_PREFIXES.iter().chain(&TEMPORARY).any(|prefix| name.starts_with(prefix))
}

/// The kernel's sets of ours.
pub(super) fn read(connection: &mut Ipset) -> Result<BTreeMap<String, Found>, ApplyError> {
    read_some(connection, is_own)
}

/// The kernel's sets of these names.
pub(super) fn read_some(
    connection: &mut Ipset,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Found>, ApplyError> {
    let mut sets = BTreeMap::new();
    for header in connection.headers()?.into_iter().filter(|header| wanted(&header.name)) {
        let members = match connection.members(&header.name) {
            Err(error) if error.is_missing() => continue,
            members => members?.into_iter().map(from_entry).collect(),
        };
        let own_family = kernel_family_of(&header.name) == Some(header.family);
        let kind = own_family.then(|| header.kind.map(own_type)).flatten();
        sets.insert(header.name, Found { kind, members, max: header.max_elements });
    }
    Ok(sets)
}

/// What is to be written in the order in which endpoints are added, so that the search never leads to where one is not yet: groups, then
/// sets of the search tree, inner ones, which hold fewer, before the outer ones. Deleted are they the other way round.
fn in_order(sets: &Sets) -> Vec<String> {
    let place = |name: &&String| {
        let members = sets.tracked.get(*name).map_or(0, |set| set.wanted.len());
        let is_fork = name.get(SET_PREFIXES[0].len()..).is_some_and(names::is_group_tree_set);
        (is_fork, if is_fork { members } else { 0 })
    };
    let mut names: Vec<&String> = sets.pending.iter().collect();
    names.sort_by_key(place);
    names.into_iter().cloned().collect()
}

/// Creates sets and adds members: afterwards every set holds at least what is wanted.
pub(super) fn extend(sets: &mut Sets, connection: &mut Ipset, report: &mut Report) -> Result<(), ApplyError> {
    for name in &in_order(sets) {
        let Some(set) = sets.tracked.get_mut(name) else { continue };
        if set.kernel == Kernel::OtherType {
            connection.destroy(name).map_err(|error| in_use(name, error))?;
            set.kernel = Kernel::Absent;
        }
        if set.kernel == Kernel::Absent {
            let max = room(set.wanted.len());
            create(connection, name, set, max)?;
            set.kernel = Kernel::Present { max };
            report.sets_created += 1;
        }
        if set.missing.is_empty() {
            continue;
        }
        let missing: Vec<_> = set.missing.iter().map(to_entry).collect();
        match connection.add(name, kernel_family(set.family), &missing) {
            Err(error) if error.is_full() => enlarge(connection, name, set)?,
            result => result?,
        }
        report.members_added += missing.len();
        set.missing.clear();
    }
    Ok(())
}

/// Deletes members nobody wants: to be done once no rule needs them.
pub(super) fn shrink(sets: &mut Sets, connection: &mut Ipset, report: &mut Report) -> Result<(), ApplyError> {
    for name in in_order(sets).iter().rev() {
        let Some(set) = sets.tracked.get_mut(name).filter(|set| !set.stale.is_empty()) else { continue };
        let stale: Vec<_> = set.stale.iter().map(to_entry).collect();
        connection.remove(name, kernel_family(set.family), &stale)?;
        report.members_removed += stale.len();
        set.stale.clear();
    }
    sets.pending.clear();
    Ok(())
}

/// Destroys unwanted sets. One that foreign rules refer to stays and is reported.
pub(super) fn sweep(sets: &mut Sets, connection: &mut Ipset, report: &mut Report) -> Result<(), ApplyError> {
    let mut busy = BTreeSet::new();
    for name in std::mem::take(&mut sets.unwanted) {
        match connection.destroy(&name) {
            Ok(()) => report.sets_destroyed += 1,
            Err(error) if error.is_busy() => {
                busy.insert(name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    report.leftovers.extend(busy.iter().cloned());
    sets.unwanted = busy;
    Ok(())
}

/// A set without room is replaced by a larger one with the same and the missing members, in one step for the
/// rules that refer to it.
fn enlarge(connection: &mut Ipset, name: &str, set: &mut Tracked) -> Result<(), ApplyError> {
    let Kernel::Present { max } = set.kernel else { return Ok(()) };
    let family = kernel_family(set.family);
    let larger = room(set.wanted.len() + set.stale.len()).max(max.saturating_mul(2));
    let temporary = format!("mgy{}t{}", set.family.version(), name.get(5..).unwrap_or_default());
    connection.destroy(&temporary)?;
    create(connection, &temporary, set, larger)?;
    let all: Vec<_> = set.wanted.union(&set.stale).map(to_entry).collect();
    connection.add(&temporary, family, &all)?;
    connection.swap(name, &temporary)?;
    connection.destroy(&temporary)?;
    set.kernel = Kernel::Present { max: larger };
    Ok(())
}

/// Members to make room for: twice what is needed, at least the usual limit.
fn room(members: usize) -> u32 {
    u32::try_from(members.saturating_mul(2)).unwrap_or(u32::MAX).max(ipset::MAX_ELEMENTS)
}

fn in_use(name: &str, error: IpsetError) -> ApplyError {
    if error.is_busy() { ApplyError::SetType { name: name.to_owned() } } else { error.into() }
}

const fn kernel_type(kind: SetType) -> Option<ipset::SetType> {
    match kind {
        SetType::Net => Some(ipset::SetType::HashNet),
        SetType::IpPort => Some(ipset::SetType::HashIpPort),
        SetType::NetIface => Some(ipset::SetType::HashNetIface),
        SetType::Host | SetType::HostIface | SetType::Dispatch | SetType::HostDispatch => None,
    }
}

const fn own_type(kind: ipset::SetType) -> SetType {
    match kind {
        ipset::SetType::HashNet => SetType::Net,
        ipset::SetType::HashIpPort => SetType::IpPort,
        ipset::SetType::HashNetIface => SetType::NetIface,
    }
}

fn create(connection: &mut Ipset, name: &str, set: &Tracked, max: u32) -> Result<(), ApplyError> {
    let kind = kernel_type(set.kind).ok_or_else(|| ApplyError::NoSuchSet { name: name.to_owned() })?;
    Ok(connection.create(name, kind, kernel_family(set.family), max)?)
}

const fn kernel_family(family: Family) -> ipset::Family {
    match family {
        Family::V4 => ipset::Family::V4,
        Family::V6 => ipset::Family::V6,
    }
}

/// The family a set of ours has by its name.
fn kernel_family_of(name: &str) -> Option<ipset::Family> {
    [ipset::Family::V4, ipset::Family::V6]
        .into_iter()
        .zip(SET_PREFIXES)
        .find_map(|(family, prefix)| name.starts_with(prefix).then_some(family))
}

fn to_entry(member: &Member) -> Entry {
    match member {
        Member::Net(net) => Entry::Net(*net),
        Member::IpPort(address, protocol, port) => Entry::IpPort(*address, *protocol, *port),
        Member::NetIface(net, interface) | Member::Dispatch(net, interface, _) => {
            Entry::NetIface(*net, Arc::clone(interface))
        }
    }
}

fn from_entry(entry: Entry) -> Member {
    match entry {
        Entry::Net(net) => Member::Net(net),
        Entry::IpPort(address, protocol, port) => Member::IpPort(address, protocol, port),
        Entry::NetIface(net, interface) => Member::NetIface(net, interface),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{SetName, SetUpdate};

    /// Whatever their names are: a packet that finds an outer set finds the inner one, and then the group, before and behind.
    #[test]
    fn endpoints_are_in_a_group_before_they_are_searched_there() {
        let mut sets = Sets::default();
        let members = |count: u8| {
            (0..count).map(|n| Member::Net(std::net::IpAddr::from([10, 0, 0, n]).into())).collect()
        };
        let of =
            [("t-b-outer", 9), ("t-c-inner", 4), ("t-a-middle", 6), ("g-z", 2), ("s-x", 200), ("g-a", 3)];
        let updates = of.map(|(name, count)| {
            let update = SetUpdate::Whole { kind: SetType::Net, members: members(count) };
            ((SetName(name.into()), Family::V4), update)
        });
        sets.update(updates.into());
        let order = in_order(&sets);
        assert_eq!(
            order,
            ["g-a", "g-z", "s-x", "t-c-inner", "t-a-middle", "t-b-outer"].map(|name| format!("mgy40{name}"))
        );
    }
}
