//! The kernel's network over netlink.

pub mod ipset;
