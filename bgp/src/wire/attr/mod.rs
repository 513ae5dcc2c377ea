//! Path attributes: the typed, canonical set that routes share, and its codec.

mod as_path;
mod community;
pub mod desc;
mod set;

pub(super) use as_path::AsPathBuilder;
pub use as_path::{AsPath, Segment, SegmentKind};
pub use community::{Community, CommunityError, ExtendedCommunity, LargeCommunity};
pub use set::{Aggregator, AttributeCode, Origin, PathAttributes, UnknownAttribute};
