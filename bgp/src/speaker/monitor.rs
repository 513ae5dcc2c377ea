//! What people who look from outside are told: BMP stations, MRT records, watchers of the table. Each hook costs one
//! check when nobody looks.

use super::Speaker;
use super::fsm::Cause;
use super::peer::{Conn, Slot};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::egress;
use crate::family::Family;
use crate::io::{ConnId, Output};
use crate::monitor::bmp::DownReason;
use crate::monitor::{
    DumpCursor, DumpPage, Feed, Handshake, MonitorConfig, Monitored, StationId, StationInput, StationStatus,
    mrt,
};
use crate::rib::{EntryId, Rib, RouteAttributes, SourceId};
use crate::session::negotiate;
use crate::status::PeerState;
use crate::time::Time;
use crate::wire::{Frame, Message, MessageType, Negotiated, NextHop, Nlri, Notification, PathAttributes};
use bytes::{Bytes, BytesMut};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Prefixes in one [`Output::Changed`].
const CHANGED: usize = 1024;

/// Who looks, if anybody.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    feed: Option<Box<Feed>>,
    /// Records are wanted, with times counted from this one.
    record: Option<Duration>,
    /// Changes are wanted.
    pub(super) changes: bool,
    /// Records that wait to be given out.
    records: Vec<Bytes>,
    epoch: Duration,
}

impl Watchers {
    pub(super) fn open_sent(&mut self, conn: ConnId, open: &Bytes) {
        if let Some(feed) = &mut self.feed {
            feed.handshake(conn).sent = open.clone();
        }
    }

    /// A message came in.
    pub(super) fn received(
        &mut self,
        now: Time,
        us: &SpeakerConfig,
        (id, conn, peer): (ConnId, &Conn, &PeerConfig),
        negotiated: &Negotiated,
        frame: Frame<'_>,
    ) {
        if let Some(feed) = &mut self.feed
            && frame.kind() == MessageType::Open
        {
            feed.handshake(id).received = Bytes::copy_from_slice(frame.bytes());
        }
        if let Some(epoch) = self.record
            && frame.kind() == MessageType::Update
        {
            let at = epoch + now.since(Time::ZERO);
            self.records.push(mrt::message(&ends(us, peer, conn.local), negotiated, at, frame));
        }
    }

    /// A route has passed import policy, which may have changed it.
    pub(super) fn imported(
        &mut self,
        now: Time,
        rib: &Rib,
        source: SourceId,
        nlri: &Nlri,
        (attributes, next_hop): (&PathAttributes, NextHop),
        changed: bool,
    ) {
        let Some(feed) = &mut self.feed else { return };
        let received = || RouteAttributes { next_hop: Some(next_hop), attributes: attributes.clone() };
        feed.imported(rib, source, nlri, received, changed, now);
    }

    /// A route was withdrawn by its source.
    pub(super) fn withdrawn(&mut self, rib: &Rib, source: SourceId, nlri: &Nlri) {
        if let Some(feed) = &mut self.feed {
            feed.withdrawn(rib, source, nlri);
        }
    }
}

fn ends(us: &SpeakerConfig, peer: &PeerConfig, local: Option<IpAddr>) -> mrt::Ends {
    mrt::Ends {
        remote_as: peer.remote_as,
        local_as: negotiate::local_as(us, peer),
        remote: peer.remote,
        local: local.or(peer.local).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    }
}

impl Speaker {
    /// The same speaker with people who look. Before the first input: what came before would not be seen.
    #[must_use]
    pub fn with_monitor(mut self, config: MonitorConfig) -> Self {
        self.watchers.epoch = config.epoch;
        self.watchers.record = config.record.then_some(config.epoch);
        if !config.stations.is_empty() {
            let feed = Feed::new(config, self.config.local_as, self.config.router_id);
            self.watchers.feed = Some(Box::new(feed));
        }
        self
    }

    /// BMP stations, as configured.
    #[must_use]
    pub fn stations(&self) -> Vec<StationStatus> {
        self.watchers.feed.as_ref().map(|feed| feed.status()).unwrap_or_default()
    }

    pub(super) fn note_ports(&mut self, conn: ConnId, local: u16, remote: Option<u16>) {
        let Some(feed) = &mut self.watchers.feed else { return };
        let dialled = || match self.conns.get(&conn) {
            Some(super::Owner::Peer(id)) => self.peers.get(id).map(|peer| peer.config.port),
            _ => None,
        };
        let remote = remote.or_else(dialled).unwrap_or_default();
        let handshake = feed.handshake(conn);
        (handshake.local_port, handshake.remote_port) = (local, remote);
    }

    pub(super) fn forget_handshake(&mut self, conn: ConnId) {
        if let Some(feed) = &mut self.watchers.feed {
            feed.forget(conn);
        }
    }

    pub(super) fn monitor_up(&mut self, id: SourceId) {
        if self.watchers.feed.as_ref().is_some_and(|feed| feed.is_unsettled(id)) {
            // What was told of the last session must not count for this one.
            self.flush();
        }
        let Some(feed) = &mut self.watchers.feed else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        let (Some(session), Some(conn)) = (&peer.main.session, peer.main.id) else { return };
        let monitored = Monitored {
            remote: peer.config.remote,
            asn: peer.config.remote_as,
            id: session.remote_id,
            local: peer.main.local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            conn,
            negotiated: session.negotiated,
            since: peer.changed_at.unwrap_or(self.now),
            complete: crate::wire::FamilySet::NONE,
        };
        feed.peer_up(id, monitored);
    }

    /// A session was taken over. Without its handshake stations are told nothing of it.
    pub(super) fn monitor_again(&mut self, id: SourceId, handshake: Option<&Handshake>, complete: &[Family]) {
        let conn = self.peers.get(&id).and_then(|peer| peer.main.id);
        let (Some(feed), Some(conn), Some(handshake)) = (&mut self.watchers.feed, conn, handshake) else {
            return;
        };
        *feed.handshake(conn) = handshake.clone();
        self.monitor_up(id);
        for family in complete {
            self.monitor_complete(id, *family);
        }
    }

    pub(super) fn handshake_of(&self, conn: ConnId) -> Option<&Handshake> {
        self.watchers.feed.as_ref()?.handshake_of(conn)
    }

    pub(super) fn has_originals(&self, id: SourceId) -> bool {
        self.watchers.feed.as_ref().is_some_and(|feed| feed.has_originals(id))
    }

    pub(super) fn monitor_down(&mut self, id: SourceId, cause: &Cause) {
        let Some(feed) = &mut self.watchers.feed else { return };
        let whole = |notification: &Notification| {
            let negotiated = Negotiated::minimal(crate::wire::PeerKind::Internal);
            egress::control(&Message::Notification(notification.clone()), &negotiated)
        };
        let reason = match &cause.notification {
            Some(notification) if cause.received => DownReason::RemoteNotification(whole(notification)),
            Some(notification) => DownReason::LocalNotification(whole(notification)),
            // TcpConnectionConfirmed of the connection that takes over (RFC 4271 section 8.1.4, event 17).
            None if cause.replaced => DownReason::Local(17),
            None => DownReason::Remote,
        };
        feed.peer_down(self.now, id, &reason);
    }

    pub(super) fn monitor_complete(&mut self, id: SourceId, family: Family) {
        let settled = !self.rib.is_dirty();
        if let Some(feed) = &mut self.watchers.feed {
            feed.end_of_rib(id, family, settled);
        }
    }

    /// Entries have been settled and not yet swept.
    pub(super) fn tell_watchers(&mut self, settled: &[EntryId]) {
        if let Some(feed) = &mut self.watchers.feed {
            feed.settled(self.now, &self.rib, settled);
        }
        if self.watchers.changes {
            for some in settled.chunks(CHANGED) {
                let prefixes = some.iter().filter_map(|id| self.rib.entry(*id)).map(|entry| entry.prefix);
                self.outputs.push_back(Output::Changed(prefixes.collect()));
            }
        }
    }

    pub(super) fn station(&mut self, station: StationId, what: StationInput) {
        if let Some(feed) = &mut self.watchers.feed {
            feed.station(self.now, station, what);
        }
    }

    pub(super) fn stations_deadline(&self) -> Option<Time> {
        self.watchers.feed.as_ref().and_then(|feed| feed.next_deadline())
    }

    /// Gives out what stations and records are due.
    pub(super) fn pump_stations(&mut self) {
        if let Some(feed) = &mut self.watchers.feed {
            let treated = |id| self.peers.get(&id).map_or(0, |peer| peer.counters.treated_as_withdraw);
            feed.pump(self.now, &self.rib, treated);
        }
        self.give_out();
    }

    fn give_out(&mut self) {
        if let Some(feed) = &mut self.watchers.feed {
            for (station, data) in feed.take_outputs() {
                self.outputs.push_back(Output::Station { station, data });
            }
        }
        for data in self.watchers.records.drain(..) {
            self.outputs.push_back(Output::Record { data });
        }
    }

    pub(super) fn end_monitoring(&mut self) {
        if let Some(feed) = &mut self.watchers.feed {
            feed.terminate();
        }
        self.give_out();
    }

    pub(super) fn record_state(&mut self, id: SourceId, slot: Slot, old: PeerState, new: PeerState) {
        let (Some(epoch), Slot::Main) = (self.watchers.record, slot) else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        let at = epoch + self.now.since(Time::ZERO);
        let ends = ends(&self.config, &peer.config, peer.main.local);
        self.watchers.records.push(mrt::state_change(&ends, at, old, new));
    }

    /// A part of the table as MRT records, from the beginning without a cursor. About `entries` prefixes are looked at.
    /// Peers that are added while a dump goes on are not in it.
    #[must_use]
    pub fn dump_page(&self, cursor: Option<DumpCursor>, entries: u32) -> DumpPage {
        let epoch = self.watchers.epoch;
        let now = epoch + self.now.since(Time::ZERO);
        let mut out = BytesMut::new();
        let mut cursor = cursor.unwrap_or_else(|| {
            let ours = mrt::IndexedPeer {
                source: SourceId::LOCAL,
                address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                asn: self.config.local_as,
                id: self.config.router_id,
            };
            let others = self.peers.values().map(|peer| mrt::IndexedPeer {
                source: peer.id,
                address: peer.config.remote,
                asn: peer.config.remote_as,
                id: peer.remote_id.unwrap_or(Ipv4Addr::UNSPECIFIED),
            });
            let peers: Vec<_> = std::iter::once(ours).chain(others).collect();
            mrt::peer_index(self.config.router_id, &peers, now, &mut out)
        });
        let first = cursor.next;
        let last = first.saturating_add(entries);
        for id in (first..last).map(EntryId) {
            if let Some(entry) = self.rib.entry(id) {
                cursor.entry(&self.rib, entry, epoch, now, &mut out);
            }
        }
        cursor.next = last;
        let more = last < self.rib.bound();
        DumpPage { data: out.freeze(), next: more.then_some(cursor) }
    }
}
