//! What stations have been told, and what they are told next.
//!
//! The feed follows the table as the update groups do: at each flush the settled entries are compared with what was told
//! of them, whatever changed them (RFC 7854 section 5 allows to leave out states in between). A station that comes is
//! told everything in pages, as fast as it reads; what changes meanwhile in pages already told follows at once, the rest
//! comes with its page.

mod dump;

use super::bmp::{self, DownReason, PeerHeader, View};
use super::station::{Progress, Station};
use super::{MonitorConfig, StationId, StationStatus};
use crate::family::Family;
use crate::hash::Table;
use crate::io::{ConnId, octets};
use crate::rib::{AttrId, Entry, EntryId, Path, Rib, RouteAttributes, SourceId};
use crate::time::Time;
use crate::wire::{AfiSafi, FamilySet, Negotiated, NextHop, Nlri, UpdateEncoder};
use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
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

/// A path as stations know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    source: SourceId,
    path_id: u32,
    attrs: AttrId,
    eligible: bool,
    /// As of this second of virtual time. Alone it is no news.
    changed: u32,
}

impl Told {
    fn new(path: &Path) -> Self {
        let eligible = path.filtered.is_none();
        Self {
            source: path.source,
            path_id: path.path_id,
            attrs: path.attrs,
            eligible,
            changed: path.changed,
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.attrs == other.attrs && self.source == other.source && self.path_id == other.path_id
    }
}

#[derive(Debug, Default)]
struct ToldEntry {
    paths: SmallVec<[Told; 1]>,
    best: Option<Told>,
}

/// News of one view, gathered so that equal attributes share a message.
#[derive(Debug, Default)]
struct Batch {
    withdrawn: BTreeMap<SourceId, Vec<Nlri>>,
    announced: BTreeMap<(SourceId, u32, AttrId, Family), Vec<Nlri>>,
    /// With the attributes that policy has replaced.
    originals: Vec<(SourceId, u32, Arc<RouteAttributes>, Nlri)>,
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
    /// Attributes as received of paths whose attributes import policy has changed.
    originals: Table<(SourceId, IpNet, u32), Arc<RouteAttributes>>,
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
            originals: Table::default(),
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
        self.originals.keys().any(|(of, ..)| *of == source)
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

    // Sessions.

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

    // Routes.

    /// What a path's attributes were before import policy; `None` if they are what the table has.
    pub(crate) fn original(
        &mut self,
        source: SourceId,
        nlri: &Nlri,
        original: Option<&Arc<RouteAttributes>>,
        now: Time,
    ) {
        let key = (source, nlri.prefix, nlri.path_id.unwrap_or(0));
        let Some(original) = original else {
            self.originals.remove(&key);
            return;
        };
        if self.originals.insert(key, Arc::clone(original)).as_ref() == Some(original) {
            return;
        }
        // The table may not change with it, as policy may make the same of both.
        let changed = u32::try_from(now.since(Time::ZERO).as_secs()).unwrap_or(u32::MAX);
        let batch =
            Batch { originals: vec![(source, changed, Arc::clone(original), *nlri)], ..Batch::default() };
        let mut out = BytesMut::new();
        self.encode(View::PrePolicy, &batch, None, self.wall(now), &mut out);
        self.tell(out, |station| station.wants(View::PrePolicy) && station.progress == Progress::Live);
    }

    /// Entries have been settled and not yet swept.
    pub(crate) fn settled(&mut self, now: Time, rib: &Rib, ids: &[EntryId]) {
        let stations: Vec<StationId> =
            (0..self.stations.len()).filter(|id| self.stations[*id].progress != Progress::Down).collect();
        let mut batches: Vec<[Batch; 3]> = stations.iter().map(|_| Default::default()).collect();
        for id in ids {
            let Some(entry) = rib.entry(*id) else { continue };
            let (before, after) = self.replace(*id, entry);
            for (batches, station) in batches.iter_mut().zip(&stations) {
                if self.stations[*station].knows_entry(*id) {
                    self.compare(entry.prefix, &before, &after, batches);
                }
            }
            for path in &before.paths {
                if !after.paths.iter().any(|it| (it.source, it.path_id) == (path.source, path.path_id)) {
                    self.originals.remove(&(path.source, entry.prefix, path.path_id));
                }
            }
        }
        self.unsettled.clear();
        let wall = self.wall(now);
        for (batches, station) in batches.iter().zip(stations) {
            self.send(station, batches, rib, wall);
        }
        self.tell_complete();
    }

    fn send(&mut self, station: StationId, batches: &[Batch; 3], rib: &Rib, wall: Duration) {
        for (view, batch) in ALL_VIEWS.into_iter().zip(batches) {
            if self.stations.get(station).is_some_and(|station| station.wants(view)) {
                let mut out = BytesMut::new();
                self.encode(view, batch, Some(rib), wall, &mut out);
                self.push(station, &out.freeze());
            }
        }
    }

    /// Notes the present state of an entry; returns the former and the new one.
    fn replace(&mut self, id: EntryId, entry: Entry<'_>) -> (ToldEntry, ToldEntry) {
        let present = |path: &&Path| !path.stale && self.peers.contains_key(&path.source);
        let after = ToldEntry {
            paths: entry.paths.iter().filter(present).map(Told::new).collect(),
            best: entry.best().map(Told::new),
        };
        let index = id.0 as usize;
        if index >= self.told.len() {
            self.told.resize_with(index + 1, ToldEntry::default);
        }
        let kept = ToldEntry { paths: after.paths.clone(), best: after.best };
        let before = self.told.get_mut(index).map(|place| std::mem::replace(place, kept));
        (before.unwrap_or_default(), after)
    }

    fn compare(&self, prefix: IpNet, before: &ToldEntry, after: &ToldEntry, batches: &mut [Batch; 3]) {
        let [pre, post, loc] = batches;
        for was in &before.paths {
            // What a lost session took with it was told by Peer Down.
            if !self.peers.contains_key(&was.source) {
                continue;
            }
            let is = after.paths.iter().find(|is| (is.source, is.path_id) == (was.source, was.path_id));
            let nlri = Nlri { prefix, path_id: Some(was.path_id) };
            if is.is_none() {
                pre.withdrawn.entry(was.source).or_default().push(nlri);
            }
            if was.eligible && is.is_none_or(|is| !is.eligible) {
                post.withdrawn.entry(was.source).or_default().push(nlri);
            }
        }
        for is in &after.paths {
            let was = before.paths.iter().find(|was| was.says_the_same(is));
            if was.is_none() {
                self.add(pre, prefix, is, View::PrePolicy);
            }
            if is.eligible && was.is_none_or(|was| !was.eligible) {
                self.add(post, prefix, is, View::PostPolicy);
            }
        }
        match (&before.best, &after.best) {
            (Some(was), Some(is)) if was.says_the_same(is) => {}
            (_, Some(is)) => self.add(loc, prefix, is, View::LocRib),
            (Some(_), None) => {
                loc.withdrawn.entry(SourceId::LOCAL).or_default().push(Nlri { prefix, path_id: None });
            }
            (None, None) => {}
        }
    }

    fn add(&self, batch: &mut Batch, prefix: IpNet, told: &Told, view: View) {
        let nlri = Nlri { prefix, path_id: Some(told.path_id) };
        if view == View::PrePolicy
            && let Some(original) = self.originals.get(&(told.source, prefix, told.path_id))
        {
            batch.originals.push((told.source, told.changed, Arc::clone(original), nlri));
            return;
        }
        let key = (told.source, told.changed, told.attrs, Family::of(&prefix));
        batch.announced.entry(key).or_default().push(nlri);
    }

    fn encode(&self, view: View, batch: &Batch, rib: Option<&Rib>, wall: Duration, out: &mut BytesMut) {
        let mut updates = BytesMut::new();
        for (source, prefixes) in &batch.withdrawn {
            let (Some(header), Some(negotiated)) =
                (self.header(view, *source, wall), self.encoding(view, *source))
            else {
                continue;
            };
            let mut prefixes = prefixes.clone();
            prefixes.sort_unstable_by_key(|nlri| (nlri.family(), *nlri));
            UpdateEncoder::new(negotiated).withdraw(prefixes, &mut updates);
            bmp::route_monitoring(&header, &updates.split(), out);
        }
        let mut announce = |source: SourceId, changed: u32, route: &RouteAttributes, prefixes: &[Nlri]| {
            let at = self.wall_secs(changed);
            let (Some(header), Some(negotiated), Some(first)) =
                (self.header(view, source, at), self.encoding(view, source), prefixes.first())
            else {
                return;
            };
            let next_hop = route.next_hop.unwrap_or(match first.prefix {
                IpNet::V4(_) => NextHop::V4(Ipv4Addr::UNSPECIFIED),
                IpNet::V6(_) => NextHop::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            });
            let mut encoder = UpdateEncoder::new(negotiated);
            let prefixes = prefixes.iter().copied();
            // What has no form on the wire did not come over it either.
            if encoder.announce(&route.attributes, &next_hop, prefixes, &mut updates).is_ok() {
                bmp::route_monitoring(&header, &updates.split(), out);
            }
        };
        if let Some(rib) = rib {
            for ((source, changed, attrs, _), prefixes) in &batch.announced {
                announce(*source, *changed, rib.attrs.get(*attrs), prefixes);
            }
        }
        for (source, changed, route, nlri) in &batch.originals {
            announce(*source, *changed, route, &[*nlri]);
        }
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
