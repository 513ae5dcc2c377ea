//! The enforced state as rules: chains, matches, actions and sets in a small typed language.
//!
//! No backend's text is in here; `render` writes it. Endpoints with equal policies form a group and share
//! their chains; which endpoint is in which group is a set of (address, interface). An endpoint that joins a group
//! is set members, not rules.

mod changes;
mod compile;
mod dispatch;
mod fixed;
mod group;
mod grouping;
mod hosts;
mod language;
mod marks;
pub mod names;
mod policy;
mod sets;

pub use changes::{Changes, SetUpdate, Touched};
pub use compile::{Compiler, IsTaken};
pub use language::{
    Action, BaseRules, ChainName, Conntrack, DispatchBy, FLOW_LOG_GROUP, Family, Hook, Match, Member, Origin,
    Owner, Rule, Set, SetName, SetType, Side, Table, TableId, TableRules,
};
pub use marks::{Marks, MaskTooSmall};
pub use sets::SetKey;

#[cfg(test)]
mod tests;
