//! `cargo xtask bench`: what a reflector (or a node's agent) does under load, beside the others and beside what the machine can do.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a person at a terminal")]
#![allow(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measuring program: numbers of clients and routes are its own, and a wrong one should stop it"
)]

mod book;
mod codec;
mod core;
mod fib;
mod form;
mod lab;
mod mirror;
mod plan;
mod pod;
mod policy;
mod process;
mod report;
mod scenario;
mod state;
mod subject;
mod swarm;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::form::Form;
use crate::report::Record;
use crate::scenario::{FULL, Figures, QUICK, Scenario};
use crate::subject::Subject;

/// Measures route reflectors
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Reflectors as a whole: ours, the others that are installed, and a mirror that does the least there is to do
    Rr(Rr),
    /// The wire codec alone, beside the decoders of UPDATEs on crates.io
    Codec(Form),
    /// The speaker alone, without sockets: for profilers
    Core(core::Flags),
    /// Policy: what it costs packets, and how long changes take to reach them
    Policy(policy::Flags),
    /// The policy calculation alone, for a cluster of so many endpoints and policies
    #[command(hide = true)]
    Calculate(policy::Calculation),
    /// A pod's network: start and end, packets, routes, and the agent at rest, each beside what it is measured by
    Pod(pod::Flags),
    /// The mirror itself, in the namespace of the process under test
    #[command(hide = true)]
    Mirror,
}

#[derive(Debug, clap::Args)]
struct Rr {
    #[command(flatten)]
    form: Form,
    /// Runs of each, interleaved; medians count (default 3, quick 1)
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Only these subjects
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    only: Vec<Subject>,
    /// Only scenarios whose names contain this
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
}

fn main() -> ExitCode {
    let outcome = match Flags::parse().what {
        What::Rr(flags) => rr(&flags),
        What::Codec(form) => codec::run(&form),
        What::Core(flags) => core::run(&flags).map(|()| true),
        What::Policy(flags) => policy::run(&flags),
        What::Calculate(flags) => policy::calculate(&flags).map(|()| true),
        What::Pod(flags) => pod::run(&flags),
        What::Mirror => mirror::run().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("margay-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn rr(flags: &Rr) -> Result<bool> {
    // Thousands of sockets, here and in the processes under test.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of open files")?;
    let scenarios = if flags.form.quick { QUICK } else { FULL };
    let wanted = |scenario: &&Scenario| {
        flags.scenario.as_ref().is_none_or(|part| scenario.name.contains(part.as_str()))
    };
    let mut subjects = Vec::new();
    for subject in
        Subject::ALL.into_iter().filter(|subject| flags.only.is_empty() || flags.only.contains(subject))
    {
        match subject.missing() {
            None => subjects.push(subject),
            Some(why) => eprintln!("not measured: {subject:?}: {why}"),
        }
    }
    let runs = flags.runs.unwrap_or(if flags.form.quick { 1 } else { 3 });
    let mut records: Vec<Record> = Vec::new();
    for scenario in scenarios.iter().filter(wanted) {
        for run in 1..=runs {
            for subject in subjects.iter().copied() {
                let failed = |record: &Record| {
                    record.scenario == scenario.name && record.subject == subject && record.wrong.is_some()
                };
                let idle = subject == Subject::Pinned && !scenario.pinned;
                if idle || subject.is_foreign() && records.iter().any(failed) {
                    continue;
                }
                let mut figures = Figures::default();
                let wrong =
                    scenario::run(scenario, subject, &mut figures).err().map(|error| format!("{error:#}"));
                let time = figures.convergence.map_or_else(|| "-".to_owned(), |time| format!("{time:.3} s"));
                eprintln!(
                    "{}, {subject:?}, run {run}: {time}{}",
                    scenario.name,
                    wrong.as_deref().map(|wrong| format!(": {wrong}")).unwrap_or_default()
                );
                records.push(Record { scenario: scenario.name.to_owned(), subject, figures, wrong });
            }
        }
    }
    let rows = report::rows(&records);
    println!("{}", report::table(&rows));
    let cores = std::thread::available_parallelism()?.get();
    flags.form.keep(&serde_json::json!({ "cores": cores, "runs": records, "rows": rows }))?;
    let missed = if flags.form.check { report::missed(&rows) } else { report::wrong(&rows) };
    missed.iter().for_each(|line| println!("missed: {line}"));
    Ok(missed.is_empty())
}
