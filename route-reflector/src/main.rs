//! `margay-route-reflector`: registers itself in the datastore, finds its clients there, reflects their routes.

mod config;
mod reflector;

use std::num::NonZero;
use std::process::ExitCode;

use anyhow::Result;
use margay_api::Kind;
use margay_daemon::health::{self, Health};
use margay_daemon::ports::Ports;
use margay_daemon::process::{self, Stop};
use margay_daemon::speaker::Speaker;
use margay_daemon::upgrade::{self, Predecessor, UpgradeError};
use margay_daemon::{bgp, monitor, server, store};
use margay_datastore::Syncer;
use tokio::sync::watch;

use crate::config::{Config, Task};
use crate::reflector::{End, Reflector};

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
    // One decides; all of them write to clients, and each has memory of its own.
    let workers = std::thread::available_parallelism().map_or(2, NonZero::get).clamp(2, 8);
    process::run(PROGRAM, workers, Config::of_process, run)
}

async fn run(config: Config, mut stop: Stop) -> Result<()> {
    if config.task == Task::Upgrade {
        return Ok(upgrade::ask(&config.socket)?);
    }
    let health = Health::new(PROGRAM, &config.node, &COMPONENTS);
    let monitoring = monitor::monitoring(PROGRAM, &config)?;
    let (slot, speaker) = watch::channel(None);
    let public =
        server::health_routes(health.clone(), server::metrics_of(&health, &speaker, config.peer_metrics));
    let (upgrades, requests) = upgrade::routes();
    let all = public.clone().merge(bgp::routes(speaker)).merge(upgrades);
    let entry = Entry::new(&config)?;
    // Before the datastore is open, so that it can be asked what it waits for.
    let mut served = entry.ports().map(|ports| ports.serve(all.clone(), public.clone())).transpose()?;
    let store = tokio::select! {
        store = store::open(&config.datastore, &health) => Some(store),
        () = &mut stop => None,
    };
    let socket = config.socket.clone();
    if let Some(store) = store {
        let scopes: Vec<_> = KINDS.iter().map(|kind| (*kind).into()).collect();
        let mut objects = Syncer::spawn(store.clone(), &scopes)?;
        // Clients may hold what an earlier instance told them: End-of-RIB waits until they have told us theirs.
        let speaker = Speaker::new(slot, true).without_routes().monitored(monitoring);
        let mut reflector = Reflector::new(config, health, store, speaker);
        let ports = match entry {
            Entry::Opened(ports) => ports,
            Entry::Inherits(predecessor) => {
                let ports = reflector.take_over(&mut objects, predecessor).await?;
                served = Some(ports.serve(all, public)?);
                ports
            }
        };
        let end = reflector.run(objects, stop, requests, &ports).await;
        if end != End::Stopped {
            if let Some(served) = served {
                served.finish().await;
            }
            return if end == End::Lost { Err(UpgradeError::Lost.into()) } else { Ok(()) };
        }
    }
    health::stopping();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!("removing {}: {error}", socket.display());
    }
    tracing::info!("stopped; clients keep their routes");
    Ok(())
}

/// Where the control socket and the claim come from.
enum Entry {
    Opened(Ports),
    Inherits(Predecessor),
}

impl Entry {
    fn new(config: &Config) -> Result<Self> {
        Ok(match config.task {
            Task::TakeOver => Self::Inherits(Predecessor::of_process()?),
            Task::Serve | Task::Upgrade => Self::Opened(Ports::open(PROGRAM, config)?),
        })
    }

    fn ports(&self) -> Option<&Ports> {
        match self {
            Self::Opened(ports) => Some(ports),
            Self::Inherits(_) => None,
        }
    }
}
