//! BMP messages (RFC 7854, Loc-RIB: RFC 9069). Encoding only: a router never reads from a station.

use crate::wire::HEADER_LEN;
use bytes::{BufMut, Bytes, BytesMut};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Octets of the common header: version, length, type (RFC 7854 section 4.1).
const COMMON_LEN: usize = 6;

/// Types of messages (RFC 7854 section 4.1).
#[derive(Debug, Clone, Copy)]
enum Kind {
    RouteMonitoring = 0,
    Statistics = 1,
    PeerDown = 2,
    PeerUp = 3,
    Initiation = 4,
    Termination = 5,
}

/// Whose RIB a message is about (RFC 7854 section 4.2, RFC 9069 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Adj-RIB-In as received.
    PrePolicy,
    /// Adj-RIB-In after import policy.
    PostPolicy,
    /// Loc-RIB.
    LocRib,
}

/// The per-peer header's contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerHeader {
    pub(crate) view: View,
    /// Unspecified for Loc-RIB.
    pub(crate) address: IpAddr,
    pub(crate) asn: u32,
    pub(crate) id: Ipv4Addr,
    /// When the routes were received, since 1970.
    pub(crate) at: Duration,
}

/// Why a peer is down (RFC 7854 section 4.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DownReason {
    /// We sent this NOTIFICATION.
    LocalNotification(Bytes),
    /// We closed without one, at an event of the FSM (RFC 4271 section 8.1); 0 if none fits.
    Local(u16),
    /// The peer sent this NOTIFICATION.
    RemoteNotification(Bytes),
    /// The connection went away.
    Remote,
}

/// A counter or gauge (RFC 7854 section 4.8).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Statistic {
    /// Type 7: routes in Adj-RIBs-In.
    AdjIn(u64),
    /// Type 8: routes in Loc-RIB.
    LocRib(u64),
    /// Type 9: routes in Adj-RIB-In of a family (AFI, SAFI).
    AdjInFamily(u16, u8, u64),
    /// Type 10: routes in Loc-RIB of a family.
    LocRibFamily(u16, u8, u64),
    /// Type 11: UPDATEs treated as withdrawals (RFC 7606).
    TreatedAsWithdraw(u32),
}

fn begin(kind: Kind, out: &mut BytesMut) -> usize {
    let start = out.len();
    out.put_slice(&[3, 0, 0, 0, 0, kind as u8]);
    start
}

fn end(start: usize, out: &mut BytesMut) {
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start + 1..start + COMMON_LEN - 1) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

fn address(address: IpAddr, out: &mut BytesMut) {
    match address {
        IpAddr::V4(address) => {
            out.put_slice(&[0; 12]);
            out.put_slice(&address.octets());
        }
        IpAddr::V6(address) => out.put_slice(&address.octets()),
    }
}

fn per_peer(header: &PeerHeader, out: &mut BytesMut) {
    let (kind, flags) = match header.view {
        View::LocRib => (3, 0),
        View::PrePolicy => (0, if header.address.is_ipv6() { 0x80 } else { 0 }),
        View::PostPolicy => (0, 0x40 | if header.address.is_ipv6() { 0x80 } else { 0 }),
    };
    out.put_slice(&[kind, flags]);
    out.put_u64(0);
    address(header.address, out);
    out.put_u32(header.asn);
    out.put_slice(&header.id.octets());
    out.put_u32(u32::try_from(header.at.as_secs()).unwrap_or(u32::MAX));
    out.put_u32(header.at.subsec_micros());
}

/// Text, cut where the length field ends.
fn tlv(kind: u16, text: &str, out: &mut BytesMut) {
    let text = text.as_bytes().get(..usize::from(u16::MAX)).unwrap_or(text.as_bytes());
    out.put_u16(kind);
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text);
}

/// The first message of a connection: sysName and sysDescr (section 4.3).
pub(crate) fn initiation(name: &str, description: &str, out: &mut BytesMut) {
    let start = begin(Kind::Initiation, out);
    tlv(1, description, out);
    tlv(2, name, out);
    end(start, out);
}

/// The last message: administratively closed (section 4.5).
pub(crate) fn termination(out: &mut BytesMut) {
    let start = begin(Kind::Termination, out);
    out.put_slice(&[0, 1, 0, 2, 0, 0]);
    end(start, out);
}

/// A session is up (section 4.10); `opens` are whole messages, the one sent first. A Loc-RIB goes without the name that
/// it may have (RFC 9069 section 4.4): Wireshark up to 4.0 takes what follows the OPENs for a third.
pub(crate) fn peer_up(
    header: &PeerHeader,
    local: (IpAddr, u16),
    remote_port: u16,
    opens: [&[u8]; 2],
    out: &mut BytesMut,
) {
    let start = begin(Kind::PeerUp, out);
    per_peer(header, out);
    address(local.0, out);
    out.put_u16(local.1);
    out.put_u16(remote_port);
    opens.into_iter().for_each(|open| out.put_slice(open));
    end(start, out);
}

/// A session is down, and with it all its routes.
pub(crate) fn peer_down(header: &PeerHeader, reason: &DownReason, out: &mut BytesMut) {
    let start = begin(Kind::PeerDown, out);
    per_peer(header, out);
    match reason {
        DownReason::LocalNotification(message) => {
            out.put_u8(1);
            out.put_slice(message);
        }
        DownReason::Local(event) => {
            out.put_u8(2);
            out.put_u16(*event);
        }
        DownReason::RemoteNotification(message) => {
            out.put_u8(3);
            out.put_slice(message);
        }
        DownReason::Remote => out.put_u8(4),
    }
    end(start, out);
}

/// Each of the UPDATEs in `updates`, which are whole messages, as a Route Monitoring message (section 4.6).
pub(crate) fn route_monitoring(header: &PeerHeader, mut updates: &[u8], out: &mut BytesMut) {
    while let Some([high, low]) = updates.get(HEADER_LEN - 3..HEADER_LEN - 1) {
        let len = usize::from(u16::from_be_bytes([*high, *low])).clamp(HEADER_LEN, updates.len());
        let (message, rest) = updates.split_at(len);
        let start = begin(Kind::RouteMonitoring, out);
        per_peer(header, out);
        out.put_slice(message);
        end(start, out);
        updates = rest;
    }
}

/// A Statistics Report (section 4.8).
pub(crate) fn statistics(header: &PeerHeader, statistics: &[Statistic], out: &mut BytesMut) {
    let start = begin(Kind::Statistics, out);
    per_peer(header, out);
    out.put_u32(u32::try_from(statistics.len()).unwrap_or(u32::MAX));
    let family = |kind: u16, afi: u16, safi: u8, value: u64, out: &mut BytesMut| {
        out.put_u16(kind);
        out.put_u16(11);
        out.put_u16(afi);
        out.put_u8(safi);
        out.put_u64(value);
    };
    for statistic in statistics {
        match *statistic {
            Statistic::AdjIn(value) => {
                out.put_slice(&[0, 7, 0, 8]);
                out.put_u64(value);
            }
            Statistic::LocRib(value) => {
                out.put_slice(&[0, 8, 0, 8]);
                out.put_u64(value);
            }
            Statistic::AdjInFamily(afi, safi, value) => family(9, afi, safi, value, out),
            Statistic::LocRibFamily(afi, safi, value) => family(10, afi, safi, value, out),
            Statistic::TreatedAsWithdraw(value) => {
                out.put_slice(&[0, 11, 0, 4]);
                out.put_u32(value);
            }
        }
    }
    end(start, out);
}
