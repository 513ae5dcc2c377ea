//! Borrowing: a node that can get no block has single addresses of others' blocks.
//!
//! A borrowed address is a block of one address inside the lender's, and everything that is done with blocks is done
//! with it: routes, advertisement, journal, giving back. Only its claim takes two. The borrower creates the block without an
//! affinity, its name in the annotation [`BORROWER`]: a request. The lender, who alone knows what is free, writes
//! down that the address is lent, and then sets the affinity; or deletes the request. A block that is deleted is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::Affinity;
use margay_api::{IpamBlock, Metadata};

use crate::allocator::Allocator;
use crate::claim::{Claim, empty_block};
use crate::handle::{Attributes, Handle};
use crate::journal::{Record, Seconds};
use crate::pool::Eligible;
use crate::range::{Family, RangeSet, address_at};
use crate::scan::block_name;

/// Annotation of a block of one address: the node that asks for it or has it.
pub const BORROWER: &str = "margay.io/borrower";

/// [`Attributes::kind`] of addresses that another node has.
pub const LENT: &str = "lent";

/// The node that asks for this block of another's, or has it; absent for all other blocks.
pub fn borrower(block: &IpamBlock) -> Option<&str> {
    let single = block.spec.cidr.prefix_len() == block.spec.cidr.max_prefix_len();
    block.metadata.annotations.get(BORROWER).filter(|_| single).map(String::as_str)
}

/// What a request is planned from.
#[derive(Debug, Clone, Copy)]
pub struct BorrowQuery<'a> {
    /// Who needs an address.
    pub node: &'a str,
    /// Of which family.
    pub family: Family,
    /// Pools it may be of.
    pub eligible: &'a Eligible<'a>,
    /// Every block there is.
    pub blocks: &'a [&'a IpamBlock],
    /// Never borrowed.
    pub reserved: &'a RangeSet,
    /// This address and no other.
    pub containing: Option<IpAddr>,
    /// Nodes that did not answer.
    pub silent: &'a BTreeSet<String>,
    /// Addresses that were refused.
    pub refused: &'a BTreeSet<IpNet>,
}

/// The address to ask for, and whom: of the emptiest block one from the middle of the queue, where the lender itself is
/// last. Create [`Claim::resource`]; then the lender answers.
pub fn plan_borrow(query: &BorrowQuery<'_>) -> Option<(Claim, String)> {
    let known: BTreeSet<IpNet> = query.blocks.iter().map(|block| block.spec.cidr).collect();
    let mine = Affinity::Host(query.node.to_owned());
    let own = query.blocks.iter().filter(|block| block.spec.affinity.as_ref() == Some(&mine));
    let own = RangeSet::new(own.map(|block| &block.spec.cidr));
    let free = |block: &IpamBlock| -> Vec<IpNet> {
        let addresses = block.spec.unallocated.iter().filter_map(|at| address_at(&block.spec.cidr, *at));
        let open = addresses.filter(|address| match query.containing {
            Some(wanted) => *address == wanted,
            None => !query.reserved.contains(*address),
        });
        let open = open.map(IpNet::from);
        let elsewhere = open.filter(|one| !own.overlaps(one));
        elsewhere.filter(|one| !known.contains(one) && !query.refused.contains(one)).collect()
    };
    let lenders = query.blocks.iter().filter_map(|block| {
        let Some(Affinity::Host(owner)) = &block.spec.affinity else { return None };
        let cidr = block.spec.cidr;
        let may = owner != query.node && !query.silent.contains(owner) && borrower(block).is_none();
        let pool = query.eligible.pools.iter().find(|pool| pool.spec.cidr.contains(&cidr))?;
        (may && Family::of(&cidr) == query.family && !block.spec.deleted).then(|| (free(block), owner, pool))
    });
    let (free, owner, pool) =
        lenders.max_by_key(|(free, owner, _)| (free.len(), std::cmp::Reverse(*owner)))?;
    let cidr = *free.get(free.len() / 2)?;
    let mut metadata = Metadata::named(block_name(&cidr));
    metadata.annotations.insert(BORROWER.to_owned(), query.node.to_owned());
    let resource = IpamBlock::new(metadata, empty_block(cidr, None));
    Some((Claim { cidr, pool: pool.metadata.name.clone(), resource }, owner.clone()))
}

/// What a lender answers from.
#[derive(Debug, Clone, Copy)]
pub struct LendQuery<'a> {
    /// Every block there is.
    pub blocks: &'a [&'a IpamBlock],
    /// Nodes that may have more (`strictAffinity` is off, and they exist).
    pub borrowers: &'a BTreeSet<&'a str>,
    /// Never lent.
    pub reserved: &'a RangeSet,
    /// The time.
    pub now: Seconds,
    /// How long a released address rests.
    pub cooldown: Seconds,
}

/// What a lender does about requests, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lending {
    /// To be written down before anything else.
    pub records: Vec<Record>,
    /// Requests to be granted, as they should be.
    pub grant: Vec<IpamBlock>,
    /// Names of requests to be deleted.
    pub refuse: Vec<String>,
}

impl Allocator {
    /// Lends what is asked for, and takes back what was given back. Asked again, it says the same: a grant that was lost is repeated.
    pub fn lend(&mut self, query: &LendQuery<'_>) -> Lending {
        let mut lending = Lending::default();
        let mut lent: BTreeMap<Handle, &str> = BTreeMap::new();
        for block in query.blocks {
            let Some(borrower) = borrower(block) else { continue };
            let cidr = block.spec.cidr;
            if !self.blocks().any(|own| own.contains(&cidr) && own != cidr) {
                continue;
            }
            let handle = Handle::lent(&cidr);
            let is_granted = block.spec.affinity.is_some();
            let known = self.owned(&handle).map(|owned| owned.attributes.node.as_deref() == Some(borrower));
            // Granted and forgotten: the journal was lost.
            let give = known.is_none()
                && (is_granted
                    || (query.borrowers.contains(borrower)
                        && self.is_free(cidr.addr(), query.reserved, query.now, query.cooldown)));
            let record = give.then(|| Record::Assign {
                handle: handle.clone(),
                addresses: vec![cidr.addr()],
                attributes: Attributes {
                    node: Some(borrower.to_owned()),
                    kind: Some(LENT.to_owned()),
                    ..Attributes::default()
                },
            });
            let record = record.filter(|record| self.apply(record).is_ok());
            let has = record.is_some() || known == Some(true);
            lending.records.extend(record);
            if has && !is_granted {
                let mut granted = (*block).clone();
                granted.spec.affinity = Some(Affinity::Host(borrower.to_owned()));
                lending.grant.push(granted);
            } else if !has && !is_granted {
                lending.refuse.push(block.metadata.name.clone());
            }
            lent.insert(handle, borrower);
        }
        let of_others = self.owners().filter(|(_, owned)| owned.attributes.kind.as_deref() == Some(LENT));
        let back = of_others.filter(|(handle, owned)| {
            lent.get(*handle).is_none_or(|borrower| owned.attributes.node.as_deref() != Some(*borrower))
        });
        for handle in back.map(|(handle, _)| handle.clone()).collect::<Vec<_>>() {
            lending.records.extend(self.release(&handle, query.now));
        }
        lending
    }
}

#[cfg(test)]
mod tests {
    use margay_api::IpPool;

    use super::*;

    fn lender() -> (Allocator, IpamBlock) {
        let mut allocator = Allocator::default();
        let cidr = "10.65.0.0/30".parse().unwrap();
        allocator.add_block(cidr, 1).unwrap();
        let block = allocator.to_block_resource(&cidr, "n1", None).unwrap();
        (allocator, block)
    }

    fn request(blocks: &[&IpamBlock]) -> Option<(Claim, String)> {
        request_for(blocks, None)
    }

    fn request_for(blocks: &[&IpamBlock], containing: Option<IpAddr>) -> Option<(Claim, String)> {
        let spec = serde_json::json!({ "cidr": "10.65.0.0/28", "blockSize": 30 });
        let pool = IpPool::new(Metadata::named("p"), serde_json::from_value(spec).unwrap());
        let none = (BTreeSet::new(), BTreeSet::new());
        plan_borrow(&BorrowQuery {
            node: "n2",
            family: Family::V4,
            eligible: &Eligible { pools: vec![&pool], excluded: Vec::new() },
            blocks,
            reserved: &RangeSet::default(),
            containing,
            silent: &none.0,
            refused: &none.1,
        })
    }

    fn answer(allocator: &mut Allocator, blocks: &[&IpamBlock], borrowers: &[&str]) -> Lending {
        let reserved = RangeSet::default();
        let borrowers = &borrowers.iter().copied().collect();
        allocator.lend(&LendQuery { blocks, borrowers, reserved: &reserved, now: 0, cooldown: 0 })
    }

    #[test]
    fn an_address_is_asked_for_lent_and_given_back() {
        let (mut allocator, block) = lender();
        let (claim, owner) = request(&[&block]).unwrap();
        assert_eq!((claim.cidr.to_string().as_str(), owner.as_str()), ("10.65.0.2/32", "n1"));
        assert!(claim.resource.validate().is_ok(), "{:?}", claim.resource.validate());
        let refused = answer(&mut allocator, &[&block, &claim.resource], &[]);
        assert_eq!(refused.refuse, ["10-65-0-2-32"]);
        let lending = answer(&mut allocator, &[&block, &claim.resource], &["n2"]);
        assert_eq!(lending.records.len(), 1);
        assert_eq!(lending.grant[0].spec.affinity, Some(Affinity::Host("n2".into())));
        assert_eq!(allocator.owner_of(claim.cidr.addr()), Some(&Handle::lent(&claim.cidr)));
        // The grant was lost: once more, and nothing else.
        let again = answer(&mut allocator, &[&block, &claim.resource], &["n2"]);
        assert_eq!((again.records.len(), again.grant.len(), again.refuse.len()), (0, 1, 0));
        assert_eq!(answer(&mut allocator, &[&block, &lending.grant[0]], &["n2"]), Lending::default());
        // A journal that forgot it is told by the grant.
        let mut fresh = lender().0;
        assert_eq!(answer(&mut fresh, &[&block, &lending.grant[0]], &[]).records.len(), 1);
        assert_eq!(answer(&mut allocator, &[&block], &["n2"]).records.len(), 1, "deleted: it is back");
        assert_eq!(allocator.owner_of(claim.cidr.addr()), None);
    }

    #[test]
    fn the_very_address_is_asked_for_if_it_is_free() {
        let (mut allocator, block) = lender();
        let address: IpAddr = "10.65.0.1".parse().unwrap();
        let (claim, owner) = request_for(&[&block], Some(address)).unwrap();
        assert_eq!((claim.cidr, owner.as_str()), (IpNet::from(address), "n1"));
        let lending = answer(&mut allocator, &[&block, &claim.resource], &["n2"]);
        assert_eq!(lending.grant.len(), 1);
        let lent = allocator.to_block_resource(&block.spec.cidr, "n1", None).unwrap();
        assert!(request_for(&[&lent], Some(address)).is_none(), "it is in use");
        assert!(request_for(&[&lent], Some("10.65.0.9".parse().unwrap())).is_none(), "of no block");
    }

    #[test]
    fn what_is_in_use_is_refused() {
        let (mut allocator, block) = lender();
        let (claim, _) = request(&[&block]).unwrap();
        for address in 0..4 {
            let address = format!("10.65.0.{address}").parse().unwrap();
            let handle = Handle::from_text(format!("{address}"));
            let attributes = Attributes::default();
            allocator.apply(&Record::Assign { handle, addresses: vec![address], attributes }).unwrap();
        }
        let lending = answer(&mut allocator, &[&block, &claim.resource], &["n2"]);
        assert_eq!((lending.records.len(), lending.refuse.len()), (0, 1));
        let full = allocator.to_block_resource(&block.spec.cidr, "n1", None).unwrap();
        assert!(request(&[&full]).is_none());
    }
}
