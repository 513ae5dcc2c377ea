//! What a node writes down about its addresses, and how it comes back from it.
//!
//! The journal is a list of [`Record`]s in the order they happened. The file is the agent's; the meaning is here:
//! applying any prefix of a journal gives a state in which no address has two owners.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::handle::{Attributes, Handle};

/// Seconds since the epoch (any fixed one): the clock is the caller's.
pub type Seconds = u64;

/// A free address of a block and since when it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Free {
    /// Position in the block, from 0.
    pub ordinal: u32,
    /// When it was released; absent: never used, or so long ago that nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Seconds>,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Record {
    /// The block is this node's. Repeated for a block already held: only the fence moves.
    Block {
        /// The block.
        cidr: IpNet,
        /// Revision of the datastore at which the claim was made. Another node's later claim has a higher one.
        fence: u64,
        /// Changes made to the block so far (Calico `sequenceNumber`).
        #[serde(default)]
        sequence: u64,
        /// Every ordinal in the order they are to be handed out; absent: 0, 1, 2, …
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<Vec<Free>>,
    },
    /// The empty block was given back.
    Drop {
        /// The block.
        cidr: IpNet,
    },
    /// All of `addresses` now belong to `handle`, or none does.
    Assign {
        /// The owner.
        handle: Handle,
        /// One or more addresses, of any family.
        addresses: Vec<IpAddr>,
        /// What is known about the owner.
        #[serde(default)]
        attributes: Attributes,
    },
    /// All addresses of `handle` are free again.
    Release {
        /// The owner.
        handle: Handle,
        /// When, for the delay before they are handed out again.
        at: Seconds,
    },
}
