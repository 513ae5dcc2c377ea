//! Configuration: each change touches what it concerns and nothing else.

use super::Speaker;
use super::peer::{Peer, Slot};
use super::routes::{authorised, seconds};
use crate::config::{Originated, PeerConfig};
use crate::family::Family;
use crate::io::{ConnId, Output};
use crate::rib::{FilterReason, SourceId, SourceInfo};
use crate::security::Password;
use crate::status::{Event, PeerState, RouteSource};
use crate::wire::{CeaseSubcode, Message, NextHop, Notification, PathAttributes, RefreshKind, RouteRefresh};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Whether a session can go on under a new configuration.
fn same_session(old: &PeerConfig, new: &PeerConfig) -> bool {
    let rekeyed = match (&old.password, &new.password) {
        (Some(before), Some(after)) => after.follows(before),
        _ => false,
    };
    let soft = PeerConfig {
        password: if rekeyed { &new.password } else { &old.password }.clone(),
        description: new.description.clone(),
        bfd: new.bfd,
        expected: new.expected,
        authorised_origins: new.authorised_origins.clone(),
        max_prefix: new.max_prefix,
        add_path_send: if (old.add_path_send > 1) == (new.add_path_send > 1) {
            new.add_path_send
        } else {
            old.add_path_send
        },
        next_hop: new.next_hop,
        local_other: new.local_other,
        policy_required: new.policy_required,
        enforce_first_as: new.enforce_first_as,
        allow_own_as: new.allow_own_as,
        import: Arc::clone(&new.import),
        export: Arc::clone(&new.export),
        port: new.port,
        passive: new.passive,
        timers: crate::config::Timers {
            hold: old.timers.hold,
            keepalive: old.timers.keepalive,
            ..new.timers
        },
        ..old.clone()
    };
    soft == *new
}

impl Speaker {
    pub(super) fn set_peers(&mut self, peers: Vec<Arc<PeerConfig>>) {
        self.peers_known = true;
        let wanted: BTreeSet<IpAddr> = peers.iter().map(|peer| peer.remote.to_canonical()).collect();
        let gone: Vec<IpAddr> = self
            .peers
            .values()
            .filter(|peer| peer.dynamic.is_none())
            .map(|peer| peer.config.remote)
            .filter(|remote| !wanted.contains(remote))
            .collect();
        for remote in gone {
            self.remove_peer(remote);
        }
        for peer in peers {
            self.set_peer(peer);
        }
    }

    pub(super) fn set_peer(&mut self, mut config: Arc<PeerConfig>) {
        self.peers_known = true;
        let (remote, local) = (config.remote.to_canonical(), config.local.map(|local| local.to_canonical()));
        if (remote, local) != (config.remote, config.local) {
            config = Arc::new(PeerConfig { remote, local, ..PeerConfig::clone(&config) });
        }
        match self.by_address.get(&config.remote) {
            Some(id) => self.change_peer(*id, config, None),
            None => {
                self.add_peer(config, None);
            }
        }
    }

    /// A new peer, configured or of a range.
    pub(super) fn add_peer(&mut self, config: Arc<PeerConfig>, dynamic: Option<IpNet>) -> SourceId {
        let remote = config.remote;
        let id = self.insert_peer(config, dynamic);
        self.admit_parked(id, remote);
        if self.peers.get(&id).is_some_and(|peer| peer.main.state == PeerState::Idle) {
            self.start(id);
        }
        id
    }

    /// A new peer that does nothing yet.
    pub(super) fn insert_peer(&mut self, config: Arc<PeerConfig>, dynamic: Option<IpNet>) -> SourceId {
        let id = SourceId(self.next_source);
        self.next_source += 1;
        let remote = config.remote;
        // The key of a range is the listener's already.
        if config.password.is_some() && dynamic.is_none() {
            self.authenticate(remote.into(), config.password.clone());
        }
        self.rib.sources.insert(
            id,
            SourceInfo {
                source: RouteSource::Peer(remote),
                kind: Some(config.kind),
                id: Ipv4Addr::UNSPECIFIED,
                on_host: config.on_host,
            },
        );
        self.by_address.insert(remote, id);
        let (bfd, interface) = (config.bfd_session(), config.interface.clone());
        self.peers.insert(id, Box::new(Peer { dynamic, ..Peer::new(id, config) }));
        if bfd.is_some() {
            self.outputs.push_back(Output::Bfd { remote, interface, session: bfd });
        }
        id
    }

    pub(super) fn change_peer(&mut self, id: SourceId, config: Arc<PeerConfig>, dynamic: Option<IpNet>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let was_dynamic = std::mem::replace(&mut peer.dynamic, dynamic);
        let own_key = |dynamic: Option<IpNet>, config: &PeerConfig| {
            config.password.clone().filter(|_| dynamic.is_none())
        };
        let (old_key, new_key) = (own_key(was_dynamic, &peer.config), own_key(dynamic, &config));
        if old_key != new_key {
            let from = config.remote.into();
            self.authenticate(from, new_key);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.config == config {
            return;
        }
        let old = std::mem::replace(&mut peer.config, config);
        peer.retry_wait = peer.config.timers.connect_retry;
        peer.error_wait = peer.config.timers.error_wait;
        let new = Arc::clone(&peer.config);
        if let Some(source) = self.rib.sources.get_mut(&id) {
            source.kind = Some(new.kind);
            source.on_host = new.on_host;
        }
        self.change_bfd(id, &old, &new);
        if !same_session(&old, &new) {
            let note = Notification::cease(CeaseSubcode::OtherConfigurationChange);
            self.stop_peer(id, note, false);
            self.start(id);
            return;
        }
        if old.password != new.password {
            self.rekey(id, &old, &new);
        }
        if old.max_prefix != new.max_prefix {
            self.lift_bar(id);
        }
        if old.authorised_origins != new.authorised_origins {
            self.reauthorise(id, &new);
        }
        let checks = |config: &PeerConfig| {
            (config.allow_own_as, config.enforce_first_as, config.lacks(&config.import))
        };
        if old.import != new.import || checks(&old) != checks(&new) {
            self.ask_again(id);
        }
        self.flush();
        self.change_profile(id);
        if old.passive != new.passive || old.port != new.port {
            let idle = self.peers.get(&id).is_some_and(|peer| {
                matches!(peer.main.state, PeerState::Connect | PeerState::Active | PeerState::Idle)
            });
            if idle {
                self.stop_peer(id, Notification::cease(CeaseSubcode::OtherConfigurationChange), false);
                self.start(id);
            }
        }
        self.schedule(id);
    }

    /// Another limit is another chance for a peer that exceeded the old one.
    fn lift_bar(&mut self, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.barred_until.take().is_some() && peer.main.state == PeerState::Idle {
            peer.idle_until = None;
            self.start(id);
        }
    }

    /// Changes the keys of a peer's connections that are up; one that is being dialled would come up with the old ones.
    fn rekey(&mut self, id: SourceId, old: &PeerConfig, new: &PeerConfig) {
        let Some(peer) = self.peers.get(&id) else { return };
        let conns = [Some(&peer.main), peer.rival.as_deref()].into_iter().flatten();
        let up: Vec<ConnId> = conns.filter(|conn| conn.connected).filter_map(|conn| conn.id).collect();
        let dials = peer.main.state == PeerState::Connect;
        for conn in up {
            let (old, new_key) = (old.password.clone(), new.password.clone());
            self.outputs.push_back(Output::Rekey { conn, remote: new.remote, old, new: new_key });
        }
        if dials {
            self.stop_peer(id, Notification::cease(CeaseSubcode::OtherConfigurationChange), false);
            self.start(id);
        }
    }

    /// Sends a peer what its profile now says that is different.
    pub(super) fn change_profile(&mut self, id: SourceId) {
        if let Some(profile) = self.profile(id) {
            let us = self.identity();
            self.egress.change(id, profile, &self.rib, us);
            self.to_pump.insert(id);
        }
    }

    /// The key for connections from a peer. It reaches the listener before anything else about the peer does.
    pub(super) fn authenticate(&mut self, from: IpNet, password: Option<Password>) {
        self.outputs.push_back(Output::Authenticate { from, password });
    }

    fn reauthorise(&mut self, id: SourceId, config: &PeerConfig) {
        let mut ask = false;
        for family in Family::ALL {
            self.rib.update_source(id, family, |prefix, path, _| {
                match (path.filtered, authorised(config, &prefix)) {
                    (None, false) => path.filtered = Some(FilterReason::Unauthorised),
                    // Policy has not seen it yet.
                    (Some(FilterReason::Unauthorised), true) if config.import.is_transparent() => {
                        path.filtered = None;
                    }
                    (Some(FilterReason::Unauthorised), true) => ask = true,
                    _ => {}
                }
                true
            });
        }
        if ask {
            self.ask_again(id);
        }
    }

    /// Asks a peer for its routes again (RFC 2918); one that can't is reset, keeping routes where it can.
    pub(super) fn ask_again(&mut self, id: SourceId) {
        let Some(session) = self.peers.get(&id).and_then(|peer| peer.session()) else { return };
        let families: Vec<Family> = Family::ALL.into_iter().filter(|family| session.has(*family)).collect();
        if session.route_refresh {
            for family in families {
                let refresh = RouteRefresh { family: family.into(), kind: RefreshKind::Request };
                self.send(id, Slot::Main, &Message::RouteRefresh(refresh));
            }
        } else {
            self.stop_peer(id, Notification::cease(CeaseSubcode::OtherConfigurationChange), false);
            self.start(id);
        }
    }

    pub(super) fn remove_peer(&mut self, remote: IpAddr) {
        let remote = remote.to_canonical();
        let Some(id) = self.by_address.remove(&remote) else { return };
        self.stop_peer(id, Notification::cease(CeaseSubcode::PeerDeconfigured), true);
        for family in Family::ALL {
            self.rib.update_source(id, family, |_, _, _| false);
        }
        // Groups speak of the source's routes until they are flushed.
        self.flush();
        self.rib.forget_source(id);
        if let Some(peer) = self.peers.remove(&id) {
            if peer.config.bfd.is_some() {
                self.outputs.push_back(Output::Bfd { remote, interface: None, session: None });
            }
            if peer.config.password.is_some() && peer.dynamic.is_none() {
                self.authenticate(remote.into(), None);
            }
            if let Some(scheduled) = peer.scheduled {
                self.timers.remove(&(scheduled, id));
            }
            for conn in [peer.main.id, peer.rival.and_then(|rival| rival.id)].into_iter().flatten() {
                self.close(conn);
            }
        }
        let reason = "removed from the configuration".to_owned();
        self.outputs.push_back(Output::Event(Event::PeerChanged { remote, state: PeerState::Idle, reason }));
    }

    pub(super) fn set_originated(&mut self, routes: &[Originated]) {
        self.originated_known = true;
        let now = seconds(self.now);
        let wanted: BTreeSet<IpNet> = routes.iter().map(|route| route.prefix.trunc()).collect();
        let gone: Vec<IpNet> = self.originated.difference(&wanted).copied().collect();
        for prefix in gone {
            self.rib.withdraw(SourceId::LOCAL, prefix, 0);
        }
        for route in routes {
            let attributes = PathAttributes {
                local_pref: route.local_pref,
                med: route.med,
                communities: route.communities.iter().copied().collect(),
                large_communities: route.large_communities.iter().copied().collect(),
                ..PathAttributes::default()
            };
            let attrs = self.rib.attrs.intern(route.next_hop.map(NextHop::from), &attributes);
            self.rib.announce(SourceId::LOCAL, route.prefix.trunc(), 0, attrs, None, now);
        }
        self.originated = wanted;
    }
}
