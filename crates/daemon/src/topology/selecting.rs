//! BGPPeers that select nodes: those say of reflectors, too, whom they peer with.

use std::collections::BTreeSet;

use margay_api::{BgpPeer, Node};

use super::{Changes, Cluster, cluster_id, matches};

/// The names of the BGPPeers whose `peerSelector` selects a Node that is no reflector.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selecting(BTreeSet<String>);

impl Selecting {
    /// Follows the changes, or begins anew if `all` may have changed; true if it comes to others than before. A changed
    /// Node is looked at alone, unless it may have been the last that a BGPPeer selected.
    pub(super) fn update(&mut self, cluster: &Cluster, changes: &Changes, all: bool) -> bool {
        let any = |peer: &BgpPeer| cluster.nodes.values().any(|node| selects(peer, node));
        let now = |name: &str, peer: &BgpPeer| {
            let mut after = changes.nodes.keys().filter_map(|node| cluster.nodes.get(node));
            let mut before = changes.nodes.values().flatten();
            if all || self.contains(name) && before.any(|node| selects(peer, node)) {
                return any(peer);
            }
            self.contains(name) || after.any(|node| selects(peer, node))
        };
        let selecting = cluster.peers.iter().filter(|(name, peer)| now(name, peer));
        let selecting = Self(selecting.map(|(name, _)| name.clone()).collect());
        let changed = *self != selecting;
        *self = selecting;
        changed
    }

    pub(super) fn contains(&self, peer: &str) -> bool {
        self.0.contains(peer)
    }
}

fn selects(peer: &BgpPeer, node: &Node) -> bool {
    let selector = peer.spec.peer_selector.as_ref().filter(|_| cluster_id(node).is_none());
    selector.is_some_and(|selector| matches(selector, node))
}
