//! What to do about blocks that the datastore says are this node's and that it does not hold: its journal was lost, its claim was answered
//! late or never, somebody made one for it. Or the news is old.

use std::collections::BTreeMap;

use ipnet::IpNet;
use margay_api::IpamBlock;
use margay_api::kinds::Affinity;

use crate::allocator::Allocator;
use crate::lend::borrower;
use crate::range::Family;

/// Blocks that were given back, or made room for others, each with the revision that was deleted: what is told of it as of then is late,
/// and no reason to take it up again. Another node may have it by now.
#[derive(Debug, Clone, Default)]
pub struct GivenBack(BTreeMap<IpNet, u64>);

/// Blocks of this node's that it does not hold.
#[derive(Debug, Default, PartialEq)]
pub struct Unknown<'a> {
    /// To be taken up ([`crate::adopt`]).
    pub adopt: Vec<(&'a IpamBlock, u64)>,
    /// To be deleted as they are: another block came first ([`yields_to`]).
    pub yielding: Vec<(&'a IpamBlock, u64)>,
}

impl GivenBack {
    /// The block is deleted at this revision.
    pub fn insert(&mut self, block: IpNet, revision: u64) {
        self.0.insert(block, revision);
    }

    /// Sorts what a node does not hold of all blocks there are, each with the revision of its last change. While it is `claiming` one of a
    /// family, a fresh one waits: the claim's outcome is what counts.
    pub fn unknown<'a>(
        &self,
        node: &str,
        held: &Allocator,
        claiming: &[Family],
        blocks: &[(&'a IpamBlock, u64)],
    ) -> Unknown<'a> {
        let own = Affinity::Host(node.to_owned());
        let mut unknown = Unknown::default();
        for (block, revision) in blocks {
            let spec = &block.spec;
            let is_late = self.0.get(&spec.cidr).is_some_and(|deleted| revision <= deleted);
            if spec.affinity.as_ref() != Some(&own)
                || spec.deleted
                || is_late
                || (is_fresh(block) && claiming.contains(&Family::of(&spec.cidr)))
                || held.block(&spec.cidr).is_some()
            {
                continue;
            }
            match yields_to(block, *revision, blocks) {
                None => unknown.adopt.push((block, *revision)),
                Some(_) => unknown.yielding.push((block, *revision)),
            }
        }
        unknown
    }
}

/// The block that this one has to make room for: whoever has created a block looks at all others before using it.
///
/// Two nodes that know a pool by different block sizes may create blocks over one range at the same time, each by a name of its own. Until
/// something is written into a block its revision is that of its creation, so the later of two makes room for the earlier
/// one, and for one that is in use.
pub fn yields_to(own: &IpamBlock, revision: u64, blocks: &[(&IpamBlock, u64)]) -> Option<IpNet> {
    let cidr = own.spec.cidr;
    let overlaps = |other: &IpNet| *other != cidr && (other.contains(&cidr) || cidr.contains(other));
    let in_the_way = |(block, at): &&(&IpamBlock, u64)| {
        let is_request = borrower(block).is_some() && block.spec.affinity.is_none();
        overlaps(&block.spec.cidr) && !is_request && (!is_fresh(block) || *at < revision)
    };
    let found = blocks.iter().filter(|_| is_fresh(own)).find(in_the_way);
    found.map(|(block, _)| block.spec.cidr)
}

/// Nothing was written into it since it was created.
fn is_fresh(block: &IpamBlock) -> bool {
    let spec = &block.spec;
    let unused = spec.sequence_number == 0 && spec.allocations.iter().all(Option::is_none);
    unused && spec.affinity_claim_time.is_none() && borrower(block).is_none()
}

#[cfg(test)]
mod tests {
    use margay_api::Metadata;

    use super::*;
    use crate::claim::empty_block;
    use crate::scan::block_name;

    fn block(cidr: &str, node: &str) -> IpamBlock {
        let cidr = cidr.parse().unwrap();
        let affinity = Some(Affinity::Host(node.to_owned()));
        IpamBlock::new(Metadata::named(block_name(&cidr)), empty_block(cidr, affinity))
    }

    /// The answer to a deletion and the notice of it come by ways of their own: between them the block looks like ours.
    #[test]
    fn a_block_that_was_given_back_is_taken_up_only_when_it_was_made_again() {
        let block = block("10.65.0.0/26", "n1");
        let mut given_back = GivenBack::default();
        let held = Allocator::default();
        let adopts = |given_back: &GivenBack, revision| {
            !given_back.unknown("n1", &held, &[], &[(&block, revision)]).adopt.is_empty()
        };
        assert!(adopts(&given_back, 7));
        given_back.insert(block.spec.cidr, 7);
        assert!(!adopts(&given_back, 6) && !adopts(&given_back, 7), "late news");
        assert!(adopts(&given_back, 8), "claimed again, or changed before it was deleted");
        assert!(
            given_back.unknown("n1", &held, &[Family::V4], &[(&block, 8)]).adopt.is_empty(),
            "claiming it"
        );
        assert!(given_back.unknown("n2", &held, &[], &[(&block, 8)]).adopt.is_empty(), "another node's");
    }

    #[test]
    fn of_two_blocks_over_one_range_the_later_one_makes_room() {
        let (small, large) = (block("10.65.0.0/26", "n1"), block("10.65.0.0/24", "n2"));
        let both = [(&small, 5), (&large, 6)];
        assert_eq!(yields_to(&small, 5, &both), None);
        assert_eq!(yields_to(&large, 6, &both), Some(small.spec.cidr));
        let unknown = GivenBack::default().unknown("n2", &Allocator::default(), &[], &both);
        assert_eq!((unknown.adopt.len(), unknown.yielding.len()), (0, 1));
        // In use, so its revision says nothing of when it was created.
        let mut used = small.clone();
        used.spec.sequence_number = 1;
        let both = [(&used, 9), (&large, 6)];
        assert_eq!(yields_to(&large, 6, &both), Some(used.spec.cidr));
        assert_eq!(yields_to(&used, 9, &both), None);
        let elsewhere = block("10.65.1.0/26", "n1");
        assert_eq!(yields_to(&large, 6, &[(&elsewhere, 5), (&large, 6)]), None);
    }
}
