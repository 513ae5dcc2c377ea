//! The life of a daemon's process, the same for all: configuration, logging, runtime, signals.

use std::ops::Deref;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Common, ConfigError};
use crate::{limits, log, upgrade};

/// Longest wait, at the end, for threads that wait for the kernel.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Resolves when the process is asked to stop (SIGTERM or SIGINT).
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs `body` with the configuration on so many threads. `load` returns none if there is nothing to run.
pub fn run<C, F>(
    program: &'static str,
    workers: usize,
    load: impl FnOnce() -> Result<Option<C>, ConfigError>,
    body: impl FnOnce(C, Stop) -> F,
) -> ExitCode
where
    C: Deref<Target = Common>,
    F: Future<Output = Result<()>>,
{
    match start(workers, load, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not have been started yet, and systemd keeps standard error.
            #[allow(clippy::print_stderr, reason = "the last words of the program")]
            {
                eprintln!("{program}: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start<C, F>(
    workers: usize,
    load: impl FnOnce() -> Result<Option<C>, ConfigError>,
    body: impl FnOnce(C, Stop) -> F,
) -> Result<()>
where
    C: Deref<Target = Common>,
    F: Future<Output = Result<()>>,
{
    upgrade::remember_program();
    let Some(config) = load()? else { return Ok(()) };
    log::init(config.log_format, &config.log_level).map_err(|error| anyhow!(error))?;
    limits::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let outcome = runtime.block_on(async move { body(config, asked_to_stop()?).await });
    runtime.shutdown_timeout(LAST_WAIT);
    outcome
}

fn asked_to_stop() -> std::io::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }))
}
