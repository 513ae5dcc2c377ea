//! Notices commits, this process's and others'.
//!
//! Every writer writes its revision into the file `<path>-wake` *after* its commit, which wakes the inotify watches of all processes. (An
//! inotify watch on the WAL itself fires before the commit is visible.) A writer that is killed between commit and wake-up is
//! found by the slow poll, as are other programs that write the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rusqlite::Connection;
use tokio::sync::watch;

use super::schema;
use crate::Revision;
use crate::error::{Error, Result};

/// Time between two looks at the revision when nobody wakes us, in milliseconds.
const SLOW_POLL: u16 = 250;
/// The same without inotify (its instances per user are limited).
const FAST_POLL: u16 = 20;

/// What the tail has seen; a change of it wakes the watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    revision: u64,
    /// How often reading failed: watches wake up and meet the failure themselves.
    faults: u64,
}

/// The thread and its channel.
#[derive(Debug)]
pub(super) struct Tail {
    seen: Arc<watch::Sender<Seen>>,
    wake: File,
    stop: Arc<AtomicBool>,
}

impl Tail {
    pub(super) fn start(path: &Path, conn: Connection, replaced: Arc<AtomicBool>) -> Result<Self> {
        let wake_path = side_file(path);
        let failed =
            |e: io::Error| Error::Unavailable(format!("can't open {} for writing: {e}", wake_path.display()));
        let wake = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&wake_path)
            .map_err(failed)?;
        let inotify = watch_file(&wake_path)
            .inspect_err(|e| tracing::warn!(error = %e, "no inotify; the datastore is polled instead"))
            .ok();
        let identity = identity(path).map_err(failed)?;
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = Thread {
            path: path.to_owned(),
            identity,
            conn,
            inotify,
            seen: Arc::clone(&seen),
            stop: Arc::clone(&stop),
            replaced,
        };
        thread::Builder::new()
            .name("store-tail".to_owned())
            .spawn(move || thread.run())
            .map_err(|e| Error::Unavailable(format!("can't start a thread for the datastore: {e}")))?;
        Ok(Self { seen, wake, stop })
    }

    /// Tells all watches, here and in other processes, that `revision` is committed.
    pub(super) fn announce(&self, revision: Revision) {
        advance(&self.seen, revision.0);
        if let Err(error) = self.wake.write_all_at(&revision.0.to_be_bytes(), 0) {
            tracing::debug!(%error, "can't wake other processes; they find the change by polling");
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes our own thread; should that fail, its poll ends it.
        let revision = self.seen.borrow().revision;
        self.wake.write_all_at(&revision.to_be_bytes(), 0).ok();
    }
}

fn side_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wake");
    name.into()
}

fn watch_file(path: &Path) -> nix::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
    Ok(inotify)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|m| (m.dev(), m.ino()))
}

fn advance(seen: &watch::Sender<Seen>, revision: u64) {
    seen.send_if_modified(|seen| {
        let newer = revision > seen.revision;
        if newer {
            seen.revision = revision;
        }
        newer
    });
}

struct Thread {
    path: PathBuf,
    identity: (u64, u64),
    conn: Connection,
    inotify: Option<Inotify>,
    seen: Arc<watch::Sender<Seen>>,
    stop: Arc<AtomicBool>,
    replaced: Arc<AtomicBool>,
}

impl Thread {
    fn run(self) {
        while !self.stop.load(Ordering::Acquire) {
            let replaced = identity(&self.path).ok() != Some(self.identity);
            self.replaced.store(replaced, Ordering::Relaxed);
            match schema::revision(&self.conn) {
                Ok(revision) if !replaced => advance(&self.seen, revision),
                Ok(_) | Err(_) => self.seen.send_modify(|seen| seen.faults += 1),
            }
            self.wait();
        }
    }

    fn wait(&self) {
        let Some(inotify) = &self.inotify else {
            thread::sleep(std::time::Duration::from_millis(FAST_POLL.into()));
            return;
        };
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(SLOW_POLL)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                // What happened is read from the database; this only empties the queue.
                inotify.read_events().ok();
            }
            Err(_) => thread::sleep(std::time::Duration::from_millis(FAST_POLL.into())),
        }
    }
}
