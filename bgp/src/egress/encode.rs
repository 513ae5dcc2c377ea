//! Messages in pieces of bounded size, each a whole number of messages.

use super::profile::Outgoing;
use crate::family::Family;
use crate::wire::{Message, Negotiated, Nlri, RefreshKind, RouteRefresh, UpdateEncoder};
use bytes::{Bytes, BytesMut};
use ipnet::IpNet;

/// A piece is closed once it has this many octets.
const PIECE: usize = 32 << 10;
/// Prefixes to encode at once, so that a piece stays below twice its size.
pub(super) const PREFIXES: usize = 1024;

/// Tables hold no bits behind a prefix: nothing is to be cleared.
fn nlri(prefix: &IpNet) -> Nlri {
    Nlri { prefix: *prefix, path_id: None }
}

/// Collects messages into pieces.
#[derive(Debug)]
pub(crate) struct Messages {
    encoder: UpdateEncoder,
    out: BytesMut,
    pieces: Vec<Bytes>,
}

/// A collector for sessions that negotiated this.
pub(crate) fn messages(negotiated: &Negotiated) -> Messages {
    Messages { encoder: UpdateEncoder::new(*negotiated), out: BytesMut::new(), pieces: Vec::new() }
}

impl Messages {
    /// Withdraws prefixes of one family.
    pub(crate) fn withdraw(&mut self, prefixes: &[IpNet]) {
        for some in prefixes.chunks(PREFIXES) {
            self.encoder.withdraw(some.iter().map(nlri), &mut self.out);
            self.close_if_full();
        }
    }

    /// Announces at most [`PREFIXES`] prefixes of one family. If the attributes fit into no message the prefixes are
    /// withdrawn (RFC 4271 section 9.2: such a route must not be advertised).
    pub(crate) fn announce(&mut self, outgoing: &Outgoing, prefixes: &[IpNet]) {
        let nlri = prefixes.iter().map(nlri);
        let (attributes, next_hop) = (&outgoing.attributes, &outgoing.next_hop);
        if self.encoder.announce(attributes, next_hop, nlri.clone(), &mut self.out).is_err() {
            self.encoder.withdraw(nlri, &mut self.out);
        }
        self.close_if_full();
    }

    fn close_if_full(&mut self) {
        if self.out.len() >= PIECE {
            self.pieces.push(self.out.split().freeze());
        }
    }

    /// Everything, in order.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if !self.out.is_empty() {
            self.pieces.push(self.out.freeze());
        }
        self.pieces
    }
}

/// With path identifiers (RFC 7911).
impl Messages {
    /// Withdraws routes of one family.
    pub(crate) fn withdraw_routes(&mut self, routes: &[Nlri]) {
        for some in routes.chunks(PREFIXES) {
            self.encoder.withdraw(some.iter().copied(), &mut self.out);
            self.close_if_full();
        }
    }

    /// Announces routes of one family, or withdraws them if their attributes fit into no message.
    pub(crate) fn announce_routes(&mut self, outgoing: &Outgoing, routes: &[Nlri]) {
        for some in routes.chunks(PREFIXES) {
            let (attributes, next_hop) = (&outgoing.attributes, &outgoing.next_hop);
            if self.encoder.announce(attributes, next_hop, some.iter().copied(), &mut self.out).is_err() {
                self.encoder.withdraw(some.iter().copied(), &mut self.out);
            }
            self.close_if_full();
        }
    }
}

/// End-of-RIB of a family.
pub(crate) fn end_of_rib(family: Family, negotiated: &Negotiated) -> Bytes {
    let mut out = BytesMut::new();
    UpdateEncoder::new(*negotiated).end_of_rib(family.into(), &mut out);
    out.freeze()
}

/// ROUTE-REFRESH of some kind.
pub(crate) fn refresh(family: Family, kind: RefreshKind, negotiated: &Negotiated) -> Bytes {
    control(&Message::RouteRefresh(RouteRefresh { family: family.into(), kind }), negotiated)
}

/// A message that always fits into one. What doesn't is an OPEN with absurdly many capabilities, which this speaker
/// never builds; nothing is sent then.
pub(crate) fn control(message: &Message, negotiated: &Negotiated) -> Bytes {
    let mut out = BytesMut::new();
    match message.encode(negotiated, &mut out) {
        Ok(()) => out.freeze(),
        Err(_) => Bytes::new(),
    }
}
