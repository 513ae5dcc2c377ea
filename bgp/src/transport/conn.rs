//! One connection: a task that reads, and writing that needs a task only while the socket is full.

use super::{auth, links, protect};
use crate::io::{ConnId, Link};
use crate::monitor::{StationId, StationInput};
use crate::security::{Password, SocketOptions};
use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;

/// Octets read at once.
const READ: u32 = 64 << 10;
/// Octets of all connections that may have been read and not yet been handled.
const READ_AHEAD: usize = 1 << 20;
/// Pieces written by one system call.
const SLICES: usize = 64;
/// How long a closed connection may still deliver its last octets.
const LINGER: Duration = Duration::from_secs(2);

/// What connections tell the speaker's task.
#[derive(Debug)]
pub(super) enum IoEvent {
    Accepted(TcpStream, SocketAddr),
    Dialled(ConnId, io::Result<TcpStream>),
    /// With the room that it takes until it is handled.
    Received(ConnId, Bytes, Room),
    Written(ConnId, usize),
    /// What came of writing to several.
    Shared(Vec<(ConnId, io::Result<usize>)>),
    Closed(ConnId, String),
    Station(StationId, StationInput),
}

/// Bounds the octets that were read and not yet handled, over all connections.
#[derive(Debug, Clone)]
pub(super) struct ReadAhead(Arc<Semaphore>);

impl Default for ReadAhead {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READ_AHEAD)))
    }
}

/// The place of octets that were read and not yet handled, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _octets: OwnedSemaphorePermit,
    of: Arc<Shared>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.turn.add_permits(1);
    }
}

/// What the speaker and the tasks of a connection share.
#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    queue: Mutex<Queue>,
    /// To read: a connection whose octets wait to be handled reads no further, whoever else has to wait for room.
    turn: Semaphore,
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be written. The socket is read and written with it locked only.
#[derive(Debug, Default)]
struct Queue {
    data: VecDeque<Bytes>,
    /// Somebody has it in hand to write.
    handed: bool,
    /// The task that waits for the socket to take more.
    drain: Option<AbortHandle>,
    /// Nothing is read or written any more.
    frozen: bool,
    /// Whoever has it in hand no longer writes.
    abandoned: bool,
}

/// The speaker's side of a connection.
#[derive(Debug)]
pub(super) struct Conn {
    id: ConnId,
    shared: Arc<Shared>,
    reader: AbortHandle,
}

impl Conn {
    pub(super) fn start(
        id: ConnId,
        stream: TcpStream,
        events: mpsc::Sender<IoEvent>,
        ahead: ReadAhead,
    ) -> Self {
        super::socket::tune(&stream);
        let shared = Arc::new(Shared { stream, queue: Mutex::default(), turn: Semaphore::new(1) });
        let task = read(id, Arc::clone(&shared), events, ahead);
        let reader = tokio::spawn(task).abort_handle();
        Self { id, shared, reader }
    }

    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        self.shared.stream.local_addr()
    }

    /// The link it runs over, if the other end is on it.
    pub(super) fn link(&self) -> Option<Link> {
        links::between(self.shared.stream.local_addr().ok()?, self.shared.stream.peer_addr().ok()?)
    }

    /// Sets a session's options.
    pub(super) fn protect(&self, remote: IpAddr, options: &SocketOptions) -> io::Result<()> {
        if let Some(interface) = &options.interface {
            links::check(self.shared.stream.peer_addr()?, interface)?;
        }
        protect::apply(&self.shared.stream, remote, options)
    }

    /// Changes its keys.
    pub(super) fn rekey(
        &self,
        remote: IpAddr,
        old: Option<&Password>,
        new: Option<&Password>,
    ) -> io::Result<()> {
        auth::change(self.shared.stream.as_fd(), auth::Kind::Connection, remote.into(), old, new)
    }

    /// Queues octets. Returns their writing, unless somebody does that already.
    pub(super) fn queue(&self, data: impl IntoIterator<Item = Bytes>) -> Option<Writing> {
        let mut queue = self.shared.locked();
        queue.data.extend(data);
        if queue.handed || queue.drain.is_some() || queue.frozen {
            return None;
        }
        queue.handed = true;
        Some(Writing { id: self.id, shared: Arc::clone(&self.shared) })
    }

    /// Leaves the socket alone from now on. All that was read has been reported when this returns.
    pub(super) fn freeze(&self) {
        self.shared.locked().frozen = true;
        self.abandon();
    }

    /// Ends the tasks. The one that writes would keep the socket open for as long as the peer does not read.
    fn abandon(&self) {
        self.reader.abort();
        let mut queue = self.shared.locked();
        queue.abandoned = true;
        if let Some(drain) = queue.drain.take() {
            drain.abort();
        }
    }

    /// The socket once more.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.shared.stream.as_fd().try_clone_to_owned()
    }

    /// What the socket has not taken of what was written.
    pub(super) fn unsent(&self) -> Vec<u8> {
        self.shared.locked().data.iter().flatten().copied().collect()
    }

    /// Sends what is queued, for a while, then closes. The returned task ends when that is done.
    pub(super) fn close(self) -> tokio::task::JoinHandle<()> {
        self.abandon();
        let Self { shared, .. } = self;
        tokio::spawn(async move {
            // A timeout is as good an end as any: the peer doesn't read.
            let _ended = tokio::time::timeout(LINGER, finish(&shared)).await;
        })
    }
}

/// What was queued for a connection and nobody has tried to write.
#[derive(Debug)]
pub(super) struct Writing {
    id: ConnId,
    shared: Arc<Shared>,
}

impl Writing {
    /// Writes what the socket takes at once; the rest goes out by itself and is reported as events. Returns the octets
    /// taken now.
    pub(super) fn write(self, events: &mpsc::Sender<IoEvent>) -> (ConnId, io::Result<usize>) {
        let Self { id, shared } = self;
        let mut queue = shared.locked();
        queue.handed = false;
        if queue.frozen || queue.abandoned {
            return (id, Ok(0));
        }
        let taken = write_some(&shared.stream, &mut queue.data);
        if taken.is_ok() && !queue.data.is_empty() {
            let task = drain(id, Arc::clone(&shared), events.clone());
            queue.drain = Some(tokio::spawn(task).abort_handle());
        }
        (id, taken)
    }
}

/// Writes to several connections, beside the speaker's task.
pub(super) async fn write_all(several: Vec<Writing>, events: mpsc::Sender<IoEvent>) {
    let outcomes = several.into_iter().map(|one| one.write(&events)).collect();
    // The service has ended if nobody listens.
    let _ended = events.send(IoEvent::Shared(outcomes)).await;
}

/// Writes as much as the socket takes.
fn write_some(stream: &TcpStream, data: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let mut total = 0;
    while !data.is_empty() {
        let written = match data.as_slices() {
            ([one], []) => stream.try_write(one),
            _ => {
                let slices: SmallVec<[IoSlice<'_>; 8]> =
                    data.iter().take(SLICES).map(|piece| IoSlice::new(piece)).collect();
                stream.try_write_vectored(&slices)
            }
        };
        match written {
            Ok(taken) => {
                total += taken;
                consume(data, taken);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Removes octets from the front.
fn consume(data: &mut VecDeque<Bytes>, mut count: usize) {
    while count > 0 {
        let Some(front) = data.front_mut() else { return };
        let part = count.min(front.len());
        front.advance(part);
        count -= part;
        if front.is_empty() {
            data.pop_front();
        }
    }
}

async fn drain(id: ConnId, shared: Arc<Shared>, events: mpsc::Sender<IoEvent>) {
    loop {
        let result = match shared.stream.writable().await {
            Ok(()) => {
                let mut queue = shared.locked();
                if queue.frozen {
                    return;
                }
                let result = write_some(&shared.stream, &mut queue.data);
                let done = queue.data.is_empty() || result.is_err();
                if done {
                    queue.drain = None;
                }
                result.map(|taken| (taken, done))
            }
            Err(error) => Err(error),
        };
        let (event, done) = match result {
            Ok((taken, done)) => (IoEvent::Written(id, taken), done),
            Err(error) => (IoEvent::Closed(id, error.to_string()), true),
        };
        if events.send(event).await.is_err() || done {
            return;
        }
    }
}

async fn read(id: ConnId, shared: Arc<Shared>, events: mpsc::Sender<IoEvent>, ahead: ReadAhead) {
    loop {
        let Ok(turn) = shared.turn.acquire().await else { return };
        let ready = shared.stream.readable().await;
        // First the room for it and the place to report to: what has been read must not get lost.
        let Ok(mut octets) = Arc::clone(&ahead.0).acquire_many_owned(READ).await else { return };
        let Ok(place) = events.reserve().await else { return };
        let queue = shared.locked();
        if queue.frozen {
            return;
        }
        let event = match ready.and_then(|()| read_some(&shared.stream)) {
            Ok(Some(data)) if data.is_empty() => {
                IoEvent::Closed(id, "the peer closed the connection".to_owned())
            }
            Ok(Some(data)) => {
                drop(octets.split(READ as usize - data.len()));
                turn.forget();
                IoEvent::Received(id, data, Room { _octets: octets, of: Arc::clone(&shared) })
            }
            Ok(None) => continue,
            Err(error) => IoEvent::Closed(id, error.to_string()),
        };
        let last = matches!(event, IoEvent::Closed(..));
        place.send(event);
        if last {
            return;
        }
    }
}

/// Reads once. One buffer serves all connections of a thread: idle ones hold none.
fn read_some(stream: &TcpStream) -> io::Result<Option<Bytes>> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ as usize]);
    }
    BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
        Ok(count) => Ok(Some(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    })
}

/// The orderly end: last octets, FIN, and reading until the peer's FIN, so that no RST overtakes a NOTIFICATION.
async fn finish(shared: &Shared) {
    let stream = &shared.stream;
    loop {
        {
            let mut queue = shared.locked();
            if write_some(stream, &mut queue.data).is_err() {
                return;
            }
            if queue.data.is_empty() {
                break;
            }
        }
        if stream.writable().await.is_err() {
            return;
        }
    }
    if socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    while stream.readable().await.is_ok() {
        match read_some(stream) {
            Ok(Some(data)) if data.is_empty() => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_connection_is_closed_although_its_peer_does_not_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let deaf = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (events, _inbox) = mpsc::channel(1);
        let conn = Conn::start(ConnId::accepted(0), stream, events.clone(), ReadAhead::default());
        let more_than_buffers_hold = Bytes::from(vec![0; 32 << 20]);
        let taken = conn.queue([more_than_buffers_hold.clone()]).unwrap().write(&events).1.unwrap();
        assert!(taken < more_than_buffers_hold.len());
        assert!(conn.queue([Bytes::from_static(b"more")]).is_none(), "a task waits to write already");
        let shared = Arc::downgrade(&conn.shared);
        conn.close().await.unwrap();
        let closed = async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the socket is closed");
        drop(deaf);
    }

    #[tokio::test]
    async fn what_is_in_hand_when_a_connection_closes_does_not_keep_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let deaf = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (events, _inbox) = mpsc::channel(1);
        let conn = Conn::start(ConnId::accepted(0), stream, events.clone(), ReadAhead::default());
        let writing = conn.queue([Bytes::from(vec![0; 32 << 20])]).unwrap();
        let shared = Arc::downgrade(&conn.shared);
        let closing = conn.close();
        assert_eq!(writing.write(&events).1.unwrap(), 0, "closing writes the rest");
        closing.await.unwrap();
        let closed = async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the socket is closed");
        drop(deaf);
    }

    #[tokio::test]
    async fn who_floods_keeps_nobody_else_from_being_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (events, mut inbox) = mpsc::channel(1024);
        let ahead = ReadAhead::default();
        let mut pairs = Vec::new();
        for number in 0..2 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let id = ConnId::accepted(number);
            pairs.push((client, Conn::start(id, stream, events.clone(), ahead.clone())));
        }
        let [(flooder, _flooded), (other, _heard)] = &pairs[..] else { unreachable!() };
        let mut unhandled = Vec::new();
        let all = async {
            // Nothing is handled, so it comes to a stop: when all room is taken, or before.
            let (mut stopped, mut heard) = (0, false);
            while stopped < 10_000 {
                match flooder.try_write(&[0; READ as usize]) {
                    Ok(_) => stopped = 0,
                    Err(_) => stopped += 1,
                }
                unhandled.extend(inbox.try_recv().ok());
                tokio::task::yield_now().await;
            }
            other.try_write(&[1]).unwrap();
            while !heard {
                let event = inbox.recv().await.unwrap();
                heard = matches!(&event, IoEvent::Received(_, data, _) if data.first() == Some(&1));
                unhandled.push(event);
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("the other one is read");
    }
}
