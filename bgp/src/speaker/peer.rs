//! State of one configured peer and its connections.

use crate::bfd::{SessionStatus, State};
use crate::config::PeerConfig;
use crate::io::{ConnId, Link};
use crate::rib::SourceId;
use crate::session::negotiate::Session;
use crate::status::{MessageCounters, PeerState};
use crate::time::Time;
use crate::wire::{Framer, Negotiated};
use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// Which of a peer's two machines: the one that dials, or the one of a connection that came in meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Main,
    Rival,
}

/// One machine and its connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) state: PeerState,
    pub(crate) id: Option<ConnId>,
    /// TCP is up.
    pub(crate) connected: bool,
    pub(crate) outgoing: bool,
    pub(crate) local: Option<IpAddr>,
    /// The peer is a neighbour on it.
    pub(crate) link: Option<Link>,
    pub(crate) framer: Framer,
    pub(crate) session: Option<Box<Session>>,
    pub(crate) connect_retry: Option<Time>,
    pub(crate) hold: Option<Time>,
    pub(crate) keepalive: Option<Time>,
    pub(crate) send_hold: Option<Time>,
    /// Messages that go ahead of bulk.
    pub(crate) control: VecDeque<Bytes>,
    /// Octets given to the socket and not yet taken.
    pub(crate) in_flight: usize,
}

impl Conn {
    pub(crate) fn new(state: PeerState) -> Self {
        Self {
            state,
            id: None,
            connected: false,
            outgoing: false,
            local: None,
            link: None,
            framer: Framer::new(),
            session: None,
            connect_retry: None,
            hold: None,
            keepalive: None,
            send_hold: None,
            control: VecDeque::new(),
            in_flight: 0,
        }
    }

    /// Forgets the connection. What was negotiated stays until the next one: what follows the loss depends on it.
    pub(crate) fn disconnect(&mut self) -> Option<ConnId> {
        let id = self.id.take();
        *self =
            Self { connect_retry: self.connect_retry, session: self.session.take(), ..Self::new(self.state) };
        id
    }

    pub(crate) fn attach(&mut self, id: ConnId, outgoing: bool, local: Option<IpAddr>) {
        self.id = Some(id);
        self.connected = local.is_some();
        self.outgoing = outgoing;
        self.local = local;
        self.link = None;
        self.framer = Framer::new();
        self.session = None;
        self.in_flight = 0;
    }

    pub(crate) fn negotiated(&self, before: Negotiated) -> Negotiated {
        self.session.as_ref().map_or(before, |session| session.negotiated)
    }

    fn next_deadline(&self) -> Option<Time> {
        [self.connect_retry, self.hold, self.keepalive, self.send_hold].into_iter().flatten().min()
    }
}

/// Routes of one family from a peer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FamilyState {
    pub(crate) end_of_rib: bool,
    /// When stale routes go, or become long-lived stale.
    pub(crate) stale_until: Option<Time>,
    /// The long-lived stale time to follow.
    pub(crate) long_lived: Option<Duration>,
    /// When long-lived stale routes go.
    pub(crate) long_lived_until: Option<Time>,
    /// BoRR received, EoRR not yet: when what was not repeated goes without it (RFC 7313 section 4).
    pub(crate) refresh_until: Option<Time>,
    pub(crate) near_limit: bool,
}

/// So many changes of routes within [`CHURN_TIME`] are worth a line in the log, if they are not a table told for the first
/// time or once more.
const CHURN: usize = 100_000;
const CHURN_TIME: Duration = Duration::from_secs(10);
/// No second line for so long.
const CHURN_QUIET: Duration = Duration::from_secs(60);

/// How much a peer changes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Churn {
    changes: usize,
    /// When counting begins anew.
    until: Option<Time>,
    told: bool,
}

impl Churn {
    /// Takes in changes of a peer that now has so many routes; how many there have been, if that is to be said.
    pub(crate) fn note(&mut self, now: Time, changes: usize, routes: usize) -> Option<usize> {
        if self.until.is_none_or(|until| until <= now) {
            *self = Self { until: Some(now + CHURN_TIME), ..Self::default() };
        }
        self.changes += changes;
        if self.told || self.changes < CHURN.max(routes * 3) {
            return None;
        }
        (self.told, self.until) = (true, Some(now + CHURN_QUIET));
        Some(self.changes)
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: SourceId,
    pub(crate) config: Arc<PeerConfig>,
    /// The range it came from, if nobody configured it.
    pub(crate) dynamic: Option<IpNet>,
    pub(crate) main: Conn,
    pub(crate) rival: Option<Box<Conn>>,
    /// When to start again after Idle.
    pub(crate) idle_until: Option<Time>,
    /// Connections are refused until then (prefix limit exceeded).
    pub(crate) barred_until: Option<Time>,
    /// Of a range and refused for want of BFD, which has until then to come up.
    pub(crate) kept_until: Option<Time>,
    pub(crate) retry_wait: Duration,
    pub(crate) error_wait: Duration,
    pub(crate) retries: u64,
    pub(crate) families: [FamilyState; 2],
    pub(crate) churn: Churn,
    /// Interface of the last session's link: its routes' link-local next hops are there.
    pub(crate) interface: Option<Arc<str>>,
    pub(crate) remote_id: Option<Ipv4Addr>,
    pub(crate) changed_at: Option<Time>,
    pub(crate) established_count: u64,
    pub(crate) last_error: Option<(Time, String)>,
    /// What ended the last session, or the last NOTIFICATION: attempts to connect that fail later leave it.
    pub(crate) last_reset: Option<(Time, String)>,
    /// Attempts to connect that failed since the last session.
    pub(crate) failed_dials: u32,
    pub(crate) counters: MessageCounters,
    /// Its BFD session, where one is configured.
    pub(crate) bfd: Option<SessionStatus>,
    /// Where the peer stands in the timer queue.
    pub(crate) scheduled: Option<Time>,
}

impl Peer {
    pub(crate) fn new(id: SourceId, config: Arc<PeerConfig>) -> Self {
        Self {
            id,
            main: Conn::new(PeerState::Idle),
            rival: None,
            idle_until: None,
            barred_until: None,
            kept_until: None,
            retry_wait: config.timers.connect_retry,
            error_wait: config.timers.error_wait,
            config,
            dynamic: None,
            retries: 0,
            families: [FamilyState::default(); 2],
            churn: Churn::default(),
            interface: None,
            remote_id: None,
            changed_at: None,
            established_count: 0,
            last_error: None,
            last_reset: None,
            failed_dials: 0,
            counters: MessageCounters::default(),
            bfd: None,
            scheduled: None,
        }
    }

    pub(crate) fn conn(&self, slot: Slot) -> Option<&Conn> {
        match slot {
            Slot::Main => Some(&self.main),
            Slot::Rival => self.rival.as_deref(),
        }
    }

    pub(crate) fn conn_mut(&mut self, slot: Slot) -> Option<&mut Conn> {
        match slot {
            Slot::Main => Some(&mut self.main),
            Slot::Rival => self.rival.as_deref_mut(),
        }
    }

    pub(crate) fn slot_of(&self, id: ConnId) -> Option<Slot> {
        if self.main.id == Some(id) {
            Some(Slot::Main)
        } else if self.rival.as_ref().is_some_and(|rival| rival.id == Some(id)) {
            Some(Slot::Rival)
        } else {
            None
        }
    }

    /// BFD must be up before BGP may be, and is not.
    pub(crate) fn awaits_bfd(&self) -> bool {
        self.config.bfd.is_some_and(|bfd| bfd.strict) && self.bfd.is_none_or(|bfd| bfd.state != State::Up)
    }

    /// It exceeded its prefix limit and has to wait.
    pub(crate) fn is_barred(&self, now: Time) -> bool {
        self.barred_until.is_some_and(|until| until > now)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.main.state == PeerState::Established
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        self.main.session.as_deref().filter(|_| self.is_up())
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let families =
            self.families.iter().flat_map(|f| [f.stale_until, f.long_lived_until, f.refresh_until]);
        let rival = self.rival.as_deref().and_then(Conn::next_deadline);
        let own = [self.main.next_deadline(), rival, self.idle_until, self.kept_until];
        own.into_iter().chain(families).flatten().min()
    }
}
