//! One gRPC stream with a watch for each folder.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};

use super::{Access, Etcd, MESSAGE_LIMIT, from_wire, revision_of, to_wire};
use crate::error::{Error, Result};
use crate::raw::{Change, Cursor, Datastore, Revision, Watch, bounded};

/// Changes as etcd sends them. Ordered within a folder; between folders etcd promises no order.
#[derive(Debug)]
pub struct EtcdWatch {
    stream: WatchStream,
    cursor: Cursor,
    /// etcd's number of each watch → index in the cursor.
    ids: BTreeMap<i64, usize>,
    /// Arrived while the other watches were still being made.
    early: VecDeque<WatchResponse>,
}

impl EtcdWatch {
    pub(super) async fn start(etcd: &Etcd, cursor: Cursor) -> Result<Self> {
        if cursor.0.is_empty() {
            return Err(Error::Invalid("a watch needs at least one folder".to_owned()));
        }
        let stream = etcd
            .call(Access::Read, |client| {
                let cursor = cursor.clone();
                async move {
                    let mut folders = cursor.0.iter().map(|(prefix, at)| {
                        let options = WatchOptions::new()
                            .with_range(prefix.end())
                            .with_start_revision(to_wire(Revision(at.0 + 1)))
                            .with_progress_notify();
                        (prefix.as_str().to_owned(), Some(options))
                    });
                    let Some((key, options)) = folders.next() else {
                        return Err(etcd_client::Error::InvalidArgs("no folder".to_owned()));
                    };
                    let mut stream = client
                        .watch_client()
                        .max_decoding_message_size(MESSAGE_LIMIT)
                        .watch(key, options)
                        .await?;
                    for (key, options) in folders {
                        stream.watch(key, options).await?;
                    }
                    Ok(stream)
                }
            })
            .await?;
        let mut watch = Self { stream, cursor, ids: BTreeMap::new(), early: VecDeque::new() };
        let created = bounded(etcd.shared.timeout, "etcd watch", watch.await_created(etcd)).await;
        if matches!(created, Err(Error::Denied(_))) {
            // Unlike requests, watches don't log in again by themselves when the token has expired.
            etcd.shared.endpoints.forget_all().await;
        }
        let newest = created?;
        if let Some(&(_, ahead)) = watch.cursor.0.iter().find(|(_, at)| *at > newest) {
            // A member that lags is behind, too; a read through the quorum tells the two cases apart.
            let newest = etcd.revision().await?;
            if ahead > newest {
                return Err(Error::Compacted(format!(
                    "changes after {ahead}; the newest is {newest}, so the datastore was replaced"
                )));
            }
        }
        Ok(watch)
    }

    /// Waits until every watch exists. etcd answers in the order of the requests.
    async fn await_created(&mut self, etcd: &Etcd) -> Result<Revision> {
        let mut newest = Revision(0);
        while self.ids.len() < self.cursor.0.len() {
            let response = self.response().await?;
            if response.created() {
                let known = etcd.shared.cluster.load(Ordering::Relaxed);
                if let Some(header) = response.header()
                    && known != 0
                    && header.cluster_id() != known
                {
                    return Err(Error::Compacted("changes of another cluster: etcd was replaced".to_owned()));
                }
                newest = revision_of(response.header());
                self.ids.insert(response.watch_id(), self.ids.len());
            }
            self.early.push_back(response);
        }
        Ok(newest)
    }

    async fn response(&mut self) -> Result<WatchResponse> {
        let lost = |reason: String| Error::Unavailable(format!("etcd watch: {reason}"));
        let response = match self.stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(lost("etcd ended it".to_owned())),
            Err(error) => {
                return Err(match super::Fault::from(&error) {
                    super::Fault::Answer(error) => error,
                    super::Fault::Lost(reason) | super::Fault::NotSent(reason) => lost(reason),
                });
            }
        };
        let reason = response.cancel_reason();
        if response.compact_revision() != 0 || (response.canceled() && reason.contains("compacted")) {
            return Err(Error::Compacted(format!("kept are changes after {}", response.compact_revision())));
        }
        if response.canceled() {
            return Err(if reason.contains("permission denied") || reason.contains("auth") {
                Error::Denied(reason.to_owned())
            } else {
                lost(format!("etcd cancelled it: {reason}"))
            });
        }
        Ok(response)
    }

    /// The changes of one response; moves the cursor behind them.
    fn take(&mut self, response: &WatchResponse) -> Vec<Change> {
        let mut changes = Vec::with_capacity(response.events().len());
        // Changes of one revision come in one response, so a folder moves only when all are taken.
        let before = self.cursor.clone();
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            let revision = from_wire(kv.mod_revision());
            let Some(folder) = before.0.iter().position(|(prefix, _)| prefix.contains(&key)) else {
                continue;
            };
            if revision <= before.0[folder].1 {
                continue;
            }
            let at = &mut self.cursor.0[folder].1;
            *at = revision.max(*at);
            let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
            changes.push(Change { key, revision, value });
        }
        if response.events().is_empty() && !response.created() {
            // A progress report: this watch has been sent everything up to there.
            if let Some(&folder) = self.ids.get(&response.watch_id()) {
                let at = &mut self.cursor.0[folder].1;
                *at = revision_of(response.header()).max(*at);
            }
        }
        changes
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Change>> {
        loop {
            let response = match self.early.pop_front() {
                Some(response) => response,
                None => self.response().await?,
            };
            let changes = self.take(&response);
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }
}
