//! News for whoever watches the table, through a channel that forgets what a slow watcher does not take.

use crate::speaker::Speaker;
use crate::status::{PeerStatus, RouteInfo, RouteQuery};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Changes that may wait for a watcher: each holds at most [`PART`] prefixes.
const CHANGES: usize = 256;
const PART: usize = 64;

/// Something changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// Prefixes and all their paths now, best first; none means that the prefix is gone.
    Routes(Vec<(IpNet, Vec<RouteInfo>)>),
    /// A session changed its state.
    Peer(Box<PeerStatus>),
    /// A peer is none any more. It may be said twice: its session ends first.
    Removed(IpAddr),
}

#[derive(Debug)]
pub(super) struct Changes {
    sender: broadcast::Sender<Arc<Change>>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(CHANGES) }
    }
}

impl Changes {
    pub(super) fn watch(&self) -> broadcast::Receiver<Arc<Change>> {
        self.sender.subscribe()
    }

    pub(super) fn watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(super) fn routes(&self, speaker: &Speaker, prefixes: &[IpNet]) {
        for some in prefixes.chunks(PART) {
            let paths = |prefix: &IpNet| (*prefix, speaker.paths(prefix, &RouteQuery::default()));
            self.send(Change::Routes(some.iter().map(paths).collect()));
        }
    }

    pub(super) fn peer(&self, speaker: &Speaker, remote: IpAddr) {
        if self.watched() {
            let peer = speaker.peer(remote);
            self.send(peer.map_or(Change::Removed(remote), |peer| Change::Peer(Box::new(peer))));
        }
    }

    fn send(&self, change: Change) {
        // The last watcher may have gone meanwhile.
        let _gone = self.sender.send(Arc::new(change));
    }
}
