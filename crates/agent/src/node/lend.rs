//! Borrowing from the lender's side: requests in this node's blocks are granted or refused.

use std::collections::BTreeSet;

use margay_api::IpamBlock;
use margay_datastore::Revision;
use margay_ipam::{LendQuery, RangeSet, borrower};

use super::Node;
use crate::addresses::now;
use crate::writer::Write;

impl Node {
    /// Nodes may have addresses of others' blocks, unless an IPAMConfiguration says otherwise: Calico's default.
    pub(super) fn lends(&self) -> bool {
        self.cluster.ipam.as_ref().is_none_or(|conf| !conf.spec.strict_affinity)
    }

    /// Answers requests, and takes back what is given back.
    pub(super) fn lend(&mut self) {
        let blocks: Vec<&IpamBlock> = self
            .cluster
            .blocks
            .values()
            .map(|(block, _)| block)
            .filter(|block| borrower(block).is_some())
            .collect();
        let nodes = self.cluster.bgp.nodes.keys().map(String::as_str);
        let borrowers: BTreeSet<&str> = if self.lends() { nodes.collect() } else { BTreeSet::new() };
        let query = LendQuery {
            blocks: &blocks,
            borrowers: &borrowers,
            reserved: &RangeSet::new(&self.cluster.reserved()),
            now: now(),
            cooldown: self.cooldown(),
        };
        let lending = match self.addresses.lend(&query) {
            Ok(lending) => lending,
            Err(error) => return tracing::error!("cannot lend addresses: {error}"),
        };
        for granted in lending.grant {
            tracing::info!(cidr = %granted.spec.cidr, borrower = borrower(&granted), "lending an address");
            self.writer.push(granted.key(), Write::Grant(Box::new(granted)));
        }
        for name in lending.refuse {
            self.delete_block(&name);
        }
    }

    /// Deletes the block as it was seen.
    pub(super) fn delete_block(&self, name: &str) {
        let Some((block, revision)) = self.cluster.blocks.get(name) else { return };
        self.deletions.begin(block.key(), Revision(*revision));
    }

    /// Requests of this node's that nobody waits for any more.
    pub(super) fn drop_requests(&self) {
        if !self.claiming.is_empty() {
            return;
        }
        let own = self.cluster.blocks.iter().filter(|(_, (block, _))| {
            block.spec.affinity.is_none() && borrower(block) == Some(self.config.node.as_str())
        });
        own.for_each(|(name, _)| self.delete_block(name));
    }
}
