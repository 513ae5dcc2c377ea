//! A claim: a block that nobody has, or an address that another node lends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use margay_api::{IpPool, IpamBlock, Key, Kind, Resource};
use margay_datastore::{Error, Revision, Store};
use margay_ipam::{
    BorrowQuery, ClaimError, ClaimQuery, Family, PoolQuery, Purpose, RangeSet, eligible_pools, plan_borrow,
    plan_claim, yields_to,
};

/// Times a claim is planned anew after another node was faster.
const ATTEMPTS: u32 = 64;

/// Longest wait for a node that is asked for an address, and how often its answer is looked for.
const LENDER_TIME: Duration = Duration::from_secs(5);
/// See [`LENDER_TIME`].
const LENDER_POLL: Duration = Duration::from_millis(20);

/// Everything a claim needs, so that the node's task does not wait for the datastore.
pub(super) struct ClaimTask {
    pub(super) store: Store,
    pub(super) node: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) family: Family,
    pub(super) containing: Option<IpAddr>,
    pub(super) pools: Vec<IpPool>,
    pub(super) reserved: Vec<IpNet>,
    pub(super) max_blocks: Option<u32>,
    pub(super) may_borrow: bool,
}

/// A block that was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) block: IpamBlock,
    /// Revision of its creation.
    pub(super) fence: u64,
    /// A block that was there first, over the same range: this one is not to be used.
    pub(super) behind: Option<IpNet>,
}

impl ClaimTask {
    pub(super) async fn run(self) -> Result<Made, String> {
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
            let blocks: Vec<&IpamBlock> = blocks.iter().map(|(block, _)| block).collect();
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
            let Some(lender) = lender else {
                let (block, fence) = (claim.resource, revision.0);
                let all = self.blocks().await?;
                let all: Vec<(&IpamBlock, u64)> = all.iter().map(|(block, at)| (block, *at)).collect();
                let behind = yields_to(&block, fence, &all);
                return Ok(Made { block, fence, behind });
            };
            match self.lent(&claim.resource.key(), revision).await? {
                Lent::Yes(block, fence) => return Ok(Made { block: *block, fence, behind: None }),
                Lent::No => drop(refused.insert(claim.cidr)),
                Lent::NoAnswer => drop(silent.insert(lender)),
            }
        }
        Err(format!("cannot claim a block: other nodes were faster {ATTEMPTS} times; trying again"))
    }

    /// Every block there is, each with the revision of its last change.
    async fn blocks(&self) -> Result<Vec<(IpamBlock, u64)>, String> {
        let listed = self.store.list(&[Kind::IpamBlock.into()]).await;
        let listed = listed.map_err(|error| format!("cannot claim a block: {error}"))?;
        let blocks = listed.items.into_iter().filter_map(|item| match item.resource.as_deref() {
            Ok(Resource::IpamBlock(block)) => Some((block.clone(), item.revision.0)),
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
