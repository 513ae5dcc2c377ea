//! The node's task: joins the datastore, BGP, addresses, policy and routes. It owns all state that is not in one of
//! the threads and decides nothing that a pure crate could decide.

mod assigned;
mod bgp;
mod claim_task;
mod claims;
mod cni;
mod collect;
mod comeback;
mod deletions;
mod endpoint;
mod leave;
mod lend;
mod register;
mod restore;
mod routes;
mod tunnel_addresses;
mod tunnels;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use margay_api::{Key, Kind, Resource, WorkloadEndpoint};
use margay_cni::install::Conflist;
use margay_control::cni::{
    AddReply, AddRequest, CheckReply, CheckRequest, CommitReply, CommitRequest, DelRequest, GcRequest,
    PodCidrs,
};
use margay_control::status::{Endpoint, IpamStatus, Policy, Problem, ReleaseRequest, Released, Tunnel};
use margay_daemon::health::Health;
use margay_daemon::server::Failure;
use margay_daemon::speaker::{Speaker, until};
use margay_daemon::topology::Advertisement;
use margay_datastore::{Store, SyncEvent, Syncer, Versioned};
use margay_ipam::{Family, Handle};
use margay_routing::{RouteTrace, Router, Settings};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use self::assigned::Assigned;
use self::claim_task::Made;
use self::claims::Wanted;
use self::collect::Leftovers;
use self::deletions::Deletions;
use self::leave::Leaving;
use crate::addresses::Addresses;
use crate::cluster::{Cluster, Touched};
use crate::config::Config;
use crate::forwarding::Forwarding;
use crate::mtu;
use crate::offload::Offload;
use crate::policy::{self, Engine};
use crate::removal::{Outcome, Removal};
use crate::writer::Writer;

/// How often left-over work is looked for: spooled releases, claims that failed.
const TICK: Duration = Duration::from_secs(5);

/// Where an answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Failure>>;

/// What the control API asks.
#[derive(Debug)]
pub(crate) enum Request {
    /// Reserve addresses.
    Add(Box<AddRequest>, Answer<AddReply>),
    /// Make live.
    Commit(CommitRequest, Answer<CommitReply>),
    /// Detach and release.
    Del(DelRequest, Answer<()>),
    /// Release what is not in a list.
    Gc(GcRequest, Answer<()>),
    /// When what is being detached is gone.
    Settle(Answer<()>),
    /// This node's ranges, for another IPAM plugin.
    PodCidrs(Answer<PodCidrs>),
    /// Compare.
    Check(CheckRequest, Answer<CheckReply>),
    /// Blocks and addresses.
    Ipam(Answer<IpamStatus>),
    /// Free addresses by hand.
    Release(ReleaseRequest, Answer<Vec<Released>>),
    /// Local endpoints.
    Endpoints(Answer<Vec<Endpoint>>),
    /// Tunnel devices.
    Tunnels(Answer<Vec<Tunnel>>),
    /// Enforced policies.
    Policies(Answer<Vec<Policy>>),
    /// Path of the network namespace of the pod with an address.
    Namespace(IpAddr, Answer<String>),
    /// The way to an address.
    Trace(IpAddr, Answer<RouteTrace>),
}

/// What tasks started by the node's task come back with.
#[derive(Debug)]
enum Internal {
    /// A claim ended: the block, or why there is none.
    Claimed(Wanted, Box<Result<Made, String>>),
    /// Blocks are safe from who took this node for dead, but for these.
    CameBack(Vec<String>),
    /// The Pod object of an ADD, or why it cannot be read.
    Pod(Box<Waiting>, Result<Option<Versioned>, String>),
    /// What a dead node left is deleted.
    Cleared(String),
    /// Interfaces of pods are removed, or cannot be.
    Removed(Vec<Outcome>),
}

/// An ADD that waits for a block, or for an attachment that ends.
#[derive(Debug)]
struct Waiting {
    request: Box<AddRequest>,
    answer: Answer<AddReply>,
    /// It has waited, or waits, for the interfaces that were being removed.
    horizon: Option<u64>,
}

/// What the CNI call said that matters later.
#[derive(Debug, Default)]
struct Reserved {
    labels: BTreeMap<String, String>,
    netns: String,
    /// What the interface was made with.
    mtu: u32,
    /// What another plugin gave: none when the addresses are of this node's blocks.
    assigned: Option<Assigned>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    config: Config,
    health: Health,
    store: Store,
    writer: Writer,
    engine: Engine,
    forwarding: Forwarding,
    offload: Offload,
    addresses: Addresses,
    cluster: Cluster,
    /// The datastore was told completely once.
    in_sync: bool,
    /// Waits with the node's own object until its tunnels are there.
    own_write: Option<AbortHandle>,
    speaker: Speaker,
    router: Router,
    /// Next hops of BGP routes, and how far the speaker was told that they are.
    next_hops: BTreeMap<IpAddr, Option<u32>>,
    /// Communities of this node's own routes.
    advertisements: Vec<Advertisement>,
    /// Ranges of another IPAM plugin's that are announced.
    own_ranges: BTreeSet<IpNet>,
    /// For a block.
    waiting: Vec<Waiting>,
    /// For attachments that end.
    deferred: Vec<Waiting>,
    leaving: BTreeMap<Handle, Leaving>,
    removal: Removal,
    /// Who asked when the interfaces are gone that were being removed then.
    settling: Vec<(u64, Answer<()>)>,
    /// Pods may send from what their annotations name.
    may_spoof: bool,
    /// What is kept between the two phases of an ADD.
    reserved: BTreeMap<Handle, Reserved>,
    /// Interfaces that the MTU is found from.
    mtu_interfaces: mtu::Interfaces,
    /// MTU that the pods' interfaces were given last.
    pod_mtu: Option<u32>,
    /// WorkloadEndpoints of this node's in the datastore that are none of the journal's, until all are known.
    strangers: Vec<WorkloadEndpoint>,
    deletions: Deletions,
    /// It is not certain yet which blocks are still this node's.
    coming_back: bool,
    claiming: Vec<Family>,
    claim_problems: BTreeMap<Family, String>,
    /// The conflist is there, or nobody wants it there.
    serves_runtime: bool,
    leftovers: Leftovers,
    internal: (mpsc::Sender<Internal>, mpsc::Receiver<Internal>),
}

/// The threads and services a node's task works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) health: Health,
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    pub(crate) forwarding: Forwarding,
    pub(crate) offload: Offload,
    pub(crate) addresses: Addresses,
    pub(crate) speaker: Speaker,
}

impl Node {
    /// A task that has not begun.
    ///
    /// # Errors
    /// The thread that removes interfaces cannot be started.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let internal = mpsc::channel(64);
        let done: mpsc::Sender<Internal> = internal.0.clone();
        let removal = Removal::spawn(move |batch| {
            let _stopping = done.blocking_send(Internal::Removed(batch));
        })?;
        let deletions = Deletions::new(parts.store.clone());
        Ok(Self {
            router: Router::new(
                &parts.config.node,
                Settings {
                    backend: parts.config.backend,
                    max_paths: parts.config.maximum_paths,
                    ..Settings::default()
                },
            ),
            writer: Writer::spawn(parts.store.clone()),
            serves_runtime: parts.config.conflist.is_none(),
            config: parts.config,
            health: parts.health,
            store: parts.store,
            engine: parts.engine,
            forwarding: parts.forwarding,
            offload: parts.offload,
            addresses: parts.addresses,
            cluster: Cluster::default(),
            in_sync: false,
            own_write: None,
            speaker: parts.speaker,
            next_hops: BTreeMap::new(),
            advertisements: Vec::new(),
            own_ranges: BTreeSet::new(),
            waiting: Vec::new(),
            deferred: Vec::new(),
            leaving: BTreeMap::new(),
            removal,
            settling: Vec::new(),
            may_spoof: false,
            reserved: BTreeMap::new(),
            mtu_interfaces: mtu::Interfaces::default(),
            pod_mtu: None,
            strangers: Vec::new(),
            deletions,
            coming_back: false,
            claiming: Vec::new(),
            claim_problems: BTreeMap::new(),
            leftovers: Leftovers::default(),
            internal,
        })
    }

    /// Runs until `stop` resolves; then leaves the data plane as it is.
    pub(crate) async fn run(
        mut self,
        mut objects: Syncer,
        mut requests: mpsc::Receiver<Request>,
        stop: impl Future<Output = ()>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        let mut stop = std::pin::pin!(stop);
        self.restore_endpoints().await;
        loop {
            let review = self.speaker.review_at();
            tokio::select! {
                () = &mut stop => break,
                event = objects.next() => {
                    let Some(event) = event else { break };
                    self.on_object(event, &mut objects).await;
                }
                event = self.speaker.next_event() => self.on_bgp(event).await,
                request = requests.recv() => {
                    let Some(request) = request else { break };
                    self.on_request(request).await;
                }
                done = self.internal.1.recv() => {
                    match done {
                        Some(Internal::Claimed(wanted, outcome)) => self.on_claimed(wanted, *outcome).await,
                        Some(Internal::CameBack(lost)) => self.on_came_back(lost).await,
                        Some(Internal::Pod(waiting, found)) => self.on_pod(*waiting, found).await,
                        Some(Internal::Cleared(node)) => self.on_cleared(&node),
                        Some(Internal::Removed(outcomes)) => self.on_removed(outcomes).await,
                        None => {}
                    }
                }
                () = until(review) => self.review_sessions().await,
                () = self.forwarding.underlay_changed() => {
                    self.underlay_changed();
                    self.follow_next_hops().await;
                    if self.in_sync {
                        self.publish_keys();
                        self.update_routes();
                        if self.look_for_ways() {
                            self.update_sessions().await;
                        }
                    }
                }
                _ = tick.tick() => self.on_tick().await,
            }
        }
        self.speaker.stop_for_restart().await;
    }

    /// Takes the objects that are there in one go, then does what follows from them once.
    async fn on_object(&mut self, first: SyncEvent, objects: &mut Syncer) {
        let mut touched = Touched::default();
        let mut next = Some(first);
        while let Some(event) = next {
            let one = self.take_object(event).await;
            touched |= one;
            next = objects.try_next();
        }
        if !self.in_sync {
            return;
        }
        if touched.cluster {
            self.cluster_changed();
            self.publish_keys();
        }
        if touched.sessions {
            self.update_sessions().await;
        } else if touched.services {
            self.originate().await;
        }
        if touched.own_blocks {
            self.update_blocks().await;
        }
        if touched.routes {
            self.update_routes();
        }
    }

    pub(super) async fn take_object(&mut self, event: SyncEvent) -> Touched {
        match event {
            SyncEvent::Put(versioned) => match versioned.resource {
                Ok(resource) => {
                    let was_unreadable = self.cluster.unreadable.contains_key(&versioned.key);
                    let touched = self.cluster.put(&self.config.node, &resource, versioned.revision.0);
                    match resource.as_ref() {
                        Resource::Pod(pod) => self.pod_changed(pod).await,
                        Resource::FelixConfiguration(_) => self.follow_spoofing().await,
                        Resource::Node(_) if versioned.key == self.own_key() => self.follow_spoofing().await,
                        Resource::IpamBlock(block) => self.router.set_block(block),
                        Resource::WorkloadEndpoint(endpoint) if !self.in_sync => self.remember(endpoint),
                        _ => {}
                    }
                    self.tell_engine(policy::Input::Put(resource)).await;
                    if was_unreadable {
                        self.report_problems();
                    }
                    touched
                }
                Err(unreadable) => {
                    self.cluster.unreadable(versioned.key.clone(), unreadable.reason.clone());
                    self.tell_engine(policy::Input::Unreadable(versioned.key, unreadable)).await;
                    self.report_problems();
                    Touched::default()
                }
            },
            SyncEvent::Delete(key) => {
                let was_unreadable = self.cluster.unreadable.contains_key(&key);
                let was_own_endpoint = self.cluster.own_endpoints.contains(&key);
                let touched = self.cluster.delete(&self.config.node, &key);
                match key.kind {
                    Kind::IpamBlock => self.router.remove_block(&key.name),
                    Kind::FelixConfiguration => self.follow_spoofing().await,
                    Kind::Pod => self.report_sources(),
                    Kind::WorkloadEndpoint if was_own_endpoint => self.put_back(&key),
                    _ => {}
                }
                if key == self.own_key() && self.in_sync {
                    // Somebody took us for dead.
                    self.come_back();
                    self.register().await;
                }
                self.tell_engine(policy::Input::Delete(key)).await;
                if was_unreadable {
                    self.report_problems();
                }
                touched
            }
            SyncEvent::InSync => {
                self.in_sync = true;
                self.health.set("datastore", true, "in sync");
                self.adopt_blocks();
                self.restore_from_datastore().await;
                if !self.cluster.bgp.nodes.contains_key(&self.config.node) {
                    self.come_back();
                }
                self.register().await;
                self.sweep_endpoints();
                self.tell_engine(policy::Input::InSync).await;
                Touched { routes: true, cluster: true, own_blocks: true, sessions: true, services: true }
            }
            SyncEvent::Lost(reason) => {
                let meanwhile = if self.in_sync {
                    "forwarding and policy go on as they are"
                } else {
                    "nothing is touched until it answers"
                };
                self.health.set("datastore", false, format!("{reason}; {meanwhile}"));
                Touched::default()
            }
            SyncEvent::Restored => {
                self.health.set("datastore", true, "in sync");
                Touched::default()
            }
        }
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Add(request, answer) => self.add(request, answer).await,
            Request::Commit(request, answer) => self.commit(request, answer).await,
            Request::Del(request, answer) => {
                self.del(crate::addresses::handle_of(&request.attachment), answer);
            }
            Request::Settle(answer) => self.when_settled(answer),
            Request::PodCidrs(answer) => reply(answer, Ok(self.pod_cidrs())),
            Request::Gc(request, answer) => reply(answer, self.collect(&request)),
            Request::Check(request, answer) => self.check(&request, answer).await,
            Request::Release(request, answer) => reply(answer, self.release_addresses(&request)),
            Request::Ipam(answer) => reply(answer, Ok(self.ipam_status())),
            Request::Endpoints(answer) => self.endpoints(answer),
            Request::Tunnels(answer) => self.tunnels(answer),
            Request::Policies(answer) => self.policies(answer),
            Request::Namespace(address, answer) => reply(answer, self.namespace_of(address)),
            Request::Trace(destination, answer) => reply(answer, Ok(self.trace(destination))),
        }
    }

    async fn on_tick(&mut self) {
        self.replay_spool();
        self.remove_again();
        self.follow_mtu();
        if self.in_sync {
            if self.speaks_bgp() && (self.read_secrets() || !self.speaker.is_running()) {
                self.update_sessions().await;
            }
            // A claim that failed is tried again.
            if !self.claim_problems.is_empty() {
                self.update_blocks().await;
            }
            self.collect_leftovers().await;
        }
        self.install_conflist();
    }

    /// Once a conflist is there the container runtime starts pods: not before this node is ready for them.
    fn install_conflist(&mut self) {
        let Some((path, folder)) = self.config.conflist.as_ref().filter(|_| !self.serves_runtime) else {
            return;
        };
        if !self.health.ready() {
            return;
        }
        match Conflist::read(path, folder).and_then(|conflist| conflist.install().map(|()| conflist)) {
            Ok(conflist) => {
                tracing::info!("installed {}: pods can start", conflist.path().display());
                self.serves_runtime = true;
                self.health.set_problems("cni", Vec::new());
            }
            Err(error) => {
                let object = folder.display().to_string();
                self.health.set_problems("cni", vec![Problem { object, message: error.to_string() }]);
            }
        }
    }

    async fn tell_engine(&self, input: policy::Input) {
        if self.engine.send(input).await.is_err() {
            self.health.set("policy", false, "the policy thread has ended: restart the agent");
        }
    }

    fn report_problems(&self) {
        let unreadable = self
            .cluster
            .unreadable
            .iter()
            .map(|(key, reason)| Problem { object: key.to_string(), message: reason.clone() });
        self.health.set_problems("datastore", unreadable.collect());
    }

    fn own_key(&self) -> Key {
        Key::cluster(Kind::Node, self.config.node.as_str())
    }
}

/// The asker may have gone away: that is its business.
fn reply<T>(answer: Answer<T>, outcome: Result<T, Failure>) {
    let _gone = answer.send(outcome);
}
