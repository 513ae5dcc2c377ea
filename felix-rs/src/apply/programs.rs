//! The iptables programs: finding them and executing them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{ApplyError, program_family};
use crate::rules::Family;
use crate::rules::names::CHAIN_PREFIX;

/// Seconds a program waits for the lock that all iptables programs share.
const LOCK_WAIT: &str = "10";
/// Characters of a program's complaint that are kept.
const MAX_COMPLAINT: usize = 400;

/// Which kernel interface the iptables programs write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

impl Variant {
    const fn infix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

/// Which iptables to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgramChoice {
    /// Folders to search instead of `PATH`.
    pub folders: Option<Vec<PathBuf>>,
    /// Absent: the one that already holds kubelet's or more rules (as kube-proxy's wrapper decides), then the
    /// system's default.
    pub variant: Option<Variant>,
}

/// The programs in use.
#[derive(Debug, Clone)]
pub struct Programs {
    variant: Option<Variant>,
    paths: BTreeMap<(Family, &'static str), PathBuf>,
}

impl Programs {
    /// Finds the programs.
    ///
    /// # Errors
    /// There are none where to look.
    pub fn find(choice: &ProgramChoice) -> Result<Self, ApplyError> {
        let folders = choice.folders.clone().unwrap_or_else(search_path);
        if let Some(variant) = choice.variant {
            return Self::of(&folders, Some(variant));
        }
        let both = (Self::of(&folders, Some(Variant::Nft)), Self::of(&folders, Some(Variant::Legacy)));
        if let (Ok(nft), Ok(legacy)) = both {
            // Unreadable counts as unused.
            let weigh =
                |programs: &Self| programs.save(Family::V4).map(|text| weight(&text)).unwrap_or((false, 0));
            let (nft_weight, legacy_weight) = (weigh(&nft), weigh(&legacy));
            if nft_weight != legacy_weight {
                return Ok(if nft_weight > legacy_weight { nft } else { legacy });
            }
        }
        Self::of(&folders, None)
    }

    fn of(folders: &[PathBuf], variant: Option<Variant>) -> Result<Self, ApplyError> {
        let mut paths = BTreeMap::new();
        for family in Family::ALL {
            for verb in ["save", "restore"] {
                let infix = variant.map_or("", Variant::infix);
                let program = format!("{}{infix}-{verb}", program_family(family));
                let found = folders.iter().map(|folder| folder.join(&program)).find(|path| path.is_file());
                let path = found.ok_or_else(|| ApplyError::MissingProgram {
                    program,
                    path: folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(":"),
                })?;
                paths.insert((family, verb), path);
            }
        }
        Ok(Self { variant, paths })
    }

    /// The variants that are installed and not in use, as far as they hold something of ours.
    pub(super) fn others(&self) -> Vec<Self> {
        let folders: Vec<_> =
            self.paths.values().filter_map(|path| Some(path.parent()?.to_owned())).collect();
        [Variant::Nft, Variant::Legacy]
            .into_iter()
            .filter(|variant| Some(*variant) != self.variant)
            .filter_map(|variant| Self::of(&folders, Some(variant)).ok())
            .filter(|programs| {
                Family::ALL
                    .into_iter()
                    .any(|family| programs.save(family).is_ok_and(|text| text.contains(CHAIN_PREFIX)))
            })
            .collect()
    }

    /// The variant, if one was chosen rather than the system's default.
    pub const fn variant(&self) -> Option<Variant> {
        self.variant
    }

    fn path(&self, family: Family, verb: &'static str) -> PathBuf {
        self.paths.get(&(family, verb)).cloned().unwrap_or_default()
    }

    /// All tables of a family with counters, as text.
    pub(super) fn save(&self, family: Family) -> Result<String, ApplyError> {
        run(&self.path(family, "save"), &["-c"], "")
    }

    /// Gives a text to `iptables-restore --noflush`.
    pub(super) fn restore(&self, family: Family, input: &str) -> Result<(), ApplyError> {
        run(&self.path(family, "restore"), &["--noflush", "--wait", LOCK_WAIT], input).map(drop)
    }
}

fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/sbin:/usr/bin:/bin"));
    std::env::split_paths(&path).collect()
}

/// Whether kubelet put its marker there, and how many rules there are.
fn weight(saved: &str) -> (bool, usize) {
    let kubelet = saved.contains(":KUBE-IPTABLES-HINT") || saved.contains(":KUBE-KUBELET-CANARY");
    (kubelet, saved.lines().filter(|line| line.contains("-A ")).count())
}

fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, ApplyError> {
    let failed = |source| ApplyError::Execute { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Both programs read all of their input before they say anything worth a pipe's buffer. One that ends
    // early breaks the pipe: its status says why.
    if let Some(mut stdin) = child.stdin.take() {
        let _status_tells = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line = line_number(&complaint).and_then(|number| input.lines().nth(number.checked_sub(1)?));
    Err(ApplyError::Program {
        program: program.to_owned(),
        status: output.status.to_string(),
        stderr: complaint.trim().chars().take(MAX_COMPLAINT).collect(),
        line: line.map(str::to_owned),
    })
}

/// The number in "line 12 failed", "Error occurred at line: 12".
fn line_number(complaint: &str) -> Option<usize> {
    let rest = complaint.split("line").nth(1)?.trim_start_matches([':', ' ']);
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_numbers_are_found_in_complaints() {
        assert_eq!(line_number("iptables-restore: line 12 failed"), Some(12));
        assert_eq!(line_number("Error occurred at line: 3\nTry"), Some(3));
        assert_eq!(line_number("xtables lock is held"), None);
    }

    #[test]
    fn missing_programs_are_named() {
        let choice = ProgramChoice { folders: Some(vec!["/nonexistent".into()]), variant: None };
        let error = Programs::find(&choice).unwrap_err().to_string();
        assert!(error.contains("iptables-save") && error.contains("install the package iptables"), "{error}");
    }

    #[test]
    fn kubelets_marker_outweighs_rules() {
        let kubelet = weight(":KUBE-KUBELET-CANARY - [0:0]\n");
        let many = weight("[0:0] -A INPUT -j ACCEPT\n[0:0] -A INPUT -j DROP\n");
        assert!(kubelet > many);
    }
}
