//! `margay-route-reflector`: registers itself in the datastore, finds its clients there, reflects their routes.

mod config;
mod reflector;

use std::process::ExitCode;

use anyhow::{Context, Result};
use margay_api::Kind;
use margay_daemon::health::{self, Health};
use margay_daemon::process::{self, Stop};
use margay_daemon::speaker::Speaker;
use margay_daemon::{bgp, monitor, server, store};
use margay_datastore::Syncer;
use tokio::sync::watch;

use crate::config::Config;
use crate::reflector::Reflector;

/// Name of the program, and of its claim on the host.
const PROGRAM: &str = "margay-route-reflector";

/// What has to be in order to be ready.
const COMPONENTS: [&str; 2] = ["bgp", "datastore"];

/// The kinds a reflector follows.
const KINDS: [Kind; 7] = [
    Kind::Node,
    Kind::IpPool,
    Kind::IpamBlock,
    Kind::BgpConfiguration,
    Kind::BgpPeer,
    Kind::BgpFilter,
    Kind::BfdConfiguration,
];

fn main() -> ExitCode {
    process::run(PROGRAM, Config::of_process, run)
}

async fn run(config: Config, mut stop: Stop) -> Result<()> {
    let health = Health::new(PROGRAM, &config.node, &COMPONENTS);
    let monitoring = monitor::monitoring(PROGRAM, &config)?;
    let (slot, speaker) = watch::channel(None);
    let routes =
        server::health_routes(health.clone(), server::metrics_of(&health, &speaker, config.peer_metrics));
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
        let reflector = Reflector::new(
            config,
            health,
            store,
            Speaker::new(slot, true).without_routes().monitored(monitoring),
        );
        reflector.run(objects, stop).await;
    }
    health::stopping();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!("removing {}: {error}", socket.display());
    }
    tracing::info!("stopped; clients keep their routes");
    Ok(())
}
