//! `cargo xtask vm bench`: executes the benchmark beside this program in a virtual machine, with the arguments given.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a person at a terminal")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use margay_tests::machine::Machine;

/// What the benchmark executes, all beside this program.
const PROGRAMS: [&str; 3] = ["margay-bench", "margay-agent", "margay-cni"];

/// What it compares with.
const PLUGINS: [&str; 2] = ["/usr/lib/cni/host-local", "/usr/lib/cni/ptp"];

/// Begins the line with the benchmark's exit code.
const STATUS: &str = "status: ";

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program's folder")?;
    let target = folder.parent().context("target folder")?;
    let programs = PROGRAMS.map(|name| (folder.join(name), name));
    let arguments: Vec<String> = std::env::args().skip(1).map(|argument| quoted(&argument)).collect();
    let script = format!(
        "/margay/margay-bench {}\necho \"{STATUS}$?\"\n/bin/busybox poweroff -f\n",
        arguments.join(" ")
    );
    let machine =
        Machine { name: "bench", programs: &programs, tools: &PLUGINS, folders: &[], script: &script };
    let mut command = machine.command(Path::new(target))?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut status = None;
    for line in BufReader::new(child.stdout.take().context("no standard output")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match line.trim_end().strip_prefix(STATUS) {
            Some(code) => status = code.parse().ok(),
            None => println!("{}", line.trim_end()),
        }
    }
    let ended = child.wait()?;
    status.with_context(|| format!("the machine ended before the benchmark: {ended}"))
}

/// As one word of the shell.
fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', "'\\''"))
}
