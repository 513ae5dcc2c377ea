//! The datastore, for commands that do one thing and leave.

use anyhow::{Context, bail};
use margay_api::{Key, Kind, Resource};
use margay_datastore::{Applied, Error, Revision, Scope, Store, StoreConfig, Versioned};

/// What a command is going to do: a mistyped path must not become a new datastore when somebody only looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only look.
    Read,
    /// Write; the embedded datastore's file is made when it is missing.
    Write,
}

/// An open datastore and the runtime its calls run on.
pub(crate) struct Session {
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Session {
    /// Opens the configured datastore.
    pub(crate) fn open(config: &StoreConfig, access: Access) -> anyhow::Result<Self> {
        if let (StoreConfig::Embedded(embedded), Access::Read) = (config, access)
            && !embedded.path.exists()
        {
            bail!(
                "there is no datastore at {}: name it with --datastore FILE or --datastore http://etcd:2379",
                embedded.path.display()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let store = runtime.block_on(Store::connect(config))?;
        Ok(Self { runtime, store })
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> anyhow::Result<Option<Versioned>> {
        Ok(self.runtime.block_on(self.store.get(key))?)
    }

    /// All objects of the kinds, in one namespace or all.
    pub(crate) fn list(&self, kinds: &[Kind], namespace: Option<&str>) -> anyhow::Result<Vec<Versioned>> {
        let scope = |kind: &Kind| Scope {
            kind: *kind,
            namespace: namespace.filter(|_| kind.namespaced()).map(str::to_owned),
        };
        let scopes: Vec<Scope> = kinds.iter().map(scope).collect();
        Ok(self.runtime.block_on(self.store.list(&scopes))?.items)
    }

    /// Creates or changes.
    pub(crate) fn apply(&self, resource: Resource) -> anyhow::Result<Applied> {
        Ok(self.runtime.block_on(self.store.apply(resource))?)
    }

    /// Creates; an error when it exists.
    pub(crate) fn create(&self, resource: Resource) -> anyhow::Result<()> {
        let key = resource.key();
        match self.runtime.block_on(self.store.create(resource)) {
            Ok(_revision) => Ok(()),
            Err(Error::AlreadyExists { .. }) => {
                bail!("{key} already exists: use apply or replace to change it")
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes; false when there was nothing.
    pub(crate) fn delete(&self, key: &Key, expected: Option<Revision>) -> anyhow::Result<bool> {
        match self.runtime.block_on(self.store.delete(key, expected)) {
            Ok(_revision) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
