//! Attribute sets shared by all routes that have them: one value, one small number.

use super::next_hops::NextHops;
use crate::hash::Table;
use crate::wire::{NextHop, PathAttributes};
use std::sync::Arc;

/// Number of an interned attribute set. Equal sets have equal numbers as long as one of them is in use; a number isn't
/// given to another set before [`Interner::sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttrId(u32);

/// Everything a route says besides its prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RouteAttributes {
    /// `None` is this speaker itself, of a route originated here.
    pub(crate) next_hop: Option<NextHop>,
    pub(crate) attributes: PathAttributes,
}

#[derive(Debug)]
struct Slot {
    value: Arc<RouteAttributes>,
    refs: u32,
}

/// Slab of attribute sets with reference counts.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    slots: Vec<Option<Slot>>,
    index: Table<Arc<RouteAttributes>, u32>,
    free: Vec<u32>,
    /// Sets whose last user has gone since the last sweep. They keep their numbers until then, so that whoever
    /// compares numbers across one flush never sees a number with two meanings.
    unused: Vec<u32>,
    pub(crate) next_hops: NextHops,
}

impl Interner {
    /// The number of a set, with one more reference.
    pub(crate) fn intern(&mut self, value: RouteAttributes) -> AttrId {
        if let Some(&id) = self.index.get(&value) {
            self.acquire(AttrId(id));
            return AttrId(id);
        }
        self.next_hops.acquire(value.next_hop.as_ref());
        let value = Arc::new(value);
        let slot = Slot { value: Arc::clone(&value), refs: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.slots.get_mut(id as usize) {
                    *place = Some(slot);
                }
                id
            }
            None => {
                self.slots.push(Some(slot));
                // A table of 2^32 attribute sets does not fit in memory.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.index.insert(value, id);
        AttrId(id)
    }

    /// One more reference.
    pub(crate) fn acquire(&mut self, id: AttrId) {
        if let Some(Some(slot)) = self.slots.get_mut(id.0 as usize) {
            slot.refs += 1;
        }
    }

    /// One reference less.
    pub(crate) fn release(&mut self, id: AttrId) {
        if let Some(Some(slot)) = self.slots.get_mut(id.0 as usize) {
            slot.refs = slot.refs.saturating_sub(1);
            if slot.refs == 0 {
                self.unused.push(id.0);
            }
        }
    }

    /// Frees what nobody uses. Called when no comparison of old numbers is outstanding.
    pub(crate) fn sweep(&mut self) {
        for id in std::mem::take(&mut self.unused) {
            let Some(place) = self.slots.get_mut(id as usize) else { continue };
            if place.as_ref().is_some_and(|slot| slot.refs == 0)
                && let Some(slot) = place.take()
            {
                self.next_hops.release(slot.value.next_hop.as_ref());
                self.index.remove(&slot.value);
                self.free.push(id);
            }
        }
    }

    /// The set behind a number. Numbers without a set are never handed out; an empty set stands for them.
    pub(crate) fn get(&self, id: AttrId) -> &RouteAttributes {
        static EMPTY: std::sync::LazyLock<RouteAttributes> = std::sync::LazyLock::new(|| RouteAttributes {
            next_hop: None,
            attributes: PathAttributes::default(),
        });
        match self.slots.get(id.0 as usize) {
            Some(Some(slot)) => &slot.value,
            _ => &EMPTY,
        }
    }

    /// How far the next hop of a set is; `None` is unreachable.
    pub(crate) fn cost(&self, id: AttrId) -> Option<u32> {
        if !self.next_hops.is_on() {
            return Some(0);
        }
        self.next_hops.cost(self.get(id).next_hop.as_ref())
    }

    /// Sets in use.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(med: u32) -> RouteAttributes {
        RouteAttributes {
            next_hop: None,
            attributes: PathAttributes { med: Some(med), ..PathAttributes::default() },
        }
    }

    #[test]
    fn equal_sets_share_a_number_and_numbers_survive_until_the_sweep() {
        let mut interner = Interner::default();
        let a = interner.intern(set(1));
        assert_eq!(interner.intern(set(1)), a);
        interner.release(a);
        interner.release(a);
        let b = interner.intern(set(2));
        assert_ne!(a, b);
        assert_eq!(interner.intern(set(1)), a, "revived before the sweep");
        interner.release(a);
        interner.sweep();
        assert_eq!(interner.len(), 1);
        let c = interner.intern(set(3));
        assert_eq!(c, a, "number reused after the sweep");
        assert_eq!(interner.get(c), &set(3));
        assert_eq!(interner.get(b), &set(2));
    }
}
