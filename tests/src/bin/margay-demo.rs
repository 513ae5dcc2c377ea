//! `cargo xtask demo`: the whole network on one machine, in namespaces of its own.

#![allow(clippy::print_stderr, reason = "a program for a person at a terminal")]

use std::process::ExitCode;

use clap::Parser;
use margay_tests::cluster::Datastore;
use margay_tests::demo;
use margay_tests::sandbox::{self, Entered};

/// Builds a routed cluster on this machine, proves what it does, and leaves nothing behind
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo")]
struct Flags {
    /// Which datastore the cluster uses
    #[arg(long, value_enum, default_value = "embedded")]
    datastore: Datastore,
    /// Leave the lab up at the end and print how to look around
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let outcome = match sandbox::enter() {
        Ok(Entered::Done(code)) => return code,
        Ok(Entered::Inside(sandbox)) => demo::run(flags.datastore, flags.keep, sandbox),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
