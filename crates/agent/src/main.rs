//! `margay-agent`: one process per node that joins datastore, BGP, IPAM, policy, routes and CNI.

mod addresses;
mod annotations;
mod api;
mod attachments;
mod cleanup;
mod cluster;
mod config;
mod explain;
mod fib;
mod flow_log;
mod flows;
mod forwarding;
mod interfaces;
mod journal;
mod memory;
mod mtu;
mod node;
mod offload;
mod pattern;
mod policy;
mod removal;
mod verify;
mod writer;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow};
use felix_rs::apply::Loose;
use margay_api::Kind;
use margay_daemon::health::{self, Health};
use margay_daemon::ports::Ports;
use margay_daemon::process::{self, Stop};
use margay_daemon::speaker::Speaker;
use margay_daemon::{bgp, monitor, server, store};
use margay_datastore::Syncer;
use tokio::sync::{mpsc, watch};

use crate::addresses::Addresses;
use crate::config::{Config, Flags};
use crate::fib::Fib;
use crate::forwarding::Forwarding;
use crate::node::{Node, Parts};
use crate::offload::Offload;

/// Name of the program, and of its claim on the node.
const PROGRAM: &str = "margay-agent";

/// Threads of the runtime: one for the node's task, one for the speaker's.
const WORKERS: usize = 2;

/// Requests that may wait for the node's task.
const REQUESTS: usize = 256;

/// What has to be in order for the node to be ready.
const COMPONENTS: [&str; 5] = ["bgp", "datastore", "ipam", "policy", "routes"];

fn main() -> ExitCode {
    memory::share();
    let flags = Flags::of_process();
    match flags.cleanup() {
        Some(cleanup) => cleanup.main(),
        None => process::run(PROGRAM, WORKERS, || Config::of(flags), run),
    }
}

async fn run(config: Config, mut stop: Stop) -> Result<()> {
    let ports = Ports::open(PROGRAM, &config)?;
    let health = Health::new(PROGRAM, &config.node, &COMPONENTS);
    let monitoring = monitor::monitoring(PROGRAM, &config)?;
    let addresses = Addresses::open(&config.state_dir)
        .with_context(|| format!("opening the journal in {}", config.state_dir.display()))?;
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let (slot, speaker) = watch::channel(None);
    let offload = Offload::spawn(health.clone()).context("starting the thread of the flow table")?;
    let mut loose = Loose::noted(config.loose_note());
    let flows = if config.cut_denied_flows {
        Some(flows::Flows::spawn(loose, offload.clone()).map_err(|error| anyhow!(error))?)
    } else {
        // The agent before may have cut.
        loose.give_back().context("letting conntrack take up connections again")?;
        None
    };
    let flow_log = flow_log::FlowLog::new(config.flow_log_file.clone());
    let feed = flow_log.feed();
    let engine =
        policy::spawn(&config.node, health.clone(), flows, flow_log).map_err(|error| anyhow!(error))?;
    let fib = Fib::open(config.state_dir.clone())
        .context("opening the kernel's routing table (the agent needs CAP_NET_ADMIN)")?;
    let forwarding = Forwarding::spawn(fib, health.clone()).context("starting the forwarding thread")?;

    let routes =
        server::health_routes(health.clone(), server::metrics_of(&health, &speaker, config.peer_metrics));
    let opened = Arc::new(OnceLock::new());
    let api = api::Api {
        node: requests,
        engine: engine.clone(),
        store: Arc::clone(&opened),
        feed,
        health: health.clone(),
    };
    let router = routes.clone().merge(bgp::routes(speaker)).merge(api::routes(api));
    let _served = ports.serve(router, routes)?;

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
        let speaker = Speaker::new(slot, was_here).with_max_paths(config.maximum_paths).monitored(monitoring);
        let scopes: Vec<_> = Kind::ALL.iter().map(|kind| (*kind).into()).collect();
        let objects = Syncer::spawn(store.clone(), &scopes)?;
        let parts = Parts { config, health, store, engine, forwarding, offload, addresses, speaker };
        let node = Node::new(parts).context("starting the thread that removes interfaces")?;
        node.run(objects, inbox, stop).await;
    }
    health::stopping();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!("removing {}: {error}", socket.display());
    }
    tracing::info!("stopped; routes, rules and pods stay as they are");
    Ok(())
}
