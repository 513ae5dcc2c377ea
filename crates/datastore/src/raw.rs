//! The contract of a backend: strings to bytes, with revisions.

use std::fmt;
use std::future::Future;
#[cfg(feature = "etcd")]
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Largest value, in bytes: etcd's default limit of 1.5 MiB for a request, less room for the key.
pub const VALUE_LIMIT: usize = (3 << 19) - (8 << 10);

/// Position in the history of a datastore: grows by at least one with every change, 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All keys below one folder. Ends with `/`: kine can list and watch nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The folder `path`; a missing `/` at its end is added.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        let mut path = path.into();
        if !path.ends_with('/') {
            path.push('/');
        }
        Self(path)
    }

    /// The first key of the range.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first key behind the range: the folder with its last byte plus one.
    #[must_use]
    pub fn end(&self) -> String {
        // '0' follows '/'.
        let mut end = self.0.clone();
        end.pop();
        end.push('0');
        end
    }

    /// Whether `key` is in the folder, at any depth.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One stored key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub key: String,
    /// Last change of this key.
    pub revision: Revision,
    /// What, normally JSON.
    pub value: Vec<u8>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub key: String,
    /// The change's own position in the history.
    pub revision: Revision,
    /// The new value; `None` when deleted.
    pub value: Option<Vec<u8>>,
}

/// How far a reader has followed each of the folders it follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(pub Vec<(Prefix, Revision)>);

impl Cursor {
    /// All of `prefixes` at the same revision.
    pub fn at(prefixes: impl IntoIterator<Item = Prefix>, revision: Revision) -> Self {
        Self(prefixes.into_iter().map(|prefix| (prefix, revision)).collect())
    }
}

/// Result of [`Datastore::list`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Sorted by key within a folder, folders as asked for.
    pub entries: Vec<Entry>,
    /// Hand it to [`Datastore::watch`] to get everything that happened since.
    pub cursor: Cursor,
}

/// What every backend can do. All calls end within the backend's configured timeout.
pub trait Datastore: Send + Sync {
    /// The stream of changes this backend gives.
    type Watch: Watch;

    /// The key, or `None`. Reads see every write acknowledged before the call, by whomever.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>>> + Send;

    /// All keys of the folders, each folder as it was at one revision.
    fn list(&self, prefixes: &[Prefix]) -> impl Future<Output = Result<Listing>> + Send;

    /// Writes a key that must not exist.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]
    fn create(&self, key: &str, value: Vec<u8>) -> impl Future<Output = Result<Revision>> + Send;

    /// Replaces the value of a key that must be at `expected`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`]
    fn update(
        &self,
        key: &str,
        value: Vec<u8>,
        expected: Revision,
    ) -> impl Future<Output = Result<Revision>> + Send;

    /// Deletes a key that must be at `expected`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`]
    fn delete(&self, key: &str, expected: Revision) -> impl Future<Output = Result<Revision>> + Send;

    /// Starts following changes behind `from`; returns once the datastore has accepted it.
    ///
    /// # Errors
    /// [`Error::Compacted`] here or at the first [`Watch::next`] when the history doesn't reach back so far.
    fn watch(&self, from: Cursor) -> impl Future<Output = Result<Self::Watch>> + Send;

    /// Forgets the history up to and including `revision`. Current values stay.
    fn compact(&self, revision: Revision) -> impl Future<Output = Result<()>> + Send;

    /// Revision of the newest change.
    fn revision(&self) -> impl Future<Output = Result<Revision>> + Send;
}

/// A stream of changes. Within one folder it has every change, in order, once.
pub trait Watch: Send {
    /// Waits for the next changes; never an empty list. Cancel-safe: a dropped future loses nothing.
    ///
    /// # Errors
    /// After an error the watch is over; continue with a new one from [`Watch::cursor`].
    fn next(&mut self) -> impl Future<Output = Result<Vec<Change>>> + Send;

    /// Position behind the last change handed out.
    fn cursor(&self) -> Cursor;
}

/// Refuses a value that not every backend takes.
pub(crate) fn check_size(key: &str, value: &[u8]) -> Result<()> {
    if value.len() > VALUE_LIMIT {
        return Err(Error::Invalid(format!(
            "{key} is too large: {} bytes, at most {VALUE_LIMIT} fit",
            value.len()
        )));
    }
    Ok(())
}

/// Ends `operation` after `limit`, with [`Error::Unavailable`].
#[cfg(feature = "etcd")]
pub(crate) async fn bounded<T>(
    limit: Duration,
    what: &str,
    operation: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, operation).await {
        Ok(result) => result,
        Err(_elapsed) => {
            Err(Error::Unavailable(format!("{what}: no answer within {} ms", limit.as_millis())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_its_folder_and_nothing_else() {
        let prefix = Prefix::new("/a/b");
        assert_eq!((prefix.as_str(), prefix.end().as_str()), ("/a/b/", "/a/b0"));
        for (key, inside) in
            [("/a/b/c", true), ("/a/b/c/d", true), ("/a/bc", false), ("/a/b", false), ("/a/b0", false)]
        {
            assert_eq!(prefix.contains(key), inside, "{key}");
            assert_eq!(key > prefix.as_str() && key < prefix.end().as_str(), inside, "{key}");
        }
    }
}
