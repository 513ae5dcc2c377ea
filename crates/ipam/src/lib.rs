//! IP address management: blocks of pools belong to nodes, addresses of blocks belong to handles.
//!
//! * [`next_block`], [`block_name`]: which block a node claims. The claim itself is a compare-and-swap create of an
//!   `IPAMBlock` of that name in the datastore.
//! * [`Allocator`]: the addresses of the node's own blocks. Needs no datastore: what it does is written to a journal
//!   of [`Record`]s and mirrored to the block's resource.
//!
//! Pure: no clock, no files, no randomness.

mod allocator;
mod block;
mod error;
mod handle;
mod journal;
mod range;
mod scan;

pub use allocator::{Allocator, Assigned, Owned, Request, Usage};
pub use error::{AssignError, ClaimError, RecordError};
pub use handle::{Attributes, Handle};
pub use journal::{Free, Record, Seconds};
pub use range::{Family, RangeSet, address_at, ordinal_of};
pub use scan::{block_name, next_block};
