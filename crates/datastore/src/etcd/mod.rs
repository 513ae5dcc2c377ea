//! etcd, through the subset of its v3 API that kine serves too.
//!
//! Used are only: a transaction "if the key's modification revision is X then put (or delete) it, else read it", ranges
//! over a folder with a limit, watches of a folder, compaction. No leases, no sorting, no plain put or delete.
//! The suite runs on etcd 3.4 and on kine 0.17.

mod connect;
mod fault;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse,
};
use tokio::time::Instant;

pub use watch::EtcdWatch;

use crate::config::EtcdConfig;
use crate::error::{Error, Result};
use crate::raw::{Cursor, Datastore, Entry, Listing, Prefix, Revision, check_size};
use connect::Endpoints;
use fault::Fault;

/// Keys read in one request.
const PAGE: i64 = 500;
/// Largest answer taken, in bytes. etcd's own limit is for requests only (1.5 MB by default).
const MESSAGE_LIMIT: usize = 256 << 20;
/// How often a list begins anew because its revision was compacted away while it read page after page.
const LIST_ATTEMPTS: usize = 3;

/// Handle to one etcd cluster. Cloning is cheap; clones share their connections.
#[derive(Debug, Clone)]
pub struct Etcd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Endpoints,
    timeout: Duration,
    /// Which cluster was listed last; 0 for none (kine has no such number).
    cluster: AtomicU64,
}

/// Whether a request may be sent twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Etcd {
    /// Checks the configuration. Connects at the first operation, so an etcd that is down is no error here.
    ///
    /// # Errors
    /// [`Error::Invalid`]
    pub fn new(config: &EtcdConfig) -> Result<Self> {
        crate::embedded::check_timeout(config.timeout_ms)?;
        let endpoints = Endpoints::new(config)?;
        Ok(Self {
            shared: Arc::new(Shared { endpoints, timeout: config.timeout(), cluster: AtomicU64::new(0) }),
        })
    }

    /// Sends a request to the first endpoint that takes it, beginning with the one that did last.
    async fn call<T, F, Fut>(&self, access: Access, request: F) -> Result<T>
    where
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let endpoints = &self.shared.endpoints;
        let deadline = Instant::now() + self.shared.timeout;
        let mut reasons = Vec::new();
        let order = endpoints.order();
        for (tried, &index) in order.iter().enumerate() {
            // What is left is shared by those not asked yet, so that one that hangs doesn't take it all.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(order.len() - tried).unwrap_or(1);
            let name = endpoints.name(index);
            let mut sent = false;
            let attempt = async {
                let client = endpoints.client(index, share).await?;
                sent = true;
                request(client).await
            };
            let fault = match tokio::time::timeout(share, attempt).await {
                Ok(Ok(answer)) => {
                    endpoints.prefer(index);
                    return Ok(answer);
                }
                Ok(Err(error)) => Fault::from(&error),
                Err(_elapsed) => Fault::Lost(format!("no answer within {} ms", share.as_millis())),
            };
            match fault {
                Fault::Answer(error) => {
                    if matches!(error, Error::Denied(_)) {
                        // The token or the certificate may be outdated: the next call logs in anew.
                        endpoints.forget(index).await;
                    }
                    return Err(error);
                }
                Fault::Lost(reason) if access == Access::Write && sent => {
                    return Err(Error::Uncertain(format!("{name}: {reason}")));
                }
                Fault::Lost(reason) | Fault::NotSent(reason) => {
                    endpoints.forget(index).await;
                    reasons.push(format!("{name}: {reason}"));
                }
            }
        }
        Err(Error::Unavailable(reasons.join("; ")))
    }

    /// Runs "if `key` is at `expected` then `change`, else read it".
    async fn compare_and(&self, key: &str, expected: Revision, change: TxnOp) -> Result<Revision> {
        let is_expected = Compare::mod_revision(key, CompareOp::Equal, to_wire(expected));
        let mut txn = Txn::new().when([is_expected]).and_then([change]);
        let creating = expected == Revision(0);
        if !creating {
            txn = txn.or_else([TxnOp::get(key, None)]);
        }
        let answer = self
            .call(Access::Write, |client| {
                let txn = txn.clone();
                async move { client.kv_client().max_decoding_message_size(MESSAGE_LIMIT).txn(txn).await }
            })
            .await?;
        let key = key.to_owned();
        let responses = answer.op_responses();
        if answer.succeeded() {
            // kine lets a delete of what never existed succeed, having deleted nothing.
            let nothing = responses.iter().any(
                |r| matches!(r, TxnOpResponse::Delete(d) if d.deleted() == 0 && d.prev_kvs().is_empty()),
            );
            return if nothing { Err(Error::NotFound { key }) } else { Ok(revision_of(answer.header())) };
        }
        if creating {
            return Err(Error::AlreadyExists { key });
        }
        let current = responses.iter().find_map(|r| match r {
            TxnOpResponse::Get(get) => get.kvs().first().map(|kv| from_wire(kv.mod_revision())),
            _ => None,
        });
        Err(match current {
            Some(current) => Error::Conflict { key, expected, current },
            None => Error::NotFound { key },
        })
    }

    /// One folder as it was at one revision.
    async fn list_folder(&self, prefix: &Prefix, entries: &mut Vec<Entry>) -> Result<Revision> {
        let mut start = prefix.as_str().to_owned();
        let mut snapshot = None;
        loop {
            let mut options = GetOptions::new().with_range(prefix.end()).with_limit(PAGE);
            if let Some(Revision(revision)) = snapshot {
                options = options.with_revision(to_wire(Revision(revision)));
            }
            let mut page = self
                .call(Access::Read, |client| {
                    let (start, options) = (start.clone(), options.clone());
                    async move {
                        client
                            .kv_client()
                            .max_decoding_message_size(MESSAGE_LIMIT)
                            .get(start, Some(options))
                            .await
                    }
                })
                .await?;
            let at = *snapshot.get_or_insert_with(|| revision_of(page.header()));
            if let Some(header) = page.header() {
                self.shared.cluster.store(header.cluster_id(), Ordering::Relaxed);
            }
            let (more, count) = (page.more(), entries.len());
            entries.extend(page.take_kvs().iter().map(entry));
            match entries.last() {
                // The key right behind the last one.
                Some(last) if more && entries.len() > count => start = format!("{}\0", last.key),
                _ => return Ok(at),
            }
        }
    }

    async fn list_once(&self, prefixes: &[Prefix]) -> Result<Listing> {
        let mut listing = Listing::default();
        for prefix in prefixes {
            let revision = self.list_folder(prefix, &mut listing.entries).await?;
            listing.cursor.0.push((prefix.clone(), revision));
        }
        Ok(listing)
    }
}

impl Datastore for Etcd {
    type Watch = EtcdWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let answer = self
            .call(Access::Read, |client| {
                let key = key.to_owned();
                async move { client.kv_client().max_decoding_message_size(MESSAGE_LIMIT).get(key, None).await }
            })
            .await?;
        Ok(answer.kvs().first().map(entry))
    }

    async fn list(&self, prefixes: &[Prefix]) -> Result<Listing> {
        for _ in 1..LIST_ATTEMPTS {
            match self.list_once(prefixes).await {
                Err(Error::Compacted(_)) => {}
                result => return result,
            }
        }
        self.list_once(prefixes).await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision> {
        check_size(key, &value)?;
        self.compare_and(key, Revision(0), TxnOp::put(key, value, None)).await
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision> {
        exists(key, expected)?;
        check_size(key, &value)?;
        self.compare_and(key, expected, TxnOp::put(key, value, None)).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        exists(key, expected)?;
        self.compare_and(key, expected, TxnOp::delete(key, None)).await
    }

    async fn watch(&self, from: Cursor) -> Result<EtcdWatch> {
        EtcdWatch::start(self, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let result =
            self.call(Access::Read, |client| async move {
                client.kv_client().compact(to_wire(revision), None).await
            })
            .await;
        match result {
            // Somebody else was faster, or this call was repeated.
            Ok(_) | Err(Error::Compacted(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn revision(&self) -> Result<Revision> {
        let answer =
            self.call(Access::Read, |client| async move { client.kv_client().get("/", None).await }).await?;
        Ok(revision_of(answer.header()))
    }
}

/// On the wire, 0 means "doesn't exist": never what an update or delete expects.
fn exists(key: &str, expected: Revision) -> Result<()> {
    if expected == Revision(0) {
        return Err(Error::Invalid(format!("{key}: revision 0 stands for nothing stored")));
    }
    Ok(())
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        revision: from_wire(kv.mod_revision()),
        value: kv.value().to_vec(),
    }
}

fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |h| from_wire(h.revision()))
}

/// etcd's revisions are signed, from 1.
fn to_wire(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn from_wire(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}
