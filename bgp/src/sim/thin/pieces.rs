//! What reflectors send, decoded once for all that are sent the same shared bytes.

use super::{INDIRECT, VERSIONS};
use crate::family::Family;
use crate::sim::cluster::Cluster;
use crate::wire::{self, Framer, Message, Negotiated, NextHop, PathAttributes, RefreshKind};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// Decoded pieces kept.
const PIECES: usize = 1024;

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

/// Where a piece is in memory, and how it is read.
type Place = (usize, usize, Negotiated);

#[derive(Debug)]
struct Piece {
    /// Kept, so that nothing else can be in its place.
    _data: Bytes,
    changes: Arc<[Change]>,
}

/// Pieces decoded already.
#[derive(Debug, Default)]
pub(in crate::sim) struct Pieces {
    pieces: HashMap<Place, Piece>,
    order: VecDeque<Place>,
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
    ) -> Arc<[Change]> {
        if !shared || framer.buffered() > 0 {
            return decode(framer, negotiated, reflector, data).into();
        }
        let place = (data.as_ptr() as usize, data.len(), *negotiated);
        if let Some(piece) = self.pieces.get(&place) {
            return Arc::clone(&piece.changes);
        }
        let changes: Arc<[Change]> = decode(framer, negotiated, reflector, data).into();
        if framer.buffered() == 0 && !changes.is_empty() {
            if self.order.len() >= PIECES
                && let Some(oldest) = self.order.pop_front()
            {
                self.pieces.remove(&oldest);
            }
            self.order.push_back(place);
            self.pieces.insert(place, Piece { _data: data.clone(), changes: Arc::clone(&changes) });
        }
        changes
    }
}

/// Everything whole in the framer and the piece.
fn decode(framer: &mut Framer, negotiated: &Negotiated, reflector: IpAddr, data: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut rest = data;
    loop {
        match framer.next_frame(&mut rest) {
            Ok(None) => return changes,
            Err(reset) => {
                changes.push(Change::Wrong(reset.to_string().into()));
                return changes;
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
