//! What can go wrong, in sentences for the person who reads the pod's events.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::handle::Handle;
use crate::range::Family;

/// An address could not be assigned. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// The node's blocks of these pools are full: claim a block ([`crate::plan_claim`]) and ask again.
    #[error("no free {family} address in this node's blocks of {}", list(.pools))]
    NeedBlock {
        /// The family that is short.
        family: Family,
        /// The pools a block may come from.
        pools: Vec<IpNet>,
    },
    /// No pool is open for this request.
    #[error(
        "no IPPool may give this pod an {0} address: apply an IPPool of that family, or look at the nodeSelector, namespaceSelector, disabled, allowedUses and assignmentMode of those there are"
    )]
    NoPool(Family),
    /// The requested address is in no block of this node.
    #[error("requested address {address} is in no block of this node: ask for an address of {}", some_block(.blocks))]
    NotOurs {
        /// What was asked for.
        address: IpAddr,
        /// What this node has.
        blocks: Vec<IpNet>,
    },
    /// The requested address is taken.
    #[error("requested address {address} belongs to {owner}: choose another, or delete that pod")]
    Taken {
        /// What was asked for.
        address: IpAddr,
        /// Its owner.
        owner: Handle,
    },
    /// The requested address is of a pool that the request may not use.
    #[error("requested address {address} is in no IPPool this pod may use ({})", list(.pools))]
    OutsidePools {
        /// What was asked for.
        address: IpAddr,
        /// What it may use.
        pools: Vec<IpNet>,
    },
    /// The handle has addresses already, and they are not what is asked for now.
    #[error("{handle} already has {}, which is not what is asked for now: release it (CNI DEL) first", comma(.has))]
    Mismatch {
        /// The owner.
        handle: Handle,
        /// What it has.
        has: Vec<IpAddr>,
    },
}

/// A record, or a part of one, that does not fit the state it is applied to. That part is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// An assignment or drop outside the node's blocks.
    #[error("{0} is in no block of this node")]
    NoBlock(IpAddr),
    /// A second owner: the first keeps the address.
    #[error("{address} belongs to {owner}, it can't be given to {refused}")]
    TwoOwners {
        /// The address.
        address: IpAddr,
        /// Who has it and keeps it.
        owner: Handle,
        /// Who doesn't get it.
        refused: Handle,
    },
    /// A release of something that is not assigned.
    #[error("{0} has no address")]
    UnknownHandle(Handle),
    /// A block that overlaps one the node has.
    #[error("block {cidr} overlaps block {other} of this node")]
    Overlap {
        /// The refused block.
        cidr: IpNet,
        /// The one that stays.
        other: IpNet,
    },
    /// A block beyond 65,536 addresses.
    #[error("block {0} is larger than 65536 addresses: use a longer blockSize")]
    TooLarge(IpNet),
    /// A queue that does not name every ordinal once.
    #[error("block {0}: the list of free addresses names an ordinal twice or one outside the block")]
    BadQueue(IpNet),
    /// A block with addresses in use can't be given back.
    #[error("block {cidr} has {used} addresses in use, so it can't be released")]
    InUse {
        /// The block.
        cidr: IpNet,
        /// Addresses in use.
        used: usize,
    },
    /// The block is not held.
    #[error("block {0} is not this node's")]
    UnknownBlock(IpNet),
    /// An assignment without an address.
    #[error("{0}: a record assigns no address")]
    Empty(Handle),
}

/// No block could be found. What is said names the pools and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// No pool is open for this request.
    #[error(
        "no IPPool may give node {node} an {family} block{}: apply an IPPool, or change what excludes the node",
        reasons(.excluded)
    )]
    NoPool {
        /// The node.
        node: String,
        /// The family asked for.
        family: Family,
        /// Pools of the family and why each is closed.
        excluded: Vec<(String, String)>,
    },
    /// Every block of every pool is taken.
    #[error("{family} IPPool {} exhausted: every block is claimed; add an IPPool, use a smaller block (larger blockSize number) in a new pool, or delete nodes that are gone", .pools.join(", "))]
    Exhausted {
        /// The family asked for.
        family: Family,
        /// `name (cidr)` of each pool tried.
        pools: Vec<String>,
    },
    /// The node has as many blocks as it may.
    #[error(
        "node {node} has {have} {family} blocks and maxBlocksPerHost of IPAMConfiguration/default is {max}: raise it or spread the pods"
    )]
    TooManyBlocks {
        /// The node.
        node: String,
        /// The family asked for.
        family: Family,
        /// Blocks it has.
        have: usize,
        /// Limit.
        max: usize,
    },
    /// The address asked for is in a block of somebody else.
    #[error("{address} is in block {block}, which belongs to {owner}: ask for an address of another block")]
    OthersBlock {
        /// What was asked for.
        address: IpAddr,
        /// The block it is in.
        block: IpNet,
        /// `host:<node>` or what the block says.
        owner: String,
    },
}

fn list(pools: &[IpNet]) -> String {
    pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn some_block(blocks: &[IpNet]) -> String {
    if blocks.is_empty() { "a block once it has one".to_owned() } else { list(blocks) }
}

fn comma(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn reasons(excluded: &[(String, String)]) -> String {
    if excluded.is_empty() {
        return " (there is none)".to_owned();
    }
    let each: Vec<String> = excluded.iter().map(|(pool, why)| format!("{pool}: {why}")).collect();
    format!(" ({})", each.join("; "))
}
