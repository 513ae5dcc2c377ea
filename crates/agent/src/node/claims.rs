//! Blocks: claimed from the datastore when needed, adopted when the journal was lost, given up when lost.

use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::IpamBlock;
use margay_api::kinds::{Affinity, AllowedUse, IpPoolSpec};
use margay_control::status::Problem;
use margay_datastore::Revision;
use margay_ipam::{Family, Handle};
use margay_routing::Backend;

use super::claim_task::{ClaimTask, Made};
use super::{Internal, Node};
use crate::addresses::now;
use crate::writer::Write;

impl Node {
    /// Keeps allocator and datastore in agreement about which blocks are ours; makes sure there is one per family
    /// that a pool offers, and that the node's tunnels have addresses.
    pub(super) async fn update_blocks(&mut self) {
        if self.coming_back {
            return;
        }
        let held: Vec<IpNet> = self.addresses.allocator().blocks().collect();
        self.adopt_blocks();
        self.lend();
        let mut lost = Vec::new();
        for cidr in &held {
            let ours = self.is_ours(cidr);
            self.addresses.freeze(cidr, !ours);
            if ours {
                continue;
            }
            let usage = self.addresses.allocator().usage(now(), 0);
            let used = usage.iter().any(|block| block.cidr == *cidr && block.used > 0);
            if !used {
                if let Err(error) = self.addresses.drop_block(*cidr) {
                    tracing::warn!("forgetting block {cidr}, which is not this node's any more: {error}");
                }
            } else if !self.is_others(cidr) {
                self.reclaim(*cidr);
            } else {
                lost.push(Problem {
                    object: format!("IPAMBlock({})", margay_ipam::block_name(cidr)),
                    message: format!(
                        "block {cidr} holds addresses of this node but the datastore gives it to somebody else: \
                         nothing is assigned from it; delete its pods"
                    ),
                });
            }
        }
        for family in [Family::V4, Family::V6] {
            // Not having what no pool offers is no problem, except to who asks for it.
            if self.offered(family).is_empty() && !self.claiming.contains(&family) {
                self.claim_problems.remove(&family);
            }
        }
        lost.extend(self.claim_problems.iter().map(|(family, message)| Problem {
            object: format!("IPAM({family})"),
            message: message.clone(),
        }));
        self.health.set_problems("ipam", lost);
        for family in [Family::V4, Family::V6] {
            self.claim_first(family);
        }
        self.update_tunnel_addresses();
        for cidr in &held {
            self.mirror_block(cidr);
        }
        self.originate().await;
        self.report_blocks();
    }

    /// Takes up blocks of ours that are not held, and what the journal has lost of those that are.
    pub(super) fn adopt_blocks(&mut self) {
        let blocks: Vec<(&IpamBlock, u64)> =
            self.cluster.blocks.values().map(|(block, revision)| (block, *revision)).collect();
        self.addresses.mend(&blocks);
        let held = self.addresses.allocator();
        let unknown = self.leftovers.given_back.unknown(&self.config.node, held, &self.claiming, &blocks);
        if !unknown.adopt.is_empty() {
            tracing::info!(blocks = unknown.adopt.len(), "taking up blocks that the journal does not know");
            self.addresses.adopt(&unknown.adopt);
        }
        for (block, revision) in unknown.yielding {
            tracing::info!(cidr = %block.spec.cidr, "another block was there first: deleting this one");
            self.leftovers.given_back.insert(block.spec.cidr, revision);
            self.deletions.begin(block.key(), Revision(revision));
        }
    }

    /// The datastore says that the block is this node's.
    fn is_ours(&self, cidr: &IpNet) -> bool {
        let own = Some(Affinity::Host(self.config.node.clone()));
        let is_it = |(block, _): &(IpamBlock, u64)| block.spec.cidr == *cidr && block.spec.affinity == own;
        let blocks = &self.cluster.blocks;
        // Others may name blocks in ways of their own.
        blocks.get(&margay_ipam::block_name(cidr)).is_some_and(is_it) || blocks.values().any(is_it)
    }

    /// The datastore says that the block, or some of it that this node has not lent, is somebody else's.
    pub(super) fn is_others(&self, cidr: &IpNet) -> bool {
        let is_lent = |other: &IpNet| self.addresses.allocator().owned(&Handle::lent(other)).is_some();
        let overlaps = |other: &IpNet| other.contains(cidr) || (cidr.contains(other) && !is_lent(other));
        !self.is_ours(cidr) && self.cluster.blocks.values().any(|(block, _)| overlaps(&block.spec.cidr))
    }

    /// A node needs a block to be ready, unless no pool is for it, or there is none and another plugin gives addresses.
    fn report_blocks(&self) {
        let blocks = self.addresses.allocator().blocks().count();
        let families = [Family::V4, Family::V6];
        let offered = families.iter().any(|family| !self.offered(*family).is_empty());
        let pools = !self.cluster.bgp.pools_in_force().is_empty();
        let others = self.config.backend == Backend::None || !self.pod_cidrs().cidrs.is_empty();
        let elsewhere = !offered && (pools || others);
        let message = match self.claim_problems.values().next() {
            Some(problem) if blocks == 0 => problem.clone(),
            _ if blocks == 0 && elsewhere && pools => {
                "no IPPool gives this node addresses unasked".to_owned()
            }
            _ if blocks == 0 && elsewhere => "no IPPool: addresses come from another plugin".to_owned(),
            _ => format!("{blocks} blocks"),
        };
        self.health.set("ipam", blocks > 0 || elsewhere, message);
    }

    /// Pools of a family that give this node's pods addresses nobody asked a pool for; which namespaces may use one matters when
    /// an address is taken from a block, not for having one.
    pub(super) fn offered(&self, family: Family) -> Vec<IpNet> {
        let labels = self.own_labels();
        let pools = self.cluster.bgp.pools_in_force().into_iter().map(|pool| &pool.spec);
        let unasked = |pool: &IpPoolSpec| {
            pool.assigns_automatically() && pool.allows(AllowedUse::Workload) && pool.selects_node(&labels)
        };
        let open = pools.filter(|pool| Family::of(&pool.cidr) == family && unasked(pool));
        open.map(|pool| pool.cidr.trunc()).collect()
    }

    /// A node that may use a pool of the family has at least one block of it.
    fn claim_first(&mut self, family: Family) {
        let offered = self.offered(family);
        let is_offered = |block: IpNet| offered.iter().any(|pool| pool.contains(&block));
        let has_block = self.addresses.allocator().blocks().any(is_offered);
        if !has_block && !offered.is_empty() {
            self.claim(Wanted { family, pools: offered, containing: None });
        }
    }

    /// Claims a block in a task of its own.
    pub(super) fn claim(&mut self, wanted: Wanted) {
        if self.claiming.contains(&wanted.family) {
            return;
        }
        self.claiming.push(wanted.family);
        let in_force = self.cluster.bgp.pools_in_force();
        let claim = ClaimTask {
            store: self.store.clone(),
            node: self.config.node.clone(),
            labels: self.own_labels(),
            family: wanted.family,
            containing: wanted.containing,
            pools: in_force
                .into_iter()
                .filter(|pool| wanted.pools.contains(&pool.spec.cidr.trunc()))
                .cloned()
                .collect(),
            reserved: self.cluster.reserved(),
            max_blocks: self.cluster.ipam.as_ref().and_then(|conf| conf.spec.max_blocks_per_host),
            may_borrow: self.lends(),
        };
        let done = self.internal.0.clone();
        tokio::spawn(async move {
            let outcome = claim.run().await;
            let _gone = done.send(Internal::Claimed(wanted, Box::new(outcome))).await;
        });
    }

    /// Nobody has this block any more: it was deleted by mistake, or together with our Node by somebody who took us for
    /// dead. Its pods are alive, so it is claimed again as it is.
    fn reclaim(&mut self, cidr: IpNet) {
        let family = Family::of(&cidr);
        let block = self.addresses.allocator().to_block_resource(&cidr, &self.config.node, None);
        let (Some(block), false) = (block, self.claiming.contains(&family)) else { return };
        self.claiming.push(family);
        // A problem until it is done: so it is tried again.
        self.claim_problems.insert(family, format!("block {cidr} was deleted; making it again"));
        let (store, done) = (self.store.clone(), self.internal.0.clone());
        tokio::spawn(async move {
            let made = store.create(block.clone().into()).await;
            let outcome = made
                .map(|revision| Made { block, fence: revision.0, behind: None })
                .map_err(|error| format!("block {cidr} was deleted and cannot be made again: {error}"));
            let wanted = Wanted { family, pools: vec![cidr], containing: None };
            let _stopping = done.send(Internal::Claimed(wanted, Box::new(outcome))).await;
        });
    }

    /// A claim ended.
    pub(super) async fn on_claimed(&mut self, wanted: Wanted, outcome: Result<Made, String>) {
        self.claiming.retain(|claiming| *claiming != wanted.family);
        if let Ok(Made { block, fence, behind: Some(first) }) = &outcome {
            tracing::info!(cidr = %block.spec.cidr, %first, "another block was there first: claiming anew");
            self.leftovers.given_back.insert(block.spec.cidr, *fence);
            self.deletions.begin(block.key(), Revision(*fence));
            return self.claim(wanted);
        }
        let outcome = outcome.and_then(|Made { block, fence, .. }| {
            let cidr = block.spec.cidr;
            self.addresses.add_block(cidr, fence).map_err(|error| error.to_string())?;
            // The datastore tells the same in a moment; until then the block must not look like somebody else's.
            self.router.set_block(&block);
            self.cluster.blocks.insert(block.metadata.name.clone(), (block, fence));
            Ok(cidr)
        });
        match outcome {
            Ok(cidr) => {
                tracing::info!(%cidr, "claimed a block");
                self.claim_problems.remove(&wanted.family);
                self.add_waiting(None);
                self.update_tunnel_addresses();
                // Of addresses of tunnels nobody else tells the datastore.
                self.mirror_block(&cidr);
                self.originate().await;
                self.health.set(
                    "ipam",
                    true,
                    format!("{} blocks", self.addresses.allocator().blocks().count()),
                );
                self.update_routes();
            }
            Err(problem) => {
                self.add_waiting(Some((&wanted, &problem)));
                // That one address cannot be had is a problem of who asked for it.
                if wanted.containing.is_none() {
                    if self.addresses.allocator().blocks().next().is_none() {
                        self.health.set("ipam", false, problem.clone());
                    }
                    self.claim_problems.insert(wanted.family, problem);
                }
            }
        }
        // What was heard of meanwhile waited for this.
        self.adopt_blocks();
    }

    /// Shows the datastore which addresses of our blocks are in use, after a change of these.
    pub(super) fn mirror_blocks(&self, changed: &[IpAddr]) {
        let blocks = self.addresses.allocator().blocks();
        for cidr in blocks.filter(|block| changed.iter().any(|address| block.contains(address))) {
            self.mirror_block(&cidr);
        }
    }

    fn mirror_block(&self, cidr: &IpNet) {
        let current = self.cluster.blocks.get(&margay_ipam::block_name(cidr)).map(|(block, _)| block);
        let resource = self.addresses.allocator().to_block_resource(cidr, &self.config.node, current);
        if let (Some(current), Some(resource)) = (current, resource)
            && current.spec != resource.spec
        {
            self.writer.push(resource.key(), Write::OwnBlock(Box::new(resource)));
        }
    }
}

/// What a block is claimed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) family: Family,
    /// A block of any of these.
    pub(super) pools: Vec<IpNet>,
    /// The block that has this address.
    pub(super) containing: Option<IpAddr>,
}
