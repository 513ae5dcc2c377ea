//! The shell around [`crate::bfd`]: UDP sockets, a clock, and a thread of its own.
//!
//! A second of BGP work must not look like the loss of a peer, so nothing here shares a thread, a runtime or a queue
//! with the speaker. What is wanted and what is known are two maps with the latest state of each peer: neither side ever
//! waits for the other, and nothing piles up.

mod sockets;

use super::links;
use crate::bfd::{Bfd, Handover, Input, Output, PACKET_LEN, SessionConfig, SessionStatus};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use sockets::{LONGEST, Place, listener, own, place, port, receive, scope, sender};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};

/// Without a deadline.
const FAR: Duration = Duration::from_secs(3600);
/// Wait before a socket that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A session to run, and our interface towards a link-local peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    session: SessionConfig,
    interface: Option<String>,
}

/// Running sessions, for another process that goes on with them.
#[derive(Debug, Serialize, Deserialize)]
pub struct BfdHandover {
    sessions: Handover,
    wanted: Vec<(IpAddr, Wanted)>,
    /// What the first sockets are.
    listeners: Vec<Place>,
    /// What the others are.
    senders: Vec<(IpAddr, SocketAddr)>,
}

impl BfdHandover {
    /// Sockets that come with it.
    pub(super) fn sockets(&self) -> usize {
        self.listeners.len() + self.senders.len()
    }
}

/// Running sessions and their sockets.
pub(super) type Estate = (BfdHandover, Vec<OwnedFd>);

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<BTreeMap<IpAddr, Wanted>>,
    /// Who wants to know how it all is.
    asker: Mutex<Option<oneshot::Sender<io::Result<Estate>>>>,
    wanted_changed: Notify,
    known: Mutex<BTreeMap<IpAddr, SessionStatus>>,
    known_changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The speaker's side. The thread runs from the first session on; dropping this takes all sessions down.
#[derive(Debug, Default)]
pub(super) struct BfdSessions {
    shared: Arc<Shared>,
    thread: Option<Thread>,
    /// Sessions of another process, until they may go on here.
    estate: Option<Estate>,
}

#[derive(Debug)]
struct Thread {
    /// Used: without a word. Dropped: the peers are told.
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl BfdSessions {
    /// In place of another process, from [`Self::resume`] on.
    pub(super) fn take_over(estate: Estate) -> Self {
        let shared =
            Shared { wanted: Mutex::new(estate.0.wanted.iter().cloned().collect()), ..Shared::default() };
        Self { shared: Arc::new(shared), thread: None, estate: Some(estate) }
    }

    /// Goes on with what was taken over, if anything was.
    pub(super) fn resume(&mut self) {
        if let Some(estate) = self.estate.take() {
            self.thread = start(Arc::clone(&self.shared), Some(estate));
        }
    }

    /// What another process needs, if there are sessions. They go on here until [`Self::leave`]: nobody is to miss a packet.
    pub(super) async fn hand_over(&self) -> io::Result<Option<Estate>> {
        if self.thread.is_none() {
            return Ok(None);
        }
        let (asker, answer) = oneshot::channel();
        *lock(&self.shared.asker) = Some(asker);
        self.shared.wanted_changed.notify_one();
        answer.await.map_err(|_ended| io::Error::other("BFD has ended"))?.map(Some)
    }

    /// Ends everything without a word: another process goes on.
    pub(super) fn leave(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It may have ended by itself.
            let _ended = thread.stop.send(());
        }
    }

    /// Runs a session with a peer, or no more.
    pub(super) fn set(&mut self, remote: IpAddr, interface: Option<String>, session: Option<SessionConfig>) {
        match session {
            Some(session) => {
                lock(&self.shared.wanted).insert(remote, Wanted { session, interface });
                if self.thread.is_none() {
                    self.thread = start(Arc::clone(&self.shared), None);
                }
            }
            None => {
                lock(&self.shared.wanted).remove(&remote);
                lock(&self.shared.known).remove(&remote);
            }
        }
        self.shared.wanted_changed.notify_one();
    }

    /// Waits until sessions have changed, and takes their latest states.
    pub(super) fn changed(&self) -> impl Future<Output = BTreeMap<IpAddr, SessionStatus>> + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            shared.known_changed.notified().await;
            std::mem::take(&mut *lock(&shared.known))
        }
    }

    /// Takes all sessions down in a way that peers do not count as failure; returns when they have been told.
    pub(super) async fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        drop(thread.stop);
        // The sender goes with the thread.
        let _ended = thread.ended.await;
    }
}

/// Starts the thread in the caller's network namespace.
fn start(shared: Arc<Shared>, estate: Option<Estate>) -> Option<Thread> {
    let ((stop, stopped), (end, ended)) = (oneshot::channel(), oneshot::channel());
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                match Shell::new(shared, estate) {
                    Ok(shell) => shell.run(stopped).await,
                    Err(error) => tracing::error!(%error, "BFD cannot go on"),
                }
            }),
            Err(error) => tracing::error!(%error, "BFD cannot run"),
        }
        drop(end);
    };
    match std::thread::Builder::new().name("bfd".to_owned()).spawn(run) {
        Ok(_detached) => Some(Thread { stop, ended }),
        Err(error) => {
            tracing::error!(%error, "BFD cannot run: no thread");
            None
        }
    }
}

/// A session's way out.
struct Sender {
    socket: std::net::UdpSocket,
    /// The peer, with the number of the interface where it needs one.
    to: SocketAddr,
}

struct Shell {
    shared: Arc<Shared>,
    bfd: Bfd,
    /// The sessions' time, and the clock's at the same instant.
    epoch: (Time, Instant),
    wanted: BTreeMap<IpAddr, Wanted>,
    listeners: BTreeMap<Place, UdpSocket>,
    /// Places that could not be bound, and why.
    unbound: BTreeMap<Place, String>,
    /// One per session for its whole life: the source port must not change (RFC 5881 section 4).
    senders: BTreeMap<IpAddr, Sender>,
    /// The listener that is asked first: each in turn, so that none is starved.
    turn: usize,
}

impl Shell {
    fn new(shared: Arc<Shared>, estate: Option<Estate>) -> io::Result<Self> {
        let mut shell = Self {
            shared,
            // Discriminators must not be guessed; the standard library's hasher has the only random numbers it offers.
            bfd: Bfd::new(RandomState::new().hash_one(std::process::id())),
            wanted: BTreeMap::new(),
            listeners: BTreeMap::new(),
            unbound: BTreeMap::new(),
            senders: BTreeMap::new(),
            epoch: (Time::ZERO, Instant::now()),
            turn: 0,
        };
        if let Some((state, sockets)) = estate {
            let mut sockets = sockets.into_iter();
            for (place, socket) in state.listeners.into_iter().zip(sockets.by_ref()) {
                shell.listeners.insert(place, UdpSocket::from_std(socket.into())?);
            }
            for ((remote, to), socket) in state.senders.into_iter().zip(sockets) {
                shell.senders.insert(remote, Sender { socket: socket.into(), to });
            }
            shell.wanted = state.wanted.into_iter().collect();
            shell.epoch.0 = state.sessions.now();
            shell.bfd = Bfd::restore(state.sessions);
        }
        Ok(shell)
    }

    fn hand_over(&self) -> io::Result<Estate> {
        let mut sockets = Vec::new();
        for listener in self.listeners.values() {
            sockets.push(listener.as_fd().try_clone_to_owned()?);
        }
        for sender in self.senders.values() {
            sockets.push(sender.socket.as_fd().try_clone_to_owned()?);
        }
        let state = BfdHandover {
            sessions: self.bfd.hand_over(),
            wanted: self.wanted.clone().into_iter().collect(),
            listeners: self.listeners.keys().copied().collect(),
            senders: self.senders.iter().map(|(remote, sender)| (*remote, sender.to)).collect(),
        };
        Ok((state, sockets))
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let shared = Arc::clone(&self.shared);
        let mut buffer = [0; LONGEST];
        self.work();
        loop {
            let retry = if self.unbound.is_empty() { FAR } else { RETRY };
            let deadline = self.bfd.next_deadline().map_or(FAR, |at| at.since(self.now())).min(retry);
            tokio::select! {
                word = &mut stopped => match word {
                    Ok(()) => return,
                    Err(_dropped) => break,
                },
                () = shared.wanted_changed.notified() => {
                    self.reconcile();
                    if let Some(asker) = lock(&shared.asker).take() {
                        // It may have given up.
                        let _gone = asker.send(self.hand_over());
                    }
                }
                (place, from, length) = receive(&self.listeners, self.turn, &mut buffer) => {
                    self.turn = self.turn.wrapping_add(1);
                    // A link-local address means something on its own link only.
                    let there = self.senders.get(&from.ip()).is_none_or(|peer| scope(peer.to) == scope(from));
                    if let (true, Some(payload)) = (there, buffer.get(..length)) {
                        self.input(Input::Received { from: from.ip(), multihop: place.1, payload });
                    }
                }
                () = tokio::time::sleep(deadline) => {
                    self.input(Input::Tick);
                    if !self.unbound.is_empty() {
                        self.listen();
                    }
                }
            }
            self.work();
        }
        self.input(Input::Stop);
        self.work();
    }

    fn now(&self) -> Time {
        self.epoch.0 + self.epoch.1.elapsed()
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.bfd.handle(now, input);
    }

    /// Makes the sessions those that are wanted.
    fn reconcile(&mut self) {
        let wanted = lock(&self.shared.wanted).clone();
        let old = std::mem::replace(&mut self.wanted, wanted.clone());
        for remote in old.keys().filter(|remote| !wanted.contains_key(*remote)) {
            self.input(Input::Set(*remote, None));
        }
        self.listen();
        for (remote, peer) in wanted {
            if old.get(&remote) != Some(&peer) {
                if old.get(&remote).is_some_and(|old| old.interface != peer.interface) {
                    self.senders.remove(&remote);
                }
                self.input(Input::Set(remote, Some(peer.session)));
            }
        }
    }

    /// Listens where sessions need it, and nowhere else.
    fn listen(&mut self) {
        let places: Vec<Place> =
            self.wanted.iter().map(|(remote, peer)| place(*remote, &peer.session)).collect();
        self.listeners.retain(|place, _| places.contains(place));
        self.unbound.retain(|place, _| places.contains(place));
        for place in places {
            if self.listeners.contains_key(&place) {
                continue;
            }
            match listener(place) {
                Ok(socket) => {
                    self.listeners.insert(place, socket);
                    self.unbound.remove(&place);
                }
                Err(error) => {
                    let reason = error.to_string();
                    if self.unbound.insert(place, reason.clone()).as_ref() != Some(&reason) {
                        let (address, port) = (place.0, port(place.1));
                        tracing::warn!(%address, port, reason, "BFD cannot listen: is another BFD daemon running?");
                    }
                }
            }
        }
    }

    /// Does what the core says until it is silent.
    fn work(&mut self) {
        let mut changed = false;
        while let Some(output) = self.bfd.poll_output() {
            match output {
                Output::Send { remote, local, multihop, packet } => {
                    if let Err(error) = self.send(remote, local, multihop, &packet) {
                        // Without a route, a link or an address there is nothing to send on: that is what BFD is for.
                        tracing::debug!(%remote, %error, "BFD packet not sent");
                    }
                }
                Output::Changed(remote, status) => {
                    if self.wanted.contains_key(&remote) {
                        lock(&self.shared.known).insert(remote, status);
                        changed = true;
                    }
                }
                Output::Gone(remote) => drop(self.senders.remove(&remote)),
            }
        }
        if changed {
            self.shared.known_changed.notify_one();
        }
    }

    fn send(
        &mut self,
        remote: IpAddr,
        local: Option<IpAddr>,
        multihop: bool,
        packet: &[u8; PACKET_LEN],
    ) -> io::Result<()> {
        let sender = match self.senders.get(&remote) {
            Some(sender) => sender,
            None => {
                let interface = self.wanted.get(&remote).and_then(|peer| peer.interface.as_deref());
                let to = links::scoped(SocketAddr::new(remote, port(multihop)), interface)?;
                let socket = sender(own(local, remote))?;
                self.senders.entry(remote).or_insert(Sender { socket, to })
            }
        };
        let sent = sender.socket.send_to(packet, sender.to);
        if sent.is_err() && scope(sender.to) != 0 {
            // The interface may have gone and come back under another number.
            self.senders.remove(&remote);
        }
        sent.map(|_octets| ())
    }
}
