//! What the agent executes in a container made from nothing: iptables, gathered from Debian's packages.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{copy, empty, entries, mebibytes, size};
use crate::Outcome;

/// Where Debian keeps the programs.
const SBIN: &str = "/usr/sbin";

/// Both iptables, each one file that acts by the name it is called by.
const MULTI: [(&str, &str); 2] = [("xtables-nft-multi", "-nft"), ("xtables-legacy-multi", "-legacy")];

/// Gathers the root file system in `root`.
pub(super) fn make(root: &Path) -> Outcome {
    empty(root)?;
    let mut programs = Vec::new();
    for (multi, infix) in MULTI {
        programs.push(Path::new(SBIN).join(multi));
        for family in ["iptables", "ip6tables"] {
            for verb in ["", "-save", "-restore"] {
                link(multi, &under(root, &Path::new(SBIN).join(format!("{family}{infix}{verb}"))))?;
                if multi == MULTI[0].0 {
                    link(multi, &under(root, &Path::new(SBIN).join(format!("{family}{verb}"))))?;
                }
            }
        }
    }
    let extensions = extensions()?;
    let mut files: BTreeSet<PathBuf> = programs.iter().cloned().collect();
    for path in programs.iter().chain(&extensions) {
        // Several extensions are links to the file that implements them.
        match fs::read_link(path) {
            Ok(target) if target.components().count() == 1 => link(target, &under(root, path))?,
            _ => drop(files.insert(path.clone())),
        }
    }
    for path in programs.iter().chain(&extensions) {
        files.extend(libraries(path)?);
    }
    let mut bytes = 0;
    for path in &files {
        let target = under(root, path);
        copy(path, &target)?;
        bytes += size(&target)?;
    }
    copyrights(root, &files)?;
    println!("{:>8.2} MiB  {} ({} files)", mebibytes(bytes), root.display(), files.len());
    Ok(())
}

/// Where `path` goes under `root`.
fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn link(target: impl AsRef<Path>, link: &Path) -> Outcome {
    let failed = |error| format!("cannot make the link {}: {error}", link.display());
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    symlink(target, link).map_err(failed)
}

/// The matches and targets iptables loads: `/usr/lib/<triplet>/xtables/*.so`.
fn extensions() -> Result<Vec<PathBuf>, String> {
    let folder =
        entries(Path::new("/usr/lib"))?.into_iter().map(|path| path.join("xtables")).find(|p| p.is_dir());
    entries(&folder.ok_or("no /usr/lib/*/xtables: is the package iptables installed?")?)
}

/// The shared libraries of a program or library, at the paths the dynamic linker will look for them.
fn libraries(path: &Path) -> Result<Vec<PathBuf>, String> {
    let output =
        Command::new("ldd").arg(path).output().map_err(|error| format!("cannot run ldd: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find(|line| line.contains("not found")) {
        Some(line) => Err(format!("{} misses a library: {}", path.display(), line.trim())),
        None if output.status.success() => Ok(parse_ldd(&text)),
        None => Err(format!("`ldd {}` failed: {}", path.display(), String::from_utf8_lossy(&output.stderr))),
    }
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the dynamic linker without an arrow.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.rsplit("=> ").next()?.split_whitespace().next().map(PathBuf::from);
    text.lines().filter_map(path).filter(|path| path.is_absolute()).collect()
}

/// The licences of what was gathered, where Debian has them.
fn copyrights(root: &Path, files: &BTreeSet<PathBuf>) -> Outcome {
    let mut packages = BTreeSet::new();
    for path in files {
        // dpkg knows a file by the name in its package, with /usr or without.
        let path = path.to_string_lossy();
        let bare = path.strip_prefix("/usr").unwrap_or(&path);
        let output = Command::new("dpkg-query")
            .args(["--search", bare, &format!("/usr{bare}")])
            .output()
            .map_err(|error| format!("cannot run dpkg-query: {error}"))?;
        let found = String::from_utf8_lossy(&output.stdout);
        packages.extend(found.split(':').next().filter(|name| !name.is_empty()).map(str::to_owned));
    }
    for package in packages {
        let file = PathBuf::from(format!("/usr/share/doc/{package}/copyright"));
        // Minimal systems are installed without documentation.
        if file.exists() {
            copy(&file, &under(root, &file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007fc914a73000)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007fc9149a5000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fc914a75000)\n";
        let paths: Vec<_> = parse_ldd(text).iter().map(|p| p.display().to_string()).collect();
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }
}
