//! The task that owns the speaker.

use super::bfd::BfdSessions;
use super::changes::Changes;
use super::conn::{Conn, IoEvent, ReadAhead, Writing};
use super::handle::{BgpHandle, Command};
use super::handover::Frozen;
use super::keys::Listeners;
use super::outbox::Outbox;
use super::socket;
use super::stations::{Monitoring, Station};
use crate::config::SpeakerConfig;
use crate::io::{ConnId, Input, Output, StopMode};
use crate::speaker::Speaker;
use crate::status::Event;
use crate::time::Time;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

/// How to run a speaker.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The speaker.
    pub speaker: SpeakerConfig,
    /// Addresses to listen on; empty means never accept connections. An IPv6 address accepts IPv6 only.
    pub listen: Vec<SocketAddr>,
}

/// A running speaker.
#[derive(Debug)]
pub struct BgpService {
    pub(super) config: SpeakerConfig,
    pub(super) speaker: Speaker,
    /// The speaker's time, and the clock's at the same instant.
    pub(super) epoch: (Time, Instant),
    pub(super) conns: HashMap<ConnId, Conn>,
    pub(super) dials: HashMap<ConnId, AbortHandle>,
    pub(super) accepted: u64,
    pub(super) io: mpsc::Sender<IoEvent>,
    pub(super) ahead: ReadAhead,
    /// What nobody has begun to write.
    pub(super) writings: Vec<Writing>,
    pub(super) outbox: Outbox,
    pub(super) listeners: Listeners,
    pub(super) bfd: BfdSessions,
    acceptors: Vec<JoinHandle<()>>,
    pub(super) stations: Vec<Station>,
    pub(super) records: Option<mpsc::Sender<Bytes>>,
    pub(super) monitoring: Monitoring,
    pub(super) changes: Changes,
}

/// What the task of a service waits for, and whom it tells.
pub(super) struct Inbox {
    commands: mpsc::Receiver<Command>,
    pub(super) io: mpsc::Receiver<IoEvent>,
    events: mpsc::Sender<Event>,
}

/// Events that may wait for a slow consumer before they are merged.
const EVENTS: usize = 64;
/// Requests that may wait.
const COMMANDS: usize = 64;
/// Things that connections report and that may wait; readers pause beyond it.
pub(super) const IO: usize = 1024;
/// Of these, handled before anything is sent: what comes in together goes out together.
const BATCH: usize = IO;
/// Without a deadline.
const FAR: Duration = Duration::from_secs(3600);

impl BgpService {
    /// Binds the listeners and starts the speaker on the current tokio runtime. Dropping every handle stops it as
    /// [`StopMode::Restart`] does.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub fn spawn(config: ServiceConfig) -> io::Result<(BgpHandle, mpsc::Receiver<Event>)> {
        Self::spawn_monitored(config, Monitoring::default())
    }

    /// The same with people who look.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub fn spawn_monitored(
        config: ServiceConfig,
        monitoring: Monitoring,
    ) -> io::Result<(BgpHandle, mpsc::Receiver<Event>)> {
        let mut sockets = Vec::new();
        for address in &config.listen {
            let listener = socket::listen(*address).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen for BGP on {address}: {error}"))
            })?;
            sockets.push(listener);
        }
        let (mut service, handle, events, inbox) =
            Self::new(config.speaker, monitoring, Listeners::new(sockets));
        service.start();
        tokio::spawn(service.run(inbox));
        Ok((handle, events))
    }

    pub(super) fn new(
        config: SpeakerConfig,
        monitoring: Monitoring,
        listeners: Listeners,
    ) -> (Self, BgpHandle, mpsc::Receiver<Event>, Inbox) {
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (io, io_receiver) = mpsc::channel(IO);
        let service = Self {
            speaker: Speaker::new(config.clone(), Time::ZERO).with_monitor(monitoring.config(Time::ZERO)),
            config,
            epoch: (Time::ZERO, Instant::now()),
            conns: HashMap::new(),
            dials: HashMap::new(),
            accepted: 0,
            io,
            ahead: ReadAhead::default(),
            writings: Vec::new(),
            outbox: Outbox::default(),
            listeners,
            bfd: BfdSessions::default(),
            acceptors: Vec::new(),
            stations: Vec::new(),
            records: monitoring.records.clone(),
            monitoring,
            changes: Changes::default(),
        };
        let inbox = Inbox { commands: command_receiver, io: io_receiver, events };
        (service, BgpHandle { commands }, event_receiver, inbox)
    }

    /// Begins to accept connections and to dial stations.
    pub(super) fn start(&mut self) {
        let accept = |listener| tokio::spawn(accept(Arc::clone(listener), self.io.clone()));
        self.acceptors = self.listeners.sockets().map(accept).collect();
        let stations = self.monitoring.stations.iter().enumerate();
        let start = |(id, (address, _)): (_, &(SocketAddr, _))| Station::start(id, *address, self.io.clone());
        self.stations = stations.map(start).collect();
    }

    pub(super) fn stop_accepting(&self) {
        for acceptor in &self.acceptors {
            acceptor.abort();
        }
    }

    fn now(&self) -> Time {
        self.epoch.0 + self.epoch.1.elapsed()
    }

    pub(super) async fn run(mut self, mut inbox: Inbox) {
        let mut batch = Vec::with_capacity(BATCH);
        let events = inbox.events.clone();
        let sleep = tokio::time::sleep(FAR);
        tokio::pin!(sleep);
        loop {
            let deadline = self.speaker.next_deadline().map_or(FAR, |at| at.since(self.now()));
            sleep.as_mut().reset(tokio::time::Instant::now() + deadline.min(FAR));
            tokio::select! {
                command = inbox.commands.recv() => match command {
                    Some(Command::Freeze(answer)) => {
                        if !self.stay_frozen(answer, &mut inbox).await {
                            return;
                        }
                    }
                    Some(Command::Stop(mode, answer)) => {
                        self.stop(mode).await;
                        // The asker may have gone.
                        let _gone = answer.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => {
                        self.stop(StopMode::Restart).await;
                        return;
                    }
                },
                count = inbox.io.recv_many(&mut batch, BATCH) => {
                    if count > 0 {
                        for event in batch.drain(..) {
                            self.io_event(event);
                        }
                        if self.speaker.next_deadline().is_some_and(|at| at <= self.now()) {
                            self.input(Input::Tick);
                        }
                    }
                }
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.outbox.pop() {
                            permit.send(event);
                        }
                    }
                    // Nobody listens; the speaker goes on.
                    Err(_closed) => self.outbox = Outbox::default(),
                },
                sessions = self.bfd.changed() => {
                    for (remote, status) in sessions {
                        self.input(Input::Bfd(remote, status));
                    }
                }
                () = &mut sleep => self.input(Input::Tick),
            }
            self.work();
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.speaker.handle(now, input);
    }

    /// Waits until it may go on; false if it is to end.
    async fn stay_frozen(&mut self, answer: oneshot::Sender<io::Result<Frozen>>, inbox: &mut Inbox) -> bool {
        let frozen = self.freeze(&mut inbox.io).await;
        let failed = frozen.is_err();
        let mut waiting = Vec::new();
        let thawed = match answer.send(frozen) {
            Ok(()) if failed => Ok(()),
            Ok(()) => loop {
                match inbox.commands.recv().await {
                    Some(Command::Thaw(frozen, answer)) => {
                        let thawed = self.thaw(*frozen, &mut inbox.io);
                        // The asker may have gone.
                        let _gone = answer.send(());
                        break thawed;
                    }
                    Some(Command::Stop(_, answer)) => {
                        self.bfd.leave();
                        let _gone = answer.send(());
                        return false;
                    }
                    Some(command) => waiting.push(command),
                    None => {
                        self.bfd.leave();
                        return false;
                    }
                }
            },
            // The asker has gone.
            Err(Ok(frozen)) => self.thaw(frozen, &mut inbox.io),
            Err(Err(_)) => Ok(()),
        };
        if let Err(error) = thawed {
            tracing::error!(%error, "BGP sessions cannot go on: they are closed");
            return false;
        }
        for command in waiting {
            self.command(command);
        }
        true
    }

    pub(super) fn io_event(&mut self, event: IoEvent) {
        match event {
            IoEvent::Accepted(_, remote) if !self.listeners.admits(remote.ip().to_canonical()) => {}
            IoEvent::Accepted(stream, remote) => {
                let conn = ConnId::accepted(self.accepted);
                self.accepted += 1;
                if let Some(local) = self.open(conn, stream) {
                    self.input(Input::Accepted { conn, remote, local });
                    self.tell_link(conn);
                }
            }
            IoEvent::Dialled(conn, result) => {
                // Given up meanwhile if it isn't there any more.
                if self.dials.remove(&conn).is_none() {
                    return;
                }
                match result {
                    Ok(stream) => match self.open(conn, stream) {
                        Some(local) => {
                            self.input(Input::Connected { conn, local });
                            self.tell_link(conn);
                        }
                        None => {
                            self.input(Input::Closed { conn, reason: "the connection vanished".to_owned() })
                        }
                    },
                    Err(error) => {
                        self.input(Input::Closed { conn, reason: format!("cannot connect: {error}") });
                    }
                }
            }
            IoEvent::Received(conn, data, _ahead) if self.conns.contains_key(&conn) => {
                self.input(Input::Received { conn, data });
            }
            IoEvent::Written(conn, bytes) => self.input(Input::Written { conn, bytes }),
            IoEvent::Shared(outcomes) => self.written(outcomes),
            IoEvent::Closed(conn, reason) => {
                // What came in before the end is answered before the end: a NOTIFICATION still goes out to a peer
                // that has only finished sending.
                self.work();
                self.lost(conn, reason);
            }
            IoEvent::Station(station, what) => self.input(Input::Station(station, what)),
            IoEvent::Received(..) => {}
        }
    }

    fn open(&mut self, id: ConnId, stream: tokio::net::TcpStream) -> Option<SocketAddr> {
        let conn = Conn::start(id, stream, self.io.clone(), self.ahead.clone());
        let local = conn.local().ok()?;
        self.conns.insert(id, conn);
        Some(local)
    }

    fn tell_link(&mut self, conn: ConnId) {
        if let Some(link) = self.conns.get(&conn).and_then(Conn::link) {
            self.input(Input::OnLink { conn, link });
        }
    }

    pub(super) fn lost(&mut self, conn: ConnId, reason: String) {
        if let Some(gone) = self.conns.remove(&conn) {
            drop(gone.close());
            self.input(Input::Closed { conn, reason });
        }
    }

    pub(super) fn close(&mut self, id: ConnId) -> Option<JoinHandle<()>> {
        if let Some(dial) = self.dials.remove(&id) {
            dial.abort();
        }
        self.conns.remove(&id).map(Conn::close)
    }

    async fn stop(mut self, mode: StopMode) {
        for acceptor in self.acceptors.drain(..) {
            acceptor.abort();
            // Cancelled, which is what was asked for.
            let _cancelled = acceptor.await;
        }
        // Before any session ends: a peer that comes back at once is refused, not accepted and cut off.
        self.listeners = Listeners::default();
        self.input(Input::Stop(mode));
        let mut writes: Vec<(ConnId, Bytes)> = Vec::new();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Write { conn, data } => writes.push((conn, data)),
                Output::Station { station, data } => self.station(station, data),
                Output::Record { data } => self.record(data),
                _ => {}
            }
        }
        for (id, data) in writes {
            // Written before the connection is closed, below.
            let _writing = self.conns.get(&id).and_then(|conn| conn.queue([data]));
        }
        for station in std::mem::take(&mut self.stations) {
            station.finish().await;
        }
        let ids: Vec<ConnId> = self.conns.keys().chain(self.dials.keys()).copied().collect();
        let tasks: Vec<_> = ids.into_iter().filter_map(|id| self.close(id)).collect();
        for task in tasks {
            // Each ends by itself within its time limit.
            let _ended = task.await;
        }
        // Only now: peers that take an administrator's word for a failure then are restart helpers already.
        self.bfd.stop().await;
    }
}

impl Drop for BgpService {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

async fn accept(listener: Arc<TcpListener>, io: mpsc::Sender<IoEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if io.send(IoEvent::Accepted(stream, remote)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: let some close.
                tracing::warn!(%error, "cannot accept a BGP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
