//! A thread that owns a connection and may block, so that the async runtime never does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};

/// Operations that wait for one thread; more wait at the callers.
const QUEUE: usize = 128;

type Job = Box<dyn FnOnce(&mut Connection, &Path) + Send>;

/// What a job does, which decides what it means when it doesn't end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    Read,
    Write,
}

#[derive(Debug)]
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Worker {
    /// The thread ends when the worker is dropped and the queue is empty.
    pub(super) fn start(name: &str, path: &Path, mut conn: Connection) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let file = path.to_owned();
        let run = move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut conn, &file);
            }
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|e| Error::Unavailable(format!("can't start a thread for the datastore: {e}")))?;
        Ok(Self { jobs, path: path.to_owned() })
    }

    pub(super) async fn run<T, F>(&self, limit: Duration, intent: Intent, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection, &Path) -> Result<T> + Send + 'static,
    {
        let deadline = Instant::now() + limit;
        let (answer, answered) = oneshot::channel();
        // Taken by the thread when it begins, or by the caller when it gives up: one of them, never both.
        let taken = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&taken);
        let job: Job = Box::new(move |conn, path| {
            if answer.is_closed() || begun.swap(true, Ordering::AcqRel) {
                return;
            }
            // A locked file shall be reported as such before the caller's own time is up.
            let patience = deadline.saturating_duration_since(Instant::now()) * 4 / 5;
            let result = conn
                .busy_timeout(patience)
                .map_err(|e| super::schema::explain(path, &e))
                .and_then(|()| job(conn, path));
            // The caller may have gone meanwhile; it has been told that the outcome is uncertain.
            answer.send(result).ok();
        });
        let outcome = tokio::time::timeout(limit, async {
            self.jobs.send(job).await.ok()?;
            answered.await.ok()
        });
        let path = self.path.display();
        match outcome.await {
            Ok(Some(result)) => result,
            Ok(None) => Err(Error::Unavailable(format!("{path}: the datastore's thread has ended"))),
            Err(_elapsed) => {
                let reason = format!("{path}: no answer within {} ms", limit.as_millis());
                if taken.swap(true, Ordering::AcqRel) && intent == Intent::Write {
                    Err(Error::Uncertain(reason))
                } else {
                    Err(Error::Unavailable(reason))
                }
            }
        }
    }
}
