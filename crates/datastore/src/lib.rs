//! The cluster's objects, shared by all nodes: one trait, several backends.
//!
//! [`Store`] holds [`margay_api::Resource`]s; [`Syncer`] turns list and watch into one stream that survives losses. Below,
//! a backend ([`raw::Datastore`]) maps key strings to bytes, with compare-and-swap and watches. Two implement it:
//! [`embedded::Embedded`] (a SQLite file) and [`etcd::Etcd`] (etcd or kine).

mod backend;
mod backoff;
mod codec;
pub mod config;
pub mod embedded;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod layout;
pub mod raw;
mod store;
mod syncer;

pub use backend::{Backend, BackendWatch};
pub use codec::rfc3339;
pub use config::{EmbeddedConfig, EtcdConfig, StoreConfig};
pub use error::{Error, Result};
pub use layout::Scope;
pub use raw::{Cursor, Datastore, Revision};
pub use store::{Applied, Event, Snapshot, Store, Unreadable, Versioned, Watcher};
pub use syncer::{SyncEvent, Syncer};
