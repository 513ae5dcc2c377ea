//! The embedded datastore: one SQLite file, shared by any number of processes of one machine.
//!
//! One row holds the revision; every write takes the next one and appends to a log table in the same transaction, so
//! that a watcher is nothing but a reader of the log from its own position: no queue, no gap, no repeat.
//!
//! **What survives.** A write is acknowledged after its commit was synced to the disk (`synchronous=FULL`): it survives
//! `kill -9` of any process, and power loss as far as the disk keeps what it says it wrote. On a disk that lies about it, power loss
//! cuts the history at some earlier point, for all readers the same; it never leaves a hole or half a write.

mod schema;
mod tail;
mod watch;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

pub use watch::EmbeddedWatch;

use crate::config::EmbeddedConfig;
use crate::error::{Error, Result};
use crate::raw::{Cursor, Datastore, Entry, Listing, Prefix, Revision, check_size};
use tail::Tail;
use worker::{Intent, Worker};

/// The log is trimmed to the configured history once in so many writes.
const TRIM_EVERY: u64 = 256;

/// Handle to one SQLite file. Cloning is cheap; clones share their threads.
#[derive(Debug, Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// What the clones and watches of one [`Embedded`] share.
#[derive(Debug)]
pub(crate) struct Shared {
    path: PathBuf,
    timeout: Duration,
    history: u64,
    reader: Worker,
    writer: Worker,
    tail: Tail,
    /// Set by the tail when the path no longer leads to the file that is open.
    replaced: Arc<AtomicBool>,
}

impl Embedded {
    /// Opens the file, making it when missing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can't be opened or is locked, [`Error::Corrupt`] when it is no Margay datastore,
    /// [`Error::Invalid`] for a configuration out of range.
    pub async fn open(config: &EmbeddedConfig) -> Result<Self> {
        if !(1_000..=10_000_000).contains(&config.history) {
            return Err(Error::Invalid(format!(
                "datastore.history is {}, not in 1000-10000000",
                config.history
            )));
        }
        check_timeout(config.timeout_ms)?;
        let config = config.clone();
        tokio::task::spawn_blocking(move || Self::open_blocking(&config))
            .await
            .map_err(|e| Error::Unavailable(format!("opening was aborted: {e}")))?
    }

    fn open_blocking(config: &EmbeddedConfig) -> Result<Self> {
        let path = config.path.clone();
        let deadline = Instant::now() + config.timeout();
        let writer = schema::open(&path, deadline)?;
        let reader = schema::open(&path, deadline)?;
        let watched = schema::open(&path, deadline)?;
        let replaced = Arc::new(AtomicBool::new(false));
        let tail = Tail::start(&path, watched, Arc::clone(&replaced))?;
        let (reader, writer) =
            (Worker::start("store-read", &path, reader)?, Worker::start("store-write", &path, writer)?);
        let timeout = config.timeout();
        let shared = Shared { path, timeout, history: config.history, reader, writer, tail, replaced };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs one write transaction and tells every watcher about it.
    async fn write<F>(&self, change: F) -> Result<Revision>
    where
        F: FnOnce(&Transaction<'_>, Revision) -> Result<()> + Send + 'static,
    {
        let history = self.shared.history;
        let revision = self
            .shared
            .run(&self.shared.writer, Intent::Write, move |conn, path| {
                let failed = |e| schema::explain(path, &e);
                let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
                let next = Revision(schema::revision(&tx).map_err(failed)? + 1);
                change(&tx, next)?;
                tx.prepare_cached("UPDATE meta SET revision = ?1")
                    .and_then(|mut s| s.execute([to_sql(next)]))
                    .map_err(failed)?;
                if next.0.is_multiple_of(TRIM_EVERY) {
                    schema::trim(&tx, next.0.saturating_sub(history)).map_err(failed)?;
                }
                tx.commit().map_err(failed)?;
                Ok(next)
            })
            .await?;
        self.shared.tail.announce(revision);
        Ok(revision)
    }
}

impl Shared {
    /// Runs `job` on one of the threads that may block, within the configured time.
    pub(crate) async fn run<T, F>(&self, worker: &Worker, intent: Intent, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection, &std::path::Path) -> Result<T> + Send + 'static,
    {
        if self.replaced.load(Ordering::Relaxed) {
            return Err(Error::Corrupt(format!(
                "{} was deleted or replaced while in use; restart this process",
                self.path.display()
            )));
        }
        worker.run(self.timeout, intent, job).await
    }

    pub(crate) async fn read<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T>> + Send + 'static,
    {
        self.run(&self.reader, Intent::Read, move |conn, path| {
            let failed = |e| schema::explain(path, &e);
            let tx = conn.transaction_with_behavior(TransactionBehavior::Deferred).map_err(failed)?;
            job(&tx).map_err(failed)?
        })
        .await
    }
}

impl Datastore for Embedded {
    type Watch = EmbeddedWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let key = key.to_owned();
        self.shared
            .read(move |tx| {
                tx.prepare_cached("SELECT key, revision, value FROM kv WHERE key = ?1")?
                    .query_row([&key], entry)
                    .optional()
                    .map(Ok)
            })
            .await
    }

    async fn list(&self, prefixes: &[Prefix]) -> Result<Listing> {
        let prefixes = prefixes.to_vec();
        self.shared
            .read(move |tx| {
                let revision = Revision(schema::revision(tx)?);
                let mut select = tx.prepare_cached(
                    "SELECT key, revision, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key",
                )?;
                let mut entries = Vec::new();
                for prefix in &prefixes {
                    for row in select.query_map([prefix.as_str(), &prefix.end()], entry)? {
                        entries.push(row?);
                    }
                }
                Ok(Ok(Listing { entries, cursor: Cursor::at(prefixes, revision) }))
            })
            .await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision> {
        check_size(key, &value)?;
        let key = key.to_owned();
        let path = self.shared.path.clone();
        self.write(move |tx, next| {
            let failed = |e| schema::explain(&path, &e);
            if current(tx, &key).map_err(failed)?.is_some() {
                return Err(Error::AlreadyExists { key });
            }
            put(tx, &key, &value, next).map_err(failed)
        })
        .await
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision> {
        check_size(key, &value)?;
        let key = key.to_owned();
        let path = self.shared.path.clone();
        self.write(move |tx, next| {
            let failed = |e| schema::explain(&path, &e);
            compare(current(tx, &key).map_err(failed)?, &key, expected)?;
            put(tx, &key, &value, next).map_err(failed)
        })
        .await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        let key = key.to_owned();
        let path = self.shared.path.clone();
        self.write(move |tx, next| {
            let failed = |e| schema::explain(&path, &e);
            compare(current(tx, &key).map_err(failed)?, &key, expected)?;
            let delete = || {
                tx.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([&key])?;
                log(tx, &key, None, next)
            };
            delete().map_err(failed)
        })
        .await
    }

    async fn watch(&self, from: Cursor) -> Result<EmbeddedWatch> {
        EmbeddedWatch::start(Arc::clone(&self.shared), from).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let job = move |conn: &mut Connection, path: &std::path::Path| {
            let failed = |e| schema::explain(path, &e);
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
            let newest = Revision(schema::revision(&tx).map_err(failed)?);
            if revision > newest {
                return Err(Error::Invalid(format!("can't compact to {revision}: the newest is {newest}")));
            }
            schema::trim(&tx, revision.0).and_then(|()| tx.commit()).map_err(failed)
        };
        self.shared.run(&self.shared.writer, Intent::Write, job).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.shared.read(|tx| Ok(Ok(Revision(schema::revision(tx)?)))).await
    }
}

/// Refuses a timeout outside of what the configuration documents.
pub(crate) fn check_timeout(timeout_ms: u64) -> Result<()> {
    if (100..=600_000).contains(&timeout_ms) {
        Ok(())
    } else {
        Err(Error::Invalid(format!("datastore.timeoutMs is {timeout_ms}, not in 100-600000")))
    }
}

fn compare(current: Option<Revision>, key: &str, expected: Revision) -> Result<()> {
    match current {
        None => Err(Error::NotFound { key: key.to_owned() }),
        Some(current) if current != expected => {
            Err(Error::Conflict { key: key.to_owned(), expected, current })
        }
        Some(_) => Ok(()),
    }
}

fn current(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Revision>> {
    tx.prepare_cached("SELECT revision FROM kv WHERE key = ?1")?
        .query_row([key], |row| row.get(0).map(from_sql))
        .optional()
}

fn put(tx: &Transaction<'_>, key: &str, value: &[u8], revision: Revision) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO kv (key, revision, value) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET revision = ?2, value = ?3",
    )?
    .execute(params![key, to_sql(revision), value])?;
    log(tx, key, Some(value), revision)
}

fn log(tx: &Transaction<'_>, key: &str, value: Option<&[u8]>, revision: Revision) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO log (revision, key, value) VALUES (?1, ?2, ?3)")?
        .execute(params![to_sql(revision), key, value])
        .map(drop)
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, revision: from_sql(row.get(1)?), value: row.get(2)? })
}

/// SQLite's integers are signed; a counter from 0 doesn't reach the sign.
pub(crate) fn to_sql(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}
