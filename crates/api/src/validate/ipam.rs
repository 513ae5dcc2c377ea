//! IPAM settings and blocks.

use super::metadata;
use crate::{
    IpamBlock, IpamConfiguration,
    path::{Problems, SPEC},
};

const MAX_BLOCKS_PER_HOST: u32 = 1_000_000;
const MAX_COOLDOWN: u32 = 1200;

pub(crate) fn check_configuration(configuration: &IpamConfiguration, problems: &mut Problems) {
    metadata::check_singleton(configuration, problems);
    let spec = &configuration.spec;
    problems.require(
        spec.max_blocks_per_host.is_none_or(|n| n <= MAX_BLOCKS_PER_HOST),
        &SPEC.field("maxBlocksPerHost"),
        format!("at most {MAX_BLOCKS_PER_HOST}"),
    );
    problems.require(
        spec.ip_cooldown_seconds.is_none_or(|n| n <= MAX_COOLDOWN),
        &SPEC.field("ipCooldownSeconds"),
        format!("at most {MAX_COOLDOWN} seconds"),
    );
}

pub(crate) fn check_block(block: &IpamBlock, problems: &mut Problems) {
    let spec = &block.spec;
    problems.require(
        spec.cidr.trunc() == spec.cidr,
        &SPEC.field("cidr"),
        format!("host bits are set: use {}", spec.cidr.trunc()),
    );
    let bits = u32::from(spec.cidr.max_prefix_len() - spec.cidr.prefix_len());
    let Some(size) = 1_usize.checked_shl(bits).filter(|_| bits <= 12) else {
        problems.add(&SPEC.field("cidr"), format!("{} is too large for a block", spec.cidr));
        return;
    };
    let allocations = SPEC.field("allocations");
    let count = spec.allocations.len();
    problems.require(
        count == 0 || count == size,
        &allocations,
        format!("{count} slots for {size} addresses"),
    );
    for (ordinal, slot) in spec.allocations.iter().enumerate() {
        let fine = slot.is_none_or(|index| usize::try_from(index).is_ok_and(|i| i < spec.attributes.len()));
        problems.require(fine, &allocations.index(ordinal), "there are no attributes at this index");
    }
    let unallocated = SPEC.field("unallocated");
    for (index, ordinal) in spec.unallocated.iter().enumerate() {
        let slot = usize::try_from(*ordinal).ok().filter(|o| *o < size);
        problems.require(slot.is_some(), &unallocated.index(index), "the block has no such address");
        let taken = slot.and_then(|o| spec.allocations.get(o)).is_some_and(Option::is_some);
        problems.require(!taken, &unallocated.index(index), "this address is allocated, too");
    }
}
