//! MRT records (RFC 6396, path identifiers: RFC 8050): the table as TABLE_DUMP_V2, and messages as BGP4MP_ET.

use crate::rib::{Entry, Rib, RouteAttributes, SourceId};
use crate::status::PeerState;
use crate::wire::{Frame, Negotiated, NextHop};
use bytes::{BufMut, Bytes, BytesMut};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

const TABLE_DUMP_V2: u16 = 13;
const BGP4MP_ET: u16 = 17;
/// MP_REACH_NLRI (RFC 4760) up to the 16 octets of its next hop, which are all that it has here.
const MP_REACH_NLRI: [u8; 4] = [0x80, 14, 17, 16];

/// Where a dump goes on, and the peers it has numbered.
#[derive(Debug, Clone)]
pub struct DumpCursor {
    pub(crate) next: u32,
    sequence: u32,
    peers: Arc<BTreeMap<SourceId, u16>>,
}

/// A part of a dump.
#[derive(Debug, Clone)]
pub struct DumpPage {
    /// Whole records.
    pub data: Bytes,
    /// How it goes on; `None` at the end.
    pub next: Option<DumpCursor>,
}

fn begin(kind: u16, subtype: u16, at: Duration, out: &mut BytesMut) -> usize {
    out.put_u32(u32::try_from(at.as_secs()).unwrap_or(u32::MAX));
    out.put_u16(kind);
    out.put_u16(subtype);
    out.put_u32(0);
    out.len()
}

fn end(start: usize, out: &mut BytesMut) {
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start - 4..start) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

fn put_address(address: IpAddr, out: &mut BytesMut) {
    match address {
        IpAddr::V4(address) => out.put_slice(&address.octets()),
        IpAddr::V6(address) => out.put_slice(&address.octets()),
    }
}

/// A peer of the index.
#[derive(Debug)]
pub(crate) struct IndexedPeer {
    pub(crate) source: SourceId,
    pub(crate) address: IpAddr,
    pub(crate) asn: u32,
    pub(crate) id: Ipv4Addr,
}

/// PEER_INDEX_TABLE (RFC 6396 section 4.3.1). Peers beyond the 65536th have no number, and their paths are left out.
pub(crate) fn peer_index(
    collector: Ipv4Addr,
    peers: &[IndexedPeer],
    at: Duration,
    out: &mut BytesMut,
) -> DumpCursor {
    let peers = peers.get(..usize::from(u16::MAX)).unwrap_or(peers);
    let start = begin(TABLE_DUMP_V2, 1, at, out);
    out.put_slice(&collector.octets());
    out.put_u16(0);
    out.put_u16(u16::try_from(peers.len()).unwrap_or(u16::MAX));
    let mut numbers = BTreeMap::new();
    for (number, peer) in (0..=u16::MAX).zip(peers) {
        out.put_u8(2 | u8::from(peer.address.is_ipv6()));
        out.put_slice(&peer.id.octets());
        put_address(peer.address, out);
        out.put_u32(peer.asn);
        numbers.insert(peer.source, number);
    }
    end(start, out);
    DumpCursor { next: 0, sequence: 0, peers: Arc::new(numbers) }
}

impl DumpCursor {
    /// The eligible paths of an entry: one record for those without path identifier, one for those with
    /// (RFC 6396 section 4.3.2, RFC 8050 section 4).
    pub(crate) fn entry(
        &mut self,
        rib: &Rib,
        entry: Entry<'_>,
        epoch: Duration,
        now: Duration,
        out: &mut BytesMut,
    ) {
        for identified in [false, true] {
            let eligible = entry.paths.iter().filter(|path| path.filtered.is_none());
            let numbered = eligible.filter_map(|path| Some((*self.peers.get(&path.source)?, path)));
            let paths: Vec<_> = numbered.filter(|(_, path)| (path.path_id != 0) == identified).collect();
            if paths.is_empty() {
                continue;
            }
            let subtype = match (entry.prefix, identified) {
                (IpNet::V4(_), false) => 2,
                (IpNet::V6(_), false) => 4,
                (IpNet::V4(_), true) => 8,
                (IpNet::V6(_), true) => 10,
            };
            let start = begin(TABLE_DUMP_V2, subtype, now, out);
            out.put_u32(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            put_prefix(entry.prefix, out);
            out.put_u16(u16::try_from(paths.len()).unwrap_or(u16::MAX));
            for (number, path) in paths.into_iter().take(usize::from(u16::MAX)) {
                out.put_u16(number);
                let originated = epoch + Duration::from_secs(path.changed.into());
                out.put_u32(u32::try_from(originated.as_secs()).unwrap_or(u32::MAX));
                if identified {
                    out.put_u32(path.path_id);
                }
                put_attributes(rib.attrs.get(path.attrs), entry.prefix, out);
            }
            end(start, out);
        }
    }
}

fn put_prefix(prefix: IpNet, out: &mut BytesMut) {
    let octets = usize::from(prefix.prefix_len().div_ceil(8));
    out.put_u8(prefix.prefix_len());
    match prefix {
        IpNet::V4(prefix) => out.put_slice(prefix.network().octets().get(..octets).unwrap_or_default()),
        IpNet::V6(prefix) => out.put_slice(prefix.network().octets().get(..octets).unwrap_or_default()),
    }
}

/// All attributes with long AS numbers; MP_REACH_NLRI in its short form, with the next hop alone (section 4.3.4).
fn put_attributes(route: &RouteAttributes, prefix: IpNet, out: &mut BytesMut) {
    let unspecified = match prefix {
        IpNet::V4(_) => NextHop::V4(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => NextHop::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let mut encoded = Vec::new();
    // A route originated here has none.
    match route.next_hop.unwrap_or(unspecified) {
        NextHop::V4(address) => route.attributes.encode(Some(address), &mut encoded),
        NextHop::V6 { global, .. } => {
            route.attributes.encode(None, &mut encoded);
            encoded.extend_from_slice(&MP_REACH_NLRI);
            encoded.extend_from_slice(&global.octets());
        }
    }
    out.put_u16(u16::try_from(encoded.len()).unwrap_or(u16::MAX));
    out.put_slice(&encoded);
}

/// Both ends of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) remote_as: u32,
    pub(crate) local_as: u32,
    pub(crate) remote: IpAddr,
    pub(crate) local: IpAddr,
}

fn put_ends(ends: &Ends, out: &mut BytesMut) {
    out.put_u32(ends.remote_as);
    out.put_u32(ends.local_as);
    out.put_u16(0);
    // While there is no connection there is no local address: that of the same family stands for it.
    let same = ends.remote.is_ipv4() == ends.local.is_ipv4();
    out.put_u16(if ends.remote.is_ipv4() { 1 } else { 2 });
    put_address(ends.remote, out);
    match ends.remote {
        _ if same => put_address(ends.local, out),
        IpAddr::V4(_) => out.put_slice(&[0; 4]),
        IpAddr::V6(_) => out.put_slice(&[0; 16]),
    }
}

fn begin_et(subtype: u16, at: Duration, out: &mut BytesMut) -> usize {
    let start = begin(BGP4MP_ET, subtype, at, out);
    out.put_u32(at.subsec_micros());
    start
}

/// A message as received: BGP4MP_MESSAGE (2-octet AS numbers), _AS4, or _AS4_ADDPATH (sections 4.4.2 and 4.4.3,
/// RFC 8050 section 3).
pub(crate) fn message(ends: &Ends, negotiated: &Negotiated, at: Duration, frame: Frame<'_>) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + frame.bytes().len());
    let add_path = negotiated.add_path_receive != crate::wire::FamilySet::NONE;
    let subtype = if add_path { 9 } else { 4 };
    let start = if negotiated.four_octet_as {
        let start = begin_et(subtype, at, &mut out);
        put_ends(ends, &mut out);
        start
    } else {
        // The messages have short numbers, so the record must say so.
        let start = begin_et(if add_path { 8 } else { 1 }, at, &mut out);
        let mut long = BytesMut::new();
        put_ends(ends, &mut long);
        let short = |asn: u32| u16::try_from(asn).unwrap_or(crate::wire::AS_TRANS);
        out.put_u16(short(ends.remote_as));
        out.put_u16(short(ends.local_as));
        out.put_slice(long.get(8..).unwrap_or_default());
        start
    };
    out.put_slice(frame.bytes());
    end(start, &mut out);
    out.freeze()
}

/// BGP4MP_STATE_CHANGE_AS4 (section 4.4.4).
pub(crate) fn state_change(ends: &Ends, at: Duration, old: PeerState, new: PeerState) -> Bytes {
    let number = |state: PeerState| match state {
        PeerState::Idle => 1,
        PeerState::Connect => 2,
        PeerState::Active => 3,
        PeerState::OpenSent => 4,
        PeerState::OpenConfirm => 5,
        PeerState::Established => 6,
    };
    let mut out = BytesMut::with_capacity(64);
    let start = begin_et(5, at, &mut out);
    put_ends(ends, &mut out);
    out.put_u16(number(old));
    out.put_u16(number(new));
    end(start, &mut out);
    out.freeze()
}
