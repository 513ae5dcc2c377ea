//! The whole speaker as a value: inputs and time in, outputs out.

mod accept;
#[cfg(test)]
mod attribute_tests;
mod bfd;
mod configure;
mod dynamic;
mod explain;
mod flush;
mod fsm;
mod handover;
#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod link_tests;
mod messages;
mod monitor;
#[cfg(test)]
mod monitor_tests;
#[cfg(test)]
mod next_hop_tests;
#[cfg(test)]
mod notification_tests;
#[cfg(test)]
mod path_tests;
mod peer;
#[cfg(test)]
mod protocol_tests;
mod query;
mod replace;
mod restart;
#[cfg(test)]
mod rig;
mod routes;
#[cfg(test)]
mod tests;
mod timers;

use crate::config::{PeerRange, SpeakerConfig};
use crate::egress::{Egress, Identity};
use crate::family::Family;
use crate::io::{ConnId, Input, Log, Output, StopMode};
use crate::rib::{Rib, SourceId, SourceInfo};
use crate::session::fsm::Event as FsmEvent;
use crate::status::{Event, RouteSource};
use crate::time::{Rng, Time};
use accept::Parked;
use flush::Pace;
pub(crate) use peer::FamilyState;
use peer::{Peer, Slot};
use replace::told_all;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

/// Whose connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Peer(SourceId),
    Parked,
}

/// A BGP speaker without IO (RFC 4271). Give it what happens with [`Self::handle`], do what [`Self::poll_output`] says
/// until it is silent, come back no later than [`Self::next_deadline`].
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    now: Time,
    rng: Rng,
    peers: BTreeMap<SourceId, Box<Peer>>,
    by_address: BTreeMap<IpAddr, SourceId>,
    ranges: Vec<PeerRange>,
    /// Peers of ranges that may have gone.
    maybe_gone: BTreeSet<SourceId>,
    conns: HashMap<ConnId, Owner>,
    parked: VecDeque<Parked>,
    next_source: u32,
    next_dial: u64,
    rib: Rib,
    originated: BTreeSet<ipnet::IpNet>,
    /// By entry number: what the forwarding table was told last, as a fingerprint; 0 is nothing.
    told: Vec<u64>,
    egress: Egress,
    /// Peers that may have something to send.
    to_pump: BTreeSet<SourceId>,
    pace: Pace,
    timers: BTreeSet<(Time, SourceId)>,
    outputs: VecDeque<Output>,
    /// Nothing is advertised before the table is complete, or this.
    withhold_until: Option<Time>,
    started: Time,
    originated_known: bool,
    peers_known: bool,
    in_sync: bool,
    sync_deadline: Time,
    /// Peers whose tables were missing when last looked: while they are, nobody else needs to be looked at.
    incomplete: Option<SourceId>,
    unsynced: Option<SourceId>,
    /// One group per peer, to compare with.
    ungrouped: bool,
    /// RFC 8326: about to go.
    draining: bool,
    stopped: bool,
    watchers: monitor::Watchers,
}

impl Speaker {
    /// A speaker that starts now, without peers and routes.
    #[must_use]
    pub fn new(config: SpeakerConfig, now: Time) -> Self {
        let mut rib = Rib::default();
        if config.track_next_hops {
            rib.attrs.next_hops.switch_on();
        }
        rib.sources.insert(
            SourceId::LOCAL,
            SourceInfo { source: RouteSource::Local, kind: None, id: config.router_id, on_host: false },
        );
        Self {
            now,
            rng: Rng::new(config.seed),
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            ranges: Vec::new(),
            maybe_gone: BTreeSet::new(),
            conns: HashMap::new(),
            parked: VecDeque::new(),
            next_source: 1,
            next_dial: 1,
            rib,
            originated: BTreeSet::new(),
            told: Vec::new(),
            egress: Egress::new(config.egress),
            to_pump: BTreeSet::new(),
            pace: Pace::default(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            withhold_until: Some(now + config.selection_deferral),
            started: now,
            originated_known: false,
            peers_known: false,
            in_sync: false,
            sync_deadline: now + config.sync_timeout,
            incomplete: None,
            unsynced: None,
            ungrouped: false,
            draining: false,
            stopped: false,
            watchers: monitor::Watchers::default(),
            config,
        }
    }

    /// Gives every peer an update group of its own. Streams must not differ from those of shared groups; tests compare.
    pub fn set_ungrouped(&mut self) {
        self.ungrouped = true;
    }

    fn identity(&self) -> Identity {
        Identity { cluster: self.config.cluster() }
    }

    /// Takes one input. `now` must not be before that of earlier calls; if it is, the earlier one counts.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        if self.stopped {
            return;
        }
        // What comes in together goes out together: octets make the flush due, the next other input does it.
        let busy = matches!(input, Input::Received { .. } | Input::Written { .. } | Input::Station(..));
        match input {
            Input::Tick => {}
            Input::Accepted { conn, remote, local } => {
                self.note_ports(conn, local.port(), Some(remote.port()));
                self.accepted(conn, remote, local);
            }
            Input::Connected { conn, local } => {
                self.note_ports(conn, local.port(), None);
                if let Some((peer, slot)) = self.find(conn) {
                    if let Some(conn) = self.peers.get_mut(&peer).and_then(|peer| peer.conn_mut(slot)) {
                        conn.connected = true;
                        conn.local = Some(local.ip().to_canonical());
                    }
                    self.event(peer, slot, FsmEvent::TcpUp, None);
                }
            }
            Input::OnLink { conn, link } => self.on_link(conn, link),
            Input::Closed { conn, reason } => self.closed(conn, &reason),
            Input::Received { conn, data } => self.received(conn, &data),
            Input::Written { conn, bytes } => self.written(conn, bytes),
            Input::Bfd(remote, status) => self.bfd_changed(remote, status),
            Input::SetPeers(peers) => self.set_peers(peers),
            Input::SetPeer(peer) => self.set_peer(peer),
            Input::RemovePeer(remote) => self.remove_peer(remote),
            Input::ReleasePeer(remote) => self.release_peer(remote),
            Input::SetRanges(ranges) => self.set_ranges(ranges),
            Input::SetOriginated(routes) => self.set_originated(&routes),
            Input::SetNextHops(states) => self.rib.set_next_hops(&states),
            Input::PruneStale(remote) => self.prune_stale(remote),
            Input::Drain(draining) => self.drain(draining),
            Input::Station(station, what) => self.station(station, what),
            Input::Watch(on) => self.watchers.changes = on,
            Input::Stop(mode) => {
                self.stop(mode);
                self.end_monitoring();
                return;
            }
        }
        self.run_timers();
        self.forget_gone();
        self.check_complete();
        self.check_in_sync();
        if !busy {
            self.flush_if_due();
        }
        self.pump_stations();
    }

    /// The next thing to do. What peers can take is made one peer at a time: what waits here is little, however many there are.
    pub fn poll_output(&mut self) -> Option<Output> {
        while self.outputs.is_empty() {
            let id = self.to_pump.pop_first()?;
            self.pump(id);
        }
        self.outputs.pop_front()
    }

    /// Whether a connection, or the attempt at one, is of this speaker.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn knows(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    fn find(&self, conn: ConnId) -> Option<(SourceId, Slot)> {
        let Some(Owner::Peer(id)) = self.conns.get(&conn) else { return None };
        Some((*id, self.peers.get(id)?.slot_of(conn)?))
    }

    fn log(&mut self, log: Log) {
        self.outputs.push_back(Output::Log(log));
    }

    fn close(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.forget_handshake(conn);
        self.outputs.push_back(Output::Close { conn });
    }

    fn closed(&mut self, conn: ConnId, reason: &str) {
        match self.conns.get(&conn) {
            Some(Owner::Parked) => {
                self.conns.remove(&conn);
                self.parked.retain(|parked| parked.conn != conn);
            }
            Some(Owner::Peer(_)) => {
                if let Some((peer, slot)) = self.find(conn) {
                    self.connection_lost(peer, slot, reason);
                }
                self.conns.remove(&conn);
            }
            None => {}
        }
        self.forget_handshake(conn);
    }

    fn written(&mut self, conn: ConnId, bytes: usize) {
        let Some((id, slot)) = self.find(conn) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let send_hold = peer.config.timers.send_hold;
        let (now, window) = (self.now, self.config.egress.window);
        let Some(conn) = peer.conn_mut(slot) else { return };
        // Any other has been given all there is.
        let was_full = conn.in_flight >= window;
        conn.in_flight = conn.in_flight.saturating_sub(bytes);
        let armed = conn.in_flight > 0 && !send_hold.is_zero();
        conn.send_hold = armed.then(|| now + send_hold);
        if was_full {
            self.to_pump.insert(id);
        }
    }

    /// Whether all configured peers have sent their whole table, or cannot.
    fn check_complete(&mut self) {
        let Some(deadline) = self.withhold_until else { return };
        let reflects = self.config.restarting
            && self.peers.values().any(|peer| peer.config.kind != crate::config::PeerKind::Internal);
        let lacks = |peer: &Peer| {
            (peer.config.expected || peer.is_up())
                && !peer.session().is_some_and(|session| {
                    // RFC 4724 section 4.1: peers that restart themselves are not waited for.
                    session.restart.as_ref().is_none_or(|restart| restart.restarted)
                        || Family::ALL
                            .into_iter()
                            .all(|family| !session.has(family) || peer.families[family.index()].end_of_rib)
                })
        };
        if !self.incomplete.and_then(|id| self.peers.get(&id)).is_some_and(|peer| lacks(peer)) {
            self.incomplete = self.peers.values().find(|peer| lacks(peer)).map(|peer| peer.id);
        }
        let have_all = self.peers_known && self.incomplete.is_none();
        let why = if self.originated_known && self.peers_known && !reflects {
            "own routes are known"
        } else if self.originated_known && have_all {
            "every peer has sent its table"
        } else if self.now >= deadline {
            "the deferral time is over"
        } else {
            return;
        };
        self.withhold_until = None;
        self.flush();
        let us = self.identity();
        self.egress.release(&self.rib, us);
        let up: Vec<SourceId> = self.peers.values().filter(|peer| peer.is_up()).map(|peer| peer.id).collect();
        self.to_pump.extend(up);
        self.log(Log::Complete(why));
    }

    fn check_in_sync(&mut self) {
        if self.in_sync || !self.peers_known {
            return;
        }
        // A peer that cannot be reached is not waited for.
        let missing =
            |peer: &Peer| !told_all(peer) && (peer.is_up() || peer.config.expected && peer.failed_dials < 2);
        if !self.unsynced.and_then(|id| self.peers.get(&id)).is_some_and(|peer| missing(peer)) {
            self.unsynced = self.peers.values().find(|peer| missing(peer)).map(|peer| peer.id);
        }
        let complete = self.now >= self.sync_deadline || self.unsynced.is_none();
        if complete && (self.peers.is_empty() || self.peers.values().any(|peer| told_all(peer))) {
            self.in_sync = true;
            // What was learned comes before the statement that it is all.
            self.flush();
            self.outputs.push_back(Output::Event(Event::InSync));
        }
    }

    fn drain(&mut self, draining: bool) {
        if std::mem::replace(&mut self.draining, draining) == draining {
            return;
        }
        self.flush();
        let ids: Vec<SourceId> = self.peers.keys().copied().collect();
        for id in ids {
            self.change_profile(id);
        }
    }

    fn stop(&mut self, mode: StopMode) {
        let ids: Vec<SourceId> = self.peers.keys().copied().collect();
        for id in ids {
            match &mode {
                StopMode::Restart => {
                    for slot in [Slot::Main, Slot::Rival] {
                        let conn = self.peers.get_mut(&id).and_then(|peer| peer.conn_mut(slot));
                        if let Some(conn) = conn.and_then(peer::Conn::disconnect) {
                            self.close(conn);
                        }
                    }
                }
                StopMode::Shutdown(message) => self.shut_down(id, message),
            }
        }
        for parked in std::mem::take(&mut self.parked) {
            self.close(parked.conn);
        }
        self.stopped = true;
    }
}
