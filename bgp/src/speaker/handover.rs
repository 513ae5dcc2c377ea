//! Giving up one's place and taking another's: sessions go on as if nothing had happened.

use super::peer::{Conn, Peer, Slot};
use super::{Owner, Speaker};
use crate::config::{Originated, SpeakerConfig};
use crate::egress::{GroupId, Take};
use crate::family::Family;
use crate::handover::{
    Handover, Marks, PeerState, RestoreError, Routes, Secret, SessionState, Told, VERSION,
};
use crate::io::{ConnId, Log, Output};
use crate::monitor::MonitorConfig;
use crate::rib::SourceId;
use crate::security::Password;
use crate::status::{Event, PeerState as State};
use crate::wire::{self, CeaseSubcode, FamilySet, Framer, Message, Negotiated, Nlri, Notification, PeerKind};
use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Unsent octets that a session may take along; one that lags more is sent the table again, if it knows RFC 7313.
const OUTPUT: usize = 256 << 10;
/// The same for all sessions together.
const OUTPUTS: usize = 64 << 20;

/// Everything that routes can have, so that nothing is lost on the way.
const RECORD: Negotiated = Negotiated {
    four_octet_as: true,
    extended_message: true,
    extended_next_hop: true,
    families: FamilySet::BOTH,
    add_path_receive: FamilySet::BOTH,
    add_path_send: FamilySet::BOTH,
    ..Negotiated::minimal(PeerKind::Internal)
};

impl Speaker {
    /// Everything a successor needs. `unsent` are octets that sockets have not taken. There must be no output left; this
    /// speaker is good for nothing afterwards but its last outputs, none of which is a write.
    pub fn hand_over(&mut self, mut unsent: BTreeMap<ConnId, Vec<u8>>) -> Handover {
        self.flush();
        // What they have not been given is in the state.
        self.to_pump.clear();
        let (mut routes, incomplete) = self.recorded_routes();
        let mut digests = BTreeMap::new();
        let mut budget = OUTPUTS;
        let ids: Vec<SourceId> = self.peers.keys().copied().collect();
        let mut peers = Vec::new();
        for id in ids {
            let session = self.session_state(id, &mut unsent, &mut digests, &mut budget);
            let Some(peer) = self.peers.get(&id) else { continue };
            peers.push(PeerState {
                config: Arc::clone(&peer.config),
                dynamic: peer.dynamic,
                remote_id: peer.remote_id,
                interface: peer.interface.as_deref().map(str::to_owned),
                changed_at: peer.changed_at,
                established_count: peer.established_count,
                last_error: peer.last_error.clone(),
                last_reset: peer.last_reset.clone(),
                barred_until: peer.barred_until,
                idle: peer.idle_until.map(|until| (until, peer.error_wait)),
                kept_until: peer.kept_until,
                counters: peer.counters,
                bfd: peer.bfd,
                families: peer.families,
                routes: routes.remove(&id).unwrap_or_default(),
                ask_again: incomplete.contains(&id) || self.has_lost_originals(peer),
                session,
            });
        }
        Handover {
            version: VERSION,
            router_id: self.config.router_id,
            local_as: self.config.local_as,
            cluster: self.config.cluster(),
            now: self.now,
            started: self.started,
            rng: self.rng.clone(),
            next_dial: self.next_dial,
            in_sync: self.in_sync,
            sync_deadline: self.sync_deadline,
            withhold_until: self.withhold_until,
            draining: self.draining,
            pace: (self.pace.not_before, self.pace.wait),
            originated: self.originated_known.then(|| self.own_routes()),
            ranges: self.ranges.clone(),
            peers,
            passwords: self.passwords(),
        }
    }

    fn passwords(&self) -> Vec<(IpNet, Secret)> {
        let peers = self.peers.values().map(|peer| (IpNet::from(peer.config.remote), &peer.config.password));
        let ranges = self.ranges.iter().map(|range| (range.prefix, &range.template.password));
        let secret = |password: &Password| Secret(password.to_file().into());
        peers.chain(ranges).filter_map(|(from, password)| Some((from, secret(password.as_ref()?)))).collect()
    }

    fn own_routes(&self) -> Vec<Originated> {
        let mut routes = Vec::new();
        for (_, entry) in self.rib.iter() {
            let Some(path) = entry.paths.iter().find(|path| path.source == SourceId::LOCAL) else { continue };
            let route = self.rib.attrs.get(path.attrs);
            routes.push(Originated {
                prefix: entry.prefix,
                next_hop: route.next_hop.map(|next_hop| next_hop.address()),
                local_pref: route.attributes.local_pref,
                med: route.attributes.med,
                communities: route.attributes.communities.to_vec(),
                large_communities: route.attributes.large_communities.to_vec(),
            });
        }
        routes
    }

    /// Every peer's routes as UPDATEs, and the peers of which that isn't all.
    fn recorded_routes(&self) -> (BTreeMap<SourceId, Vec<Routes>>, BTreeSet<SourceId>) {
        let mut sets: BTreeMap<_, Vec<Nlri>> = BTreeMap::new();
        for (_, entry) in self.rib.iter() {
            for path in entry.paths.iter().filter(|path| path.source != SourceId::LOCAL) {
                let marks = Marks {
                    stale: path.stale,
                    long_lived: path.long_lived,
                    unrefreshed: path.unrefreshed,
                    filtered: path.filtered,
                    changed: path.changed,
                };
                let nlri = Nlri { path_id: Some(path.path_id), ..Nlri::new(entry.prefix) };
                sets.entry((path.source, marks, path.attrs)).or_default().push(nlri);
            }
        }
        let mut encoder = wire::UpdateEncoder::new(RECORD);
        let mut records: BTreeMap<(SourceId, Marks), BytesMut> = BTreeMap::new();
        let mut incomplete = BTreeSet::new();
        for ((source, marks, attrs), nlri) in sets {
            let out = records.entry((source, marks)).or_default();
            let route = self.rib.attrs.get(attrs);
            let Some(next_hop) = route.next_hop else { continue };
            // Attributes of nearly 64 KiB may not fit, written in another way than received.
            if encoder.announce(&route.attributes, &next_hop, nlri, out).is_err() {
                incomplete.insert(source);
            }
        }
        let mut routes: BTreeMap<SourceId, Vec<Routes>> = BTreeMap::new();
        // Marked ones first: see `restore_routes`.
        for ((source, marks), updates) in records.into_iter().rev() {
            routes.entry(source).or_default().push(Routes { marks, updates: updates.freeze() });
        }
        (routes, incomplete)
    }

    fn session_state(
        &mut self,
        id: SourceId,
        unsent: &mut BTreeMap<ConnId, Vec<u8>>,
        digests: &mut BTreeMap<GroupId, u64>,
        budget: &mut usize,
    ) -> Option<SessionState> {
        let us = self.identity();
        let peer = self.peers.get_mut(&id).filter(|peer| peer.is_up())?;
        let (conn, session) = (peer.main.id?, peer.main.session.clone()?);
        let mut output = unsent.remove(&conn).unwrap_or_default();
        output.extend(peer.main.control.drain(..).flatten());
        let may_repeat = session.enhanced_refresh;
        let limit = OUTPUT.min(*budget);
        let mut told = loop {
            if may_repeat && output.len() > limit {
                break Told::Unknown;
            }
            match self.egress.take(id, &self.rib, us) {
                Take::Data(data) => output.extend_from_slice(&data),
                Take::Lost => break Told::Unknown,
                Take::UpToDate => break Told::Nothing,
            }
        };
        *budget = budget.saturating_sub(output.len());
        let was = self.egress.was(id);
        if told == Told::Nothing && !was.withheld {
            let (number, group) = self.egress.group_of_member(id)?;
            told = Told::Table(*digests.entry(number).or_insert_with(|| group.digest(&self.rib, us)));
        }
        let peer = self.peers.get(&id)?;
        Some(SessionState {
            conn,
            outgoing: peer.main.outgoing,
            local: peer.main.local,
            link: peer.main.link.clone(),
            negotiated: *session,
            hold: peer.main.hold,
            keepalive: peer.main.keepalive,
            input: Bytes::copy_from_slice(peer.main.framer.partial()),
            output: output.into(),
            told,
            initial_done: was.initial_done,
            resyncs: was.resyncs,
            handshake: self.handshake_of(conn).cloned(),
        })
    }

    /// What a peer's routes were before import policy is not handed over. It can say so again.
    fn has_lost_originals(&self, peer: &Peer) -> bool {
        peer.session().is_some_and(|session| session.route_refresh) && self.has_originals(peer.id)
    }

    /// The speaker that goes on where another ended: established sessions are, on the connections of the same numbers.
    /// The peers are configured as they were; a new configuration is the next input.
    ///
    /// # Errors
    /// Another release's or another speaker's state.
    pub fn restore(
        config: SpeakerConfig,
        monitor: MonitorConfig,
        state: Handover,
    ) -> Result<Self, RestoreError> {
        if state.version != VERSION {
            return Err(RestoreError::Version(state.version));
        }
        if (config.router_id, config.local_as, config.cluster())
            != (state.router_id, state.local_as, state.cluster)
        {
            return Err(RestoreError::Identity(state.router_id, state.local_as));
        }
        let mut speaker = Self::new(config, state.now).with_monitor(monitor);
        speaker.started = state.started;
        speaker.rng = state.rng;
        speaker.next_dial = state.next_dial;
        speaker.in_sync = state.in_sync;
        speaker.sync_deadline = state.sync_deadline;
        speaker.withhold_until = state.withhold_until;
        speaker.draining = state.draining;
        (speaker.pace.not_before, speaker.pace.wait) = state.pace;
        speaker.peers_known = true;
        let mut passwords = BTreeMap::new();
        for (from, secret) in state.passwords {
            let password =
                Password::parse(&secret.0).map_err(|error| RestoreError::State(error.to_string()))?;
            passwords.insert(from, password);
        }
        let mut ranges = state.ranges;
        for range in &mut ranges {
            range.template.password = passwords.get(&range.prefix).cloned();
        }
        speaker.set_ranges(ranges);
        let (mut sessions, mut ask_again) = (Vec::new(), Vec::new());
        for mut peer in state.peers {
            let password = passwords.get(&IpNet::from(peer.config.remote)).cloned();
            Arc::make_mut(&mut peer.config).password = password;
            if peer.ask_again {
                ask_again.push(peer.config.remote);
            }
            let (id, session) = speaker.restore_peer(peer)?;
            sessions.extend(session.map(|session| (id, session)));
        }
        if let Some(routes) = state.originated {
            speaker.set_originated(&routes);
        }
        speaker.flush();
        let mut digests = BTreeMap::new();
        for (id, session) in sessions {
            speaker.rejoin(id, &session, &mut digests);
        }
        let idle: Vec<SourceId> =
            speaker.peers.values().filter(|peer| !peer.is_up()).map(|peer| peer.id).collect();
        for id in idle {
            match speaker.peers.get(&id).and_then(|peer| peer.idle_until) {
                Some(_) => speaker.schedule(id),
                None => speaker.start(id),
            }
            speaker.may_be_gone(id);
        }
        for id in
            ask_again.iter().filter_map(|remote| speaker.by_address.get(remote)).copied().collect::<Vec<_>>()
        {
            speaker.ask_again(id);
        }
        if speaker.in_sync {
            speaker.outputs.push_back(Output::Event(Event::InSync));
        }
        Ok(speaker)
    }

    fn restore_peer(&mut self, state: PeerState) -> Result<(SourceId, Option<SessionState>), RestoreError> {
        let id = self.insert_peer(state.config, state.dynamic);
        if let (Some(source), Some(remote_id)) = (self.rib.sources.get_mut(&id), state.remote_id) {
            source.id = remote_id;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.remote_id = state.remote_id;
            peer.interface = state.interface.map(Into::into);
            peer.changed_at = state.changed_at;
            peer.established_count = state.established_count;
            peer.last_error = state.last_error;
            peer.last_reset = state.last_reset;
            peer.barred_until = state.barred_until;
            peer.idle_until = state.barred_until.filter(|until| *until > self.now);
            if let Some((until, error_wait)) = state.idle {
                peer.idle_until = peer.idle_until.max(Some(until));
                peer.error_wait = error_wait;
            }
            peer.kept_until = state.kept_until;
            peer.counters = state.counters;
            peer.bfd = state.bfd;
            peer.families = state.families;
            if let Some(session) = &state.session {
                peer.main = restored_conn(session)?;
                self.conns.insert(session.conn, Owner::Peer(id));
                let complete =
                    Family::ALL.into_iter().filter(|family| peer.families[family.index()].end_of_rib);
                let complete: Vec<Family> = complete.collect();
                self.monitor_again(id, session.handshake.as_ref(), &complete);
            }
        }
        for routes in &state.routes {
            self.restore_routes(id, routes)?;
        }
        self.schedule(id);
        Ok((id, state.session))
    }

    /// Routes with more marks must come before those with less: only paths without any get them.
    fn restore_routes(&mut self, id: SourceId, routes: &Routes) -> Result<(), RestoreError> {
        let unreadable = |what: &dyn std::fmt::Display| RestoreError::State(what.to_string());
        let marks = routes.marks;
        let mut framer = Framer::new();
        framer.set_max_len(RECORD.max_message_len());
        let mut rest = routes.updates.as_ref();
        while let Some(frame) = framer.next_frame(&mut rest).map_err(|error| unreadable(&error))? {
            let decoded = wire::decode(frame, &RECORD).map_err(|error| unreadable(&error))?;
            let Message::Update(update) = decoded.message else { return Err(unreadable(&"not an UPDATE")) };
            if let Some(fault) = decoded.faults.first() {
                return Err(unreadable(fault));
            }
            for reach in update.mp_reach.iter().chain(&update.reach) {
                let shared = self.rib.attrs.intern(Some(reach.next_hop), &update.attributes);
                for nlri in &reach.nlri {
                    self.rib.attrs.acquire(shared);
                    let path_id = nlri.path_id.unwrap_or(0);
                    self.rib.announce(id, nlri.prefix, path_id, shared, marks.filtered, marks.changed);
                }
                self.rib.attrs.release(shared);
            }
        }
        if marks.stale || marks.long_lived || marks.unrefreshed {
            for family in Family::ALL {
                self.rib.update_source(id, family, |_, path, _| {
                    if !(path.stale || path.long_lived || path.unrefreshed) {
                        path.stale = marks.stale;
                        path.long_lived = marks.long_lived;
                        path.unrefreshed = marks.unrefreshed;
                    }
                    true
                });
            }
        }
        Ok(())
    }

    fn rejoin(&mut self, id: SourceId, session: &SessionState, digests: &mut BTreeMap<GroupId, u64>) {
        let us = self.identity();
        let Some(profile) = self.profile(id) else { return };
        let was = crate::egress::Was {
            withheld: session.told == Told::Nothing,
            initial_done: session.initial_done,
            resyncs: session.resyncs,
        };
        self.egress.rejoin(id, profile, was, &self.rib, us);
        self.report(id, State::Established, "taken over");
        self.to_pump.insert(id);
        let Some((number, group)) = self.egress.group_of_member(id) else { return };
        let now = Told::Table(*digests.entry(number).or_insert_with(|| group.digest(&self.rib, us)));
        if session.told == Told::Nothing || session.told == now {
            return;
        }
        if self.egress.repeat(id, &self.rib, us) {
            if let Some(peer) = self.peers.get(&id) {
                self.log(Log::Resync(peer.config.remote));
            }
        } else {
            // It may hold routes that we don't know of. Graceful restart sweeps them.
            self.drain_control(id, Slot::Main);
            self.stop_peer(id, Notification::cease(CeaseSubcode::OtherConfigurationChange), false);
        }
    }
}

/// The connection of an established session.
fn restored_conn(session: &SessionState) -> Result<Conn, RestoreError> {
    let mut framer = Framer::new();
    framer.set_max_len(session.negotiated.negotiated.max_message_len());
    let partial = framer.next_frame(&mut session.input.as_ref());
    if !matches!(partial, Ok(None)) {
        return Err(RestoreError::State("there is more than a part of a message".to_owned()));
    }
    let mut conn = Conn::new(State::Established);
    conn.id = Some(session.conn);
    conn.connected = true;
    conn.outgoing = session.outgoing;
    conn.local = session.local.map(|local: IpAddr| local.to_canonical());
    conn.link = session.link.clone();
    conn.framer = framer;
    conn.session = Some(Box::new(session.negotiated.clone()));
    conn.hold = session.hold;
    conn.keepalive = session.keepalive;
    if !session.output.is_empty() {
        conn.control.push_back(session.output.clone());
    }
    Ok(conn)
}
