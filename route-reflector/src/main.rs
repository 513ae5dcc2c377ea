//! `margay-route-reflector`: registers itself in the datastore, finds its clients there, reflects their routes.

mod config;
mod reflector;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use margay_api::Kind;
use margay_daemon::health::{self, Health};
use margay_daemon::instance::Instance;
use margay_daemon::speaker::Speaker;
use margay_daemon::{bgp, limits, log, server, store};
use margay_datastore::Syncer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, Flags};
use crate::reflector::Reflector;

/// Name of the program, and of its claim on the host.
const PROGRAM: &str = "margay-route-reflector";

/// What has to be in order to be ready.
const COMPONENTS: [&str; 2] = ["bgp", "datastore"];

/// The kinds a reflector follows.
const KINDS: [Kind; 6] =
    [Kind::Node, Kind::IpPool, Kind::IpamBlock, Kind::BgpConfiguration, Kind::BgpPeer, Kind::BgpFilter];

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not have been started yet, and systemd keeps standard error.
            #[allow(clippy::print_stderr, reason = "the last words of the program")]
            {
                eprintln!("{PROGRAM}: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let flags = Flags::parse();
    let config = Config::load(&flags)?;
    if flags.check_config {
        return Ok(());
    }
    log::init(config.log_format, &config.log_level).map_err(|error| anyhow!(error))?;
    limits::raise_open_files();
    let _instance = Instance::claim(PROGRAM).map_err(|error| anyhow!(error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut stop = std::pin::pin!(stop);
    let health = Health::new(PROGRAM, &config.node, &COMPONENTS);
    let (slot, speaker) = watch::channel(None);
    let routes = server::health_routes(health.clone(), server::metrics_of(&health, &speaker));
    if let Some(address) = config.metrics_listen {
        server::serve_tcp(address, routes.clone())
            .await
            .with_context(|| format!("listening on {address}"))?;
    }
    let listener = server::bind_unix(&config.socket)
        .with_context(|| format!("listening on {}", config.socket.display()))?;
    tokio::spawn(server::serve_unix(listener, routes.merge(bgp::routes(speaker))));
    // Only now, so that it can be asked what it waits for.
    let store = tokio::select! {
        store = store::open(&config.datastore, &health) => Some(store),
        () = &mut stop => None,
    };
    let socket = config.socket.clone();
    if let Some(store) = store {
        let scopes: Vec<_> = KINDS.iter().map(|kind| (*kind).into()).collect();
        let objects = Syncer::spawn(store.clone(), &scopes)?;
        // Clients may hold what an earlier instance told them: End-of-RIB waits until they have told us theirs.
        let reflector = Reflector::new(config, health, store, Speaker::new(slot, true).without_routes());
        reflector.run(objects, stop).await;
    }
    health::stopping();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!("removing {}: {error}", socket.display());
    }
    tracing::info!("stopped; clients keep their routes");
    Ok(())
}
