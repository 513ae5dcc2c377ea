//! Cluster state to this node's routes, tunnels and NAT: pure.
//!
//! A [`Router`] is told of nodes, pools, blocks, BGP routes and local pods as they come and go. [`Router::take_changes`] says
//! what the kernel should hold instead, at a cost that depends on what changed; [`Router::explain`] says why one address
//! is reached the way it is.
//!
//! | pool | other node in our subnet | in another subnet |
//! |---|---|---|
//! | no encapsulation | BGP | BGP |
//! | VXLAN `CrossSubnet` | BGP, else the block's owner | tunnel by the block's owner |
//! | VXLAN `Always` | tunnel by the block's owner | tunnel by the block's owner |
//! | IPIP `CrossSubnet` | BGP | BGP, through the tunnel |
//! | IPIP `Always` | BGP, through the tunnel | BGP, through the tunnel |
//!
//! With WireGuard ([`WireguardSettings`]) a pool's prefixes go encrypted to every node with a key, by the block's owner.
//! With [`Backend::Vxlan`] the datastore alone counts, with [`Backend::None`] other nodes are somebody else's.
//! Prefixes from BGP that are in no pool are taken as they are. Nothing a peer says overrides this node's own
//! blocks or pods. The same input gives the same output, in whatever order it comes.

mod context;
mod decide;
mod desired;
mod input;
mod mac;
mod read;
mod reason;
mod router;
mod settings;
mod tunnels;
mod underlay;
mod vtep;
mod wireguard;

pub use decide::Decision;
pub use desired::{
    Changes, Encapsulation, FdbEntry, Hop, HopKey, IpipDevice, NatOutgoing, Neighbour, Problem, Protocol,
    Route, Target, Tunnels, VxlanDevice, WireguardDevice, WireguardNodes, WireguardPeer,
};
pub use input::{Backend, BgpRoute, Family, NextHop, UnderlayRoute, Uplink};
pub use mac::vtep_mac;
pub use reason::{Reason, Source};
pub use router::{RouteTrace, Router};
pub use settings::{Settings, WireguardFamily, WireguardSettings};
pub use vtep::{tunnels_needed, with_tunnel_address, with_wireguard_keys, without_tunnel_address};

#[cfg(test)]
mod tests;
