//! Network namespaces held by a file descriptor: nothing is named, so nothing is left behind.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::error::{Error, Result};

/// A network namespace, alive as long as this value (or any process, socket or moved device's owner in it) is.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// Makes a new, empty namespace (only `lo`, down).
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Self> {
        let what = "create a network namespace";
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::from_errno(what, e, None))?;
            Self::current()
        })
    }

    /// The calling thread's own namespace.
    ///
    /// # Errors
    /// When `/proc` isn't mounted.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Opens a namespace by path: `/run/netns/x`, `/proc/<pid>/ns/net`, `/proc/<pid>/fd/<n>`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the path doesn't exist, [`Error::Invalid`] when it is no namespace file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let what = || format!("open network namespace {}", path.display());
        // Without blocking, because the path is foreign input and may name a pipe.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| Error::io(what(), e))?;
        let kind = fstatfs(&file).map_err(|e| Error::from_errno(what(), e, None))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            let reason = "not a namespace: give a path like /run/netns/NAME or /proc/PID/ns/net".to_owned();
            return Err(Error::Invalid { what: what(), reason });
        }
        Ok(Self { file })
    }

    /// A second handle on the same namespace.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self.file.try_clone().map_err(|e| Error::io("duplicate a namespace handle", e))?;
        Ok(Self { file })
    }

    /// Runs `job` on a thread inside the namespace and returns its result; a panic in it continues here.
    /// Sockets keep the namespace they were made in, and processes inherit the thread's.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(job())
        })
    }

    /// Moves the calling thread into the namespace, for good. Meant for a thread's first act.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without `CAP_SYS_ADMIN`; `EINVAL` when it is not a network namespace.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::from_errno("enter a network namespace", e, None))
    }

    /// Starts a process inside the namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered or the program can't be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let what = format!("start {}", command.get_program().to_string_lossy());
        self.run(|| command.spawn().map_err(|e| Error::io(what, e)))?
    }

    /// A path by which another process can open the namespace while this value lives:
    /// `/proc/<this pid>/fd/<n>` (a `CNI_NETNS`, `nsenter --net=…`, `ip link set … netns …`).
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// The namespace's identity: device and inode of its nsfs file. Equal exactly for the same namespace.
    ///
    /// # Errors
    /// When the descriptor can't be examined.
    pub fn id(&self) -> Result<(u64, u64)> {
        let meta = self.file.metadata().map_err(|e| Error::io("examine a network namespace", e))?;
        Ok((meta.dev(), meta.ino()))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Namespace membership belongs to threads: whatever changes it gets a thread of its own.
fn on_thread<T: Send>(job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, job)
            .map_err(|e| Error::io("start a thread for a network namespace", e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
