//! Programs of others: the system's, or those of another root that `INTEROP_ROOT` names, so that newer ones can be tried.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// The other root.
#[must_use]
pub fn root() -> Option<PathBuf> {
    std::env::var_os("INTEROP_ROOT").map(PathBuf::from)
}

/// Shows programs in another root what they see in ours: our processes, and the files in `/run`. For the sandbox, which
/// takes the mounts with it.
///
/// # Errors
/// A mount is refused.
pub fn open_root() -> Result<()> {
    let Some(root) = root() else { return Ok(()) };
    for folder in ["dev", "proc", "run", "sys"] {
        let (from, to, none) = (Path::new("/").join(folder), root.join(folder), None::<&str>);
        mount(Some(&from), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .with_context(|| format!("mounting {} for the programs in there", to.display()))?;
    }
    Ok(())
}

/// A program, by its whole path.
pub fn command(path: impl AsRef<OsStr>) -> Command {
    let Some(root) = root() else { return Command::new(path) };
    let mut command = Command::new("chroot");
    command.arg(root).arg(path);
    command
}
