//! Resources in a datastore.

use std::sync::Arc;
use std::time::Duration;

use margay_api::{Key, Resource};

use crate::backend::{Backend, BackendWatch};
use crate::config::{DEFAULT_PREFIX, StoreConfig};
use crate::error::{Error, Result};
use crate::layout::{Layout, Scope};
use crate::raw::{Change, Cursor, Datastore, Entry, Revision, Watch};
use crate::{backoff, codec};

/// How often a read-change-write is tried anew after losing to another writer.
const ATTEMPTS: u32 = 64;

/// An object that is stored but can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreadable {
    /// What is wrong with it and where, for a person.
    pub reason: String,
    /// What is stored, if it is JSON at all: it narrows down what has to be closed because of it.
    pub raw: Option<serde_json::Value>,
}

/// A stored object.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned {
    /// The object's last change: what an update of it must expect.
    pub revision: Revision,
    /// Which object.
    pub key: Key,
    /// The object with defaults filled in and valid, or why not: whatever it governs must fail closed. Shared, as several
    /// parts of a daemon hold the same object.
    pub resource: Result<Arc<Resource>, Unreadable>,
}

/// Result of [`Store::list`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Sorted by folder and name.
    pub items: Vec<Versioned>,
    /// Position for [`Store::watch`].
    pub cursor: Cursor,
}

/// What [`Store::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There was none.
    Created(Revision),
    /// It was different.
    Updated(Revision),
    /// It was the same already; nothing was written.
    Unchanged(Revision),
}

/// One change that a [`Watcher`] saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Created or changed.
    Put(Versioned),
    /// Deleted.
    Delete(Key, Revision),
}

/// Handle to the cluster's objects. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
    layout: Arc<Layout>,
}

impl Store {
    /// Opens the datastore. An etcd that is down is no error here, but at the first operation.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad configuration; for the embedded store also [`Error::Unavailable`] and [`Error::Corrupt`].
    pub async fn connect(config: &StoreConfig) -> Result<Self> {
        let prefix = match config {
            StoreConfig::Embedded(_) => DEFAULT_PREFIX,
            StoreConfig::Etcd(etcd) => &etcd.prefix,
        };
        let layout = Arc::new(Layout::new(prefix)?);
        Ok(Self { backend: Backend::connect(config).await?, layout })
    }

    /// The layer below, which knows keys and bytes only.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// One object, or `None`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an impossible key, and what the backend says.
    pub async fn get(&self, key: &Key) -> Result<Option<Versioned>> {
        let stored = self.backend.get(&self.layout.key(key)?).await?;
        Ok(stored.map(|entry| codec::decode(key.clone(), entry.revision, &entry.value)))
    }

    /// All objects of the scopes.
    ///
    /// # Errors
    /// What the backend says. Unreadable objects are no error; they are in the list.
    pub async fn list(&self, scopes: &[Scope]) -> Result<Snapshot> {
        let listing = self.backend.list(&self.layout.folders(scopes)?).await?;
        let items = listing.entries.iter().filter_map(|entry| self.decode(entry)).collect();
        Ok(Snapshot { items, cursor: listing.cursor })
    }

    /// Stores an object that must not exist. Defaults, `uid` and `creationTimestamp` are filled in.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::Invalid`] for an object that breaks its kind's rules.
    pub async fn create(&self, resource: Resource) -> Result<Revision> {
        let key = self.layout.key(&resource.key())?;
        self.backend.create(&key, codec::encode(codec::prepare(resource, None)?)).await
    }

    /// Replaces an object that must be at `expected`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Invalid`] for an object that breaks its kind's rules.
    pub async fn update(&self, resource: Resource, expected: Revision) -> Result<Revision> {
        let key = self.layout.key(&resource.key())?;
        let resource = codec::prepare(resource, None)?;
        self.backend.update(&key, codec::encode(resource), expected).await
    }

    /// Makes the stored object like `resource`, whether there is one or not. A status, a `uid` and a `creationTimestamp` that
    /// `resource` doesn't have stay as stored. Replaces an unreadable object.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an object that breaks its kind's rules; [`Error::Conflict`] after many lost races.
    pub async fn apply(&self, resource: Resource) -> Result<Applied> {
        let key = resource.key();
        let path = self.layout.key(&key)?;
        let mut attempt = 0;
        loop {
            let stored = self.get(&key).await?;
            let old = stored.as_ref().and_then(|v| v.resource.as_ref().ok());
            let new = codec::prepare(resource.clone(), old.map(|old| &**old))?;
            let result = match &stored {
                Some(stored) if old.is_some_and(|old| **old == new) => {
                    return Ok(Applied::Unchanged(stored.revision));
                }
                Some(stored) => self
                    .backend
                    .update(&path, codec::encode(new), stored.revision)
                    .await
                    .map(Applied::Updated),
                None => self.backend.create(&path, codec::encode(new)).await.map(Applied::Created),
            };
            match result {
                Err(Error::AlreadyExists { .. } | Error::NotFound { .. } | Error::Conflict { .. })
                    if attempt < ATTEMPTS =>
                {
                    attempt = pause(attempt).await;
                }
                result => return result,
            }
        }
    }

    /// Deletes an object: the one at `expected`, or whatever is there.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not at `expected`.
    pub async fn delete(&self, key: &Key, expected: Option<Revision>) -> Result<Revision> {
        let path = self.layout.key(key)?;
        if let Some(expected) = expected {
            return self.backend.delete(&path, expected).await;
        }
        let mut attempt = 0;
        loop {
            let Some(entry) = self.backend.get(&path).await? else {
                return Err(Error::NotFound { key: path });
            };
            match self.backend.delete(&path, entry.revision).await {
                Err(Error::Conflict { .. }) if attempt < ATTEMPTS => attempt = pause(attempt).await,
                result => return result,
            }
        }
    }

    /// Reads, changes and writes an object, again when another writer came between. Returns the object's revision;
    /// writes nothing when `change` changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] when the object is unreadable or what `change` made of it breaks its kind's rules;
    /// [`Error::Conflict`] after many lost races.
    pub async fn update_with<F>(&self, key: &Key, mut change: F) -> Result<Revision>
    where
        F: FnMut(&mut Resource) + Send,
    {
        let mut attempt = 0;
        loop {
            let Some(stored) = self.get(key).await? else {
                return Err(Error::NotFound { key: self.layout.key(key)? });
            };
            let old = stored.resource.map_err(|e| Error::Invalid(format!("{key} is unreadable: {e}")))?;
            let mut new = Resource::clone(&old);
            change(&mut new);
            if new == *old {
                return Ok(stored.revision);
            }
            if new.key() != *key {
                return Err(Error::Invalid(format!("{key}: an update can't make it {}", new.key())));
            }
            match self.update(new, stored.revision).await {
                Err(Error::Conflict { .. }) if attempt < ATTEMPTS => attempt = pause(attempt).await,
                result => return result,
            }
        }
    }

    /// Follows changes of scopes from a position that [`Store::list`] or [`Watcher::cursor`] gave.
    ///
    /// # Errors
    /// [`Error::Compacted`] here or at the first [`Watcher::next`] when the history doesn't reach back so far.
    pub async fn watch(&self, from: Cursor) -> Result<Watcher> {
        Ok(Watcher { inner: self.backend.watch(from).await?, store: self.clone() })
    }

    /// Forgets the history up to and including `revision`; objects stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `revision` is in the future.
    pub async fn compact(&self, revision: Revision) -> Result<()> {
        self.backend.compact(revision).await
    }

    /// Revision of the newest change.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn revision(&self) -> Result<Revision> {
        self.backend.revision().await
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn decode(&self, entry: &Entry) -> Option<Versioned> {
        self.known(&entry.key).map(|key| codec::decode(key, entry.revision, &entry.value))
    }

    /// The object a key stands for. Others' keys in our folders are passed over, but not silently.
    pub(crate) fn known(&self, key: &str) -> Option<Key> {
        let known = self.layout.parse(key);
        if known.is_none() {
            tracing::warn!(key, "the datastore has a key that stands for no object; ignored");
        }
        known
    }
}

/// Changes as objects. Within one kind it has every change, in order, once.
#[derive(Debug)]
pub struct Watcher {
    inner: BackendWatch,
    store: Store,
}

impl Watcher {
    /// Waits for the next changes; never an empty list. Cancel-safe.
    ///
    /// # Errors
    /// After an error the watch is over; continue with a new one from [`Watcher::cursor`].
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        loop {
            let events: Vec<_> = self.inner.next().await?.into_iter().filter_map(|c| self.event(c)).collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Position behind the last change handed out.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.inner.cursor()
    }

    fn event(&self, change: Change) -> Option<Event> {
        let key = self.store.known(&change.key)?;
        Some(match change.value {
            Some(value) => Event::Put(codec::decode(key, change.revision, &value)),
            None => Event::Delete(key, change.revision),
        })
    }
}

/// Lets the others finish: a few milliseconds, different for everybody.
async fn pause(attempt: u32) -> u32 {
    let longest = Duration::from_millis(u64::from(attempt.min(8)) * 4 + 1);
    tokio::time::sleep(backoff::jitter(longest)).await;
    attempt + 1
}
