//! A watch is a position in the log.

use std::sync::Arc;

use tokio::sync::watch;

use super::tail::Seen;
use super::{Shared, from_sql, schema, to_sql};
use crate::error::{Error, Result};
use crate::raw::{Change, Cursor, Revision, Watch};

/// Log rows looked at in one go: bounds memory and the time that other readers wait.
const BATCH: i64 = 512;

/// Changes of one [`super::Embedded`], read from the log when asked for.
#[derive(Debug)]
pub struct EmbeddedWatch {
    shared: Arc<Shared>,
    cursor: Cursor,
    seen: watch::Receiver<Seen>,
}

/// One look at the log.
struct Batch {
    changes: Vec<Change>,
    /// Up to here everything has been looked at.
    reached: Revision,
    /// Whether that was the end of the log.
    complete: bool,
}

impl EmbeddedWatch {
    pub(super) async fn start(shared: Arc<Shared>, cursor: Cursor) -> Result<Self> {
        let seen = shared.tail.subscribe();
        let watch = Self { shared, cursor, seen };
        // Whether the history reaches back that far is said now rather than at the first change.
        watch.look(0).await?;
        Ok(watch)
    }

    async fn look(&self, limit: i64) -> Result<Batch> {
        let cursor = self.cursor.clone();
        self.shared
            .read(move |tx| {
                let newest = Revision(schema::revision(tx)?);
                let oldest = Revision(schema::compacted(tx)?);
                let from = cursor.0.iter().map(|(_, at)| *at).min().unwrap_or(newest);
                if from < oldest {
                    return Ok(Err(Error::Compacted(format!(
                        "changes after {from}; kept are those after {oldest}"
                    ))));
                }
                if let Some((_, ahead)) = cursor.0.iter().find(|(_, at)| *at > newest) {
                    return Ok(Err(Error::Compacted(format!(
                        "changes after {ahead}; the newest is {newest}, so the datastore was replaced"
                    ))));
                }
                let mut select = tx.prepare_cached(
                    "SELECT revision, key, value FROM log WHERE revision > ?1 ORDER BY revision LIMIT ?2",
                )?;
                let mut rows = select.query([to_sql(from), limit])?;
                let mut batch = Batch { changes: Vec::new(), reached: from, complete: true };
                let mut count = 0;
                while let Some(row) = rows.next()? {
                    let revision = from_sql(row.get(0)?);
                    let key = row.get_ref(1)?.as_str()?;
                    if cursor.0.iter().any(|(prefix, at)| prefix.contains(key) && revision > *at) {
                        batch.changes.push(Change { key: key.to_owned(), revision, value: row.get(2)? });
                    }
                    batch.reached = revision;
                    count += 1;
                }
                batch.complete = count < limit;
                if batch.complete {
                    batch.reached = newest;
                }
                Ok(Ok(batch))
            })
            .await
    }
}

impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            // Before looking: a commit in between wakes us again.
            self.seen.mark_unchanged();
            let batch = self.look(BATCH).await?;
            for (_, at) in &mut self.cursor.0 {
                *at = batch.reached.max(*at);
            }
            if !batch.changes.is_empty() {
                return Ok(batch.changes);
            }
            if batch.complete && self.seen.changed().await.is_err() {
                return Err(Error::Unavailable("the datastore was closed".to_owned()));
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }
}
