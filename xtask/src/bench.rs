//! `cargo xtask bench`: build with optimisation, then hand over to the benchmark's own program.

use std::process::Command;

use crate::{Outcome, cargo, packages};

pub(crate) fn run(arguments: &[String]) -> Outcome {
    // The others are compared with when they are there; only what is needed for our own is installed.
    packages::ensure(&[packages::BUILD])?;
    let packages = ["--package=margay-route-reflector", "--package=margay-agent", "--package=margay-bench"];
    cargo::run(&[["build", "--release"].as_slice(), &packages, &["--bins"]].concat(), &[])?;
    let status = Command::new(cargo::release_binaries().join("margay-bench"))
        .args(arguments)
        .current_dir(cargo::root())
        .status()
        .map_err(|error| format!("cannot run the benchmark: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the benchmark failed ({status})")) }
}
