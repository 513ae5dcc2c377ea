//! A block as resource: the mirror of the journal that others read, and the way back when the journal is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{Affinity, AllocationAttribute, IpamBlockSpec};
use margay_api::{IpamBlock, Metadata};

use crate::allocator::Allocator;
use crate::audit::{Allocation, allocations};
use crate::handle::{Attributes, Handle};
use crate::journal::{Free, Record};
use crate::scan::block_name;

impl Allocator {
    /// The block as the datastore should show it; absent when it isn't held. `current` is the resource as it is there:
    /// what this node doesn't decide (claim time, metadata) is kept.
    pub fn to_block_resource(
        &self,
        cidr: &IpNet,
        node: &str,
        current: Option<&IpamBlock>,
    ) -> Option<IpamBlock> {
        let block = self.block(cidr)?;
        let handles: BTreeSet<&Handle> = block.slots.values().map(|slot| &slot.handle).collect();
        let index: BTreeMap<&Handle, u32> = handles.iter().copied().zip(0..).collect();
        let attributes = handles
            .iter()
            .map(|handle| AllocationAttribute {
                handle_id: Some(handle.as_str().to_owned()),
                secondary: self.owned(handle).map(|owned| owned.attributes.to_map()).unwrap_or_default(),
                ..AllocationAttribute::default()
            })
            .collect();
        let count = u32::try_from(block.slots.len() + block.queue.len()).unwrap_or(u32::MAX);
        let allocations = (0..count)
            .map(|ordinal| block.slots.get(&ordinal).and_then(|slot| index.get(&slot.handle).copied()))
            .collect();
        let sequences =
            block.slots.iter().map(|(ordinal, slot)| (ordinal.to_string(), slot.sequence)).collect();
        let spec = IpamBlockSpec {
            cidr: block.cidr,
            affinity: Some(Affinity::Host(node.to_owned())),
            affinity_claim_time: current.and_then(|c| c.spec.affinity_claim_time.clone()),
            allocations,
            attributes,
            unallocated: block.queue.iter().map(|free| free.ordinal).collect(),
            strict_affinity: current.is_none_or(|c| c.spec.strict_affinity),
            sequence_number: block.sequence,
            sequence_number_for_allocation: sequences,
            deleted: false,
        };
        let metadata =
            current.map_or_else(|| Metadata::named(block_name(&block.cidr)), |c| c.metadata.clone());
        Some(IpamBlock::new(metadata, spec))
    }
}

/// Records that bring a block of this node back from its resource at revision `fence`, for a journal that is lost or
/// for a block another program (Calico) filled. Apply and write them before anything else is assigned.
///
/// For blocks that aren't held: of a held one the journal knows better than its mirror. An owner that has addresses
/// in other blocks gains these. An allocation that can't be read stays in use under a handle of its own, so that its address is never given out.
pub fn adopt(blocks: &[(&IpamBlock, u64)]) -> Vec<Record> {
    let mut records = Vec::new();
    // A handle may have addresses in several blocks (dual stack): one assignment for all of them.
    let mut owners: BTreeMap<Handle, (Vec<IpAddr>, Attributes)> = BTreeMap::new();
    for (block, fence) in blocks {
        let spec = &block.spec;
        let Some(count) = crate::block::address_count(&spec.cidr) else { continue };
        for Allocation { address, handle, attributes } in allocations(block) {
            let owned = owners.entry(handle).or_insert_with(|| (Vec::new(), attributes));
            owned.0.push(address);
        }
        records.push(Record::Block {
            cidr: spec.cidr.trunc(),
            fence: *fence,
            sequence: spec.sequence_number,
            queue: Some(queue(spec, count)),
        });
    }
    records.extend(owners.into_iter().map(|(handle, (mut addresses, attributes))| {
        addresses.sort_unstable();
        Record::Assign { handle, addresses, attributes }
    }));
    records
}

/// The free ordinals in the order of the resource, then all others.
fn queue(spec: &IpamBlockSpec, count: u32) -> Vec<Free> {
    let mut seen = BTreeSet::new();
    let listed = spec.unallocated.iter().copied().chain(0..count);
    listed
        .filter(|ordinal| *ordinal < count && seen.insert(*ordinal))
        .map(|ordinal| Free { ordinal, released_at: None })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::Request;
    use crate::range::{Family, RangeSet};

    fn fill() -> Allocator {
        let mut a = Allocator::default();
        let pools: Vec<IpNet> = vec!["10.65.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
        a.add_block("10.65.1.0/29".parse().unwrap(), 3).unwrap();
        a.add_block("fd00::/125".parse().unwrap(), 4).unwrap();
        for n in 0..4 {
            a.assign(&Request {
                handle: Handle::pod("margay", &format!("c{n}"), "eth0"),
                attributes: Attributes { pod: Some(format!("p{n}")), ..Attributes::default() },
                families: &[Family::V4, Family::V6],
                addresses: &[],
                pools: &pools,
                reserved: &RangeSet::default(),
                now: n,
                cooldown: 0,
            })
            .unwrap();
        }
        a.release(&Handle::pod("margay", "c1", "eth0"), 9).unwrap();
        a
    }

    #[test]
    fn the_mirror_is_a_valid_block_and_brings_everything_back() {
        let a = fill();
        let resources: Vec<IpamBlock> =
            a.blocks().map(|cidr| a.to_block_resource(&cidr, "n1", None).unwrap()).collect();
        for resource in &resources {
            assert!(resource.validate().is_ok(), "{:?}", resource.validate());
        }
        let v4 = &resources[0].spec;
        assert_eq!(v4.allocations, [Some(0), None, Some(1), Some(2), None, None, None, None]);
        assert_eq!(v4.unallocated, [4, 5, 6, 7, 1]);
        assert_eq!(v4.attributes[0].secondary["pod"], "p0");
        assert_eq!(v4.sequence_number, 5);
        let with_fence: Vec<(&IpamBlock, u64)> = resources.iter().zip([3, 4]).collect();
        let (back, problems) = Allocator::replay(&adopt(&with_fence));
        assert!(problems.is_empty(), "{problems:?}");
        assert!(a.owners().eq(back.owners()));
        assert!(back.inconsistencies().is_empty());
        let again = back.to_block_resource(&v4.cidr, "n1", Some(&resources[0])).unwrap();
        assert_eq!(again.spec.unallocated, v4.unallocated);
    }

    #[test]
    fn an_allocation_nobody_can_read_is_never_given_out() {
        let mut resource = fill().to_block_resource(&"10.65.1.0/29".parse().unwrap(), "n1", None).unwrap();
        resource.spec.allocations[5] = Some(77);
        resource.spec.unallocated = vec![5, 5, 99];
        let (back, problems) = Allocator::replay(&adopt(&[(&resource, 1)]));
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(back.owner_of("10.65.1.5".parse().unwrap()).unwrap().as_str(), "unknown.10.65.1.5");
        assert!(back.inconsistencies().is_empty());
    }
}
