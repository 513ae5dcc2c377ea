//! Writes to the datastore that nobody waits for: retried until they succeed, the newest per object wins.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use margay_api::{IpamBlock, Key, Node, Resource};
use margay_daemon::register::{Daemon, register};
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
    /// This node's addresses, and its pods' in no block, in its own Node object; what others wrote there stays.
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
        let perform = async move |key: &Key, write: &Write| perform(&store, key, write).await;
        tokio::spawn(run(Arc::clone(&pending), woken, perform));
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

async fn run(
    pending: Pending,
    mut woken: mpsc::Receiver<()>,
    mut perform: impl AsyncFnMut(&Key, &Write) -> Result<(), Error>,
) {
    while woken.recv().await == Some(()) {
        let mut wait = MIN_WAIT;
        let mut last = None;
        while let Some((key, write)) = next(&pending, last.as_ref()) {
            match perform(&key, &write).await {
                Ok(()) => wait = MIN_WAIT,
                Err(error @ Error::Invalid(_)) => tracing::error!("cannot write {key}: {error}"),
                Err(error) => {
                    // Without access, too: credentials are renewed, and nobody else would write it then.
                    match error.is_retryable() {
                        true => tracing::debug!("writing {key}: {error}; trying again"),
                        false => tracing::warn!("cannot write {key}: {error}; trying again"),
                    }
                    // A newer write of the same object replaces this one.
                    lock(&pending).entry(key.clone()).or_insert(write);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                }
            }
            last = Some(key);
        }
    }
}

/// The next one behind the last, all around: one that cannot be done keeps no other waiting.
fn next(pending: &Pending, last: Option<&Key>) -> Option<(Key, Write)> {
    let mut pending = lock(pending);
    let behind = pending.range((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).next();
    let key = behind.or_else(|| pending.iter().next()).map(|(key, _)| key.clone())?;
    pending.remove_entry(&key)
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
        Write::OwnNode(own) => register(store, own, Daemon::Agent).await,
    }
}

#[cfg(test)]
mod tests {
    use margay_api::Kind;

    use super::*;

    #[tokio::test]
    async fn a_write_that_is_refused_is_done_later_and_keeps_no_other_waiting() {
        let pending = Pending::default();
        let (wake, woken) = mpsc::channel(1);
        let writer = Writer { pending: Arc::clone(&pending), wake };
        let named = |name: &str| Key::namespaced(Kind::WorkloadEndpoint, "default", name);
        for name in ["a", "b", "broken", "c"] {
            writer.push(named(name), Write::Delete);
        }
        drop(writer);
        let (mut refused, mut done) = (0, Vec::new());
        let perform = async |key: &Key, _: &Write| match key.name.as_str() {
            "a" if refused < 3 => {
                refused += 1;
                Err(Error::Denied("the certificate has expired".to_owned()))
            }
            "broken" => Err(Error::Invalid("no name".to_owned())),
            name => {
                done.push(name.to_owned());
                Ok(())
            }
        };
        run(Arc::clone(&pending), woken, perform).await;
        assert_eq!(done, ["b", "c", "a"]);
        assert!(lock(&pending).is_empty());
    }
}
