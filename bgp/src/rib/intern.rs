//! Attribute sets shared by all routes that have them: one value, one small number.

use super::next_hops::NextHops;
use crate::hash::Keyed;
use crate::wire::{NextHop, PathAttributes};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use std::hash::BuildHasher;

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
    value: RouteAttributes,
    /// Of the value, so that it is computed once.
    hash: u32,
    refs: u32,
}

/// Slab of attribute sets with reference counts.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    slots: Vec<Option<Slot>>,
    keyed: Keyed,
    /// Numbers of slots by the hash of their values.
    index: HashTable<u32>,
    free: Vec<u32>,
    /// Sets whose last user has gone since the last sweep. They keep their numbers until then, so that whoever
    /// compares numbers across one flush never sees a number with two meanings.
    unused: Vec<u32>,
    pub(crate) next_hops: NextHops,
}

/// A hash as the index takes it: it uses the lowest and the highest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Interner {
    /// The number of a set, with one more reference.
    pub(crate) fn intern(&mut self, next_hop: Option<NextHop>, attributes: &PathAttributes) -> AttrId {
        #[expect(clippy::cast_possible_truncation, reason = "one half is enough for what fits in memory")]
        let hash = self.keyed.hash_one((next_hop, attributes)) as u32;
        let (slots, free) = (&mut self.slots, &mut self.free);
        let at = |id: &u32| slots.get(*id as usize).and_then(Option::as_ref);
        let same = |slot: &Slot| {
            slot.hash == hash && slot.value.next_hop == next_hop && slot.value.attributes == *attributes
        };
        let place = self.index.entry(
            spread(hash),
            |id| at(id).is_some_and(same),
            |id| at(id).map_or(0, |slot| spread(slot.hash)),
        );
        let id = match place {
            Place::Occupied(place) => *place.get(),
            Place::Vacant(place) => {
                let value = RouteAttributes { next_hop, attributes: attributes.clone() };
                let id = free.pop().unwrap_or_else(|| {
                    slots.push(None);
                    // A table of 2^32 attribute sets does not fit in memory.
                    u32::try_from(slots.len() - 1).unwrap_or(u32::MAX)
                });
                if let Some(slot) = slots.get_mut(id as usize) {
                    *slot = Some(Slot { value, hash, refs: 0 });
                }
                place.insert(id);
                self.next_hops.acquire(next_hop.as_ref());
                id
            }
        };
        self.acquire(AttrId(id));
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
                if let Ok(place) = self.index.find_entry(spread(slot.hash), |other| *other == id) {
                    place.remove();
                }
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

    fn set(med: u32) -> PathAttributes {
        PathAttributes { med: Some(med), ..PathAttributes::default() }
    }

    #[test]
    fn equal_sets_share_a_number_and_numbers_survive_until_the_sweep() {
        let mut interner = Interner::default();
        let a = interner.intern(None, &set(1));
        assert_eq!(interner.intern(None, &set(1)), a);
        interner.release(a);
        interner.release(a);
        let b = interner.intern(None, &set(2));
        assert_ne!(a, b);
        assert_eq!(interner.intern(None, &set(1)), a, "revived before the sweep");
        interner.release(a);
        interner.sweep();
        assert_eq!(interner.len(), 1);
        let c = interner.intern(None, &set(3));
        assert_eq!(c, a, "number reused after the sweep");
        assert_eq!(interner.get(c).attributes, set(3));
        assert_eq!(interner.get(b).attributes, set(2));
    }
}
