//! The addresses of one node.
//!
//! A change is made in memory at once and comes back as a [`Record`]. The caller answers whoever asked only once
//! the record is durable, and calls [`Allocator::undo`] if it can't be made so. Nobody is ever told of
//! an address that a restart wouldn't know of, and many changes can share one fsync.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::block::{Block, cooling};
use crate::error::{AssignError, RecordError};
use crate::handle::{Attributes, Handle};
use crate::journal::{Record, Seconds};
use crate::range::{Family, RangeSet, address_at, ordinal_of};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Who will own the addresses.
    pub handle: Handle,
    /// What is known about the owner.
    pub attributes: Attributes,
    /// Families of which one address each is wanted: all of them or none is given.
    pub families: &'a [Family],
    /// Addresses asked for by name; they stand for one of their family.
    pub addresses: &'a [IpAddr],
    /// CIDRs of the pools that may be used, the preferred one first (see [`crate::eligible_pools`]).
    pub pools: &'a [IpNet],
    /// Never handed out unless asked for by name (IPReservation).
    pub reserved: &'a RangeSet,
    /// The time.
    pub now: Seconds,
    /// How long a released address rests (`ipCooldownSeconds` of IPAMConfiguration).
    pub cooldown: Seconds,
}

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// One address per family asked for, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// To be written down before anybody is told; absent when the handle had these addresses already.
    pub record: Option<Record>,
}

/// An owner and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What is known about it.
    pub attributes: Attributes,
}

/// How full a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The block.
    pub cidr: IpNet,
    /// Revision of the claim.
    pub fence: u64,
    /// Addresses in all.
    pub total: usize,
    /// Addresses with an owner.
    pub used: usize,
    /// Released addresses that still rest.
    pub cooling: usize,
    /// No new assignments from it.
    pub frozen: bool,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocator {
    blocks: BTreeMap<IpNet, Block>,
    handles: BTreeMap<Handle, Owned>,
}

impl Allocator {
    /// The state after `records`. What doesn't fit is left out and reported with its position, so that one bad line
    /// never costs the others; the first owner of an address keeps it.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> (Self, Vec<(usize, RecordError)>) {
        let mut state = Self::default();
        let mut problems = Vec::new();
        for (position, record) in records.into_iter().enumerate() {
            if let Err(error) = state.apply(record) {
                problems.push((position, error));
            }
        }
        (state, problems)
    }

    /// Applies one record. Of an assignment the addresses that fit are taken even when others don't.
    ///
    /// # Errors
    /// The first thing that doesn't fit.
    pub fn apply(&mut self, record: &Record) -> Result<(), RecordError> {
        match record {
            Record::Block { cidr, fence, sequence, queue } => {
                let cidr = cidr.trunc();
                if let Some(block) = self.blocks.get_mut(&cidr) {
                    block.fence = block.fence.max(*fence);
                    block.frozen = false;
                    return Ok(());
                }
                if let Some(&other) = self.blocks.keys().find(|b| b.contains(&cidr) || cidr.contains(*b)) {
                    return Err(RecordError::Overlap { cidr, other });
                }
                let block = Block::new(cidr, *fence, *sequence, queue.as_deref())?;
                self.blocks.insert(cidr, block);
                Ok(())
            }
            Record::Drop { cidr } => {
                let cidr = cidr.trunc();
                let block = self.blocks.get(&cidr).ok_or(RecordError::UnknownBlock(cidr))?;
                if !block.slots.is_empty() {
                    return Err(RecordError::InUse { cidr, used: block.slots.len() });
                }
                self.blocks.remove(&cidr);
                Ok(())
            }
            Record::Assign { handle, addresses, attributes } => {
                self.apply_assign(handle, addresses, attributes)
            }
            Record::Release { handle, at } => {
                let owned =
                    self.handles.remove(handle).ok_or_else(|| RecordError::UnknownHandle(handle.clone()))?;
                for addr in owned.addresses {
                    if let Some((block, ordinal)) = self.block_of_mut(addr) {
                        block.give_back(ordinal, *at);
                    }
                }
                Ok(())
            }
        }
    }

    /// Address by address: after damage to a journal, a pod's second address must not become free because
    /// its first one can't be kept.
    fn apply_assign(
        &mut self,
        handle: &Handle,
        addresses: &[IpAddr],
        attributes: &Attributes,
    ) -> Result<(), RecordError> {
        if addresses.is_empty() {
            return Err(RecordError::Empty(handle.clone()));
        }
        let mut refused = None;
        let mut taken = Vec::new();
        for &address in addresses {
            let Some((block, ordinal)) = self.block_of_mut(address) else {
                refused = refused.or(Some(RecordError::NoBlock(address)));
                continue;
            };
            match block.slots.get(&ordinal) {
                None => {
                    block.take(ordinal, handle);
                    taken.push(address);
                }
                // Written twice, or adopted twice.
                Some(slot) if slot.handle == *handle => {}
                Some(slot) => {
                    let owner = slot.handle.clone();
                    let two = RecordError::TwoOwners { address, owner, refused: handle.clone() };
                    refused = refused.or(Some(two));
                }
            }
        }
        if !taken.is_empty() {
            let fresh = || Owned { addresses: Vec::new(), attributes: attributes.clone() };
            let owned = self.handles.entry(handle.clone()).or_insert_with(fresh);
            owned.addresses.extend(taken);
            owned.addresses.sort_unstable();
        }
        refused.map_or(Ok(()), Err)
    }

    /// Gives the request's handle its addresses: all or none. Asking again for the same gives the same.
    pub fn assign(&mut self, request: &Request<'_>) -> Result<Assigned, AssignError> {
        if let Some(owned) = self.handles.get(&request.handle) {
            return existing(request, owned);
        }
        let mut addresses = Vec::new();
        for &address in request.addresses {
            self.check_requested(request, address)?;
            addresses.push(address);
        }
        for &family in request.families {
            if !addresses.iter().any(|a| Family::of_addr(a) == family) {
                addresses.push(self.choose(request, family)?);
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        let record = Record::Assign {
            handle: request.handle.clone(),
            addresses: addresses.clone(),
            attributes: request.attributes.clone(),
        };
        // Every part was checked above, so nothing is refused here.
        match self.apply(&record) {
            Ok(()) => Ok(Assigned { addresses, record: Some(record) }),
            Err(RecordError::TwoOwners { address, owner, .. }) => Err(AssignError::Taken { address, owner }),
            Err(_other) => Err(AssignError::NoPool(request.families.first().copied().unwrap_or(Family::V4))),
        }
    }

    fn check_requested(&self, request: &Request<'_>, address: IpAddr) -> Result<(), AssignError> {
        if !request.pools.iter().any(|pool| pool.contains(&address)) {
            return Err(AssignError::OutsidePools { address, pools: request.pools.to_vec() });
        }
        let Some((block, ordinal)) = self.block_of(address).filter(|(block, _)| !block.frozen) else {
            return Err(AssignError::NotOurs { address, blocks: self.blocks.keys().copied().collect() });
        };
        if let Some(slot) = block.slots.get(&ordinal) {
            return Err(AssignError::Taken { address, owner: slot.handle.clone() });
        }
        Ok(())
    }

    fn choose(&self, request: &Request<'_>, family: Family) -> Result<IpAddr, AssignError> {
        let pools: Vec<IpNet> = request.pools.iter().copied().filter(|p| Family::of(p) == family).collect();
        if pools.is_empty() {
            return Err(AssignError::NoPool(family));
        }
        pools
            .iter()
            .flat_map(|pool| self.blocks.values().filter(|block| pool.contains(&block.cidr)))
            .find_map(|block| {
                let ordinal = block.next_free(request.reserved, request.now, request.cooldown)?;
                address_at(&block.cidr, ordinal)
            })
            .ok_or(AssignError::NeedBlock { family, pools: pools.clone() })
    }

    /// Whether nobody has the address, nor had it of late.
    pub(crate) fn is_free(
        &self,
        address: IpAddr,
        reserved: &RangeSet,
        now: Seconds,
        cooldown: Seconds,
    ) -> bool {
        let found = self.block_of(address).filter(|(block, _)| !block.frozen && !reserved.contains(address));
        let mut free = found
            .into_iter()
            .flat_map(|(block, ordinal)| block.queue.iter().filter(move |free| free.ordinal == ordinal));
        free.any(|free| !cooling(free, now, cooldown))
    }

    /// Frees all addresses of a handle; absent when it has none (a second release is no error).
    pub fn release(&mut self, handle: &Handle, now: Seconds) -> Option<Record> {
        let record = Record::Release { handle: handle.clone(), at: now };
        self.apply(&record).ok().map(|()| record)
    }

    /// Takes back an assignment whose record could not be made durable.
    pub fn undo(&mut self, record: &Record, now: Seconds) {
        if let Record::Assign { handle, .. } = record {
            self.release(handle, now);
        }
    }

    /// Adds a block after its claim succeeded in the datastore at revision `fence`.
    pub fn add_block(&mut self, cidr: IpNet, fence: u64) -> Result<Record, RecordError> {
        let record = Record::Block { cidr: cidr.trunc(), fence, sequence: 0, queue: None };
        self.apply(&record).map(|()| record)
    }

    /// Gives back an empty block. Write the record down *before* the block is deleted from the datastore.
    pub fn drop_block(&mut self, cidr: IpNet) -> Result<Record, RecordError> {
        let record = Record::Drop { cidr: cidr.trunc() };
        self.apply(&record).map(|()| record)
    }

    /// Stops (or starts again) new assignments from a block: its claim was lost, or it is being given back.
    /// Not part of the journal: it follows from the datastore.
    pub fn freeze(&mut self, cidr: &IpNet, frozen: bool) {
        if let Some(block) = self.blocks.get_mut(&cidr.trunc()) {
            block.frozen = frozen;
        }
    }

    /// A journal that leads to this state, to replace a long one.
    pub fn compact(&self) -> Vec<Record> {
        let blocks = self.blocks.values().map(Block::to_record);
        let assigned = self.handles.iter().map(|(handle, owned)| Record::Assign {
            handle: handle.clone(),
            addresses: owned.addresses.clone(),
            attributes: owned.attributes.clone(),
        });
        blocks.chain(assigned).collect()
    }

    /// The block that has the address.
    fn block_of(&self, addr: IpAddr) -> Option<(&Block, u32)> {
        self.blocks.values().find_map(|block| Some((block, ordinal_of(&block.cidr, addr)?)))
    }

    fn block_of_mut(&mut self, addr: IpAddr) -> Option<(&mut Block, u32)> {
        self.blocks.values_mut().find_map(|block| {
            let ordinal = ordinal_of(&block.cidr, addr)?;
            Some((block, ordinal))
        })
    }

    pub(crate) fn block(&self, cidr: &IpNet) -> Option<&Block> {
        self.blocks.get(&cidr.trunc())
    }

    /// The node's blocks and how full they are, by prefix.
    pub fn usage(&self, now: Seconds, cooldown: Seconds) -> Vec<Usage> {
        let usage = |block: &Block| Usage {
            cidr: block.cidr,
            fence: block.fence,
            total: block.slots.len() + block.queue.len(),
            used: block.slots.len(),
            cooling: block.queue.iter().filter(|free| cooling(free, now, cooldown)).count(),
            frozen: block.frozen,
        };
        self.blocks.values().map(usage).collect()
    }

    /// The node's blocks.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.blocks.keys().copied()
    }

    /// What a handle has.
    pub fn owned(&self, handle: &Handle) -> Option<&Owned> {
        self.handles.get(handle)
    }

    /// Every owner, in order of the handles.
    pub fn owners(&self) -> impl Iterator<Item = (&Handle, &Owned)> {
        self.handles.iter()
    }

    /// The owner of an address.
    pub fn owner_of(&self, addr: IpAddr) -> Option<&Handle> {
        let (block, ordinal) = self.block_of(addr)?;
        block.slots.get(&ordinal).map(|slot| &slot.handle)
    }

    /// Says so when a rule of this crate is broken: every address is either free once or has one owner that knows
    /// of it. For tests and for `margay ipam check`.
    pub fn inconsistencies(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut slots = 0;
        for block in self.blocks.values() {
            slots += block.slots.len();
            let mut ordinals: Vec<u32> = block.queue.iter().map(|f| f.ordinal).collect();
            ordinals.extend(block.slots.keys());
            ordinals.sort_unstable();
            let expected = u32::try_from(ordinals.len()).unwrap_or(u32::MAX);
            if !ordinals.iter().copied().eq(0..expected) {
                found.push(format!("block {}: an address is both free and in use, or neither", block.cidr));
            }
            for (&ordinal, slot) in &block.slots {
                let addr = address_at(&block.cidr, ordinal);
                let known = addr.is_some_and(|addr| {
                    self.handles.get(&slot.handle).is_some_and(|owned| owned.addresses.contains(&addr))
                });
                if !known {
                    found.push(format!(
                        "block {} address {ordinal}: {} doesn't know it",
                        block.cidr, slot.handle
                    ));
                }
            }
        }
        let owned: usize = self.handles.values().map(|owned| owned.addresses.len()).sum();
        if owned != slots {
            found.push(format!("{owned} addresses have an owner, {slots} are marked in the blocks"));
        }
        found
    }
}

/// The answer for a handle that has addresses: the same again if they satisfy the request.
fn existing(request: &Request<'_>, owned: &Owned) -> Result<Assigned, AssignError> {
    let has_family = |family: &Family| owned.addresses.iter().any(|a| Family::of_addr(a) == *family);
    let satisfied = request.families.iter().all(has_family)
        && request.addresses.iter().all(|address| owned.addresses.contains(address));
    if satisfied {
        return Ok(Assigned { addresses: owned.addresses.clone(), record: None });
    }
    Err(AssignError::Mismatch { handle: request.handle.clone(), has: owned.addresses.clone() })
}

#[cfg(test)]
mod tests;
