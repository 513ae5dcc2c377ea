//! What can go wrong when talking to the kernel.

use std::time::Duration;

use nix::errno::Errno;

/// Result of a kernel operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. `what` names the operation and its object ("add route 10.0.0.0/24"), `detail` carries the
/// kernel's own extended acknowledgement text (`NLMSGERR_ATTR_MSG`) in parentheses, or nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `EEXIST`: the object is already there.
    #[error("{what}: already exists{detail}")]
    Exists {
        /// Operation and object.
        what: String,
        /// Kernel's explanation.
        detail: String,
    },
    /// `ENOENT`, `ESRCH`, `ENODEV`, `ENXIO`: the object, or the device it needs, isn't there.
    #[error("{what}: not found ({errno}){detail}")]
    NotFound {
        /// Operation and object.
        what: String,
        /// Which of the four.
        errno: Errno,
        /// Kernel's explanation.
        detail: String,
    },
    /// `EPERM`, `EACCES`: needs `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN` for namespaces).
    #[error("{what}: not permitted: run as root or with CAP_NET_ADMIN and CAP_SYS_ADMIN{detail}")]
    NotPermitted {
        /// Operation and object.
        what: String,
        /// Kernel's explanation.
        detail: String,
    },
    /// Any other refusal by the kernel.
    #[error("{what}: {errno}{detail}")]
    Kernel {
        /// Operation and object.
        what: String,
        /// The kernel's errno.
        errno: Errno,
        /// Kernel's explanation.
        detail: String,
    },
    /// The kernel did not answer in time.
    #[error("{what}: the kernel did not answer within {after:?}")]
    Timeout {
        /// Operation and object.
        what: String,
        /// The limit that passed.
        after: Duration,
    },
    /// Answers were lost because the socket's receive buffer was full, or the dumped table kept changing:
    /// what was asked may or may not have happened; read back and try again.
    #[error("{what}: answers lost ({reason}), read back and retry")]
    Lost {
        /// Operation and object.
        what: String,
        /// Buffer overrun or interrupted dump.
        reason: &'static str,
    },
    /// The kernel's answer could not be read.
    #[error("{what}: unreadable answer: {reason}")]
    Decode {
        /// Operation and object.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that no kernel would take, refused before asking.
    #[error("{what}: {reason}")]
    Invalid {
        /// Operation and object.
        what: String,
        /// What to give instead.
        reason: String,
    },
    /// A system call other than netlink's own failed.
    #[error("{what}: {source}")]
    Io {
        /// Operation and object.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// Classifies an errno answered by the kernel.
    pub fn from_errno(what: impl Into<String>, errno: Errno, text: Option<&str>) -> Self {
        let what = what.into();
        let detail = text.map(|text| format!(" ({text})")).unwrap_or_default();
        match errno {
            Errno::EEXIST => Self::Exists { what, detail },
            Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::ENXIO => {
                Self::NotFound { what, errno, detail }
            }
            Errno::EPERM | Errno::EACCES => Self::NotPermitted { what, detail },
            _ => Self::Kernel { what, errno, detail },
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let errno = source.raw_os_error().map(Errno::from_raw);
        match errno {
            Some(errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOENT)) => {
                Self::from_errno(what, errno, None)
            }
            _ => Self::Io { what: what.into(), source },
        }
    }

    /// The object was already there.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// The object (or its device) is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Privilege is missing.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::NotPermitted { .. })
    }
}

/// Makes removal idempotent: what is already gone counts as removed.
pub trait IgnoreMissing {
    /// Turns [`Error::NotFound`] into success.
    fn ignore_missing(self) -> Result<()>;
}

impl IgnoreMissing for Result<()> {
    fn ignore_missing(self) -> Result<()> {
        match self {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }
}
