//! What reflectors send, decoded once for all that are sent the same shared bytes, however those are cut.

use super::{INDIRECT, VERSIONS};
use crate::family::Family;
use crate::sim::cluster::Cluster;
use crate::wire::{self, Framer, Message, Negotiated, NextHop, PathAttributes, RefreshKind};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// Decoded runs kept.
const RUNS: usize = 4096;

/// What one message means for the row of a session.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Set(u16, u8),
    Clear(u16),
    EndOfRib,
    Refresh(RefreshKind),
    Keepalive,
    /// The session's end, or something no reflector may say.
    Other(Box<Message>),
    Wrong(Box<str>),
}

/// Some of the changes that were decoded together.
#[derive(Debug)]
pub(super) struct Changes {
    all: Arc<[Change]>,
    some: Range<usize>,
}

impl Changes {
    fn whole(all: Vec<Change>) -> Self {
        Self { some: 0..all.len(), all: all.into() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.all.get(self.some.clone()).into_iter().flatten()
    }
}

/// Whole messages, one behind the other in memory.
#[derive(Debug)]
struct Run {
    /// Kept, so that nothing else can be in their place.
    _data: Bytes,
    /// Where each message ends, behind the run's beginning, and how many changes there are up to there.
    ends: Vec<(usize, usize)>,
    changes: Arc<[Change]>,
}

/// Messages decoded already, by how they are read and where they are.
#[derive(Debug, Default)]
pub(in crate::sim) struct Pieces {
    runs: HashMap<Negotiated, BTreeMap<usize, Run>>,
    order: VecDeque<(Negotiated, usize)>,
}

impl Pieces {
    /// What octets mean that come after what the framer has; `shared` if others may be sent the same.
    pub(super) fn decode(
        &mut self,
        framer: &mut Framer,
        negotiated: &Negotiated,
        reflector: IpAddr,
        data: &Bytes,
        shared: bool,
    ) -> Vec<Changes> {
        let mut rest = data.clone();
        let mut out = Vec::new();
        if !shared || framer.buffered() > 0 {
            // The message that began before is whoever's it reaches; what is behind it may be shared again.
            let most = if shared { 1 } else { usize::MAX };
            let (changes, taken) = decode(framer, negotiated, reflector, &rest, most);
            out.push(Changes::whole(changes));
            rest = rest.split_off(taken);
        }
        while !rest.is_empty() && framer.buffered() == 0 {
            let at = rest.as_ptr() as usize;
            let Some((changes, taken)) = self.known(negotiated, at, rest.len()) else {
                let (run, whole) = Run::read(negotiated, reflector, &rest);
                if whole == 0 {
                    break;
                }
                self.keep(negotiated, at, run);
                continue;
            };
            out.push(changes);
            rest = rest.split_off(taken);
        }
        if !rest.is_empty() {
            let (changes, _) = decode(framer, negotiated, reflector, &rest, usize::MAX);
            out.push(Changes::whole(changes));
        }
        out
    }

    /// What the whole messages mean that are known at this place, up to `len` octets, and how many octets they are.
    fn known(&self, negotiated: &Negotiated, at: usize, len: usize) -> Option<(Changes, usize)> {
        let (start, run) = self.runs.get(negotiated)?.range(..=at).next_back()?;
        let skipped = at - start;
        // A place inside a message is none where octets that come next begin.
        let first = match run.ends.binary_search_by_key(&skipped, |(end, _)| *end) {
            Ok(message) => message + 1,
            Err(0) if skipped == 0 => 0,
            Err(_) => return None,
        };
        let last = run.ends.partition_point(|(end, _)| *end <= skipped + len);
        let (end, to) = *run.ends.get(first..last)?.last()?;
        let from =
            first.checked_sub(1).and_then(|before| run.ends.get(before)).map_or(0, |(_, count)| *count);
        Some((Changes { all: Arc::clone(&run.changes), some: from..to }, end - skipped))
    }

    fn keep(&mut self, negotiated: &Negotiated, at: usize, run: Run) {
        if self.order.len() >= RUNS
            && let Some((negotiated, oldest)) = self.order.pop_front()
            && let Some(runs) = self.runs.get_mut(&negotiated)
        {
            runs.remove(&oldest);
        }
        self.order.push_back((*negotiated, at));
        self.runs.entry(*negotiated).or_default().insert(at, run);
    }
}

impl Run {
    /// The whole messages at the beginning of the octets, and how many octets they are.
    fn read(negotiated: &Negotiated, reflector: IpAddr, data: &Bytes) -> (Self, usize) {
        let (mut framer, mut changes, mut ends, mut end) = (Framer::new(), Vec::new(), Vec::new(), 0);
        framer.set_max_len(negotiated.max_message_len());
        loop {
            let (more, taken) = decode(&mut framer, negotiated, reflector, &data[end..], 1);
            if framer.buffered() > 0 || taken == 0 {
                break;
            }
            changes.extend(more);
            end += taken;
            ends.push((end, changes.len()));
        }
        (Self { _data: data.slice(..end), ends, changes: changes.into() }, end)
    }
}

/// What is whole in the framer and the octets, `most` messages at the most, and how many octets were taken.
fn decode(
    framer: &mut Framer,
    negotiated: &Negotiated,
    reflector: IpAddr,
    data: &[u8],
    most: usize,
) -> (Vec<Change>, usize) {
    let mut changes = Vec::new();
    let mut rest = data;
    for _ in 0..most {
        match framer.next_frame(&mut rest) {
            Ok(None) => break,
            Err(reset) => {
                changes.push(Change::Wrong(reset.to_string().into()));
                return (changes, data.len());
            }
            Ok(Some(frame)) => match wire::decode(frame, negotiated) {
                Err(reset) => changes.push(Change::Wrong(reset.to_string().into())),
                Ok(decoded) => {
                    if let Some(fault) = decoded.faults.first() {
                        changes.push(Change::Wrong(fault.to_string().into()));
                    }
                    message(decoded.message, reflector, &mut changes);
                }
            },
        }
    }
    (changes, data.len() - rest.len())
}

fn message(message: Message, reflector: IpAddr, changes: &mut Vec<Change>) {
    match message {
        Message::Update(update) if update.end_of_rib.is_some() => {
            if update.end_of_rib == Some(wire::AfiSafi::Ipv4Unicast) {
                changes.push(Change::EndOfRib);
            }
        }
        Message::Update(update) => {
            for nlri in &update.withdrawn {
                changes.push(match Cluster::index_of(&nlri.prefix) {
                    Some(index) => Change::Clear(index),
                    None => Change::Wrong(format!("withdrawn: {nlri}").into()),
                });
            }
            for (next_hop, nlri) in update.announced() {
                let index = Cluster::index_of(&nlri.prefix);
                let change = index.and_then(|index| {
                    announced(index, next_hop, &update.attributes, reflector)
                        .map(|version| Change::Set(index, version))
                });
                changes.push(change.unwrap_or_else(|| {
                    Change::Wrong(
                        format!("{reflector} announces {nlri} via {next_hop}: {:?}", update.attributes)
                            .into(),
                    )
                }));
            }
        }
        Message::RouteRefresh(refresh) if Family::from_wire(refresh.family) == Some(Family::Ipv4) => {
            changes.push(Change::Refresh(refresh.kind));
        }
        Message::RouteRefresh(_) => {}
        Message::Keepalive => changes.push(Change::Keepalive),
        other => changes.push(Change::Other(Box::new(other))),
    }
}

/// The version of a reflected route of a node, if every attribute is what it must be (RFC 4456 section 8).
fn announced(index: u16, next_hop: &NextHop, attributes: &PathAttributes, reflector: IpAddr) -> Option<u8> {
    let owner = Cluster::address(usize::from(index));
    let right = next_hop.address() == owner
        && attributes.originator_id.map(IpAddr::V4) == Some(owner)
        && attributes.cluster_list.first().map(|cluster| IpAddr::V4(*cluster)) == Some(reflector)
        && attributes.local_pref == Some(100)
        && attributes.as_path.is_empty();
    let version = attributes.med.and_then(|med| u8::try_from(med).ok());
    let version = version.filter(|version| right && (1..=VERSIONS).contains(version));
    match (version, attributes.cluster_list.len()) {
        (Some(version), 1) => Some(version),
        (Some(version), 2) => Some(version | INDIRECT),
        _ => None,
    }
}
