//! The BGP speaker as a part of a daemon: started when the daemon knows who it is, fed from the topology.

mod drain;
mod identity;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use margay_api::{Key, Node};
use margay_bgp::transport::{
    BgpHandle, BgpService, Frozen, Monitoring, ServiceStopped, StopMode, TakeOverError,
};
use margay_bgp::{Event, NextHopState, Originated, PeerConfig, PeerKind, PeerRange, PeerState};
use margay_control::status::Problem;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::identity::{Identity, identity, service_config};
use crate::topology::{Cluster, Op, Peer, Planner, Sessions, Topology, node_addresses};

/// Longest wait for the connections to close.
const STOP_TIME: Duration = Duration::from_secs(3);

/// How often it is looked whether held sessions have been replaced.
const REVIEW_TURN: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Running {
    handle: BgpHandle,
    events: mpsc::Receiver<Event>,
    identity: Identity,
    in_sync: bool,
    /// Peers whose sessions are up, as the events tell.
    up: BTreeSet<IpAddr>,
    originated: Option<Vec<Originated>>,
    ranges: Vec<PeerRange>,
}

impl Running {
    fn new(handle: BgpHandle, events: mpsc::Receiver<Event>, identity: Identity) -> Self {
        Self {
            handle,
            events,
            identity,
            in_sync: false,
            up: BTreeSet::new(),
            originated: None,
            ranges: Vec::new(),
        }
    }

    async fn set_ranges(&mut self, ranges: &[PeerRange]) -> Result<(), ServiceStopped> {
        if self.ranges != ranges {
            self.handle.set_ranges(ranges.to_vec()).await?;
            self.ranges = ranges.to_vec();
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::InSync => self.in_sync = true,
            Event::PeerChanged { remote, state: PeerState::Established, .. } => {
                self.up.insert(*remote);
            }
            Event::PeerChanged { remote, .. } => {
                self.up.remove(remote);
            }
            Event::RouteChanges(_) | Event::NextHops(_) | Event::BfdChanged { .. } => {}
        }
    }
}

/// Why there is no speaker.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// Nothing to be known by.
    #[error(
        "node {0} has no address: set ipv4Address in the configuration (with the mask of the node's subnet), or \
         spec.bgp.ipv4Address of its Node object"
    )]
    NoAddress(String),
    /// Settings that are not to be guessed.
    #[error(
        "{0} cannot be read, and its passwords and switches are not known: no session begins before it is corrected"
    )]
    Unreadable(Key),
    /// The port is taken, or may not be used.
    #[error("cannot listen on TCP port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There is nothing to hand over yet.
    #[error("BGP has not been started yet")]
    NotStarted,
    /// Sessions cannot change hands.
    #[error("the BGP sessions cannot be taken over: {0}")]
    TakeOver(#[from] TakeOverError),
    /// Its task has ended.
    #[error("the BGP speaker has ended: restart the daemon")]
    Ended,
}

impl From<ServiceStopped> for SpeakerError {
    fn from(_: ServiceStopped) -> Self {
        Self::Ended
    }
}

/// A speaker that may not have been started yet.
#[derive(Debug)]
pub struct Speaker {
    running: Option<Running>,
    planner: Option<Planner>,
    sessions: Sessions,
    /// Where the time of `sessions` begins.
    started: Instant,
    /// When to look again whether held sessions have been replaced.
    review_at: Instant,
    /// For the control API.
    slot: watch::Sender<Option<BgpHandle>>,
    /// An earlier instance may have left routes at its peers (RFC 4724 restart bit).
    restarting: bool,
    starts: u64,
    /// Most next hops told for a prefix; 0 for a daemon that forwards nothing.
    max_paths: usize,
    monitoring: Monitoring,
}

/// Next hops of one prefix that are used together unless told otherwise: as many as BIRD merges.
pub const DEFAULT_MAX_PATHS: usize = 16;

impl Speaker {
    /// Not started. `slot` is where the control API finds it later.
    #[must_use]
    pub fn new(slot: watch::Sender<Option<BgpHandle>>, restarting: bool) -> Self {
        let now = Instant::now();
        Self {
            running: None,
            planner: None,
            sessions: Sessions::default(),
            started: now,
            review_at: now,
            slot,
            restarting,
            starts: 0,
            max_paths: DEFAULT_MAX_PATHS,
            monitoring: Monitoring::default(),
        }
    }

    /// With people who look from outside.
    #[must_use]
    pub fn monitored(self, monitoring: Monitoring) -> Self {
        Self { monitoring, ..self }
    }

    /// Without events about routes and next hops, for a daemon that forwards nothing.
    #[must_use]
    pub fn without_routes(self) -> Self {
        Self { max_paths: 0, ..self }
    }

    /// Tells at most this many equally good next hops for a prefix, 1 to 64.
    #[must_use]
    pub fn with_max_paths(self, max_paths: usize) -> Self {
        Self { max_paths, ..self }
    }

    /// Runs as the cluster wants it of the node `name`: starts, changes what has changed session by session, starts anew
    /// if AS, identifier or port changed.
    ///
    /// # Errors
    /// The node has no address, or the port cannot be used.
    pub async fn follow(&mut self, name: &str, cluster: &mut Cluster) -> Result<(), SpeakerError> {
        let planner = self.planner.get_or_insert_with(|| planner(name, self.max_paths));
        let changed = cluster.take_changes();
        let changes = planner.update(cluster, &changed);
        let wanted = planner.topology();
        let was_settled = self.sessions.is_settled();
        let mut ops = self.sessions.change(self.started.elapsed(), changes);
        ops.extend(self.sessions.gone(|node| cluster.nodes.contains_key(node)));
        let identity = match identity(name, wanted) {
            Ok(identity) => identity,
            Err(error) => {
                // What has changed is told once.
                self.apply(ops).await?;
                return Err(error);
            }
        };
        if self.running.as_ref().is_some_and(|running| running.identity != identity) {
            tracing::info!(?identity, "restarting the speaker with another identity");
            self.stop_for_restart().await;
        }
        if self.running.is_some() {
            self.apply(ops).await?;
        } else {
            self.sessions.forget_held();
            let running = start(identity, self.restarting, self.max_paths, self.monitoring.clone())?;
            running.handle.set_peers(self.sessions.configured()).await?;
            self.slot.send_replace(Some(running.handle.clone()));
            self.running = Some(running);
            self.starts += 1;
        }
        if let (Some(running), Some(planner)) = (&mut self.running, &self.planner) {
            running.set_ranges(&planner.topology().ranges).await?;
        }
        if was_settled && !self.sessions.is_settled() {
            tracing::info!(sessions = self.sessions.held().len(), "held until others have replaced them");
            self.review_at = Instant::now();
        }
        Ok(())
    }

    /// How often it has been started: every time with an empty table.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Whether it has been started.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// What the node is to be, as of the last [`Self::follow`].
    #[must_use]
    pub fn topology(&self) -> Option<&Topology> {
        self.planner.as_ref().map(Planner::topology)
    }

    /// Objects that cannot be used, and sessions that nothing replaces.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.topology().map(|wanted| wanted.problems.clone()).unwrap_or_default();
        problems
            .extend(self.sessions.describe().map(|message| Problem { object: "BGP".to_owned(), message }));
        problems
    }

    /// When [`Self::review`] has something to do.
    #[must_use]
    pub fn review_at(&self) -> Option<Instant> {
        (self.running.is_some() && !self.sessions.is_settled()).then_some(self.review_at)
    }

    /// Ends the held sessions that others have replaced.
    ///
    /// # Errors
    /// Its task has ended.
    pub async fn review(&mut self) -> Result<(), SpeakerError> {
        let (Some(running), Some(planner)) = (&self.running, &mut self.planner) else { return Ok(()) };
        let replacement =
            running.handle.replacement(self.sessions.held(), planner.departed().clone()).await?;
        let ops = self.sessions.review(self.started.elapsed(), replacement);
        if self.sessions.is_settled() {
            planner.settled();
        }
        self.review_at = Instant::now() + REVIEW_TURN;
        if !ops.is_empty() {
            tracing::info!(sessions = ops.len(), "replaced by others and released");
        }
        self.apply(ops).await
    }

    async fn apply(&mut self, ops: Vec<Op>) -> Result<(), SpeakerError> {
        let Some(running) = &self.running else { return Ok(()) };
        for op in ops {
            match op {
                Op::Set(peer) => running.handle.set_peer(peer).await?,
                Op::Release(remote) => running.handle.release_peer(remote).await?,
                Op::Remove(remote) => running.handle.remove_peer(remote).await?,
            }
        }
        Ok(())
    }

    /// Takes the place of a frozen speaker, as the cluster wants it of the node `name`. It waits until the returned sender
    /// is used; then [`Self::begin`] must follow.
    ///
    /// # Errors
    /// The node has no address, or that speaker is another than this one would be.
    pub fn take_over(
        &mut self,
        frozen: Frozen,
        name: &str,
        cluster: &mut Cluster,
    ) -> Result<oneshot::Sender<()>, SpeakerError> {
        let planner = self.planner.get_or_insert_with(|| planner(name, self.max_paths));
        let changed = cluster.take_changes();
        let changes = planner.update(cluster, &changed);
        let identity = identity(name, planner.topology())?;
        // What it does to sessions is done when the service begins, with the whole list.
        drop(self.sessions.change(self.started.elapsed(), changes));
        self.sessions.adopt(self.started.elapsed(), peers_of(frozen.state.configured(), cluster));
        self.review_at = Instant::now();
        let config = service_config(&identity, self.restarting, self.max_paths);
        let (go, may_go) = oneshot::channel();
        let (handle, events) = BgpService::take_over(config, self.monitoring.clone(), frozen, may_go)?;
        self.running = Some(Running::new(handle, events, identity));
        Ok(go)
    }

    /// Configures the sessions that were taken over.
    ///
    /// # Errors
    /// Its task has ended.
    pub async fn begin(&mut self) -> Result<(), SpeakerError> {
        let ranges = self.topology().map(|wanted| wanted.ranges.clone()).unwrap_or_default();
        let running = self.running.as_mut().ok_or(SpeakerError::NotStarted)?;
        running.handle.set_peers(self.sessions.configured()).await?;
        // The predecessor's may be others.
        running.handle.set_ranges(ranges.clone()).await?;
        running.ranges = ranges;
        self.slot.send_replace(Some(running.handle.clone()));
        Ok(())
    }

    /// What a successor needs; nothing happens until [`Self::thaw`].
    pub(crate) async fn freeze(&self) -> Result<Frozen, SpeakerError> {
        let running = self.running.as_ref().ok_or(SpeakerError::NotStarted)?;
        Ok(running.handle.freeze().await?.map_err(TakeOverError::from)?)
    }

    /// There is no successor.
    pub(crate) async fn thaw(&self, frozen: Frozen) -> Result<(), SpeakerError> {
        let running = self.running.as_ref().ok_or(SpeakerError::NotStarted)?;
        Ok(running.handle.thaw(frozen).await?)
    }

    /// Originates exactly these routes.
    ///
    /// # Errors
    /// Its task has ended.
    pub async fn originate(&mut self, routes: Vec<Originated>) -> Result<(), SpeakerError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.originated.as_ref() != Some(&routes) {
            running.handle.set_originated(routes.clone()).await?;
            running.originated = Some(routes);
        }
        Ok(())
    }

    /// Says how far next hops are that [`Event::NextHops`] named.
    ///
    /// # Errors
    /// Its task has ended.
    pub async fn set_next_hops(&self, states: Vec<NextHopState>) -> Result<(), SpeakerError> {
        let Some(running) = &self.running else { return Ok(()) };
        Ok(running.handle.set_next_hops(states).await?)
    }

    /// The next event; never, while it does not run.
    pub async fn next_event(&mut self) -> Event {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        match running.events.recv().await {
            Some(event) => {
                running.note(&event);
                event
            }
            None => {
                tracing::error!("the BGP speaker has ended");
                self.running = None;
                std::future::pending().await
            }
        }
    }

    /// Nothing that BGP could tell is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.in_sync || self.sessions.expected() == 0)
    }

    /// Sessions that are up, as the events taken so far tell, and those beside that should be; absent while it does not
    /// run.
    #[must_use]
    pub fn sessions(&self) -> Option<(usize, usize)> {
        let running = self.running.as_ref()?;
        let guests = running.up.iter().filter(|remote| !self.sessions.expects(**remote)).count();
        Some((running.up.len(), self.sessions.expected() + guests))
    }

    /// Closes the sessions so that the peers keep our routes (RFC 4724): the data plane stays as it is.
    pub async fn stop_for_restart(&mut self) {
        let Some(running) = self.running.take() else { return };
        let stop = running.handle.stop(StopMode::Restart);
        if tokio::time::timeout(STOP_TIME, stop).await.is_err() {
            tracing::warn!("the BGP speaker did not stop in {STOP_TIME:?}");
        }
        self.restarting = true;
    }
}

/// The peers of another process that are nodes, or other reflectors whose Nodes are deleted: it may have held their
/// sessions until others replace them.
fn peers_of(configured: impl Iterator<Item = PeerConfig>, cluster: &Cluster) -> Vec<Peer> {
    let mut nodes: BTreeMap<IpAddr, (&String, &Node)> = BTreeMap::new();
    for (name, node) in &cluster.nodes {
        nodes.extend(node_addresses(node).map(|address| (address, (name, &**node))));
    }
    let peer = |config: PeerConfig| {
        let (name, reflector) = match nodes.get(&config.remote) {
            Some((name, node)) => {
                let bgp = node.spec.bgp.as_ref();
                ((*name).clone(), bgp.is_some_and(|bgp| bgp.route_reflector_cluster_id.is_some()))
            }
            // Only reflectors hand sessions over, and to them whoever is no client is one, too.
            None if config.kind == PeerKind::Internal => (config.description.clone(), true),
            None => return None,
        };
        Some(Peer { config: Arc::new(config), node: Some(name), reflector })
    };
    configured.filter_map(peer).collect()
}

fn planner(name: &str, max_paths: usize) -> Planner {
    let planner = Planner::new(name);
    if max_paths > 0 { planner } else { planner.without_forwarding() }
}

fn start(
    identity: Identity,
    restarting: bool,
    max_paths: usize,
    monitoring: Monitoring,
) -> Result<Running, SpeakerError> {
    let config = service_config(&identity, restarting, max_paths);
    let (handle, events) = BgpService::spawn_monitored(config, monitoring)
        .map_err(|source| SpeakerError::Listen { port: identity.port, source })?;
    Ok(Running::new(handle, events, identity))
}

/// Waits for a time that may never come.
pub async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
