//! `cargo xtask <chore>`: everything one does with this repository, in one place.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod bench;
mod cargo;
mod demo;
mod dist;
mod fuzz;
mod layers;
mod lint;
mod packages;
mod test;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask <chore>

  demo [--datastore embedded|etcd] [--keep]   build, then show the whole network on this machine
  fuzz [TARGET] [--seconds N] [--minimise]    feed every parser of foreign bytes with mutated input (nightly)
  test [FILTER...]                            every tier of tests that this machine can run
  vm [FILTER]                                 tests that need another kernel, under Debian's in an emulated machine
  vm bench pod --only traffic                 a benchmark there: the flow table's effect
  lint                                        format, clippy, documentation, who may depend on whom
  dist [--image]                              static release binaries in target/dist, and the container image
  bench rr [--quick] [--check] [--json FILE]  route reflectors under load: ours, others that are installed, a bare mirror
  bench pod [--quick] [--check] [--json FILE] a pod's start and end, beside the plugins of containernetworking
  bench codec [--check] [--json FILE]         the wire codec beside the decoders of UPDATEs on crates.io
  bench core                                  the speaker alone, without sockets, for profilers
  help                                        this text

demo, dist and test install the Debian packages they miss when run as root, else they print the command.";

/// Result of a chore: the error is a sentence for the person at the terminal.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let chore = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let outcome = match chore.as_str() {
        "demo" => demo::run(&rest),
        "fuzz" => fuzz::run(&rest),
        "test" => test::run(&rest),
        "dist" => dist::run(&rest),
        "bench" => bench::run(&rest),
        "vm" => vm::run(&rest),
        "lint" => lint::run(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        "" => Err(USAGE.to_owned()),
        other => Err(format!("there is no chore `{other}`\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
