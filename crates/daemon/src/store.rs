//! Opening the datastore, however long it takes.

use std::time::Duration;

use margay_datastore::{Store, StoreConfig};

use crate::health::Health;

/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Opens the datastore; until that works, nothing is touched, and status says why.
pub async fn open(config: &StoreConfig, health: &Health) -> Store {
    let mut wait = Duration::from_millis(100);
    loop {
        match Store::connect(config).await {
            Ok(store) => return store,
            Err(error) => {
                health.set("datastore", false, format!("{error}; nothing is touched until it can be opened"));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MAX_WAIT);
            }
        }
    }
}
