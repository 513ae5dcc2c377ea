//! The backend that the configuration chose.

use crate::config::StoreConfig;
use crate::embedded::{Embedded, EmbeddedWatch};
#[cfg(not(feature = "etcd"))]
use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "etcd")]
use crate::etcd::{Etcd, EtcdWatch};
use crate::raw::{Change, Cursor, Datastore, Entry, Listing, Prefix, Revision, Watch};

/// One of the backends. Cloning is cheap.
#[derive(Debug, Clone)]
pub enum Backend {
    /// A SQLite file.
    Embedded(Embedded),
    /// etcd or kine.
    #[cfg(feature = "etcd")]
    Etcd(Etcd),
}

/// The watch of one of the backends.
#[derive(Debug)]
pub enum BackendWatch {
    /// Of a SQLite file.
    Embedded(EmbeddedWatch),
    /// Of etcd or kine.
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdWatch>),
}

impl Backend {
    /// Opens the backend. An etcd that is down is no error here, but at the first operation.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a bad configuration; for the embedded store also what [`Embedded::open`] says.
    pub async fn connect(config: &StoreConfig) -> Result<Self> {
        match config {
            StoreConfig::Embedded(config) => Embedded::open(config).await.map(Self::Embedded),
            #[cfg(feature = "etcd")]
            StoreConfig::Etcd(config) => Etcd::new(config).map(Self::Etcd),
            #[cfg(not(feature = "etcd"))]
            StoreConfig::Etcd(_) => Err(Error::Invalid(
                "this program was built without etcd; use the embedded datastore".to_owned(),
            )),
        }
    }
}

/// The same call on whichever backend it is.
macro_rules! dispatch {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            Self::Embedded(inner) => inner.$method($($argument),*).await,
            #[cfg(feature = "etcd")]
            Self::Etcd(inner) => inner.$method($($argument),*).await,
        }
    };
}

impl Datastore for Backend {
    type Watch = BackendWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        dispatch!(self.get(key))
    }

    async fn list(&self, prefixes: &[Prefix]) -> Result<Listing> {
        dispatch!(self.list(prefixes))
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision> {
        dispatch!(self.create(key, value))
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision> {
        dispatch!(self.update(key, value, expected))
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        dispatch!(self.delete(key, expected))
    }

    async fn watch(&self, from: Cursor) -> Result<BackendWatch> {
        match self {
            Self::Embedded(inner) => inner.watch(from).await.map(BackendWatch::Embedded),
            #[cfg(feature = "etcd")]
            Self::Etcd(inner) => inner.watch(from).await.map(Box::new).map(BackendWatch::Etcd),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        dispatch!(self.compact(revision))
    }

    async fn revision(&self) -> Result<Revision> {
        dispatch!(self.revision())
    }
}

impl Watch for BackendWatch {
    async fn next(&mut self) -> Result<Vec<Change>> {
        dispatch!(self.next())
    }

    fn cursor(&self) -> Cursor {
        match self {
            Self::Embedded(inner) => inner.cursor(),
            #[cfg(feature = "etcd")]
            Self::Etcd(inner) => inner.cursor(),
        }
    }
}
