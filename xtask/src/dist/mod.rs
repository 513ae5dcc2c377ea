//! `cargo xtask dist`: static release binaries, the container's root file system, and the image.

mod elf;
mod image;
mod rootfs;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Outcome, cargo, packages};

/// The shim is read from disk and mapped once per pod and verb.
const SHIM_LIMIT: u64 = 2 << 20;

/// The programs: package, binary, profile.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("margay-agent", "margay-agent", "release"),
    ("margay-route-reflector", "margay-route-reflector", "release"),
    ("margay", "margay", "release"),
    ("margay-cni", SHIM, "cni"),
];

/// The CNI shim's binary.
const SHIM: &str = "margay-cni";

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let mut with_image = false;
    for argument in arguments {
        match argument.as_str() {
            "--image" => with_image = true,
            other => return Err(format!("`cargo xtask dist` takes --image, not `{other}`")),
        }
    }
    packages::ensure(&[packages::BUILD, packages::NETWORK])?;
    let dist = cargo::target().join("dist");
    build()?;
    collect(&dist.join("bin"))?;
    check_shim(&dist.join("bin").join(SHIM))?;
    rootfs::make(&dist.join("rootfs"))?;
    if with_image { image::make_and_check(&dist) } else { Ok(()) }
}

/// Builds every program as one static file.
fn build() -> Outcome {
    ["release", "cni"].into_iter().try_for_each(build_profile)
}

fn build_profile(profile: &str) -> Outcome {
    let host = cargo::host()?;
    // With an explicit target the flag does not reach build scripts and procedural macros, which can't be static.
    let target = format!("--target={host}");
    let flags = format!("{} -C target-feature=+crt-static", std::env::var("RUSTFLAGS").unwrap_or_default());
    let environment = [("RUSTFLAGS", flags.trim())];
    let profile_flag = format!("--profile={profile}");
    let mut arguments = vec!["build".to_owned(), "--locked".to_owned(), target, profile_flag];
    let of_profile = PROGRAMS.iter().filter(|(_, _, wanted)| *wanted == profile);
    arguments.extend(of_profile.map(|(package, _, _)| format!("--package={package}")));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    println!("building with profile {profile}");
    cargo::run(&arguments, &environment)
}

/// The CNI shim as it is delivered, no larger than it may be.
pub(crate) fn shim() -> Result<PathBuf, String> {
    build_profile("cni")?;
    let shim = cargo::target().join(cargo::host()?).join("cni").join(SHIM);
    check_shim(&shim)?;
    Ok(shim)
}

/// Puts the programs side by side into `folder`.
fn collect(folder: &Path) -> Outcome {
    empty(folder)?;
    let host = cargo::host()?;
    for (_, binary, profile) in PROGRAMS {
        let built = cargo::target().join(&host).join(profile).join(binary);
        let target = folder.join(binary);
        copy(&built, &target)?;
        if !elf::is_static(&read(&target)?)? {
            return Err(format!("{} needs shared libraries: it must be one static file", target.display()));
        }
        println!("{:>8.2} MiB  {}", mebibytes(size(&target)?), target.display());
    }
    Ok(())
}

/// The shim is small, and free of an async runtime.
fn check_shim(shim: &Path) -> Outcome {
    let size = size(shim)?;
    if size > SHIM_LIMIT {
        return Err(format!(
            "{} has {size} bytes, more than {SHIM_LIMIT}: see what grew with `cargo bloat --profile cni`",
            shim.display()
        ));
    }
    let package = format!("--package={SHIM}");
    let tree = cargo::output(&["tree", "--locked", &package, "--edges=normal", "--prefix=none"])?;
    match tree.lines().find(|line| line.starts_with("tokio ")) {
        Some(line) => Err(format!("the shim depends on {line}: it must stay free of an async runtime")),
        None => Ok(()),
    }
}

/// Makes `folder` anew.
fn empty(folder: &Path) -> Outcome {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        _ => fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display())),
    }
}

/// Copies what a file or symbolic link holds, with its permissions, making the folders above it.
fn copy(from: &Path, to: &Path) -> Outcome {
    let failed = |error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::copy(from, to).map(drop).map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn size(path: &Path) -> Result<u64, String> {
    fs::metadata(path).map(|meta| meta.len()).map_err(|error| format!("{}: {error}", path.display()))
}

/// The files of a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("cannot read {}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<_> =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
