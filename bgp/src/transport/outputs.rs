//! What the speaker says, done.

use super::conn::{IoEvent, write_all};
use super::service::BgpService;
use super::{socket, trace};
use crate::io::{ConnId, Input, Output};
use crate::monitor::StationId;
use crate::status::Event;
use bytes::Bytes;
use smallvec::SmallVec;
use std::io;
use tokio::sync::mpsc;

/// Connections that another thread writes to together. The system calls are most of a flush to thousands, and other
/// processors share them; fewer are written to at once.
const SHARE: usize = 64;
/// Octets for one connection.
type Write = (ConnId, SmallVec<[Bytes; 2]>);

impl BgpService {
    /// Does what the speaker says until it is silent.
    pub(super) fn work(&mut self) {
        let mut waiting: Option<Write> = None;
        let mut closes = Vec::new();
        loop {
            match self.speaker.poll_output() {
                // What one connection is sent comes together.
                Some(Output::Write { conn, data }) => match &mut waiting {
                    Some((last, pieces)) if *last == conn => pieces.push(data),
                    _ => {
                        if let Some(write) = waiting.replace((conn, SmallVec::from_iter([data]))) {
                            self.write(write);
                        }
                    }
                },
                Some(Output::Close { conn }) => closes.push(conn),
                Some(output) => self.carry_out(output),
                None => match waiting.take() {
                    Some(write) => self.write(write),
                    None if !self.writings.is_empty() => {
                        let rest = std::mem::take(&mut self.writings).into_iter();
                        let outcomes = rest.map(|one| one.write(&self.io)).collect();
                        self.written(outcomes);
                    }
                    None if closes.is_empty() => return,
                    None => closes.drain(..).for_each(|id| drop(self.close(id))),
                },
            }
        }
    }

    fn write(&mut self, (id, data): Write) {
        self.writings.extend(self.conns.get(&id).and_then(|conn| conn.queue(data)));
        if self.writings.len() == SHARE {
            tokio::spawn(write_all(std::mem::take(&mut self.writings), self.io.clone()));
        }
    }

    pub(super) fn written(&mut self, outcomes: Vec<(ConnId, io::Result<usize>)>) {
        for (conn, outcome) in outcomes {
            match outcome {
                Ok(0) => {}
                Ok(bytes) => self.input(Input::Written { conn, bytes }),
                Err(error) => self.lost(conn, error.to_string()),
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            // The caller's.
            Output::Write { .. } | Output::Close { .. } => {}
            Output::Dial { conn, remote, local, options } => {
                let io = self.io.clone();
                let task = tokio::spawn(async move {
                    let result = socket::dial(remote, local, options).await;
                    // The service has ended if nobody listens.
                    let _ended = io.send(IoEvent::Dialled(conn, result)).await;
                });
                self.dials.insert(conn, task.abort_handle());
            }
            Output::Protect { conn, remote, options } => {
                let result = self.conns.get(&conn).map(|conn| conn.protect(remote, &options));
                if let Some(Err(error)) = result {
                    tracing::error!(peer = %remote, %error, "BGP connection cannot be protected: closed");
                    self.lost(conn, error.to_string());
                }
            }
            Output::Rekey { conn, remote, old, new } => {
                let held = self.conns.get(&conn);
                let result = held.map(|conn| conn.rekey(remote, old.as_ref(), new.as_ref()));
                if let Some(Err(error)) = result {
                    tracing::error!(peer = %remote, %error, "BGP connection cannot change its keys: closed");
                    self.lost(conn, error.to_string());
                }
            }
            Output::Station { station, data } => self.station(station, data),
            Output::Record { data } => self.record(data),
            Output::Changed(prefixes) if self.changes.watched() => {
                self.changes.routes(&self.speaker, &prefixes);
            }
            Output::Changed(_) => self.input(Input::Watch(false)),
            Output::Authenticate { from, password } => self.listeners.authenticate(from, password),
            Output::Bfd { remote, interface, session } => self.bfd.set(remote, interface, session),
            Output::Event(event) => {
                trace::event(&event);
                if let Event::PeerChanged { remote, .. } = &event {
                    self.changes.peer(&self.speaker, *remote);
                }
                self.outbox.push(event);
            }
            Output::Log(log) => trace::log(&log),
        }
    }

    pub(super) fn station(&mut self, station: StationId, data: Option<Bytes>) {
        let Some(station) = self.stations.get_mut(station) else { return };
        match data {
            Some(data) => station.send(data),
            None => station.cut(),
        }
    }

    pub(super) fn record(&mut self, data: Bytes) {
        if let Some(Err(mpsc::error::TrySendError::Full(_))) =
            self.records.as_ref().map(|to| to.try_send(data))
        {
            tracing::warn!("MRT records come faster than they are written: some are missing");
        }
    }
}
