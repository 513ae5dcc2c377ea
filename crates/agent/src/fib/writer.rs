//! The routes of a large table are written on a thread of their own: while the kernel takes some, the next are prepared.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc;

use ipnet::IpNet;
use margay_netlink::{Error, Netlink, RouteChange, RouteKey};

/// Routes written at a time: enough that the seams cost little, few enough that the first are not waited for.
pub(super) const PART: usize = 512;

type Results = Vec<Result<(), Error>>;

/// The thread's ends. It ends with them.
#[derive(Debug)]
pub(super) struct Writer {
    parts: mpsc::Sender<Vec<RouteChange>>,
    results: mpsc::Receiver<Results>,
    /// What is under way, the oldest first.
    under_way: VecDeque<Vec<RouteKey>>,
}

impl Writer {
    /// Starts the thread, which writes by `netlink`.
    pub(super) fn spawn(mut netlink: Netlink) -> Result<Self, Error> {
        let (parts, to_write) = mpsc::channel::<Vec<RouteChange>>();
        let (written, results) = mpsc::channel();
        let write = move || {
            let results = to_write.iter().map(|part| netlink.apply_routes(&part));
            // Whoever does not want to know the outcome any more wants nothing written either.
            let _closed = results.map(|result| written.send(result)).find(Result::is_err);
        };
        std::thread::Builder::new()
            .name("routes".to_owned())
            .spawn(write)
            .map_err(|source| Error::Io { what: "start the thread that writes routes".to_owned(), source })?;
        Ok(Self { parts, results, under_way: VecDeque::new() })
    }

    /// Has these changes, by their keys in order, written behind those before.
    pub(super) fn write(&mut self, changes: Vec<(RouteKey, RouteChange)>) {
        let (keys, part) = changes.into_iter().unzip();
        self.under_way.push_back(keys);
        // Without the thread there will be no results, which is told then.
        let _ended = self.parts.send(part);
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether a route to this destination is under way.
    pub(super) fn is_writing(&self, destination: &IpNet) -> bool {
        let has =
            |keys: &Vec<RouteKey>| keys.binary_search_by_key(destination, |key| key.destination).is_ok();
        self.under_way.iter().any(has)
    }

    /// What became of the oldest part under way; waits for it as long as more than `most` are.
    pub(super) fn next(
        &mut self,
        most: usize,
    ) -> Option<impl Iterator<Item = (RouteKey, Result<(), Error>)> + use<>> {
        let results = if self.under_way.len() > most {
            self.results.recv().unwrap_or_default()
        } else {
            self.results.try_recv().ok()?
        };
        let keys = self.under_way.pop_front()?;
        let ended = || {
            let source = io::Error::other("the thread that does it has ended");
            Err(Error::Io { what: "write routes".to_owned(), source })
        };
        Some(keys.into_iter().zip(results.into_iter().chain(std::iter::repeat_with(ended))))
    }
}
