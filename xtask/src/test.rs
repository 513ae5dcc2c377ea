//! `cargo xtask test`: all tiers, and one closing line that sums them up.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::{Outcome, cargo, packages, vm};

/// Sums of everything cargo's test programs report.
#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// What the test programs say of what failed, to be said once more at the end of a long log.
    failures: Vec<String>,
    in_failures: bool,
}

impl Sums {
    /// Adds what one line of a test program's output says.
    fn add(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_failures = false;
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(what)) =
                    (words.next().and_then(|n| n.parse::<u64>().ok()), words.next())
                else {
                    continue;
                };
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.skipped += number,
                    _ => {}
                }
            }
        } else if line.starts_with("skipped: ") {
            // A test that finds at run time that the machine lacks something ends as passed.
            self.skipped += 1;
            self.passed = self.passed.saturating_sub(1);
        }
        self.in_failures |= line == "failures:";
        if self.in_failures {
            self.failures.push(line.to_owned());
        }
    }
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    packages::ensure(&[
        packages::BUILD,
        packages::NETWORK,
        packages::ETCD,
        packages::PEERS,
        packages::RUNTIMES,
        packages::TOOLS,
    ])?;
    if let Err(problem) = vm::prepare() {
        println!("{problem}");
    }
    // The end-to-end tests execute the real programs.
    cargo::run(&["build", "--workspace", "--bins"], &[])?;
    let mut command = cargo::command(&["test", "--workspace", "--no-fail-fast"]);
    command.args(arguments).stdout(Stdio::piped());
    if packages::is_root() {
        // Everything the tests need was installed above, so nothing may be skipped.
        command.env("TESTS_REQUIRE_ALL", "1");
    } else {
        println!(
            "not root: tests that need network namespaces are skipped; `sudo cargo xtask test` runs all"
        );
    }
    let mut child = command.spawn().map_err(|error| format!("cannot run cargo test: {error}"))?;
    let mut sums = Sums::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            sums.add(&line);
        }
    }
    for line in &sums.failures {
        println!("{line}");
    }
    let status = child.wait().map_err(|error| format!("cannot wait for cargo test: {error}"))?;
    println!("\n{} passed, {} failed, {} skipped", sums.passed, sums.failed, sums.skipped);
    if !status.success() {
        return Err(format!("tests failed ({status})"));
    }
    if sums.passed == 0 {
        return Err("no test ran".to_owned());
    }
    if std::env::var_os("CI").is_some() && sums.skipped > 0 {
        return Err(format!("{} tests were skipped, which CI does not accept", sums.skipped));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn sums_up_test_programs() {
        let mut sums = Sums::default();
        for line in [
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "skipped: no network namespaces",
            "failures:",
            "    b",
            "test result: FAILED. 2 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.25s",
        ] {
            sums.add(line);
        }
        assert_eq!((sums.passed, sums.failed, sums.skipped), (4, 2, 2));
        assert_eq!(sums.failures, ["failures:", "    b"]);
    }
}
