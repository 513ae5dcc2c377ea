//! One block of the node: who has which address, and the order in which free ones are handed out.

use std::collections::{BTreeMap, VecDeque};

use ipnet::IpNet;

use crate::error::RecordError;
use crate::handle::Handle;
use crate::journal::{Free, Record, Seconds};
use crate::range::{RangeSet, address_at, last_ordinal};

/// Largest block this allocator keeps in memory. Calico's are at most 4,096 (IPv4 /20, IPv6 /116).
const MAX_ADDRESSES: u128 = 65_536;

/// Number of addresses of a block; absent when it is too large to be handed out from.
pub(crate) fn address_count(cidr: &IpNet) -> Option<u32> {
    let last = last_ordinal(cidr);
    if last < MAX_ADDRESSES { u32::try_from(last + 1).ok() } else { None }
}

/// An address in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its owner.
    pub(crate) handle: Handle,
    /// [`Block::sequence`] when it was given: tells two assignments of one address apart (release against ABA).
    pub(crate) sequence: u64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) cidr: IpNet,
    pub(crate) fence: u64,
    pub(crate) sequence: u64,
    pub(crate) slots: BTreeMap<u32, Slot>,
    /// Free ordinals, the one to use next first. FIFO, so that an address rests as long as possible.
    pub(crate) queue: VecDeque<Free>,
    /// No new assignments (the datastore says the block isn't ours any more, or it is to be given back).
    pub(crate) frozen: bool,
}

impl Block {
    pub(crate) fn new(
        cidr: IpNet,
        fence: u64,
        sequence: u64,
        queue: Option<&[Free]>,
    ) -> Result<Self, RecordError> {
        let cidr = cidr.trunc();
        let count = address_count(&cidr).ok_or(RecordError::TooLarge(cidr))?;
        let queue = match queue {
            None => (0..count).map(|ordinal| Free { ordinal, released_at: None }).collect(),
            Some(given) => {
                let mut seen: Vec<u32> = given.iter().map(|f| f.ordinal).collect();
                seen.sort_unstable();
                if !seen.iter().copied().eq(0..count) {
                    return Err(RecordError::BadQueue(cidr));
                }
                given.iter().copied().collect()
            }
        };
        Ok(Self { cidr, fence, sequence, slots: BTreeMap::new(), queue, frozen: false })
    }

    /// The free ordinal to hand out next: the one that rested longest, neither reserved nor cooling down.
    pub(crate) fn next_free(&self, reserved: &RangeSet, now: Seconds, cooldown: Seconds) -> Option<u32> {
        if self.frozen {
            return None;
        }
        let usable = |free: &&Free| {
            !cooling(free, now, cooldown)
                && address_at(&self.cidr, free.ordinal).is_some_and(|addr| !reserved.contains(addr))
        };
        self.queue.iter().find(usable).map(|free| free.ordinal)
    }

    /// Takes a free ordinal out of the queue. The caller has checked that it has no owner.
    pub(crate) fn take(&mut self, ordinal: u32, handle: &Handle) {
        self.queue.retain(|free| free.ordinal != ordinal);
        self.sequence += 1;
        self.slots.insert(ordinal, Slot { handle: handle.clone(), sequence: self.sequence });
    }

    /// Puts an ordinal to the end of the queue.
    pub(crate) fn give_back(&mut self, ordinal: u32, at: Seconds) {
        if self.slots.remove(&ordinal).is_some() {
            self.sequence += 1;
            self.queue.push_back(Free { ordinal, released_at: Some(at) });
        }
    }

    /// The record that rebuilds this block with all its addresses free; assignments follow it.
    pub(crate) fn to_record(&self) -> Record {
        let in_use = self.slots.keys().map(|&ordinal| Free { ordinal, released_at: None });
        Record::Block {
            cidr: self.cidr,
            fence: self.fence,
            sequence: self.sequence,
            queue: Some(self.queue.iter().copied().chain(in_use).collect()),
        }
    }
}

/// A clock that went backwards doesn't keep an address locked: only a release in the past counts.
pub(crate) fn cooling(free: &Free, now: Seconds, cooldown: Seconds) -> bool {
    free.released_at.is_some_and(|at| at <= now && now < at.saturating_add(cooldown))
}
