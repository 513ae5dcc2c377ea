//! `cargo xtask demo`: build, then hand over to the demo's own program.

use std::process::Command;

use crate::{Outcome, cargo, packages};

/// The programs the demo starts, and the demo.
const BUILD: &[&str] = &[
    "build",
    "--package=margay-agent",
    "--package=margay-route-reflector",
    "--package=margay-cni",
    "--package=margay",
    "--package=margay-tests",
    "--bins",
];

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let etcd = arguments.iter().any(|argument| argument.contains("etcd"));
    let mut wanted = vec![packages::BUILD, packages::NETWORK];
    if etcd {
        wanted.push(packages::ETCD);
    }
    packages::ensure(&wanted)?;
    println!("building (the first time takes some minutes)");
    cargo::run(BUILD, &[])?;
    let status = Command::new(cargo::binaries().join("margay-demo"))
        .args(arguments)
        .current_dir(cargo::root())
        .status()
        .map_err(|error| format!("cannot run the demo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the demo failed ({status})")) }
}
