//! Many clients on one thread: sockets, sessions, and the check of everything they are told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use margay_bgp::wire::{AfiSafi, Capability, Framer, Message, Open, RefreshKind, UpdateEncoder, decode};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

use crate::book::Book;
use crate::plan::{AS, Plan, REFLECTOR, SESSION};
use crate::state::State;

/// Octets read at once.
const READ: usize = 256 << 10;
/// Between KEEPALIVEs of every client: a third of the shortest hold time anybody proposes.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Before a client that was refused tries again.
const AGAIN: Duration = Duration::from_millis(500);
/// Before one that hears nothing gives up and tries again. Where the queue of the listener is short (BIRD's holds 8) connections
/// seem to be up that are not, and only the end of TCP's patience, after a minute, would tell.
const DEAF: Duration = Duration::from_secs(10);
/// All at once again they would meet the same queue: they spread over so much time, as the jitter of real ones does.
const SPREAD: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

#[derive(Debug)]
struct Client {
    socket: Option<TcpStream>,
    phase: Phase,
    /// An incomplete message.
    tail: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    /// Where it is in the common log, as long as it is told the same as the others: message, octet.
    cursor: Option<(usize, usize)>,
    reading: bool,
    writing: bool,
    /// Routes repeated since BoRR.
    refresh: Option<Vec<bool>>,
    again: Option<Instant>,
    /// Gone on purpose.
    stopped: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Swarm {
    plan: Plan,
    pub(crate) state: State,
    book: Book,
    clients: Vec<Client>,
    epoll: Epoll,
    /// UPDATEs in the order in which the first client got them: octets, and end and effects of each message. Others
    /// mostly get the same, and comparing octets is cheaper than looking up messages.
    log: Vec<u8>,
    log_messages: Vec<(usize, Range<usize>)>,
    established: usize,
    /// Connections that were refused or ended before the session was up.
    pub(crate) refused: usize,
    keepalive_at: Instant,
    buffer: Vec<u8>,
}

fn encoded(message: &Message) -> Result<Vec<u8>> {
    let mut out = BytesMut::new();
    message.encode(&SESSION, &mut out)?;
    Ok(out.to_vec())
}

/// The length of the first message, once its header is there.
fn message_len(data: &[u8]) -> Option<usize> {
    let header = data.get(16..18)?;
    Some(header.iter().fold(0, |len, octet| len << 8 | usize::from(*octet)))
}

/// How many octets at the beginning are the same.
fn common(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    if a == b { len } else { a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(len) }
}

impl Swarm {
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let client = || Client {
            socket: None,
            phase: Phase::Connecting,
            tail: Vec::new(),
            out: Vec::new(),
            sent: 0,
            cursor: Some((0, 0)),
            reading: true,
            writing: false,
            refresh: None,
            again: None,
            stopped: false,
        };
        Ok(Self {
            plan,
            state: State::new(plan),
            book: Book::default(),
            clients: (0..plan.clients).map(|_| client()).collect(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            log: Vec::new(),
            log_messages: Vec::new(),
            established: 0,
            refused: 0,
            keepalive_at: Instant::now() + KEEPALIVE,
            buffer: vec![0; READ + (64 << 10)],
        })
    }

    /// Everybody connects at the same instant.
    pub(crate) fn connect_all(&mut self) -> Result<()> {
        (0..self.plan.clients).try_for_each(|client| self.connect(client))
    }

    fn connect(&mut self, number: usize) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddrV4::new(Plan::address(number), 0).into())?;
        match socket.connect(&SocketAddrV4::new(REFLECTOR, 179).into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(error).context("connecting"),
        }
        let socket = TcpStream::from(socket);
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, number as u64);
        self.epoll.add(socket.as_fd(), event)?;
        let client = &mut self.clients[number];
        *client = Client {
            socket: Some(socket),
            phase: Phase::Connecting,
            tail: Vec::new(),
            out: std::mem::take(&mut client.out),
            sent: 0,
            cursor: client.cursor,
            reading: true,
            writing: true,
            refresh: None,
            again: Some(Instant::now() + DEAF + Self::spread(number)),
            stopped: false,
        };
        client.out.clear();
        Ok(())
    }

    /// Runs until `done` says so: true; or until the deadline: false.
    ///
    /// # Errors
    /// A client was told something wrong, or lost its session.
    pub(crate) fn run(&mut self, deadline: Instant, mut done: impl FnMut(&Self) -> bool) -> Result<bool> {
        let mut events = vec![EpollEvent::empty(); 512];
        loop {
            if done(self) {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            self.tick(now)?;
            let next = deadline.min(self.keepalive_at).min(now + Duration::from_millis(100));
            let wait = next.saturating_duration_since(now).as_micros().div_ceil(1000);
            let wait = EpollTimeout::from(u16::try_from(wait).unwrap_or(100));
            let count = self.epoll.wait(&mut events, wait)?;
            for event in events.iter().take(count) {
                let number = usize::try_from(event.data())?;
                self.ready(number, event.events())
                    .with_context(|| format!("client {}", Plan::address(number)))?;
            }
        }
    }

    fn tick(&mut self, now: Instant) -> Result<()> {
        if now >= self.keepalive_at {
            self.keepalive_at = now + KEEPALIVE;
            let keepalive = encoded(&Message::Keepalive)?;
            for number in 0..self.clients.len() {
                if self.clients[number].phase == Phase::Established && !self.clients[number].stopped {
                    self.send(number, &keepalive)?;
                }
            }
        }
        if self.established < self.clients.len() {
            for number in 0..self.clients.len() {
                let client = &self.clients[number];
                if client.phase != Phase::Established && client.again.is_some_and(|at| at <= now) {
                    self.refused += usize::from(client.socket.is_some());
                    self.connect(number)?;
                }
            }
        }
        Ok(())
    }

    fn ready(&mut self, number: usize, flags: EpollFlags) -> Result<()> {
        let client = &mut self.clients[number];
        let Some(socket) = client.socket.as_ref() else { return Ok(()) };
        if client.phase == Phase::Connecting {
            let failed = socket.take_error()?;
            if failed.is_some() || flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                self.lost(number);
                return Ok(());
            }
            client.phase = Phase::OpenSent;
            let open = encoded(&Message::Open(Open::new(
                AS,
                180,
                Plan::address(number),
                vec![
                    Capability::MultiProtocol(AfiSafi::Ipv4Unicast),
                    Capability::RouteRefresh,
                    Capability::FourOctetAs(AS),
                    Capability::EnhancedRouteRefresh,
                ],
            )))?;
            client.out = open;
            client.writing = true;
        }
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.write(number)?;
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read(number)?;
        }
        Ok(())
    }

    fn spread(number: usize) -> Duration {
        SPREAD * u32::try_from(number % 100).unwrap_or_default() / 100
    }

    fn lost(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.socket = None;
        client.phase = Phase::Connecting;
        client.again = Some(Instant::now() + AGAIN + Self::spread(number));
        self.refused += 1;
    }

    /// What a client wants to hear of; a stopped reader hears of nothing.
    fn interest(&self, number: usize) -> Result<()> {
        let client = &self.clients[number];
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, client.reading);
        flags.set(EpollFlags::EPOLLOUT, client.writing);
        if let Some(socket) = &client.socket {
            self.epoll.modify(socket.as_fd(), &mut EpollEvent::new(flags, number as u64))?;
        }
        Ok(())
    }

    /// Whether a client takes what it is sent.
    pub(crate) fn set_reading(&mut self, number: usize, reading: bool) -> Result<()> {
        self.clients[number].reading = reading;
        self.interest(number)
    }

    /// Queues octets at a client and writes what its socket takes.
    pub(crate) fn send(&mut self, number: usize, data: &[u8]) -> Result<()> {
        let client = &mut self.clients[number];
        client.out.extend_from_slice(data);
        if client.writing { Ok(()) } else { self.write(number) }
    }

    fn write(&mut self, number: usize) -> Result<()> {
        let client = &mut self.clients[number];
        let Some(mut socket) = client.socket.as_ref() else { return Ok(()) };
        while client.sent < client.out.len() {
            match socket.write(&client.out[client.sent..]) {
                Ok(count) => client.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if client.phase != Phase::Established => {
                    self.lost(number);
                    return Ok(());
                }
                Err(error) => return Err(error).context("writing"),
            }
        }
        let pending = client.sent < client.out.len();
        if !pending {
            client.out.clear();
            client.sent = 0;
        }
        if pending != client.writing {
            client.writing = pending;
            self.interest(number)?;
        }
        Ok(())
    }

    fn read(&mut self, number: usize) -> Result<()> {
        let client = &mut self.clients[number];
        let Some(mut socket) = client.socket.as_ref() else { return Ok(()) };
        let kept = client.tail.len();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer[..kept].copy_from_slice(&client.tail);
        let result = match socket.read(&mut buffer[kept..]) {
            Ok(0) => self.ended(number, "the connection was closed"),
            Ok(count) => self.digest(number, &buffer[..kept + count]).map(|used| {
                let tail = &mut self.clients[number].tail;
                tail.clear();
                tail.extend_from_slice(&buffer[used..kept + count]);
            }),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => self.ended(number, &error.to_string()),
        };
        self.buffer = buffer;
        result
    }

    fn ended(&mut self, number: usize, why: &str) -> Result<()> {
        match self.clients[number].phase {
            Phase::Established if self.clients[number].stopped => Ok(()),
            Phase::Established => bail!("the session ended: {why}"),
            _ => {
                self.lost(number);
                Ok(())
            }
        }
    }

    /// Takes whole messages; returns how many octets they have.
    fn digest(&mut self, number: usize, data: &[u8]) -> Result<usize> {
        let mut at = 0;
        loop {
            at += self.follow(number, &data[at..]);
            let rest = &data[at..];
            let Some(len) = message_len(rest) else { return Ok(at) };
            if !(19..=4096).contains(&len) {
                bail!("a message of {len} octets");
            }
            let Some(message) = rest.get(..len) else { return Ok(at) };
            self.message(number, message)?;
            at += len;
        }
    }

    /// Skips over what is the same as in the log.
    fn follow(&mut self, number: usize, data: &[u8]) -> usize {
        let client = &mut self.clients[number];
        let Some((first, start)) = client.cursor else { return 0 };
        if client.phase != Phase::Established || client.refresh.is_some() {
            return 0;
        }
        let same = common(data, &self.log[start..]);
        let (mut message, mut end) = (first, start);
        while let Some((next, effects)) = self.log_messages.get(message) {
            if *next > start + same {
                break;
            }
            self.state.apply(number, self.book.effects(effects.clone()));
            (message, end) = (message + 1, *next);
        }
        client.cursor = Some((message, end));
        end - start
    }

    fn message(&mut self, number: usize, message: &[u8]) -> Result<()> {
        let phase = self.clients[number].phase;
        match (message.get(18).copied(), phase) {
            (Some(2), Phase::Established) => return self.update(number, message),
            (Some(4), Phase::Established) => return Ok(()),
            _ => {}
        }
        let mut input = message;
        let mut framer = Framer::new();
        let frame = framer.next_frame(&mut input)?.context("an incomplete message")?;
        match (decode(frame, &SESSION)?.message, phase) {
            (Message::Open(open), Phase::OpenSent) => {
                if open.asn() != AS {
                    bail!("an OPEN of AS {}", open.asn());
                }
                self.clients[number].phase = Phase::OpenConfirm;
                self.send(number, &encoded(&Message::Keepalive)?)
            }
            (Message::Keepalive, Phase::OpenConfirm) => {
                self.clients[number].phase = Phase::Established;
                self.clients[number].again = None;
                self.established += 1;
                let mut out = BytesMut::new();
                UpdateEncoder::new(SESSION).end_of_rib(AfiSafi::Ipv4Unicast, &mut out);
                self.send(number, &out)
            }
            (Message::RouteRefresh(refresh), Phase::Established) => {
                let client = &mut self.clients[number];
                match refresh.kind {
                    RefreshKind::BeginOfRefresh => {
                        client.refresh = Some(vec![false; self.plan.routes()]);
                        client.cursor = None;
                    }
                    RefreshKind::EndOfRefresh => {
                        let kept = client.refresh.take().context("EoRR without BoRR")?;
                        self.state.retain(number, &kept);
                    }
                    _ => {}
                }
                Ok(())
            }
            (Message::Notification(_), Phase::OpenSent | Phase::OpenConfirm) => {
                self.lost(number);
                Ok(())
            }
            (Message::Notification(notification), _) => bail!("NOTIFICATION: {notification}"),
            (other, phase) => bail!("unexpected in {phase:?}: {other:?}"),
        }
    }

    fn update(&mut self, number: usize, message: &[u8]) -> Result<()> {
        let range = self.book.read(message, &self.plan, self.state.newest())?;
        if range.is_empty() {
            // End-of-RIB.
            return Ok(());
        }
        let client = &mut self.clients[number];
        if let Some((index, end)) = client.cursor {
            client.cursor = if index == self.log_messages.len() {
                self.log.extend_from_slice(message);
                self.log_messages.push((self.log.len(), range.clone()));
                Some((index + 1, end + message.len()))
            } else {
                None
            };
        }
        let effects = self.book.effects(range);
        if let Some(seen) = &mut client.refresh {
            effects.iter().for_each(|effect| seen[effect.route as usize] = effect.version != 0);
        }
        self.state.apply(number, effects);
        Ok(())
    }

    /// Nothing is on its way: from here on all can follow one log again.
    pub(crate) fn settle(&mut self) {
        self.log.clear();
        self.log_messages.clear();
        for client in &mut self.clients {
            client.cursor = client.tail.is_empty().then_some((0, 0));
        }
        self.state.done.clear();
    }

    /// From here on nobody follows a common log: somebody is told old things.
    pub(crate) fn forget_log(&mut self) {
        self.clients.iter_mut().for_each(|client| client.cursor = None);
    }

    /// Sessions that are up.
    pub(crate) fn established(&self) -> usize {
        self.established
    }

    /// Whether a client's session is up.
    pub(crate) fn is_up(&self, number: usize) -> bool {
        self.clients[number].phase == Phase::Established
    }

    /// Ends a client without a word, as a crash does.
    pub(crate) fn crash(&mut self, number: usize) -> Result<()> {
        let client = &mut self.clients[number];
        client.stopped = true;
        if let Some(socket) = client.socket.take() {
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}
