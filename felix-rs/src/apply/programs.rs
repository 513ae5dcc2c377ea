//! Executing the programs that write rules.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ApplyError;

/// Characters of a program's complaint that are kept.
const MAX_COMPLAINT: usize = 400;

/// Where programs are looked for.
pub(super) fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/sbin:/usr/bin:/bin"));
    std::env::split_paths(&path).collect()
}

/// The path of a program.
pub(super) fn find(folders: &[PathBuf], program: &str, package: &'static str) -> Result<PathBuf, ApplyError> {
    let found = folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| ApplyError::MissingProgram {
        program: program.to_owned(),
        package,
        path: folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(":"),
    })
}

/// What a program that is given a text says.
pub(super) fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, ApplyError> {
    let failed = |source| ApplyError::Execute { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // These programs read all of their input before they say anything worth a pipe's buffer. One that ends
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
        line: line.map(|line| line.chars().take(MAX_COMPLAINT).collect()),
    })
}

/// The number in "line 12 failed", "Error occurred at line: 12", "/dev/stdin:12:1-9: Error".
fn line_number(complaint: &str) -> Option<usize> {
    let rest = complaint.split_once("line").or_else(|| complaint.split_once("/dev/stdin"))?.1;
    let rest = rest.trim_start_matches([':', ' ']);
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_numbers_are_found_in_complaints() {
        assert_eq!(line_number("iptables-restore: line 12 failed"), Some(12));
        assert_eq!(line_number("Error occurred at line: 3\nTry"), Some(3));
        assert_eq!(line_number("/dev/stdin:7:1-5: Error: syntax error"), Some(7));
        assert_eq!(line_number("xtables lock is held"), None);
    }

    #[test]
    fn missing_programs_are_named() {
        let error = find(&["/nonexistent".into()], "nft", "nftables").unwrap_err().to_string();
        assert!(error.contains("no nft in /nonexistent") && error.contains("package nftables"), "{error}");
    }
}
