//! The reflector's task: the datastore names the clients and what each may announce; the speaker does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use margay_api::kinds::{NodeBgp, NodeSpec};
use margay_api::{Key, Kind, Metadata, Node, Resource};
use margay_bgp::Event;
use margay_control::status::Problem;
use margay_daemon::health::Health;
use margay_daemon::ports::Ports;
use margay_daemon::register::{Daemon, register};
use margay_daemon::secrets;
use margay_daemon::speaker::{Speaker, SpeakerError, until};
use margay_daemon::topology::{Cluster, node_addresses, router_id, unknown_configuration};
use margay_daemon::upgrade::{self, Estate, Predecessor, UpgradeError};
use margay_datastore::{Store, SyncEvent, Syncer};

use crate::config::Config;

/// How often a registration that failed is tried again.
const TICK: Duration = Duration::from_secs(5);

/// Why a reflector is one no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to stop.
    Stopped,
    /// Another process has its sockets.
    Replaced,
    /// That process was lost before anybody could know what it had done with them.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reflector {
    config: Config,
    health: Health,
    store: Store,
    speaker: Speaker,
    cluster: Cluster,
    unreadable: BTreeMap<Key, String>,
    in_sync: bool,
    registered: bool,
    /// What is wrong with the configuration's file since it was changed.
    misconfigured: Option<String>,
}

impl Reflector {
    pub(crate) fn new(config: Config, health: Health, store: Store, speaker: Speaker) -> Self {
        let mut cluster = Cluster::default();
        cluster.set_ranges(config.ranges.clone());
        Self {
            config,
            health,
            store,
            speaker,
            cluster,
            unreadable: BTreeMap::new(),
            in_sync: false,
            registered: false,
            misconfigured: None,
        }
    }

    /// Gets ready, then takes over the sessions and all that belongs to the process.
    pub(crate) async fn take_over(
        &mut self,
        objects: &mut Syncer,
        mut predecessor: Predecessor,
    ) -> Result<Ports, UpgradeError> {
        while !self.in_sync {
            let Some(event) = objects.next().await else { break };
            self.take(event).await;
        }
        self.complete_cluster();
        let Estate { ports, frozen } = predecessor.inherit()?;
        let go = match self.speaker.take_over(frozen, &self.config.node, &mut self.cluster) {
            Ok(go) => go,
            Err(error) => {
                predecessor.refuse(&error.to_string());
                return Err(error.into());
            }
        };
        predecessor.begin();
        // It waits for that.
        let _waits = go.send(());
        self.speaker.begin().await?;
        self.update().await;
        Ok(ports)
    }

    /// Runs until `stop` resolves, then closes the sessions so that clients keep their routes; or until another process
    /// has taken them over.
    pub(crate) async fn run(
        mut self,
        mut objects: Syncer,
        stop: impl Future<Output = ()>,
        mut upgrades: upgrade::Requests,
        ports: &Ports,
    ) -> End {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let review = self.speaker.review_at();
            tokio::select! {
                () = &mut stop => break,
                () = until(review) => self.review().await,
                Some((successor, answer)) = upgrades.recv() => {
                    let outcome = successor.install(&mut self.speaker, ports).await;
                    let end = match &outcome {
                        Ok(()) => Some(End::Replaced),
                        Err(UpgradeError::Lost) => Some(End::Lost),
                        Err(_) => None,
                    };
                    // Who asked may have gone.
                    let _gone = answer.send(outcome);
                    if let Some(end) = end {
                        return end;
                    }
                }
                event = objects.next() => {
                    let mut next = event;
                    let mut changed = false;
                    while let Some(event) = next {
                        changed |= self.take(event).await;
                        next = objects.try_next();
                    }
                    if changed && self.in_sync {
                        self.update().await;
                    }
                }
                event = self.speaker.next_event() => {
                    if matches!(event, Event::PeerChanged { .. }) {
                        self.report();
                    }
                }
                _ = tick.tick() => if self.in_sync {
                    if !self.registered {
                        self.register().await;
                    }
                    let ranges = self.read_ranges();
                    if self.read_secrets() || ranges || !self.speaker.is_running() {
                        self.update().await;
                    }
                },
            }
        }
        self.leave().await;
        End::Stopped
    }

    /// Drains, then closes the sessions in the way that keeps clients' routes.
    async fn leave(&mut self) {
        let others = self.other_reflectors();
        self.health.set("bgp", false, "draining: clients are told to prefer other reflectors");
        if self.speaker.drain(&others, self.config.drain).await {
            tracing::info!("another reflector serves the clients");
        } else if !others.is_empty() {
            tracing::warn!(
                "no other reflector serves in {:?}: clients keep what they know",
                self.config.drain
            );
        }
        self.speaker.stop_for_restart().await;
    }

    /// Addresses of the other registered reflectors.
    fn other_reflectors(&self) -> BTreeSet<IpAddr> {
        let reflects =
            |node: &Node| node.spec.bgp.as_ref().is_some_and(|bgp| bgp.route_reflector_cluster_id.is_some());
        let nodes =
            self.cluster.nodes.iter().filter(|(name, node)| **name != self.config.node && reflects(node));
        nodes.flat_map(|(_, node)| node_addresses(node)).collect()
    }

    /// Takes one event in; true if the topology may have changed.
    async fn take(&mut self, event: SyncEvent) -> bool {
        match event {
            SyncEvent::Put(object) => match object.resource {
                Ok(resource) => {
                    if object.key == self.own_key() {
                        self.report_registration(Some(resource.as_ref()));
                    }
                    if self.unreadable.remove(&object.key).is_some() {
                        self.report_unreadable();
                    }
                    self.cluster.put(resource.as_ref())
                }
                Err(unreadable) => {
                    self.unreadable.insert(object.key, unreadable.reason);
                    self.report_unreadable();
                    false
                }
            },
            SyncEvent::Delete(key) => {
                if self.unreadable.remove(&key).is_some() {
                    self.report_unreadable();
                }
                if key == self.own_key() {
                    self.report_registration(None);
                }
                self.cluster.delete(&key)
            }
            SyncEvent::InSync => {
                self.in_sync = true;
                self.health.set("datastore", true, "in sync");
                self.register().await;
                true
            }
            SyncEvent::Lost(reason) => {
                self.health.set(
                    "datastore",
                    false,
                    format!("{reason}; sessions and routes stay as they are"),
                );
                false
            }
            SyncEvent::Restored => {
                self.health.set("datastore", true, "in sync");
                false
            }
        }
    }

    fn own_key(&self) -> Key {
        Key::cluster(Kind::Node, self.config.node.clone())
    }

    /// Says whether nodes can find this reflector. Who deletes its Node, or takes its cluster id away, takes it out of
    /// service: it goes on for those it has, and says so.
    fn report_registration(&self, resource: Option<&Resource>) {
        let reflects =
            |node: &Node| node.spec.bgp.as_ref().is_some_and(|bgp| bgp.route_reflector_cluster_id.is_some());
        let known = matches!(resource, Some(Resource::Node(node)) if reflects(node));
        let problem = Problem {
            object: self.own_key().to_string(),
            message: "it is deleted or has no routeReflectorClusterID, so no node looks for this reflector: stop it, or \
                      restart it to register again"
                .to_owned(),
        };
        self.health.set_problems("registration", (!known).then_some(problem).into_iter().collect());
    }

    /// Makes sure the datastore knows this reflector: nodes find it there.
    async fn register(&mut self) {
        let own = self.own_node();
        match register(&self.store, &own, Daemon::Reflector).await {
            Ok(()) => {
                self.registered = true;
                self.health.set("datastore", true, "in sync");
            }
            Err(error) => {
                self.health.set(
                    "datastore",
                    false,
                    format!("cannot register this reflector: {error}; trying again"),
                );
            }
        }
    }

    fn own_node(&self) -> Node {
        let bgp = NodeBgp {
            ipv4_address: self.config.ipv4_address,
            ipv6_address: self.config.ipv6_address,
            ..NodeBgp::default()
        };
        let spec = NodeSpec { bgp: Some(bgp), ..NodeSpec::default() };
        let mut own = Node::new(Metadata::named(self.config.node.clone()), spec);
        let cluster_id = self.config.cluster_id.or_else(|| router_id(&own));
        if let Some(bgp) = &mut own.spec.bgp {
            bgp.route_reflector_cluster_id = cluster_id;
        }
        own
    }

    /// What the sessions need besides what the datastore has told.
    fn complete_cluster(&mut self) {
        let own = self.own_node();
        if !self.cluster.nodes.contains_key(&self.config.node) {
            // Our own registration may not have come back yet.
            self.cluster.put(&own.into());
        }
        self.read_secrets();
    }

    /// Brings the sessions in line with the datastore.
    async fn update(&mut self) {
        self.complete_cluster();
        let unreadable = self.unreadable.keys();
        if let Some(key) = unknown_configuration(&self.config.node, &self.cluster, unreadable) {
            return self.report_bgp_error(&SpeakerError::Unreadable(key.clone()));
        }
        match self.speaker.follow(&self.config.node, &mut self.cluster).await {
            Ok(()) => {
                // A reflector has no routes of its own.
                if let Err(error) = self.speaker.originate(Vec::new()).await {
                    self.health.set("bgp", false, error.to_string());
                }
                self.report();
            }
            Err(error) => self.report_bgp_error(&error),
        }
    }

    /// Ends sessions that others have replaced.
    async fn review(&mut self) {
        match self.speaker.review().await {
            Ok(()) => self.report(),
            Err(error) => self.report_bgp_error(&error),
        }
    }

    fn report_bgp_error(&self, error: &SpeakerError) {
        self.health.set_problems("bgp", self.problems());
        self.health.set("bgp", false, error.to_string());
    }

    /// Reads the listen ranges again; true if they have changed. Those of a file that is wrong do not count.
    fn read_ranges(&mut self) -> bool {
        let (ranges, wrong) = match self.config.ranges_now() {
            Ok(ranges) => (Some(ranges), None),
            Err(error) => (None, Some(format!("{error}: the listen ranges stay as they were"))),
        };
        if self.misconfigured != wrong {
            self.misconfigured = wrong;
            self.report();
        }
        ranges.is_some_and(|ranges| {
            self.config.ranges.clone_from(&ranges);
            self.cluster.set_ranges(ranges)
        })
    }

    fn problems(&self) -> Vec<Problem> {
        let file = self.misconfigured.iter();
        let file =
            file.map(|message| Problem { object: "configuration".to_owned(), message: message.clone() });
        self.speaker.problems().into_iter().chain(file).collect()
    }

    /// Reads the passwords that sessions need; true if one has changed.
    fn read_secrets(&mut self) -> bool {
        let found = secrets::read(&self.config.secrets_dir, &margay_daemon::topology::secrets(&self.cluster));
        self.cluster.set_secrets(found)
    }

    /// Ready as soon as it listens: clients come when they come.
    fn report(&self) {
        self.health.set_problems("bgp", self.problems());
        if let Some((up, all)) = self.speaker.sessions() {
            self.health.set("bgp", true, format!("{up} of {all} sessions established"));
        }
    }

    fn report_unreadable(&self) {
        let problems = self.unreadable.iter();
        let problems =
            problems.map(|(key, reason)| Problem { object: key.to_string(), message: reason.clone() });
        self.health.set_problems("datastore", problems.collect());
    }
}
