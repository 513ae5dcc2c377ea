//! The reflector's task: the datastore names the clients and what each may announce; the speaker does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use margay_api::kinds::{Affinity, NodeBgp, NodeSpec};
use margay_api::{Key, Kind, Metadata, Node, Resource};
use margay_bgp::Event;
use margay_control::status::Problem;
use margay_daemon::health::Health;
use margay_daemon::register::register;
use margay_daemon::secrets;
use margay_daemon::speaker::Speaker;
use margay_daemon::topology::{Cluster, topology};
use margay_datastore::{Store, SyncEvent, Syncer};

use crate::config::Config;

/// How often a registration that failed is tried again.
const TICK: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Reflector {
    config: Config,
    health: Health,
    store: Store,
    speaker: Speaker,
    cluster: Cluster,
    /// Blocks by name, with their owners.
    blocks: BTreeMap<String, (String, IpNet)>,
    unreadable: BTreeMap<Key, String>,
    in_sync: bool,
    registered: bool,
}

impl Reflector {
    pub(crate) fn new(config: Config, health: Health, store: Store, speaker: Speaker) -> Self {
        Self {
            config,
            health,
            store,
            speaker,
            cluster: Cluster::default(),
            blocks: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            in_sync: false,
            registered: false,
        }
    }

    /// Runs until `stop` resolves, then closes the sessions so that clients keep their routes.
    pub(crate) async fn run(mut self, mut objects: Syncer, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = &mut stop => break,
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
                    if self.read_secrets() {
                        self.update().await;
                    }
                },
            }
        }
        self.leave().await;
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
        let others = self.cluster.nodes.iter().filter(|(name, _)| **name != self.config.node);
        let bgp = others.filter_map(|(_, node)| node.spec.bgp.as_ref());
        bgp.filter(|bgp| bgp.route_reflector_cluster_id.is_some())
            .flat_map(|bgp| {
                let v4 = bgp.ipv4_address.map(|net| net.addr().into());
                v4.into_iter().chain(bgp.ipv6_address.map(|net| net.addr().into()))
            })
            .collect()
    }

    /// Takes one event in; true if the topology may have changed.
    async fn take(&mut self, event: SyncEvent) -> bool {
        match event {
            SyncEvent::Put(object) => match object.resource {
                Ok(resource) => {
                    if self.unreadable.remove(&object.key).is_some() {
                        self.report_unreadable();
                    }
                    self.put(resource.as_ref().clone());
                    true
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
                self.delete(&key);
                true
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

    fn put(&mut self, resource: Resource) {
        let name = resource.metadata().name.clone();
        match resource {
            Resource::Node(object) => drop(self.cluster.nodes.insert(name, object)),
            Resource::IpPool(object) => drop(self.cluster.pools.insert(name, object)),
            Resource::BgpConfiguration(object) => drop(self.cluster.configurations.insert(name, object)),
            Resource::BgpPeer(object) => drop(self.cluster.peers.insert(name, object)),
            Resource::BfdConfiguration(object) => drop(self.cluster.bfd.insert(name, object)),
            Resource::BgpFilter(object) => drop(self.cluster.filters.insert(name, object)),
            Resource::IpamBlock(block) => match block.spec.affinity {
                Some(Affinity::Host(node)) => drop(self.blocks.insert(name, (node, block.spec.cidr))),
                _ => drop(self.blocks.remove(&name)),
            },
            _ => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        match key.kind {
            Kind::Node => drop(self.cluster.nodes.remove(&key.name)),
            Kind::IpPool => drop(self.cluster.pools.remove(&key.name)),
            Kind::BgpConfiguration => drop(self.cluster.configurations.remove(&key.name)),
            Kind::BgpPeer => drop(self.cluster.peers.remove(&key.name)),
            Kind::BfdConfiguration => drop(self.cluster.bfd.remove(&key.name)),
            Kind::BgpFilter => drop(self.cluster.filters.remove(&key.name)),
            Kind::IpamBlock => drop(self.blocks.remove(&key.name)),
            _ => {}
        }
    }

    /// Makes sure the datastore knows this reflector: nodes find it there.
    async fn register(&mut self) {
        let own = self.own_node();
        match register(&self.store, &own).await {
            Ok(()) => self.registered = true,
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
            route_reflector_cluster_id: Some(self.config.cluster_id),
            ..NodeBgp::default()
        };
        let spec = NodeSpec { bgp: Some(bgp), ..NodeSpec::default() };
        Node::new(Metadata::named(self.config.node.clone()), spec)
    }

    /// Brings the sessions in line with the datastore.
    async fn update(&mut self) {
        let own = self.own_node();
        // Our own registration may not have come back yet.
        self.cluster.nodes.entry(self.config.node.clone()).or_insert(own);
        self.cluster.blocks.clear();
        for (node, cidr) in self.blocks.values() {
            self.cluster.blocks.entry(node.clone()).or_default().push(*cidr);
        }
        self.read_secrets();
        let wanted = topology(&self.config.node, &self.cluster);
        self.health.set_problems("bgp", wanted.problems.clone());
        let node = self.cluster.nodes.get(&self.config.node);
        match self.speaker.update(&self.config.node, node, &wanted).await {
            Ok(()) => {
                // A reflector has no routes of its own.
                if let Err(error) = self.speaker.originate(Vec::new()).await {
                    self.health.set("bgp", false, error.to_string());
                }
                self.report();
            }
            Err(error) => self.health.set("bgp", false, error.to_string()),
        }
    }

    /// Reads the passwords that sessions need; true if one has changed.
    fn read_secrets(&mut self) -> bool {
        let found = secrets::read(&self.config.secrets_dir, &margay_daemon::topology::secrets(&self.cluster));
        let changed = found != self.cluster.secrets;
        self.cluster.secrets = found;
        changed
    }

    /// Ready as soon as it listens: clients come when they come.
    fn report(&self) {
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
