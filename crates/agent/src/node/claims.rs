//! Blocks: claimed from the datastore when needed, adopted when the journal was lost, given up when lost.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use margay_api::kinds::{Affinity, AllowedUse, IpPoolSpec};
use margay_api::{IpPool, IpamBlock, Key, Kind, Node as NodeResource, Resource};
use margay_control::status::Problem;
use margay_datastore::{Error, Revision, Store};
use margay_ipam::{
    AssignError, Attributes, BorrowQuery, ClaimError, ClaimQuery, Family, Handle, PoolQuery, Purpose,
    RangeSet, Request as AddressRequest, eligible_pools, plan_borrow, plan_claim,
};
use margay_routing::{Backend, Encapsulation, tunnels_needed, with_tunnel_address};

use super::{Internal, Node};
use crate::addresses::{AddressError, now};
use crate::writer::Write;

/// Times a claim is planned anew after another node was faster.
const ATTEMPTS: u32 = 64;

/// Longest wait for a node that is asked for an address, and how often its answer is looked for.
const LENDER_TIME: Duration = Duration::from_secs(5);
/// See [`LENDER_TIME`].
const LENDER_POLL: Duration = Duration::from_millis(20);

/// Longest wait for tunnel devices before the cluster is told of them.
const DEVICE_TIME: Duration = Duration::from_secs(10);

impl Node {
    /// Keeps allocator and datastore in agreement about which blocks are ours; makes sure there is one per family
    /// that a pool offers, and that the node's tunnels have addresses.
    pub(super) async fn update_blocks(&mut self) {
        let held: Vec<IpNet> = self.addresses.allocator().blocks().collect();
        let in_store: Vec<(IpamBlock, u64)> = self
            .cluster
            .blocks_of(&self.config.node)
            .into_iter()
            .map(|(block, fence)| (block.clone(), fence))
            .collect();
        let unknown: Vec<(&IpamBlock, u64)> = in_store
            .iter()
            .filter(|(block, fence)| {
                let cidr = &block.spec.cidr;
                !held.contains(cidr) && self.leftovers.is_current(cidr, *fence)
            })
            .map(|(block, fence)| (block, *fence))
            .collect();
        if !unknown.is_empty() {
            tracing::info!(blocks = unknown.len(), "taking up blocks that the journal does not know");
            self.addresses.adopt(&unknown);
        }
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

    /// A node needs a block to be ready, unless no pool is for it.
    fn report_blocks(&self) {
        let blocks = self.addresses.allocator().blocks().count();
        let families = [Family::V4, Family::V6];
        let offered = families.iter().any(|family| !self.offered(*family).is_empty());
        let pools = !self.cluster.bgp.pools_in_force().is_empty();
        let elsewhere = !offered && (pools || self.config.backend == Backend::None);
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
                .map(|revision| (block, revision.0))
                .map_err(|error| format!("block {cidr} was deleted and cannot be made again: {error}"));
            let wanted = Wanted { family, pools: vec![cidr], containing: None };
            let _stopping = done.send(Internal::Claimed(wanted, Box::new(outcome))).await;
        });
    }

    /// A claim ended.
    pub(super) async fn on_claimed(&mut self, wanted: &Wanted, outcome: Result<(IpamBlock, u64), String>) {
        self.claiming.retain(|claiming| *claiming != wanted.family);
        let outcome = outcome.and_then(|(block, fence)| {
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
                self.originate().await;
                self.health.set(
                    "ipam",
                    true,
                    format!("{} blocks", self.addresses.allocator().blocks().count()),
                );
                self.update_routes();
            }
            Err(problem) => {
                self.add_waiting(Some((wanted, &problem)));
                // That one address cannot be had is a problem of who asked for it.
                if wanted.containing.is_none() {
                    if self.addresses.allocator().blocks().next().is_none() {
                        self.health.set("ipam", false, problem.clone());
                    }
                    self.claim_problems.insert(wanted.family, problem);
                }
            }
        }
    }

    /// The node's tunnel devices take addresses of its own blocks.
    fn update_tunnel_addresses(&mut self) {
        let pools: Vec<IpPool> = self.cluster.bgp.pools_in_force().into_iter().cloned().collect();
        let pools: Vec<&IpPool> = pools.iter().collect();
        for (encapsulation, family) in tunnels_needed(self.router.settings(), &pools) {
            let family = match family {
                margay_routing::Family::V4 => Family::V4,
                margay_routing::Family::V6 => Family::V6,
            };
            if let Some(address) = self.tunnel_address(&pools, encapsulation, family)
                && let Some(node) = self.cluster.bgp.nodes.get(&self.config.node)
                && let Some(changed) = with_tunnel_address(node, encapsulation, address)
            {
                self.write_own_node(changed);
            }
        }
    }

    /// Uses the node's own object at once, and writes it once its tunnels are there: when others hear of them, they send.
    pub(super) fn write_own_node(&mut self, node: NodeResource) {
        self.cluster.bgp.nodes.insert(self.config.node.clone(), Box::new(node.clone()));
        self.cluster_changed();
        let generation = self.update_routes();
        let (mut reached, writer, key) = (self.forwarding.reached(), self.writer.clone(), self.own_key());
        tokio::spawn(async move {
            let made = reached.wait_for(|reached| reached.has(generation, &[]));
            // A kernel that refuses is said to be so elsewhere.
            let _late = tokio::time::timeout(DEVICE_TIME, made).await;
            writer.push(key, Write::OwnNode(Box::new(node)));
        });
    }

    fn tunnel_address(
        &mut self,
        pools: &[&IpPool],
        encapsulation: Encapsulation,
        family: Family,
    ) -> Option<IpAddr> {
        let labels = self.own_labels();
        let query = PoolQuery { node: &labels, purpose: Purpose::Tunnel, requested: &[] };
        let eligible = eligible_pools(pools, &query).ok()?;
        let cidrs = eligible.cidrs();
        let reserved = self.cluster.reserved();
        let node = &self.config.node;
        let (handle, kind) = match (encapsulation, family) {
            (Encapsulation::Vxlan, Family::V4) => (Handle::vxlan_tunnel(node), "vxlanTunnelAddress"),
            (Encapsulation::Vxlan, Family::V6) => (Handle::vxlan_v6_tunnel(node), "vxlanV6TunnelAddress"),
            (Encapsulation::Ipip, Family::V4) => (Handle::ipip_tunnel(node), "ipipTunnelAddress"),
            (Encapsulation::Wireguard, Family::V4) => {
                (Handle::wireguard_tunnel(node), "wireguardTunnelAddress")
            }
            (Encapsulation::Wireguard, Family::V6) => {
                (Handle::wireguard_v6_tunnel(node), "wireguardV6TunnelAddress")
            }
            (Encapsulation::Ipip, Family::V6) | (Encapsulation::None, _) => return None,
        };
        let request = AddressRequest {
            handle,
            attributes: Attributes {
                node: Some(self.config.node.clone()),
                kind: Some(kind.to_owned()),
                ..Attributes::default()
            },
            families: &[family],
            addresses: &[],
            pools: &cidrs,
            reserved: &RangeSet::new(&reserved),
            now: now(),
            cooldown: 0,
        };
        match self.addresses.assign(&request) {
            Ok(addresses) => addresses.first().copied(),
            Err(error) => {
                tracing::debug!("no tunnel address yet: {error}");
                if let AddressError::Assign(AssignError::NeedBlock { pools, .. }) = error {
                    self.claim(Wanted { family, pools, containing: None });
                }
                None
            }
        }
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

/// Everything a claim needs, so that the node's task does not wait for the datastore.
struct ClaimTask {
    store: Store,
    node: String,
    labels: std::collections::BTreeMap<String, String>,
    family: Family,
    containing: Option<IpAddr>,
    pools: Vec<IpPool>,
    reserved: Vec<IpNet>,
    max_blocks: Option<u32>,
    may_borrow: bool,
}

impl ClaimTask {
    async fn run(self) -> Result<(IpamBlock, u64), String> {
        let pools: Vec<&IpPool> = self.pools.iter().collect();
        let query = PoolQuery {
            node: &self.labels,
            purpose: Purpose::Workload { namespace: &self.labels },
            requested: &[],
        };
        // Who asks for a block of these pools has looked at what they may be used for.
        let open: Vec<IpPool> = pools
            .iter()
            .map(|pool| {
                let mut pool = (*pool).clone();
                pool.spec.namespace_selector = None;
                pool.spec.assignment_mode = None;
                pool.spec.allowed_uses = Vec::new();
                pool
            })
            .collect();
        let open: Vec<&IpPool> = open.iter().collect();
        let eligible = eligible_pools(&open, &query).map_err(|error| error.to_string())?;
        let reserved = RangeSet::new(&self.reserved);
        let (mut silent, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..ATTEMPTS {
            let blocks = self.blocks().await?;
            let blocks: Vec<&IpamBlock> = blocks.iter().collect();
            let claim = plan_claim(&ClaimQuery {
                node: &self.node,
                family: self.family,
                eligible: &eligible,
                blocks: &blocks,
                reserved: &reserved,
                containing: self.containing,
                max_blocks: self.max_blocks,
            });
            let (claim, lender) = match claim {
                Ok(claim) => (claim, None),
                Err(
                    error @ (ClaimError::Exhausted { .. }
                    | ClaimError::TooManyBlocks { .. }
                    | ClaimError::OthersBlock { .. }),
                ) if self.may_borrow => {
                    let query = BorrowQuery {
                        node: &self.node,
                        family: self.family,
                        eligible: &eligible,
                        blocks: &blocks,
                        reserved: &reserved,
                        containing: self.containing,
                        silent: &silent,
                        refused: &refused,
                    };
                    let (claim, lender) = plan_borrow(&query).ok_or_else(|| error.to_string())?;
                    (claim, Some(lender))
                }
                Err(error) => return Err(error.to_string()),
            };
            let revision = match self.store.create(claim.resource.clone().into()).await {
                Ok(revision) => revision,
                Err(Error::AlreadyExists { .. } | Error::Uncertain(_)) => continue,
                Err(error) => return Err(format!("cannot claim a block: {error}")),
            };
            let Some(lender) = lender else { return Ok((claim.resource, revision.0)) };
            match self.lent(&claim.resource.key(), revision).await? {
                Lent::Yes(block, revision) => return Ok((*block, revision)),
                Lent::No => drop(refused.insert(claim.cidr)),
                Lent::NoAnswer => drop(silent.insert(lender)),
            }
        }
        Err(format!("cannot claim a block: other nodes were faster {ATTEMPTS} times; trying again"))
    }

    /// Every block there is.
    async fn blocks(&self) -> Result<Vec<IpamBlock>, String> {
        let listed = self.store.list(&[Kind::IpamBlock.into()]).await;
        let listed = listed.map_err(|error| format!("cannot claim a block: {error}"))?;
        let blocks = listed.items.into_iter().filter_map(|item| match item.resource.as_deref() {
            Ok(Resource::IpamBlock(block)) => Some(block.clone()),
            _ => None,
        });
        Ok(blocks.collect())
    }

    /// Waits for what the lender says to a request that was made at this revision; takes it back if it says nothing.
    async fn lent(&self, key: &Key, asked: Revision) -> Result<Lent, String> {
        let deadline = Instant::now() + LENDER_TIME;
        loop {
            let found =
                self.store.get(key).await.map_err(|error| format!("cannot borrow an address: {error}"))?;
            let Some(found) = found else { return Ok(Lent::No) };
            match found.resource.as_deref() {
                Ok(Resource::IpamBlock(block)) if block.spec.affinity.is_some() => {
                    return Ok(Lent::Yes(Box::new(block.clone()), found.revision.0));
                }
                _ if Instant::now() < deadline => tokio::time::sleep(LENDER_POLL).await,
                // Refused, or granted after all: then it is taken up as any block of ours that we do not know.
                _ => match self.store.delete(key, Some(asked)).await {
                    Ok(_) | Err(Error::NotFound { .. }) => return Ok(Lent::NoAnswer),
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => return Err(format!("cannot borrow an address: {error}")),
                },
            }
        }
    }
}

/// What a lender said.
enum Lent {
    Yes(Box<IpamBlock>, u64),
    No,
    NoAnswer,
}
