//! What is planned, in order of time, then of planning.

use super::NodeId;
use super::link::Item;
use crate::io::ConnId;
use crate::time::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

/// What will happen.
#[derive(Debug)]
pub(super) enum Happening {
    Wake(NodeId),
    /// Boxed: most of what is planned is arrivals, and there are many.
    Dialled(Box<(NodeId, ConnId, SocketAddr, IpAddr)>),
    Connected(usize),
    Refused(NodeId, ConnId),
    /// Link, direction (index of the sending end).
    Arrives(usize, usize, Item),
    Broken(NodeId, ConnId),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    sequence: u64,
    planned: BinaryHeap<Reverse<Planned>>,
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.planned.push(Reverse(Planned { at, sequence: self.sequence, happening }));
    }

    /// What is next, if it is not after `end`.
    pub(super) fn pop(&mut self, end: Time) -> Option<(Time, Happening)> {
        self.planned.peek().filter(|Reverse(planned)| planned.at <= end)?;
        self.planned.pop().map(|Reverse(planned)| (planned.at, planned.happening))
    }
}

#[derive(Debug)]
struct Planned {
    at: Time,
    sequence: u64,
    happening: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
