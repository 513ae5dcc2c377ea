//! The next hops of the table, and what is known of the way to each (RFC 4271 section 9.1.2.1).
//!
//! Whoever knows the network's own routes is told which next hops are in use and says how far each is. A next hop that
//! nobody has spoken of yet counts as the farthest reachable one, so that first routes need not wait for the answer.

use crate::status::{NextHopState, NextHopUse};
use crate::wire::NextHop;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Cost of a next hop that nobody has spoken of.
const UNKNOWN: u32 = u32::MAX;

#[derive(Debug)]
struct Tracked {
    /// Attribute sets with this next hop.
    sets: u32,
    /// `None` is unreachable.
    cost: Option<u32>,
}

/// See the module. Does nothing unless switched on.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    on: bool,
    tracked: BTreeMap<IpAddr, Tracked>,
    /// Came into use or went out of it since the last report.
    changed: BTreeSet<IpAddr>,
}

/// The address that the network's own routes must know. One with a link-local address is on the link of its session.
fn to_resolve(next_hop: Option<&NextHop>) -> Option<IpAddr> {
    match next_hop? {
        NextHop::V6 { link_local: Some(_), .. } => None,
        next_hop => Some(next_hop.address()),
    }
}

impl NextHops {
    pub(crate) fn switch_on(&mut self) {
        self.on = true;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// One more attribute set with this next hop.
    pub(crate) fn acquire(&mut self, next_hop: Option<&NextHop>) {
        let Some(address) = to_resolve(next_hop).filter(|_| self.on) else { return };
        let tracked = self.tracked.entry(address).or_insert(Tracked { sets: 0, cost: Some(UNKNOWN) });
        tracked.sets += 1;
        if tracked.sets == 1 {
            self.changed.insert(address);
        }
    }

    /// One attribute set less.
    pub(crate) fn release(&mut self, next_hop: Option<&NextHop>) {
        let Some(address) = to_resolve(next_hop).filter(|_| self.on) else { return };
        let Some(tracked) = self.tracked.get_mut(&address) else { return };
        tracked.sets = tracked.sets.saturating_sub(1);
        if tracked.sets == 0 {
            self.tracked.remove(&address);
            self.changed.insert(address);
        }
    }

    /// How far it is; `None` is unreachable.
    pub(crate) fn cost(&self, next_hop: Option<&NextHop>) -> Option<u32> {
        match to_resolve(next_hop).and_then(|address| self.tracked.get(&address)) {
            Some(tracked) => tracked.cost,
            None => Some(0),
        }
    }

    /// Takes over what is known now; returns the next hops for which that is new, and whether one came into reach or went
    /// out of it.
    pub(crate) fn set(&mut self, states: &[NextHopState]) -> BTreeMap<IpAddr, bool> {
        let mut changed = BTreeMap::new();
        for state in states {
            let Some(tracked) = self.tracked.get_mut(&state.address) else { continue };
            let before = std::mem::replace(&mut tracked.cost, state.cost);
            if before != state.cost {
                changed.insert(state.address, before.is_some() != state.cost.is_some());
            }
        }
        changed
    }

    /// What came into use and went out of it since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<NextHopUse> {
        let changed = std::mem::take(&mut self.changed);
        let used = |address| self.tracked.contains_key(&address);
        changed.into_iter().map(|address| NextHopUse { address, used: used(address) }).collect()
    }
}
