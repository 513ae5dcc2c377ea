//! Claiming a block: what to create in the datastore.

use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{Affinity, IpamBlockSpec};
use margay_api::{IpPool, IpamBlock, Metadata};

use crate::error::ClaimError;
use crate::lend::borrower;
use crate::pool::Eligible;
use crate::range::{Family, RangeSet, bounds, number, prefix};
use crate::scan::{block_name, next_block};

/// Blocks a node may have per family when IPAMConfiguration says nothing (Calico's IPAM code).
const DEFAULT_MAX_BLOCKS: usize = 20;

/// What a claim is planned from.
#[derive(Debug, Clone, Copy)]
pub struct ClaimQuery<'a> {
    /// This node's name.
    pub node: &'a str,
    /// The family wanted.
    pub family: Family,
    /// The pools that are open ([`crate::eligible_pools`]).
    pub eligible: &'a Eligible<'a>,
    /// Every block there is.
    pub blocks: &'a [&'a IpamBlock],
    /// Reserved addresses.
    pub reserved: &'a RangeSet,
    /// A block with this address is wanted, no other.
    pub containing: Option<IpAddr>,
    /// `maxBlocksPerHost` of IPAMConfiguration: absent 20, 0 no limit.
    pub max_blocks: Option<u32>,
}

/// A block to claim: create [`Claim::resource`]. If it exists already somebody was faster: list the blocks again, plan again.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The block.
    pub cidr: IpNet,
    /// Name of its pool.
    pub pool: String,
    /// The resource whose creation is the claim.
    pub resource: IpamBlock,
}

/// Chooses the block this node should claim.
///
/// # Errors
/// When no pool has a free one, or the node may have no more.
pub fn plan_claim(query: &ClaimQuery<'_>) -> Result<Claim, ClaimError> {
    let open: Vec<&IpPool> =
        query.eligible.pools.iter().copied().filter(|p| Family::of(&p.spec.cidr) == query.family).collect();
    if open.is_empty() {
        return Err(ClaimError::NoPool {
            node: query.node.to_owned(),
            family: query.family,
            excluded: query.eligible.excluded.clone(),
        });
    }
    let mine = Affinity::Host(query.node.to_owned());
    let of_family = |block: &&&IpamBlock| Family::of(&block.spec.cidr) == query.family;
    let have = query
        .blocks
        .iter()
        .filter(of_family)
        .filter(|block| block.spec.affinity.as_ref() == Some(&mine) && !block.spec.deleted)
        .filter(|block| borrower(block).is_none())
        .count();
    let max = match query.max_blocks {
        None => DEFAULT_MAX_BLOCKS,
        Some(0) => usize::MAX,
        Some(max) => usize::try_from(max).unwrap_or(usize::MAX),
    };
    if have >= max {
        return Err(ClaimError::TooManyBlocks {
            node: query.node.to_owned(),
            family: query.family,
            have,
            max,
        });
    }
    let taken = RangeSet::new(query.blocks.iter().map(|block| &block.spec.cidr));
    let chosen = match query.containing {
        None => open.iter().find_map(|pool| {
            let block = next_block(
                &pool.spec.cidr.trunc(),
                pool.spec.block_size(),
                query.node,
                &taken,
                query.reserved,
            )?;
            Some((*pool, block))
        }),
        Some(address) => claim_containing(query, &open, address, &taken)?,
    };
    let Some((pool, cidr)) = chosen else {
        let name = |pool: &&IpPool| format!("{} ({})", pool.metadata.name, pool.spec.cidr);
        return Err(ClaimError::Exhausted { family: query.family, pools: open.iter().map(name).collect() });
    };
    Ok(Claim { cidr, pool: pool.metadata.name.clone(), resource: fresh_block(cidr, mine) })
}

/// The block around one address, if it is free.
fn claim_containing<'a>(
    query: &ClaimQuery<'_>,
    open: &[&'a IpPool],
    address: IpAddr,
    taken: &RangeSet,
) -> Result<Option<(&'a IpPool, IpNet)>, ClaimError> {
    let Some(&pool) = open.iter().find(|pool| pool.spec.cidr.contains(&address)) else {
        return Ok(None);
    };
    let Some(cidr) = prefix(query.family, number(address), pool.spec.block_size()) else { return Ok(None) };
    if !taken.overlaps(&cidr) {
        return Ok(Some((pool, cidr)));
    }
    let (first, last) = bounds(&cidr);
    let other = query.blocks.iter().find(|block| {
        let (other_first, other_last) = bounds(&block.spec.cidr);
        Family::of(&block.spec.cidr) == query.family && first <= other_last && other_first <= last
    });
    Err(ClaimError::OthersBlock {
        address,
        block: other.map_or(cidr, |block| block.spec.cidr),
        owner: other
            .and_then(|block| block.spec.affinity.as_ref())
            .map_or("nobody".to_owned(), ToString::to_string),
    })
}

/// An empty block of this owner.
fn fresh_block(cidr: IpNet, affinity: Affinity) -> IpamBlock {
    IpamBlock::new(Metadata::named(block_name(&cidr)), empty_block(cidr, Some(affinity)))
}

/// A block of which nothing is used.
pub(crate) fn empty_block(cidr: IpNet, affinity: Option<Affinity>) -> IpamBlockSpec {
    let count = crate::block::address_count(&cidr).unwrap_or(0);
    IpamBlockSpec {
        cidr,
        affinity,
        affinity_claim_time: None,
        allocations: vec![None; usize::try_from(count).unwrap_or(0)],
        attributes: Vec::new(),
        unallocated: (0..count).collect(),
        strict_affinity: true,
        sequence_number: 0,
        sequence_number_for_allocation: std::collections::BTreeMap::new(),
        deleted: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{PoolQuery, Purpose, eligible_pools};

    fn pool(name: &str, cidr: &str, block: u8) -> IpPool {
        let json = serde_json::json!({ "cidr": cidr, "blockSize": block });
        IpPool::new(Metadata::named(name), serde_json::from_value(json).unwrap())
    }

    fn plan(
        node: &str,
        pools: &[IpPool],
        blocks: &[IpamBlock],
        containing: Option<&str>,
        max_blocks: Option<u32>,
    ) -> Result<Claim, ClaimError> {
        let pools: Vec<&IpPool> = pools.iter().collect();
        let none = std::collections::BTreeMap::new();
        let purpose = Purpose::Workload { namespace: &none };
        let eligible = eligible_pools(&pools, &PoolQuery { node: &none, purpose, requested: &[] }).unwrap();
        plan_claim(&ClaimQuery {
            node,
            family: Family::V4,
            eligible: &eligible,
            blocks: &blocks.iter().collect::<Vec<_>>(),
            reserved: &RangeSet::default(),
            containing: containing.map(|a| a.parse().unwrap()),
            max_blocks,
        })
    }

    #[test]
    fn nodes_claim_until_the_pools_are_empty_and_the_error_names_them() {
        let pools = [pool("a", "10.65.0.0/25", 26), pool("b", "10.66.0.0/26", 26)];
        let mut blocks = Vec::new();
        for node in ["n1", "n2", "n3"] {
            let claim = plan(node, &pools, &blocks, None, None).unwrap();
            assert_eq!(claim.resource.metadata.name, block_name(&claim.cidr));
            assert!(claim.resource.validate().is_ok(), "{:?}", claim.resource.validate());
            blocks.push(claim.resource);
        }
        assert_eq!(blocks[2].spec.cidr.to_string(), "10.66.0.0/26", "the second pool comes last");
        let error = plan("n4", &pools, &blocks, None, None).unwrap_err().to_string();
        assert!(error.contains("a (10.65.0.0/25), b (10.66.0.0/26) exhausted"), "{error}");
        let error = plan("n4", &[], &blocks, None, None).unwrap_err().to_string();
        assert!(error.contains("no IPPool may give node n4"), "{error}");
    }

    #[test]
    fn a_node_has_at_most_so_many_blocks() {
        let pools = [pool("a", "10.65.0.0/16", 26)];
        let one = plan("n1", &pools, &[], None, Some(1)).unwrap().resource;
        let blocks = [one];
        assert!(matches!(plan("n1", &pools, &blocks, None, Some(1)), Err(ClaimError::TooManyBlocks { .. })));
        assert!(plan("n1", &pools, &blocks, None, Some(0)).is_ok());
        assert!(plan("n2", &pools, &blocks, None, Some(1)).is_ok());
    }

    #[test]
    fn a_block_for_one_address() {
        let pools = [pool("a", "10.65.0.0/16", 24)];
        let claim = plan("n1", &pools, &[], Some("10.65.7.9"), None).unwrap();
        assert_eq!(claim.cidr.to_string(), "10.65.7.0/24");
        let blocks = [claim.resource];
        let error = plan("n2", &pools, &blocks, Some("10.65.7.9"), None).unwrap_err();
        assert!(error.to_string().contains("belongs to host:n1"), "{error}");
    }
}
