//! `cargo xtask vm`: what needs a feature that this machine's kernel may lack, under Debian's kernel in an emulated machine: tests,
//! and benchmarks, of which ratios mean something there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, cargo, packages};

/// Debian's package that depends on its newest kernel for virtual machines: small, and with every module of a network.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Where the tests look for it.
fn folder() -> PathBuf {
    cargo::target().join("vm")
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    prepare()?;
    if let Some((first, rest)) = arguments.split_first()
        && first == "bench"
    {
        return bench(rest);
    }
    packages::ensure(&[packages::BUILD, packages::NETWORK])?;
    cargo::run(&["build", "--workspace", "--bins"], &[])?;
    let filter = arguments.first().map_or("vm::", String::as_str);
    cargo::run(&["test", "--package=margay-tests", "--test=e2e", "--", filter], &[])
}

/// A benchmark with optimised programs.
fn bench(arguments: &[String]) -> Outcome {
    packages::ensure(&[packages::BUILD, packages::NETWORK, packages::RUNTIMES])?;
    let packages = ["margay-agent", "margay-bench", "margay-cni", "margay-tests"];
    let packages = packages.map(|name| format!("--package={name}"));
    let mut build = vec!["build", "--release", "--bins"];
    build.extend(packages.iter().map(String::as_str));
    cargo::run(&build, &[])?;
    let machine = cargo::release_binaries().join("margay-vm");
    let status = Command::new(&machine).args(arguments).status();
    let status = status.map_err(|error| format!("cannot run {}: {error}", machine.display()))?;
    if status.success() { Ok(()) } else { Err(format!("the benchmark failed ({status})")) }
}

/// Gets the kernel, once. It is unpacked, not installed.
pub(crate) fn prepare() -> Outcome {
    packages::ensure(&[packages::MACHINE])?;
    let (folder, kernel) = (folder(), folder().join("kernel"));
    if kernel.exists() {
        return Ok(());
    }
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let fresh = folder.join("unpacked");
    std::fs::create_dir_all(&fresh).map_err(|error| failed(&fresh.display().to_string(), &error))?;
    let package = newest()?;
    println!("getting {package}, for the tests in a virtual machine");
    said(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&folder))?;
    let files = std::fs::read_dir(&folder).map_err(|error| failed(&folder.display().to_string(), &error))?;
    let archive = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .ok_or("apt-get downloaded nothing")?;
    said(Command::new("dpkg").arg("-x").arg(&archive).arg(&fresh))?;
    said(Command::new("busybox").args(["depmod", "-b"]).arg(&fresh).arg(release(&fresh)?))?;
    std::fs::rename(&fresh, &kernel).map_err(|error| failed(&kernel.display().to_string(), &error))
}

/// Name of the package with the kernel itself.
fn newest() -> Result<String, String> {
    let depends = || said(Command::new("apt-cache").args(["depends", KERNEL]));
    let found = |text: String| {
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
    };
    if let Some(name) = depends().ok().and_then(found) {
        return Ok(name);
    }
    said(Command::new("apt-get").args(["update", "-qq"]))?;
    found(depends()?).ok_or_else(|| format!("apt knows no kernel that {KERNEL} depends on"))
}

/// The kernel's release, as its folder of modules is called.
fn release(root: &Path) -> Result<String, String> {
    let folder = root.join("lib/modules");
    let mut names = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let name = names.next().and_then(Result::ok).ok_or("the package has no modules")?;
    name.file_name().into_string().map_err(|name| format!("odd release {}", name.display()))
}

/// What a program prints, if it succeeds.
fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name} failed:\n{}", String::from_utf8_lossy(&output.stderr)))
}
