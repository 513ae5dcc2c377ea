//! Writes to the datastore that nobody waits for: retried until they succeed, the newest per object wins.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use margay_api::{IpamBlock, Key, Node, Resource};
use margay_daemon::register::register;
use margay_datastore::{Error, Store};
use margay_ipam::borrower;
use tokio::sync::mpsc;

/// First wait between two tries.
const MIN_WAIT: Duration = Duration::from_millis(50);

/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// One write.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// Make the object like this.
    Apply(Box<Resource>),
    /// There must be no such object.
    Delete,
    /// Which addresses of a block of ours are in use. A block that is gone, or somebody else's by now, stays as it is.
    OwnBlock(Box<IpamBlock>),
    /// A request for an address of a block of ours is granted, if it is still the same.
    Grant(Box<IpamBlock>),
    /// This node's addresses in its own Node object; what others wrote there stays.
    OwnNode(Box<Node>),
}

/// Writes that wait, at most one per object.
type Pending = Arc<Mutex<BTreeMap<Key, Write>>>;

/// Where writes are queued.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pending: Pending,
    wake: mpsc::Sender<()>,
}

impl Writer {
    /// Starts writing to `store`, until the last of its clones is dropped.
    pub(crate) fn spawn(store: Store) -> Self {
        let pending = Pending::default();
        let (wake, woken) = mpsc::channel(1);
        tokio::spawn(run(store, Arc::clone(&pending), woken));
        Self { pending, wake }
    }

    /// Queues a write in place of any earlier one for the same object.
    pub(crate) fn push(&self, key: Key, write: Write) {
        lock(&self.pending).insert(key, write);
        // Full: the writer is woken already.
        let _full = self.wake.try_send(());
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, BTreeMap<Key, Write>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(store: Store, pending: Pending, mut woken: mpsc::Receiver<()>) {
    while woken.recv().await == Some(()) {
        let mut wait = MIN_WAIT;
        loop {
            let Some((key, write)) = lock(&pending).pop_first() else { break };
            match perform(&store, &key, &write).await {
                Ok(()) => wait = MIN_WAIT,
                Err(error) if error.is_retryable() => {
                    tracing::debug!("writing {key}: {error}; trying again");
                    // A newer write of the same object replaces this one.
                    lock(&pending).entry(key).or_insert(write);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                }
                Err(error) => tracing::error!("cannot write {key}: {error}"),
            }
        }
    }
}

async fn perform(store: &Store, key: &Key, write: &Write) -> Result<(), Error> {
    match write {
        Write::Apply(resource) => store.apply(resource.as_ref().clone()).await.map(|_| ()),
        Write::Delete => match store.delete(key, None).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        },
        Write::OwnBlock(own) => {
            let outcome = store
                .update_with(key, |stored| match stored {
                    Resource::IpamBlock(block) if block.spec.affinity == own.spec.affinity => {
                        block.spec = own.spec.clone();
                    }
                    _ => {}
                })
                .await;
            match outcome {
                Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Write::Grant(granted) => {
            let outcome = store
                .update_with(key, |stored| match stored {
                    Resource::IpamBlock(block)
                        if block.spec.affinity.is_none() && borrower(block) == borrower(granted) =>
                    {
                        block.spec.affinity.clone_from(&granted.spec.affinity);
                    }
                    _ => {}
                })
                .await;
            match outcome {
                Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Write::OwnNode(own) => register(store, own).await,
    }
}
