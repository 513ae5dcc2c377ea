//! `cargo xtask bench`: build with optimisation, then hand over to the benchmark's own program.

use std::path::PathBuf;
use std::process::Command;

use crate::{Outcome, cargo, dist, packages};

pub(crate) fn run(arguments: &[String]) -> Outcome {
    // The others are compared with when they are there; only what is needed for our own is installed.
    packages::ensure(&[packages::BUILD])?;
    let packages = ["--package=margay-route-reflector", "--package=margay-agent", "--package=margay-bench"];
    cargo::run(&[["build", "--release"].as_slice(), &packages, &["--bins"]].concat(), &[])?;
    let mut command = Command::new(cargo::release_binaries().join("margay-bench"));
    command.args(arguments);
    if arguments.first().is_some_and(|what| what == "pod") {
        packages::ensure(&[packages::NETWORK, packages::RUNTIMES])?;
        command.arg("--shim").arg(dist::shim()?);
        if let Some(plugins) = newest_plugins() {
            command.arg("--plugins").arg(plugins);
        }
    }
    let status = command
        .current_dir(cargo::root())
        .status()
        .map_err(|error| format!("cannot run the benchmark: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the benchmark failed ({status})")) }
}

/// The newest plugins of containernetworking, where there is a Go compiler that gets them; Debian's otherwise.
fn newest_plugins() -> Option<PathBuf> {
    let folder = cargo::target().join("tools");
    let modules = ["main/ptp", "ipam/host-local"];
    let modules = modules.map(|name| format!("github.com/containernetworking/plugins/plugins/{name}@latest"));
    let built = ["go", "/usr/local/go/bin/go"].iter().any(|go| {
        let mut command = Command::new(go);
        command.arg("install").args(&modules).env("GOBIN", &folder).env("GOFLAGS", "-modcacherw");
        command.env("GOPATH", folder.join("go")).status().is_ok_and(|status| status.success())
    });
    built.then_some(folder)
}
