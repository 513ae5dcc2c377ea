//! `margay-agent`: one process per node that joins datastore, BGP, IPAM, policy, routes and CNI.

mod addresses;
mod api;
mod attachments;
mod cluster;
mod config;
mod explain;
mod fib;
mod forwarding;
mod journal;
mod node;
mod policy;
mod writer;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use margay_api::Kind;
use margay_daemon::health::{self, Health};
use margay_daemon::instance::Instance;
use margay_daemon::speaker::Speaker;
use margay_daemon::{bgp, log, server, store};
use margay_datastore::Syncer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::addresses::Addresses;
use crate::config::{Config, Flags};
use crate::fib::Fib;
use crate::forwarding::Forwarding;
use crate::node::{Node, Parts, Underlay};

/// Name of the program, and of its claim on the node.
const PROGRAM: &str = "margay-agent";

/// Requests that may wait for the node's task.
const REQUESTS: usize = 256;

/// What has to be in order for the node to be ready.
const COMPONENTS: [&str; 5] = ["bgp", "datastore", "ipam", "policy", "routes"];

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
    let _instance = Instance::claim(PROGRAM).map_err(|error| anyhow!(error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(config));
    // Threads that wait for the kernel must not keep a stopping agent.
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
    let addresses = Addresses::open(&config.state_dir)
        .with_context(|| format!("opening the journal in {}", config.state_dir.display()))?;
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let (slot, speaker) = watch::channel(None);
    let engine = policy::spawn(&config.node, health.clone()).map_err(|error| anyhow!(error))?;
    let fib = Fib::open().context("opening the kernel's routing table (the agent needs CAP_NET_ADMIN)")?;
    let forwarding = Forwarding::spawn(fib, health.clone()).map_err(|error| anyhow!(error))?;
    let underlay = Underlay::read().context("reading the kernel's routes")?;

    let routes = server::health_routes(health.clone(), server::metrics_of(&health, &speaker));
    if let Some(address) = config.metrics_listen {
        server::serve_tcp(address, routes.clone())
            .await
            .with_context(|| format!("listening on {address}"))?;
    }
    let opened = Arc::new(OnceLock::new());
    let api = api::Api { node: requests, engine: engine.clone(), store: Arc::clone(&opened) };
    let router = routes.merge(bgp::routes(speaker)).merge(api::routes(api));
    let listener = server::bind_unix(&config.socket)
        .with_context(|| format!("listening on {}", config.socket.display()))?;
    tokio::spawn(server::serve_unix(listener, router));

    // Only now, so that it can be asked what it waits for.
    let store = tokio::select! {
        store = store::open(&config.datastore, &health) => Some(store),
        () = &mut stop => None,
    };
    let socket = config.socket.clone();
    if let Some(store) = store {
        let store = opened.get_or_init(|| store).clone();
        // An agent that had addresses before was here before: its peers may still hold its routes.
        let was_here = addresses.allocator().blocks().next().is_some();
        let speaker = Speaker::new(slot, was_here);
        let scopes: Vec<_> = Kind::ALL.iter().map(|kind| (*kind).into()).collect();
        let objects = Syncer::spawn(store.clone(), &scopes)?;
        let parts = Parts { config, health, store, engine, forwarding, addresses, underlay, speaker };
        Node::new(parts).run(objects, inbox, stop).await;
    }
    health::stopping();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!("removing {}: {error}", socket.display());
    }
    tracing::info!("stopped; routes, rules and pods stay as they are");
    Ok(())
}
