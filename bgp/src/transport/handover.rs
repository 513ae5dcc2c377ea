//! A running speaker leaves its sockets and its state to another process, or takes them over.

use super::bfd::{BfdHandover, BfdSessions};
use super::conn::{Conn, IoEvent};
use super::handle::{BgpHandle, Command};
use super::keys::Listeners;
use super::service::{BgpService, IO, ServiceConfig};
use super::stations::Monitoring;
use crate::handover::{Handover, RestoreError};
use crate::io::{ConnId, Input};
use crate::status::Event;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

/// A speaker that has stopped to touch its sockets.
#[derive(Debug)]
pub struct Frozen {
    /// What it knows.
    pub state: Handover,
    /// Its BFD sessions, if it has any. They go on until the process ends, or the handle is dropped.
    pub bfd: Option<BfdHandover>,
    /// Its sockets.
    pub sockets: Sockets,
}

/// The sockets of a speaker, with the keys and options that they have.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Those that accept connections.
    pub listeners: Vec<OwnedFd>,
    /// One per session, in the order of [`Handover::connections`].
    pub connections: Vec<OwnedFd>,
    /// Those of BFD.
    pub bfd: Vec<OwnedFd>,
}

/// Why a speaker cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// Its state.
    #[error(transparent)]
    State(#[from] RestoreError),
    /// It listens elsewhere.
    #[error("it listens on {found:?}, this program is to listen on {wanted:?}: restart instead")]
    Listeners {
        /// Where it listens.
        found: Vec<SocketAddr>,
        /// Where it should.
        wanted: Vec<SocketAddr>,
    },
    /// Sockets are missing.
    #[error("{found} sockets came with a state of {wanted} sessions")]
    Missing {
        /// Sockets.
        found: usize,
        /// Sessions.
        wanted: usize,
    },
    /// Sockets of BFD are missing.
    #[error("{found} sockets came with BFD sessions that have {wanted}")]
    MissingBfd {
        /// Sockets.
        found: usize,
        /// What there should be.
        wanted: usize,
    },
    /// A socket cannot be used.
    #[error("cannot use its sockets: {0}")]
    Socket(#[from] io::Error),
}

impl BgpHandle {
    /// Stops reading and writing, and gives out what a successor needs. Everything else waits until [`Self::thaw`]; when
    /// a successor has the sockets, the only thing left to do is to end the process.
    ///
    /// # Errors
    /// The speaker has ended, or (inside) a socket cannot be duplicated; the speaker goes on then.
    pub async fn freeze(&self) -> Result<io::Result<Frozen>, super::ServiceStopped> {
        self.ask(Command::Freeze).await
    }

    /// Goes on from what [`Self::freeze`] gave: nobody has taken over, and nobody has touched the sockets.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn thaw(&self, frozen: Frozen) -> Result<(), super::ServiceStopped> {
        self.ask(|answer| Command::Thaw(Box::new(frozen), answer)).await
    }
}

impl BgpService {
    /// Like [`BgpService::spawn_monitored`], in place of a frozen speaker of another process. It touches no socket before `go`.
    ///
    /// # Errors
    /// It is no successor of that speaker.
    pub fn take_over(
        config: ServiceConfig,
        monitoring: Monitoring,
        frozen: Frozen,
        go: oneshot::Receiver<()>,
    ) -> Result<(BgpHandle, mpsc::Receiver<Event>), TakeOverError> {
        let Frozen { state, bfd, sockets } = frozen;
        let mut listeners = Vec::new();
        for fd in sockets.listeners {
            listeners.push(TcpListener::from_std(fd.into())?);
        }
        let mut found = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let mut wanted = config.listen.clone();
        found.sort_unstable();
        wanted.sort_unstable();
        if found != wanted {
            return Err(TakeOverError::Listeners { found, wanted });
        }
        let (mut service, handle, events, inbox) =
            Self::new(config.speaker, monitoring, Listeners::new(listeners));
        let streams = streams(&state, sockets.connections)?;
        let (found, wanted) = (sockets.bfd.len(), bfd.as_ref().map_or(0, BfdHandover::sockets));
        if found != wanted {
            return Err(TakeOverError::MissingBfd { found, wanted });
        }
        if let Some(bfd) = bfd {
            service.bfd = BfdSessions::take_over((bfd, sockets.bfd));
        }
        service.restore(state)?;
        tokio::spawn(async move {
            // Without the word there is no successor: the sockets are closed, which they stay open in the other process.
            if go.await.is_ok() {
                service.resume(streams);
                service.run(inbox).await;
            }
        });
        Ok((handle, events))
    }

    /// Leaves the sockets alone and gives everything out.
    pub(super) async fn freeze(&mut self, io: &mut mpsc::Receiver<IoEvent>) -> io::Result<Frozen> {
        // A duplicate does no harm if the rest fails.
        let (bfd, bfd_sockets) = self.bfd.hand_over().await?.unzip();
        let duplicate = |(id, conn): (&ConnId, &Conn)| Ok((*id, conn.duplicate()?));
        let mut sockets = self.conns.iter().map(duplicate).collect::<io::Result<BTreeMap<_, _>>>()?;
        let listeners = self.listeners.sockets().map(|listener| listener.as_fd().try_clone_to_owned());
        let listeners = listeners.collect::<io::Result<_>>()?;
        self.stop_accepting();
        self.dials.values().for_each(AbortHandle::abort);
        self.conns.values().for_each(Conn::freeze);
        // What has been read counts; what is answered to it stays in the queues.
        while let Ok(event) = io.try_recv() {
            match event {
                IoEvent::Accepted(..) | IoEvent::Dialled(..) => {}
                event => self.io_event(event),
            }
        }
        self.work();
        let unsent = self.conns.iter().map(|(id, conn)| (*id, conn.unsent())).collect();
        let state = self.speaker.hand_over(unsent);
        self.work();
        let connections = state.connections().filter_map(|id| sockets.remove(&id)).collect();
        let sockets = Sockets { listeners, connections, bfd: bfd_sockets.unwrap_or_default() };
        Ok(Frozen { state, bfd, sockets })
    }

    /// Goes on. Who reported before reports to nobody now: writes that ended while the state was taken are in the state.
    pub(super) fn thaw(
        &mut self,
        frozen: Frozen,
        io: &mut mpsc::Receiver<IoEvent>,
    ) -> Result<(), TakeOverError> {
        (self.io, *io) = mpsc::channel(IO);
        let streams = streams(&frozen.state, frozen.sockets.connections)?;
        self.restore(frozen.state)?;
        self.resume(streams);
        Ok(())
    }

    fn restore(&mut self, state: Handover) -> Result<(), RestoreError> {
        self.epoch = (state.now(), Instant::now());
        self.accepted = state.connections().map(|conn| conn.0 / 2 + 1).max().unwrap_or(0).max(self.accepted);
        let monitor = self.monitoring.config(state.now());
        self.speaker = crate::Speaker::restore(self.config.clone(), monitor, state)?;
        Ok(())
    }

    fn resume(&mut self, streams: Vec<(ConnId, TcpStream)>) {
        self.bfd.resume();
        self.dials.clear();
        let start = |(id, stream)| (id, Conn::start(id, stream, self.io.clone(), self.ahead.clone()));
        self.conns = streams.into_iter().map(start).collect();
        self.start();
        if self.changes.watched() {
            // The speaker is another one, and who watches is the same.
            self.input(Input::Watch(true));
        }
        self.work();
    }
}

fn streams(state: &Handover, sockets: Vec<OwnedFd>) -> Result<Vec<(ConnId, TcpStream)>, TakeOverError> {
    let ids: Vec<ConnId> = state.connections().collect();
    if ids.len() != sockets.len() {
        return Err(TakeOverError::Missing { found: sockets.len(), wanted: ids.len() });
    }
    let stream = |(id, fd): (ConnId, OwnedFd)| Ok((id, TcpStream::from_std(fd.into())?));
    ids.into_iter().zip(sockets).map(stream).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SpeakerConfig;

    #[tokio::test]
    async fn what_is_reported_late_is_not_counted_twice() {
        let config = SpeakerConfig::new([10, 0, 0, 1].into(), 64512);
        let (mut service, _handle, _events, mut inbox) =
            BgpService::new(config, Monitoring::default(), Listeners::new(Vec::new()));
        // A thread that writes for several connections, and has not reported yet.
        let late = service.io.clone();
        let frozen = service.freeze(&mut inbox.io).await.unwrap();
        service.thaw(frozen, &mut inbox.io).unwrap();
        let conn = ConnId::accepted(0);
        let heard = late.send(IoEvent::Shared(vec![(conn, Ok(1))])).await.is_ok();
        assert!(!heard && inbox.io.try_recv().is_err());
        service.io.send(IoEvent::Written(conn, 1)).await.unwrap();
        assert!(matches!(inbox.io.try_recv(), Ok(IoEvent::Written(..))), "those of now are heard");
    }
}
