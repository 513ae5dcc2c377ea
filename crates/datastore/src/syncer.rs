//! List and watch made one stream, which survives losses of the datastore.

use std::collections::BTreeMap;

use margay_api::Key;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::codec;
use crate::error::{Error, Result};
use crate::layout::Scope;
use crate::raw::{Change, Cursor, Datastore, Listing, Prefix, Revision, Watch};
use crate::store::{Store, Versioned};

/// Events that wait for the consumer; then the datastore is read no further.
const QUEUE: usize = 256;

/// What a consumer of the cluster's objects gets to know.
#[derive(Debug, Clone, PartialEq)]
pub enum SyncEvent {
    /// An object is there, or is different from before.
    Put(Versioned),
    /// An object is gone. Only for objects that were [`SyncEvent::Put`].
    Delete(Key),
    /// Everything that was there at the start has been told. Comes exactly once.
    InSync,
    /// The datastore doesn't answer, for this reason; what was told stays the best that is known. Comes once per loss, also
    /// when the datastore is away from the start.
    Lost(String),
    /// The datastore answers again. Changes made meanwhile were told before it, or follow it in order.
    Restored,
}

/// Follows scopes of a store until dropped.
///
/// The consumer sets the pace: when it is slow, the datastore is read no further, and when the datastore's history is
/// exhausted by then, the objects are listed anew and only the difference is told.
#[derive(Debug)]
pub struct Syncer {
    events: mpsc::Receiver<SyncEvent>,
    task: JoinHandle<()>,
}

impl Syncer {
    /// Starts following. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scope that can't exist, or none.
    pub fn spawn(store: Store, scopes: &[Scope]) -> Result<Self> {
        let folders = store.layout().folders(scopes)?;
        if folders.is_empty() {
            return Err(Error::Invalid("nothing to follow: no scopes".to_owned()));
        }
        let (sender, events) = mpsc::channel(QUEUE);
        let follower =
            Follower { store, folders, events: sender, told: BTreeMap::new(), in_sync: false, lost: false };
        Ok(Self { events, task: tokio::spawn(follower.run()) })
    }

    /// The next event; `None` never comes while the runtime runs. Cancel-safe.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        self.events.recv().await
    }

    /// The next event if it is there already, so that a consumer can take several in one go.
    pub fn try_next(&mut self) -> Option<SyncEvent> {
        self.events.try_recv().ok()
    }

    /// The next event for a thread outside of the runtime.
    pub fn blocking_next(&mut self) -> Option<SyncEvent> {
        self.events.blocking_recv()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why following ended.
enum End {
    /// Nobody listens any more.
    Unwanted,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Follower {
    store: Store,
    folders: Vec<Prefix>,
    events: mpsc::Sender<SyncEvent>,
    /// What the consumer knows: key → revision.
    told: BTreeMap<String, Revision>,
    in_sync: bool,
    lost: bool,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut cursor = None;
        loop {
            let wait = match self.follow(&mut cursor, &mut backoff).await {
                End::Unwanted => return,
                // The datastore is there, only our position is too old. A consumer that is always too slow must not turn this
                // into a busy loop.
                End::Failed(Error::Compacted(reason)) => {
                    tracing::debug!(reason, "listing the datastore anew");
                    cursor = None;
                    backoff.step()
                }
                End::Failed(error) => {
                    if self.lose(error.to_string()).await.is_none() {
                        return;
                    }
                    backoff.step()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// Lists when there is no position to continue from, then follows the changes until that ends.
    async fn follow(&mut self, cursor: &mut Option<Cursor>, backoff: &mut Backoff) -> End {
        match self.try_follow(cursor, backoff).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(
        &mut self,
        cursor: &mut Option<Cursor>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, End> {
        let from = match cursor.take() {
            Some(from) => from,
            None => {
                let listing = self.store.backend().list(&self.folders).await?;
                let from = listing.cursor.clone();
                self.tell_difference(listing).await?;
                from
            }
        };
        // Kept, so that a watch that can't begin does not cost another list.
        *cursor = Some(from.clone());
        let mut watch = self.store.backend().watch(from).await?;
        if !self.in_sync {
            self.in_sync = true;
            self.tell(SyncEvent::InSync).await?;
        }
        if self.lost {
            self.lost = false;
            tracing::info!("the datastore answers again");
            self.tell(SyncEvent::Restored).await?;
        }
        loop {
            let changes = tokio::select! {
                changes = watch.next() => changes?,
                () = self.events.closed() => return Err(End::Unwanted),
            };
            for change in changes {
                self.tell_change(change).await?;
            }
            *cursor = Some(watch.cursor());
            // Not earlier: a datastore that takes watches and ends them at once is not well.
            backoff.reset();
        }
    }

    /// Tells what a fresh list has that the consumer doesn't know: first what vanished, so that what it held is free.
    async fn tell_difference(&mut self, listing: Listing) -> Result<(), End> {
        let listed: BTreeMap<_, _> = listing.entries.iter().map(|e| (e.key.as_str(), e.revision)).collect();
        let vanished: Vec<String> =
            self.told.keys().filter(|key| !listed.contains_key(key.as_str())).cloned().collect();
        for key in vanished {
            self.tell_delete(&key).await?;
        }
        for entry in listing.entries {
            // Not "older than": a restored backup may have counted anew.
            if self.told.get(&entry.key) != Some(&entry.revision) {
                self.tell_put(entry.key, entry.revision, &entry.value).await?;
            }
        }
        Ok(())
    }

    async fn tell_change(&mut self, change: Change) -> Result<(), End> {
        let repeated = self.told.get(&change.key).is_some_and(|told| change.revision <= *told);
        match change.value {
            _ if repeated => Ok(()),
            Some(value) => self.tell_put(change.key, change.revision, &value).await,
            None => self.tell_delete(&change.key).await,
        }
    }

    async fn tell_put(&mut self, path: String, revision: Revision, value: &[u8]) -> Result<(), End> {
        let Some(key) = self.store.known(&path) else { return Ok(()) };
        let versioned = codec::decode(key, revision, value);
        if let Err(unreadable) = &versioned.resource {
            tracing::warn!(key = %versioned.key, reason = %unreadable, "unreadable object in the datastore");
        }
        self.tell(SyncEvent::Put(versioned)).await?;
        self.told.insert(path, revision);
        Ok(())
    }

    async fn tell_delete(&mut self, path: &str) -> Result<(), End> {
        if self.told.remove(path).is_some()
            && let Some(key) = self.store.known(path)
        {
            self.tell(SyncEvent::Delete(key)).await?;
        }
        Ok(())
    }

    /// `None` when nobody listens any more.
    async fn lose(&mut self, reason: String) -> Option<()> {
        if self.lost {
            tracing::debug!(reason, "the datastore still doesn't answer");
            return Some(());
        }
        self.lost = true;
        tracing::warn!(reason, "the datastore is lost");
        self.tell(SyncEvent::Lost(reason)).await.ok()
    }

    async fn tell(&self, event: SyncEvent) -> Result<(), End> {
        self.events.send(event).await.map_err(|_closed| End::Unwanted)
    }
}
