//! The file: opening, tables, errors.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::{Error, Result};

/// `PRAGMA application_id`: "MGRY".
const APPLICATION_ID: i64 = 0x4d47_5259;
/// `PRAGMA user_version`: the tables below.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE meta (revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
    INSERT INTO meta VALUES (0, 0);
    CREATE TABLE kv (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE log (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB);";

/// Opens `path` ready for use, making file, folder and tables when missing.
pub(super) fn open(path: &Path, deadline: Instant) -> Result<Connection> {
    make_file(path)?;
    loop {
        let result = connect(path, deadline);
        // Turning on WAL and recovering after a crash need the file for oneself, and don't wait for it.
        if matches!(result, Err(Error::Unavailable(_))) && Instant::now() < deadline && path.exists() {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        return result;
    }
}

fn make_file(path: &Path) -> Result<()> {
    let failed =
        |e: std::io::Error| Error::Unavailable(format!("can't open {} for writing: {e}", path.display()));
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    // The store holds BGP passwords. SQLite gives its side files the mode of the main one.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop).map_err(failed)
}

fn connect(path: &Path, deadline: Instant) -> Result<Connection> {
    let failed = |e| explain(path, &e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    conn.busy_timeout(deadline.saturating_duration_since(Instant::now())).map_err(failed)?;
    check_owner(&conn, path)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::Invalid(format!(
            "{}: its file system has no shared memory for SQLite; put it on a local one",
            path.display()
        )));
    }
    // The kernel caches the file: what SQLite keeps of it besides (KiB, per connection) is kept twice.
    let settings =
        "PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -512;";
    conn.execute_batch(settings).map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(32);

    let tx = conn.transaction_with_behavior(TransactionBehavior::Deferred).map_err(failed)?;
    let version = pragma(&tx, "user_version").map_err(failed)?;
    drop(tx);
    if version == 0 {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        // Another process may have been faster.
        if pragma(&tx, "user_version").map_err(failed)? == 0 {
            let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};");
            tx.execute_batch(&format!("{TABLES}{marks}")).map_err(failed)?;
            tx.commit().map_err(failed)?;
        }
    } else if version != VERSION {
        return Err(Error::Corrupt(format!(
            "{} has format {version}, this version of Margay knows {VERSION}; use the version that wrote it",
            path.display()
        )));
    }
    Ok(conn)
}

/// A file of somebody else is not touched.
fn check_owner(conn: &Connection, path: &Path) -> Result<()> {
    let failed = |e| explain(path, &e);
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
    if tables > 0 && pragma(conn, "application_id").map_err(failed)? != APPLICATION_ID {
        return Err(Error::Corrupt(format!(
            "{} is a SQLite database, but not a Margay datastore; configure another path",
            path.display()
        )));
    }
    Ok(())
}

fn pragma(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, name, |row| row.get(0))
}

/// Newest revision.
pub(super) fn revision(conn: &Connection) -> rusqlite::Result<u64> {
    let revision = conn.prepare_cached("SELECT revision FROM meta")?.query_row([], |row| row.get(0))?;
    Ok(super::from_sql(revision).0)
}

/// Revision up to which the log is gone.
pub(super) fn compacted(conn: &Connection) -> rusqlite::Result<u64> {
    let revision = conn.prepare_cached("SELECT compacted FROM meta")?.query_row([], |row| row.get(0))?;
    Ok(super::from_sql(revision).0)
}

/// Removes the log up to and including `revision`.
pub(super) fn trim(conn: &Connection, revision: u64) -> rusqlite::Result<()> {
    let revision = super::to_sql(crate::Revision(revision));
    conn.execute("DELETE FROM log WHERE revision <= ?1", [revision])?;
    conn.execute("UPDATE meta SET compacted = max(compacted, ?1)", [revision]).map(drop)
}

/// Says what an error of SQLite means to the person who runs this.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            Error::Unavailable(format!("{path} is locked by another process: {error}"))
        }
        Some(ErrorCode::NotADatabase) => {
            Error::Corrupt(format!("{path} is not a SQLite database; move it away or configure another path"))
        }
        Some(ErrorCode::DatabaseCorrupt) => Error::Corrupt(format!(
            "{path} is damaged ({error}); restore it, or move it and its -wal and -shm away to start empty"
        )),
        Some(ErrorCode::DiskFull) => Error::Unavailable(format!("no space left for {path}: {error}")),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            Error::Unavailable(format!("can't open {path} for writing: {error}"))
        }
        _ => Error::Unavailable(format!("{path}: {error}")),
    }
}
