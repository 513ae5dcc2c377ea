//! The routing table: every path of every prefix in one slab, paths in order of preference.
//!
//! What RFC 4271 calls Adj-RIB-In is a view of it (the paths of one source), Loc-RIB is each entry's first path.
//! There is no Adj-RIB-Out (see `egress`). Changed entries collect in a dirty list until they are settled.

mod decide;
mod intern;
mod next_hops;
mod path;
mod slot;
mod table;

pub(crate) use decide::{Step, compare, multipath_equal};
pub(crate) use intern::{AttrId, RouteAttributes};
pub(crate) use path::{FilterReason, Path, SourceId, SourceInfo};
pub(crate) use table::{Entry, EntryId, Rib};
