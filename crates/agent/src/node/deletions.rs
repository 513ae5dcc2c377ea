//! Objects that are being deleted as they were seen, each by one task at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use margay_api::Key;
use margay_datastore::{Error, Revision, Store};

/// Wait before a deletion whose outcome is unknown is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Deletions {
    store: Store,
    under_way: Arc<Mutex<BTreeSet<Key>>>,
}

impl Deletions {
    pub(super) fn new(store: Store) -> Self {
        Self { store, under_way: Arc::default() }
    }

    /// Deletes the object unless it was changed since `revision`. While that is under way, which it is for as long as the datastore
    /// is away, nothing begins anew: whoever finds the object still there comes again.
    pub(super) fn begin(&self, key: Key, revision: Revision) {
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let (store, under_way) = (self.store.clone(), Arc::clone(&self.under_way));
        tokio::spawn(async move {
            delete(&store, &key, revision).await;
            under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        });
    }
}

/// Returns once the outcome is certain: a deletion that arrives late must not meet an object in use again.
async fn delete(store: &Store, key: &Key, revision: Revision) {
    loop {
        match store.delete(key, Some(revision)).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(AGAIN).await,
            Ok(_) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => return,
            Err(error) => return tracing::warn!("deleting {key}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_api::Kind;
    use margay_datastore::StoreConfig;

    use super::*;

    #[tokio::test]
    async fn one_object_has_one_task_however_often_it_is_asked_for() {
        let folder = std::env::temp_dir().join(format!("margay-deletions-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = Store::connect(&StoreConfig::embedded(folder.join("margay.db"))).await.unwrap();
        let deletions = Deletions::new(store);
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let key = |name: &str| Key::cluster(Kind::IpamBlock, name);
        for _ in 0..100 {
            deletions.begin(key("10-65-0-7-32"), Revision(7));
        }
        deletions.begin(key("10-65-0-8-32"), Revision(7));
        assert_eq!(tasks() - before, 2);
        while tasks() > before {
            tokio::task::yield_now().await;
        }
        deletions.begin(key("10-65-0-7-32"), Revision(7));
        assert_eq!(tasks() - before, 1, "the next time is another");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
