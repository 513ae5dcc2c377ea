//! `margay`: the operator's tool.

mod check;
mod columns;
mod commands;
mod config;
mod files;
mod output;
mod store;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Cli;
use crate::output::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(report) => print(&report),
        Err(error) => print(&Report::failed(output::chain(&error))),
    }
}

/// Results to stdout, complaints to stderr. A reader that closed the pipe (`| head`) is no error.
fn print(report: &Report) -> ExitCode {
    let mut text = report.text.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let written = std::io::stdout().write_all(text.as_bytes());
    let mut stderr = std::io::stderr();
    for complaint in &report.complaints {
        if writeln!(stderr, "{complaint}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ if report.failed => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
