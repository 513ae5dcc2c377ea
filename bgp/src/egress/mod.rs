//! The way out: update groups and the encode-once byte log.
//!
//! All peers whose [`EgressProfile`] is equal form a group and must receive the same bytes. A group encodes each change
//! once, appends it to its log, and every member is a position in that log. Joiners get a snapshot cut at a position;
//! a member that falls off the log's tail is sent a snapshot again. There is no table per peer.

mod encode;
mod group;
mod log;
mod member;
mod profile;

pub(crate) use encode::control;
pub(crate) use group::{Group, GroupId};
pub(crate) use member::{Egress, Take, Was};
pub(crate) use profile::{EgressProfile, Identity, Suppressed, Told};
