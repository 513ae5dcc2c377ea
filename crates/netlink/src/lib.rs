//! The kernel's network configuration: interfaces, addresses, routes, nexthop objects, neighbours, forwarding entries,
//! namespaces, sysctls, ip sets, tracked connections; and [`delta`], the loop that brings any of them to a desired state.
//!
//! Everything is blocking and has a time limit; only [`monitor`] has a descriptor to wait on.

pub mod address;
pub mod conntrack;
pub mod delta;
pub mod error;
pub mod ethtool;
pub mod flows;
mod generic;
mod handle;
pub mod ipset;
pub mod link;
pub mod mac;
pub mod monitor;
pub mod neighbour;
pub mod netns;
pub mod nexthop;
pub mod nftset;
pub mod route;
pub mod rule;
pub mod socket;
pub mod sysctl;
pub mod wire;
pub mod wireguard;

#[cfg(test)]
mod kernel_tests;

pub use address::{Address, AddressOptions};
pub use error::{Error, IgnoreMissing, Result};
pub use handle::Netlink;
pub use link::{Link, LinkChange, VethEnd, Vxlan};
pub use mac::Mac;
pub use neighbour::{FdbEntry, Neighbour};
pub use netns::Netns;
pub use nexthop::{Nexthop, NexthopChange, NexthopTarget};
pub use route::{Path, Route, RouteChange, RouteFilter, RouteKey, RouteTarget, TABLE_MAIN};
pub use rule::UnmarkedRule;
