//! Running cargo on this workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// The repository's top folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cargo that runs us, in the repository's top folder.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    command
}

/// Runs cargo and fails with what was run.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let status = command(arguments)
        .envs(environment.iter().copied())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed ({status})", arguments.join(" "))) }
}

/// Standard output of cargo, or what was run and why it failed.
pub(crate) fn output(arguments: &[&str]) -> Result<String, String> {
    let output = command(arguments).output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("`cargo {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// The machine's own target triple.
pub(crate) fn host() -> Result<String, String> {
    let version = output(&["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "cargo does not say which host it is for".to_owned())
}

/// Cargo's folder for everything it makes.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Folder of the binaries that `cargo build` makes.
pub(crate) fn binaries() -> PathBuf {
    target().join("debug")
}

/// Folder of the binaries that `cargo build --release` makes.
pub(crate) fn release_binaries() -> PathBuf {
    target().join("release")
}
