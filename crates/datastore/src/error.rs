//! What can go wrong when talking to a datastore.

use crate::Revision;

/// Why a datastore operation did not do what was asked.
///
/// After every variant but [`Error::Uncertain`] the datastore is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `create` of a key that exists.
    #[error("{key} already exists")]
    AlreadyExists {
        /// The key, as stored.
        key: String,
    },
    /// `update` or `delete` of a key that doesn't exist.
    #[error("{key} does not exist")]
    NotFound {
        /// The key, as stored.
        key: String,
    },
    /// A compare-and-swap lost: the key was changed since it was read. Read it again and decide anew.
    #[error("{key} was changed meanwhile: expected revision {expected}, the datastore has {current}")]
    Conflict {
        /// The key, as stored.
        key: String,
        /// Revision the caller had read.
        expected: Revision,
        /// Revision the key has now.
        current: Revision,
    },
    /// The history that a watch or list asked for is gone. List again and watch from there.
    #[error("the datastore no longer has the history asked for: {0}; list again and watch from there")]
    Compacted(String),
    /// The datastore did not answer in time, or said that it can't serve now. Nothing was changed.
    #[error("datastore unavailable: {0}")]
    Unavailable(String),
    /// A write was sent and no answer came: it may or may not have happened. Read before writing again.
    #[error("datastore did not acknowledge the write, which may or may not have happened: {0}")]
    Uncertain(String),
    /// The datastore refused the credentials.
    #[error(
        "datastore refused access: {0}; check username, password and certificates, and the role's permissions"
    )]
    Denied(String),
    /// The stored data can't be used: not a Margay datastore, damaged, or written by a newer version.
    #[error("datastore unusable: {0}")]
    Corrupt(String),
    /// The caller asked for something impossible: a bad name, a bad configuration.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Whether the same call may succeed later with nothing changed by the caller.
    ///
    /// [`Error::Conflict`] and [`Error::Compacted`] are not: they need a fresh read first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Uncertain(_))
    }
}

/// Result of a datastore operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
