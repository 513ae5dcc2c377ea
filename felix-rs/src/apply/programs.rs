//! Executing the programs that write rules.

use std::ffi::OsString;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::ApplyError;

/// A program that takes longer hangs. It waits for the xtables lock for 5 s, and writes 100,000 rules in a few.
const PATIENCE: Duration = Duration::from_secs(60);
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
    run_within(PATIENCE, program, arguments, input)
}

fn run_within(
    patience: Duration,
    program: &Path,
    arguments: &[&str],
    input: &str,
) -> Result<String, ApplyError> {
    let failed = |source| ApplyError::Execute { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let text = Arc::<str>::from(input);
    let (done, wait) = mpsc::channel();
    // One that hangs may do so before it has read its input, or hand its pipes to a child: nobody waits for these threads.
    std::thread::spawn(move || {
        // One that ends early breaks the pipe: its status says why.
        let _status_tells = stdin.map(|mut stdin| stdin.write_all(text.as_bytes()));
    });
    std::thread::spawn(move || {
        let complaint = std::thread::spawn(move || all(stderr));
        let said = all(stdout);
        let _hung = done.send((said, complaint.join().unwrap_or_default()));
    });
    let Ok((said, complaint)) = wait.recv_timeout(patience) else {
        let _ended = child.kill();
        let _status = child.wait();
        return Err(ApplyError::Hung { program: program.to_owned(), patience });
    };
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&said).into_owned());
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let line = line_number(&complaint).and_then(|number| input.lines().nth(number.checked_sub(1)?));
    Err(ApplyError::Program {
        program: program.to_owned(),
        status: status.to_string(),
        stderr: complaint.trim().chars().take(MAX_COMPLAINT).collect(),
        line: line.map(|line| line.chars().take(MAX_COMPLAINT).collect()),
    })
}

/// Everything a pipe has to say.
fn all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut octets = Vec::new();
    let _as_far_as_it_goes = pipe.map(|mut pipe| pipe.read_to_end(&mut octets));
    octets
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
    fn programs_that_hang_are_ended() {
        let run = |patience, script: &str, input: &str| {
            run_within(patience, Path::new("/bin/sh"), &["-c", script], input)
        };
        let hung =
            run(Duration::from_millis(50), "sleep 1000", &"x".repeat(1 << 20)).unwrap_err().to_string();
        assert!(hung.contains("/bin/sh") && hung.contains("hangs"), "{hung}");
        let text = "a line\n".repeat(100_000);
        assert_eq!(run(PATIENCE, "cat", &text).unwrap(), text, "longer than any pipe's buffer");
        let failed = run(PATIENCE, "cat > /dev/null; echo line 2 failed >&2; exit 3", "a\nb\n").unwrap_err();
        assert!(failed.to_string().contains("(line: b)"), "{failed}");
    }

    #[test]
    fn missing_programs_are_named() {
        let error = find(&["/nonexistent".into()], "nft", "nftables").unwrap_err().to_string();
        assert!(error.contains("no nft in /nonexistent") && error.contains("package nftables"), "{error}");
    }
}
