//! Connections: how they come about, carry octets and end.

use super::{Happening, NodeId, Sim};
use crate::io::{ConnId, Input};
use crate::time::Time;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug)]
pub(super) enum Item {
    Data(Bytes),
    Fin,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) waiting: VecDeque<Item>,
    under_way: usize,
    last: Time,
    /// Arrived at a node that doesn't read.
    held: VecDeque<Item>,
}

#[derive(Debug)]
pub(super) struct Link {
    /// The dialling end first; none once that end has closed or vanished.
    pub(super) ends: [Option<(NodeId, ConnId)>; 2],
    /// Whose ends they are or were.
    owners: [NodeId; 2],
    /// That end lost power: it never closed its connection.
    pub(super) vanished: [bool; 2],
    /// Delivered in pieces of random size.
    fragment: bool,
    pub(super) pipes: [Pipe; 2],
}

impl Sim {
    pub(super) fn address(&self, node: NodeId) -> IpAddr {
        self.nodes.get(node.0).map_or(IpAddr::from([0, 0, 0, 0]), |place| place.address)
    }

    /// Whether two nodes are on the same side.
    fn joined(&self, nodes: [NodeId; 2]) -> bool {
        let [one, other] = nodes.map(|node| self.nodes.get(node.0).map(|place| place.side));
        one == other
    }

    pub(super) fn dialled(&mut self, node: NodeId, conn: ConnId, remote: SocketAddr, local: IpAddr) {
        let target = self.by_address.get(&remote.ip()).copied();
        let ends = [Some(node), target];
        let open = ends.into_iter().all(|end| {
            end.and_then(|end| self.nodes.get(end.0)).is_some_and(|place| place.process.is_some())
        });
        let open = open && self.joined([node, target.unwrap_or(node)]);
        let latency = self.latency();
        // Dialled by a speaker whose place another has taken.
        if self.speaker(node).is_some_and(|speaker| !speaker.knows(conn)) {
            return;
        }
        let Some(target) = target.filter(|_| open) else {
            self.schedule(self.now + latency, Happening::Refused(node, conn));
            return;
        };
        let Some(place) = self.nodes.get_mut(target.0) else { return };
        let accepted = ConnId::accepted(place.accepted);
        place.accepted += 1;
        let link = self.links.len();
        place.conns.insert(accepted, (link, 1));
        place.links.insert(link);
        if let Some(place) = self.nodes.get_mut(node.0) {
            place.conns.insert(conn, (link, 0));
            place.links.insert(link);
        }
        // Nothing arrives before the dialling end knows that it is connected.
        let connected = self.now + latency;
        let fragment = self.config.fragment > 0 && self.random(self.config.fragment) == 0;
        self.links.push(Link {
            ends: [Some((node, conn)), Some((target, accepted))],
            owners: [node, target],
            vanished: [false; 2],
            fragment,
            pipes: [Pipe::default(), Pipe { last: connected, ..Pipe::default() }],
        });
        self.schedule(connected, Happening::Connected(link));
        let remote = SocketAddr::new(local, 40_000);
        let local = SocketAddr::new(self.address(target), 179);
        self.input(target, Input::Accepted { conn: accepted, remote, local });
    }

    pub(super) fn arrives(&mut self, link: usize, from: usize, item: Item) {
        let Some(owners) = self.links.get(link).map(|state| state.owners) else { return };
        let joined = self.joined(owners);
        let Some(state) = self.links.get_mut(link) else { return };
        let receiver = state.owners[1 - from];
        let stalled = self.nodes.get(receiver.0).is_some_and(|place| place.stalled);
        if stalled || !joined || !state.pipes[from].held.is_empty() {
            state.pipes[from].held.push_back(item);
            return;
        }
        self.deliver(link, from, item);
    }

    fn deliver(&mut self, link: usize, from: usize, item: Item) {
        let Some(state) = self.links.get_mut(link) else { return };
        let Some((node, conn)) = state.ends[1 - from] else {
            // A machine that is up answers octets of connections that it does not know; one without power does not.
            let owner = self.nodes.get(state.owners[1 - from].0);
            let answers = state.vanished[1 - from] && owner.is_some_and(|place| place.process.is_some());
            if answers && let Some((node, conn)) = state.ends[from].take() {
                let latency = self.latency();
                self.schedule(self.now + latency, Happening::Broken(node, conn));
            }
            return;
        };
        match item {
            Item::Data(data) => {
                state.pipes[from].under_way -= data.len();
                self.input(node, Input::Received { conn, data });
                let taken = self.push(link, from);
                let end = self.links.get(link).and_then(|state| state.ends[from]);
                if let Some((node, conn)) = end.filter(|_| taken > 0) {
                    self.input(node, Input::Written { conn, bytes: taken });
                }
            }
            Item::Fin => {
                state.ends = [None, None];
                self.forget(link);
                if let Some(place) = self.nodes.get_mut(node.0) {
                    place.conns.remove(&conn);
                }
                self.input(node, Input::Closed { conn, reason: "the peer closed the connection".to_owned() });
            }
        }
    }

    /// Nothing moves on a link any more.
    fn forget(&mut self, link: usize) {
        let Some(state) = self.links.get_mut(link) else { return };
        state.pipes = Default::default();
        for owner in state.owners {
            if let Some(place) = self.nodes.get_mut(owner.0) {
                place.links.remove(&link);
            }
        }
    }

    /// A node may read again, or reach others again.
    pub(super) fn resume(&mut self, node: NodeId) {
        let links: Vec<usize> =
            self.nodes.get(node.0).map(|place| place.links.iter().copied().collect()).unwrap_or_default();
        for link in links {
            for from in 0..2 {
                let held = match self.links.get_mut(link) {
                    Some(state) => std::mem::take(&mut state.pipes[from].held),
                    None => continue,
                };
                for item in held {
                    self.arrives(link, from, item);
                }
            }
        }
    }

    /// Moves octets from the sending end into the network; returns how many.
    pub(super) fn push(&mut self, link: usize, from: usize) -> usize {
        let mut taken = 0;
        loop {
            let latency = self.latency();
            let dice = self.rng.next_u64();
            let Some(state) = self.links.get_mut(link) else { return taken };
            let fragment = state.fragment;
            let pipe = &mut state.pipes[from];
            let room = self.config.buffer.saturating_sub(pipe.under_way);
            let item = match pipe.waiting.pop_front() {
                None => break,
                Some(Item::Fin) => Item::Fin,
                Some(Item::Data(data)) if room == 0 => {
                    pipe.waiting.push_front(Item::Data(data));
                    break;
                }
                Some(Item::Data(mut data)) => {
                    let most = room.min(data.len());
                    let size =
                        if fragment { 1 + usize::try_from(dice % (most as u64)).unwrap_or(0) } else { most };
                    let piece = data.split_to(size);
                    if !data.is_empty() {
                        pipe.waiting.push_front(Item::Data(data));
                    }
                    pipe.under_way += size;
                    taken += size;
                    Item::Data(piece)
                }
            };
            pipe.last = pipe.last.max(self.now + latency);
            let at = pipe.last;
            self.schedule(at, Happening::Arrives(link, from, item));
        }
        taken
    }

    pub(super) fn close(&mut self, node: NodeId, conn: ConnId) {
        let Some((link, end)) = self.nodes.get_mut(node.0).and_then(|place| place.conns.remove(&conn)) else {
            return;
        };
        if let Some(state) = self.links.get_mut(link) {
            state.ends[end] = None;
            state.pipes[end].waiting.push_back(Item::Fin);
        }
        self.push(link, end);
    }
}
