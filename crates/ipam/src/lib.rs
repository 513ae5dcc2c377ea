//! IP address management: blocks of pools belong to nodes, addresses of blocks belong to handles.
//!
//! * [`eligible_pools`]: the pools a pod or tunnel of a node may use.
//! * [`plan_claim`]: which block the node claims. The claim itself is the creation of that `IPAMBlock` in the
//!   datastore: of two nodes that try, one succeeds.
//! * [`plan_borrow`]: which address of another node's block it asks for when it can get none of its own.
//! * [`Allocator`]: the addresses of the node's own blocks. Needs no datastore: what it does is written to a journal
//!   of [`Record`]s and mirrored to the block's resource.
//! * [`audit`]: whether all of this fits together, cluster-wide.
//!
//! Pure: no clock, no files, no randomness.

mod allocator;
mod audit;
mod block;
mod claim;
mod error;
mod handle;
mod journal;
mod lend;
mod mirror;
mod pool;
mod range;
mod scan;
#[cfg(test)]
mod simulation;
mod told;

pub use allocator::{Allocator, Assigned, Owned, Request, Usage};
pub use audit::{Allocation, Finding, View, allocations, audit};
pub use claim::{Claim, ClaimQuery, plan_claim};
pub use error::{AssignError, ClaimError, RecordError};
pub use handle::{Attributes, Handle};
pub use journal::{Free, Record, Seconds};
pub use lend::{BORROWER, BorrowQuery, LENT, LendQuery, Lending, borrower, plan_borrow};
pub use mirror::adopt;
pub use pool::{Eligible, PoolError, PoolQuery, Purpose, eligible_pools};
pub use range::{Family, RangeSet, address_at, ordinal_of};
pub use scan::{block_name, next_block};
pub use told::{GivenBack, Unknown, yields_to};
