//! What stations have been told, and what they are told next.
//!
//! The feed follows the table as the update groups do: at each flush the settled entries are compared with what was told
//! of them, whatever changed them (RFC 7854 section 5 allows to leave out states in between). A station that comes is
//! told everything in pages, as fast as it reads; what changes meanwhile in pages already told follows at once, the rest
//! comes with its page.

mod dump;
mod routes;

use super::bmp::{self, DownReason, PeerHeader, View};
use super::station::{Progress, Station};
use super::{MonitorConfig, StationId, StationStatus};
use crate::family::Family;
use crate::io::{ConnId, octets};
use crate::rib::SourceId;
use crate::time::Time;
use crate::wire::{AfiSafi, FamilySet, Negotiated, UpdateEncoder};
use bytes::{Bytes, BytesMut};
use routes::{Originals, ToldEntry};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// What the OPENs of a connection were, and the ports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Handshake {
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    #[serde(with = "octets")]
    pub(crate) sent: Bytes,
    #[serde(with = "octets")]
    pub(crate) received: Bytes,
}

/// A peer that is up.
#[derive(Debug)]
pub(crate) struct Monitored {
    pub(crate) remote: IpAddr,
    pub(crate) asn: u32,
    pub(crate) id: Ipv4Addr,
    pub(crate) local: IpAddr,
    pub(crate) conn: ConnId,
    pub(crate) negotiated: Negotiated,
    pub(crate) since: Time,
    /// Families whose End-of-RIB has come.
    pub(crate) complete: FamilySet,
}

/// Everything about stations.
#[derive(Debug)]
pub(crate) struct Feed {
    config: MonitorConfig,
    local_as: u32,
    router_id: Ipv4Addr,
    stations: Vec<Station>,
    peers: BTreeMap<SourceId, Monitored>,
    handshakes: BTreeMap<ConnId, Handshake>,
    told: Vec<ToldEntry>,
    /// Attributes as received of paths whose attributes import policy has changed, by source.
    originals: BTreeMap<SourceId, Originals>,
    /// Peers that went down and whose paths have not been settled since.
    unsettled: BTreeSet<SourceId>,
    /// End-of-RIBs that follow the next flush.
    complete: Vec<(SourceId, Family)>,
    outputs: Vec<(StationId, Option<Bytes>)>,
}

/// In the order of a station's batches.
const ALL_VIEWS: [View; 3] = [View::PrePolicy, View::PostPolicy, View::LocRib];

impl Feed {
    pub(crate) fn new(config: MonitorConfig, local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            stations: config.stations.iter().cloned().map(Station::new).collect(),
            config,
            local_as,
            router_id,
            peers: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            told: Vec::new(),
            originals: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            complete: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// What the stations are to be sent; none means that a station is cut off.
    pub(crate) fn take_outputs(&mut self) -> Vec<(StationId, Option<Bytes>)> {
        std::mem::take(&mut self.outputs)
    }

    pub(crate) fn status(&self) -> Vec<StationStatus> {
        self.stations.iter().map(Station::status).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.stations.iter().filter_map(|station| station.statistics_at).min()
    }

    /// The handshake of a connection.
    pub(crate) fn handshake(&mut self, conn: ConnId) -> &mut Handshake {
        self.handshakes.entry(conn).or_default()
    }

    /// What is known of the handshake of a connection.
    pub(crate) fn handshake_of(&self, conn: ConnId) -> Option<&Handshake> {
        self.handshakes.get(&conn)
    }

    /// Whether import policy has changed routes of a peer.
    pub(crate) fn has_originals(&self, source: SourceId) -> bool {
        self.originals.get(&source).is_some_and(|originals| !originals.is_empty())
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.handshakes.remove(&conn);
    }

    fn wall(&self, at: Time) -> Duration {
        self.config.epoch + at.since(Time::ZERO)
    }

    fn wall_secs(&self, secs: u32) -> Duration {
        self.config.epoch + Duration::from_secs(secs.into())
    }

    fn header(&self, view: View, source: SourceId, at: Duration) -> Option<PeerHeader> {
        if view == View::LocRib {
            let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            return Some(PeerHeader { view, address, asn: self.local_as, id: self.router_id, at });
        }
        let peer = self.peers.get(&source)?;
        Some(PeerHeader { view, address: peer.remote, asn: peer.asn, id: peer.id, at })
    }

    /// How UPDATEs about a peer are encoded: as the peer's own were, but with long AS numbers.
    fn encoding(&self, view: View, source: SourceId) -> Option<Negotiated> {
        let base = Negotiated::minimal(crate::wire::PeerKind::Internal);
        let base = Negotiated {
            four_octet_as: true,
            extended_next_hop: true,
            extended_message: true,
            families: FamilySet::BOTH,
            ..base
        };
        match view {
            View::LocRib => Some(base),
            _ => self
                .peers
                .get(&source)
                .map(|peer| Negotiated { add_path_send: peer.negotiated.add_path_receive, ..base }),
        }
    }

    fn push(&mut self, id: StationId, data: &Bytes) {
        let Some(station) = self.stations.get_mut(id) else { return };
        if data.is_empty() || station.progress == Progress::Down {
            return;
        }
        station.pending += data.len();
        if station.pending > station.config.buffer {
            // It does not read. Whatever it missed it gets when it comes back.
            station.progress = Progress::Down;
            station.statistics_at = None;
            station.pending = 0;
            station.cuts += 1;
            self.outputs.push((id, None));
            return;
        }
        self.outputs.push((id, Some(data.clone())));
    }

    /// Sends to every station that is to have it.
    fn tell(&mut self, data: BytesMut, wanted: impl Fn(&Station) -> bool) {
        let data = data.freeze();
        let ids: Vec<StationId> =
            self.stations.iter().enumerate().filter(|(_, s)| wanted(s)).map(|(id, _)| id).collect();
        for id in ids {
            self.push(id, &data);
        }
    }

    fn follows_peers(station: &Station) -> bool {
        station.wants(View::PrePolicy) || station.wants(View::PostPolicy)
    }

    /// Whether paths told before the peer's last loss may still count as told.
    pub(crate) fn is_unsettled(&self, id: SourceId) -> bool {
        self.unsettled.contains(&id)
    }

    pub(crate) fn peer_up(&mut self, id: SourceId, peer: Monitored) {
        self.unsettled.remove(&id);
        self.peers.insert(id, peer);
        let mut out = BytesMut::new();
        self.encode_peer_up(id, &mut out);
        self.tell(out, |station| Self::follows_peers(station) && station.knows_peer(id));
    }

    fn encode_peer_up(&self, id: SourceId, out: &mut BytesMut) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(header) = self.header(View::PrePolicy, id, self.wall(peer.since)) else { return };
        let Some(handshake) = self.handshakes.get(&peer.conn) else { return };
        let opens = [&handshake.sent[..], &handshake.received[..]];
        let local = (peer.local, handshake.local_port);
        bmp::peer_up(&header, local, handshake.remote_port, opens, out);
    }

    fn encode_loc_rib_up(&self, now: Time, out: &mut BytesMut) {
        let Some(header) = self.header(View::LocRib, SourceId::LOCAL, self.wall(now)) else { return };
        let open = bmp_open(self.local_as, self.router_id);
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        bmp::peer_up(&header, (unspecified, 0), 0, [&open, &open], out);
    }

    pub(crate) fn peer_down(&mut self, now: Time, id: SourceId, reason: &DownReason) {
        self.originals.remove(&id);
        let Some(header) = self.header(View::PrePolicy, id, self.wall(now)) else { return };
        self.peers.remove(&id);
        self.unsettled.insert(id);
        self.complete.retain(|(source, _)| *source != id);
        let mut out = BytesMut::new();
        bmp::peer_down(&header, reason, &mut out);
        self.tell(out, |station| Self::follows_peers(station) && station.knows_peer(id));
    }

    /// The peer's table is complete, as soon as `settled`.
    pub(crate) fn end_of_rib(&mut self, id: SourceId, family: Family, settled: bool) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let complete = &mut peer.complete;
            *complete = AfiSafi::SUPPORTED
                .into_iter()
                .filter(|f| complete.has(*f) || *f == AfiSafi::from(family))
                .collect();
            self.complete.push((id, family));
        }
        if settled {
            self.tell_complete();
        }
    }

    fn tell_complete(&mut self) {
        for (id, family) in std::mem::take(&mut self.complete) {
            for view in [View::PrePolicy, View::PostPolicy] {
                let mut out = BytesMut::new();
                self.encode_end_of_rib(view, id, family, &mut out);
                // Others get it at the end of their dump.
                self.tell(out, |station| station.wants(view) && station.progress == Progress::Live);
            }
        }
    }

    fn encode_end_of_rib(&self, view: View, id: SourceId, family: Family, out: &mut BytesMut) {
        let at = self.peers.get(&id).map_or(self.config.epoch, |peer| self.wall(peer.since));
        let (Some(header), Some(negotiated)) = (self.header(view, id, at), self.encoding(view, id)) else {
            return;
        };
        let mut update = BytesMut::new();
        UpdateEncoder::new(negotiated).end_of_rib(family.into(), &mut update);
        bmp::route_monitoring(&header, &update, out);
    }
}

/// The OPEN that stands for the Loc-RIB's own session (RFC 9069 section 4.4).
fn bmp_open(asn: u32, id: Ipv4Addr) -> BytesMut {
    use crate::wire::{Capability, Message, Open, PeerKind};
    let mut capabilities: Vec<Capability> =
        AfiSafi::SUPPORTED.into_iter().map(Capability::MultiProtocol).collect();
    capabilities.push(Capability::FourOctetAs(asn));
    let open = Message::Open(Open::new(asn, 0, id, capabilities));
    let mut out = BytesMut::new();
    // Three capabilities always fit.
    let fits = open.encode(&Negotiated::minimal(PeerKind::Internal), &mut out);
    debug_assert!(fits.is_ok());
    out
}
