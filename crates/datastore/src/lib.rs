//! The cluster's objects, shared by all nodes: one trait, several backends.
//!
//! A backend ([`raw::Datastore`]) maps key strings to bytes, with compare-and-swap and watches.
//! Two implement it: [`embedded::Embedded`] (a SQLite file) and [`etcd::Etcd`] (etcd or kine).

mod backend;
pub mod config;
pub mod embedded;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod raw;

pub use backend::{Backend, BackendWatch};
pub use config::{EmbeddedConfig, EtcdConfig, StoreConfig};
pub use error::{Error, Result};
pub use raw::Revision;
