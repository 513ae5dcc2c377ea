//! Connections that come in, and the parking place of those from strangers.

use super::peer::{Conn, Slot};
use super::{Owner, Speaker};
use crate::io::{ConnId, Link, Log, Output};
use crate::rib::SourceId;
use crate::security::SocketOptions;
use crate::session::fsm::Event as FsmEvent;
use crate::status::PeerState;
use crate::time::Time;
use std::net::{IpAddr, SocketAddr};

/// Octets a stranger may send before it is known: an OPEN and little more.
const PARKED_BYTES: usize = 4096;

/// A connection from an address that isn't configured.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) conn: ConnId,
    pub(super) remote: IpAddr,
    local: IpAddr,
    pub(super) link: Option<Link>,
    pub(super) until: Time,
    data: Vec<u8>,
}

impl Speaker {
    pub(super) fn accepted(&mut self, conn: ConnId, remote: SocketAddr, local: SocketAddr) {
        let remote = remote.ip().to_canonical();
        let local = local.ip().to_canonical();
        match self.by_address.get(&remote) {
            Some(id) => self.take_incoming(*id, conn, local),
            None => match self.welcome(remote) {
                Some(id) => self.take_incoming(id, conn, local),
                None => self.park(conn, remote, local),
            },
        }
    }

    fn park(&mut self, conn: ConnId, remote: IpAddr, local: IpAddr) {
        // A newer connection of the same stranger replaces the older.
        if let Some(at) = self.parked.iter().position(|parked| parked.remote == remote) {
            self.unpark(at, "it connected again");
        } else if self.parked.len() >= self.config.pending.max && !self.parked.is_empty() {
            self.unpark(0, "too many connections wait");
        }
        if self.config.pending.max == 0 {
            self.close(conn);
            self.log(Log::Refused(remote, "the address is not configured"));
            return;
        }
        let until = self.now + self.config.pending.timeout;
        self.conns.insert(conn, Owner::Parked);
        self.parked.push_back(Parked { conn, remote, local, link: None, until, data: Vec::new() });
        self.log(Log::Parked(remote));
    }

    fn unpark(&mut self, at: usize, why: &'static str) {
        if let Some(parked) = self.parked.remove(at) {
            self.close(parked.conn);
            self.log(Log::ParkedDropped(parked.remote, why));
        }
    }

    pub(super) fn expire_parked(&mut self) {
        while self.parked.front().is_some_and(|parked| parked.until <= self.now) {
            self.unpark(0, "nobody configured it in time");
        }
    }

    pub(super) fn parked_received(&mut self, conn: ConnId, data: &[u8]) {
        let Some(at) = self.parked.iter().position(|parked| parked.conn == conn) else { return };
        let Some(parked) = self.parked.get_mut(at) else { return };
        if parked.data.len() + data.len() > PARKED_BYTES {
            self.unpark(at, "it sent more than an OPEN");
        } else {
            parked.data.extend_from_slice(data);
        }
    }

    /// Hands a parked connection to its peer, which has just been configured.
    pub(super) fn admit_parked(&mut self, id: SourceId, remote: IpAddr) {
        let Some(at) = self.parked.iter().position(|parked| parked.remote == remote) else { return };
        if self.peers.get(&id).is_some_and(|peer| peer.config.password.is_some()) {
            self.unpark(at, "it has no TCP-MD5 signature and the peer needs one");
            return;
        }
        let Some(parked) = self.parked.remove(at) else { return };
        self.take_incoming(id, parked.conn, parked.local);
        if let Some(link) = parked.link {
            self.on_link(parked.conn, link);
        }
        if !parked.data.is_empty() {
            self.received(parked.conn, &parked.data);
        }
    }

    /// The other end of a connection is a neighbour.
    pub(super) fn on_link(&mut self, conn: ConnId, link: Link) {
        if let Some((peer, slot)) = self.find(conn) {
            if let Some(conn) = self.peers.get_mut(&peer).and_then(|peer| peer.conn_mut(slot)) {
                conn.link = Some(link);
            }
        } else if let Some(parked) = self.parked.iter_mut().find(|parked| parked.conn == conn) {
            parked.link = Some(link);
        }
    }

    fn take_incoming(&mut self, id: SourceId, conn: ConnId, local: IpAddr) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let remote = peer.config.remote;
        if peer.is_barred(self.now) {
            self.close(conn);
            self.log(Log::Refused(remote, "the peer exceeded its prefix limit and must wait"));
            return;
        }
        if peer.awaits_bfd() {
            // It is welcome as soon as BFD is up.
            peer.kept_until = Some(self.now + self.config.pending.timeout);
            self.schedule(id);
            self.close(conn);
            self.log(Log::Refused(remote, "BFD is not up and the peer is strict about it"));
            return;
        }
        let options = peer.config.socket();
        if options != SocketOptions::default() {
            self.outputs.push_back(Output::Protect { conn, remote, options });
        }
        self.conns.insert(conn, Owner::Peer(id));
        let slot = match peer.main.state {
            PeerState::Idle | PeerState::Active => {
                peer.idle_until = None;
                peer.main.attach(conn, false, Some(local));
                Slot::Main
            }
            PeerState::Connect | PeerState::OpenSent | PeerState::OpenConfirm | PeerState::Established => {
                let mut rival = Box::new(Conn::new(PeerState::Active));
                rival.attach(conn, false, Some(local));
                // The peer has given up its earlier attempt if it makes another.
                let earlier = peer.rival.replace(rival).and_then(|earlier| earlier.id);
                if let Some(earlier) = earlier {
                    self.close(earlier);
                }
                Slot::Rival
            }
        };
        if slot == Slot::Main {
            self.event(id, slot, FsmEvent::StartPassive, None);
        }
        self.event(id, slot, FsmEvent::TcpUp, None);
    }
}
