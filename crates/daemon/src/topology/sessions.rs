//! The way from the sessions there are to those that are wanted: make before break.
//!
//! A session with a node that is not wanted any more is held until every route it brought is known from a session
//! that stays. It then ends without a word, so that the other end, which may be behind, keeps our routes meanwhile.
//!
//! ```text
//!                 not wanted                    every route known elsewhere, and all wanted peers
//!   WANTED ─────────────────────────► HELD ──── in sync (or some, after PATIENCE) ──► released
//!      ▲                               │ │
//!      └────────── wanted again ───────┘ └───── its Node is deleted, no password ───► removed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::{PeerConfig, Replacement};

use super::{Change, Peer};

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;

/// How long sessions that are not wanted wait for all that are. Then those that are up suffice, if they bring every
/// route: a reflector that never comes up holds nobody for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What to tell the speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new peer, or a changed one.
    Set(Arc<PeerConfig>),
    /// The peer has been replaced; it may keep our routes.
    Release(IpAddr),
    /// The peer is gone.
    Remove(IpAddr),
}

/// The sessions of a speaker: those wanted, and those held until others have replaced them.
#[derive(Debug, Default)]
pub struct Sessions {
    wanted: BTreeMap<IpAddr, Peer>,
    held: BTreeMap<IpAddr, Peer>,
    /// When the first of `held` came there.
    since: Duration,
    last: Replacement,
    /// Those of both that are expected: asked for with every session that changes its state.
    expected: usize,
}

/// What a peer adds to the number of those expected.
fn expects(peer: Option<&Peer>) -> usize {
    peer.map_or(0, |peer| usize::from(peer.config.expected))
}

impl Sessions {
    /// Takes in what changed at `now`; says what to do, in order of address.
    pub fn change(&mut self, now: Duration, changes: BTreeMap<IpAddr, Change>) -> Vec<Op> {
        let mut ops = Vec::new();
        for (remote, change) in changes {
            match change {
                Change::Want(peer) => {
                    let before = self.held.remove(&remote).or_else(|| self.wanted.remove(&remote));
                    self.expected += usize::from(peer.config.expected);
                    self.expected -= expects(before.as_ref());
                    if before.is_none_or(|before| before.config != peer.config) {
                        ops.push(Op::Set(Arc::clone(&peer.config)));
                    }
                    self.wanted.insert(remote, peer);
                }
                Change::Leave => {
                    if let Some(peer) = self.wanted.remove(&remote) {
                        if self.held.is_empty() {
                            self.since = now;
                            self.last = Replacement::default();
                        }
                        self.held.insert(remote, peer);
                    }
                }
                Change::End => {
                    let before = self.wanted.remove(&remote).or_else(|| self.held.remove(&remote));
                    self.expected -= expects(before.as_ref());
                    ops.extend(before.map(|_| Op::Remove(remote)));
                }
            }
        }
        ops
    }

    fn count(&mut self) {
        let all = self.wanted.values().chain(self.held.values());
        self.expected = all.filter(|peer| peer.config.expected).count();
    }

    /// Takes in the sessions of an earlier instance, which may have held some: those that are not wanted are held at `now`.
    pub fn adopt(&mut self, now: Duration, peers: impl IntoIterator<Item = Peer>) {
        self.since = now;
        self.last = Replacement::default();
        let peers = peers.into_iter().map(|peer| (peer.config.remote, peer));
        self.held = peers.filter(|(remote, _)| !self.wanted.contains_key(remote)).collect();
        self.count();
    }

    /// Takes in that Nodes are gone: sessions with them are not held, but for reflectors', whose routes are others'.
    pub fn gone(&mut self, exists: impl Fn(&str) -> bool) -> Vec<Op> {
        let lost = |peer: &Peer| !peer.reflector && peer.node.as_ref().is_some_and(|name| !exists(name));
        let lost: Vec<IpAddr> =
            self.held.iter().filter(|(_, peer)| lost(peer)).map(|(remote, _)| *remote).collect();
        for remote in &lost {
            self.expected -= expects(self.held.remove(remote).as_ref());
        }
        lost.into_iter().map(Op::Remove).collect()
    }

    /// Takes in how far the held sessions have been replaced at `now`.
    pub fn review(&mut self, now: Duration, replacement: Replacement) -> Vec<Op> {
        // Routers tell of the world outside; only where there is nothing else they stand for the cluster's nodes.
        let among_nodes = self.wanted.values().any(|peer| peer.node.is_some());
        let counts = |peer: &&Peer| peer.config.expected && (peer.node.is_some() || !among_nodes);
        let mut counted = self.wanted.values().filter(counts);
        let in_sync = |peer: &Peer| replacement.in_sync.contains(&peer.config.remote);
        let patient = now.saturating_sub(self.since) < PATIENCE;
        let ready =
            if patient { counted.all(in_sync) } else { self.wanted.is_empty() || counted.any(in_sync) };
        self.last = replacement;
        if !ready {
            return Vec::new();
        }
        let replaced = self.held.keys().filter(|remote| !self.last.missing.contains_key(remote));
        let replaced: Vec<IpAddr> = replaced.copied().collect();
        for remote in &replaced {
            self.expected -= expects(self.held.remove(remote).as_ref());
        }
        replaced.into_iter().map(Op::Release).collect()
    }

    /// Whether sessions are held.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.held.is_empty()
    }

    /// Addresses of the held sessions.
    #[must_use]
    pub fn held(&self) -> BTreeSet<IpAddr> {
        self.held.keys().copied().collect()
    }

    /// All peers the speaker should have.
    #[must_use]
    pub fn configured(&self) -> Vec<Arc<PeerConfig>> {
        self.wanted.values().chain(self.held.values()).map(|peer| Arc::clone(&peer.config)).collect()
    }

    /// How many peers the speaker should have, those aside that may come and need not.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.expected
    }

    /// Whether the peer of that address is one of those.
    #[must_use]
    pub fn expects(&self, remote: IpAddr) -> bool {
        let peer = self.wanted.get(&remote).or_else(|| self.held.get(&remote));
        expects(peer) > 0
    }

    /// Ends the holding of everything, for a speaker that starts anew.
    pub fn forget_held(&mut self) {
        self.held.clear();
        self.count();
    }

    /// What is held and why, for people; nothing when nothing is.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let first = self.held.values().next()?;
        let name = &first.config.description;
        let what = match self.held.len() {
            1 => format!("the session with {name} stays"),
            count => format!("the sessions with {name} and {} more stay", count - 1),
        };
        let down: Vec<&str> = self
            .wanted
            .values()
            .filter(|peer| peer.node.is_some() && !self.last.in_sync.contains(&peer.config.remote))
            .map(|peer| peer.config.description.as_str())
            .collect();
        let mut text = format!("{what} until others take the place");
        let and = |more: usize| if more > 0 { format!(" and {more} more") } else { String::new() };
        if let Some(one) = down.first() {
            text += &format!("; {one}{} cannot yet", and(down.len() - 1));
        }
        if let Some((from, (prefix, count))) = self.last.missing.iter().next() {
            let more = usize::try_from(*count).unwrap_or(usize::MAX).saturating_sub(1);
            text += &format!("; {prefix}{} is known from {from} alone", and(more));
        }
        Some(text)
    }
}
