//! Nodes, and connections with latency, limited buffers, partial delivery, stalls and failures.

use super::process::Process;
use super::record::Recorder;
use super::thin::{Pieces, Thin};
use crate::config::SpeakerConfig;
use crate::io::{ConnId, Input, Log, Output};
use crate::speaker::Speaker;
use crate::status::{Event, RouteChange};
use crate::time::{Rng, Time};
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

mod link;
mod queue;
mod upgrade;

use link::{Item, Link};
use queue::{Happening, Queue};

/// Number of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// The network's behaviour.
#[derive(Debug, Clone, Copy)]
pub struct NetConfig {
    /// One way, at least.
    pub latency_min: Duration,
    /// One way, at most.
    pub latency_max: Duration,
    /// Octets under way in one direction, socket buffers included.
    pub buffer: usize,
    /// One connection of so many, chosen at random, delivers in pieces of random size; 0 is none.
    pub fragment: u64,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(100),
            latency_max: Duration::from_millis(2),
            buffer: 64 << 10,
            fragment: 1,
        }
    }
}

/// Where nodes begin.
const MAINLAND: usize = 0;

/// A place in the network. It outlives the speakers that run there.
#[derive(Debug)]
struct Node {
    address: IpAddr,
    process: Option<Process>,
    conns: BTreeMap<ConnId, (usize, usize)>,
    /// Links of which this is or was an end, while anything may still move on them.
    links: BTreeSet<usize>,
    accepted: u64,
    wake: Option<Time>,
    /// Which part of a network in parts it is in: nodes reach those of their own side.
    side: usize,
    stalled: bool,
    /// How far the node's clock has jumped ahead.
    ahead: Duration,
    fib: BTreeMap<IpNet, RouteChange>,
    /// Prefixes that this speaker hasn't spoken of since it started, if it isn't in sync.
    unconfirmed: BTreeSet<IpNet>,
    /// Prefixes that lost their last next hop, since the last [`Sim::take_lost`].
    lost: BTreeSet<IpNet>,
    in_sync: bool,
    logs: Vec<Log>,
}

/// The simulated world.
#[derive(Debug)]
pub struct Sim {
    now: Time,
    queue: Queue,
    nodes: Vec<Node>,
    by_address: BTreeMap<IpAddr, NodeId>,
    links: Vec<Link>,
    rng: Rng,
    config: NetConfig,
    pieces: Pieces,
    recorder: Option<Recorder>,
}

impl Sim {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, config: NetConfig) -> Self {
        Self {
            now: Time::ZERO,
            queue: Queue::default(),
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            links: Vec::new(),
            rng: Rng::new(seed),
            config,
            pieces: Pieces::default(),
            recorder: None,
        }
    }

    /// Writes down from now on what every speaker of these nodes is given, one line of JSON each; see
    /// [`super::replay`].
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// A number below `bound` from the seed.
    pub fn random(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    /// A new node without a speaker.
    pub fn add_node(&mut self, address: IpAddr) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            address,
            process: None,
            conns: BTreeMap::new(),
            links: BTreeSet::new(),
            accepted: 0,
            wake: None,
            side: MAINLAND,
            stalled: false,
            ahead: Duration::ZERO,
            fib: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            lost: BTreeSet::new(),
            in_sync: false,
            logs: Vec::new(),
        });
        self.by_address.insert(address, id);
        id
    }

    /// Starts a speaker on a node. What the node forwards stays as it is (the kernel keeps it).
    pub fn start(&mut self, node: NodeId, config: SpeakerConfig) {
        let now = self.local_time(node);
        if let Some(recorder) = &mut self.recorder {
            recorder.start(node, now, &config);
        }
        self.run(node, Process::Full(Box::new(Speaker::new(config, now))));
    }

    /// Starts a thin client on a node.
    pub(crate) fn start_thin(&mut self, node: NodeId, thin: Thin) {
        self.run(node, Process::Thin(Box::new(thin)));
    }

    fn run(&mut self, node: NodeId, process: Process) {
        if let Some(node) = self.nodes.get_mut(node.0) {
            node.process = Some(process);
            node.in_sync = false;
            node.wake = None;
            node.unconfirmed = node.fib.keys().copied().collect();
        }
        self.settle(node);
    }

    /// A node's own clock.
    fn local_time(&self, node: NodeId) -> Time {
        self.now + self.nodes.get(node.0).map_or(Duration::ZERO, |place| place.ahead)
    }

    /// A node's clock jumps ahead, as after a machine was suspended: its timers find themselves late.
    pub fn jump_clock(&mut self, node: NodeId, by: Duration) {
        if let Some(place) = self.nodes.get_mut(node.0) {
            place.ahead += by;
        }
        self.input(node, Input::Tick);
    }

    /// The process dies; the kernel closes its connections.
    pub fn kill(&mut self, node: NodeId) {
        let Some(place) = self.nodes.get_mut(node.0) else { return };
        place.process = None;
        let conns: Vec<ConnId> = place.conns.keys().copied().collect();
        for conn in conns {
            self.close(node, conn);
        }
    }

    /// The machine loses power: nobody hears of it before the machine is back and answers what it does not know.
    pub fn crash(&mut self, node: NodeId) {
        let Some(place) = self.nodes.get_mut(node.0) else { return };
        place.process = None;
        for (_, (link, end)) in std::mem::take(&mut place.conns) {
            if let Some(link) = self.links.get_mut(link) {
                link.ends[end] = None;
                link.vanished[end] = true;
                link.pipes[end].waiting.clear();
            }
        }
    }

    /// Cuts a node off from everybody, or connects it again. What is under way waits: connections end only when timers
    /// expire.
    pub fn set_reachable(&mut self, node: NodeId, reachable: bool) {
        self.set_side(node, if reachable { MAINLAND } else { usize::MAX - node.0 });
    }

    /// Puts a node on a side of a network in parts, where it reaches only who is on the same side; all begin on side 0.
    pub fn set_side(&mut self, node: NodeId, side: usize) {
        if let Some(place) = self.nodes.get_mut(node.0) {
            place.side = side;
        }
        self.resume(node);
    }

    /// A node that doesn't read its sockets.
    pub fn set_stalled(&mut self, node: NodeId, stalled: bool) {
        if let Some(place) = self.nodes.get_mut(node.0) {
            place.stalled = stalled;
        }
        if !stalled {
            self.resume(node);
        }
    }

    /// Breaks a node's connections: both ends see an error, octets under way are lost.
    pub fn reset_connections(&mut self, node: NodeId) {
        let conns: Vec<(usize, usize)> =
            self.nodes.get(node.0).map(|place| place.conns.values().copied().collect()).unwrap_or_default();
        for (link, _) in conns {
            let Some(link) = self.links.get_mut(link) else { continue };
            let ends = std::mem::take(&mut link.ends);
            link.pipes = Default::default();
            for (node, conn) in ends.into_iter().flatten() {
                self.schedule(self.now, Happening::Broken(node, conn));
            }
        }
    }

    /// Gives a node's speaker an input.
    pub fn input(&mut self, node: NodeId, input: Input) {
        self.feed(node, input);
        self.settle(node);
    }

    fn feed(&mut self, node: NodeId, input: Input) {
        let now = self.local_time(node);
        let Some(process) = self.nodes.get_mut(node.0).and_then(|place| place.process.as_mut()) else {
            return;
        };
        if let Some(recorder) = self.recorder.as_mut().filter(|_| process.speaker().is_some()) {
            recorder.input(node, now, &input);
        }
        process.handle(now, input, &mut self.pieces);
    }

    /// A node's speaker.
    #[must_use]
    pub fn speaker(&self, node: NodeId) -> Option<&Speaker> {
        self.nodes.get(node.0)?.process.as_ref()?.speaker()
    }

    /// To change it before it starts to work.
    pub fn speaker_mut(&mut self, node: NodeId) -> Option<&mut Speaker> {
        self.nodes.get_mut(node.0)?.process.as_mut()?.speaker_mut()
    }

    /// A node's thin client.
    pub(crate) fn thin(&self, node: NodeId) -> Option<&Thin> {
        self.nodes.get(node.0)?.process.as_ref()?.thin()
    }

    /// The forwarding table of a node, by prefix.
    #[must_use]
    pub fn fib(&self, node: NodeId) -> BTreeMap<IpNet, Vec<IpAddr>> {
        let entries = self.nodes.get(node.0).map(|place| &place.fib).into_iter().flatten();
        entries
            .map(|(prefix, change)| (*prefix, change.next_hops.iter().map(|hop| hop.address).collect()))
            .collect()
    }

    /// Prefixes that a node stopped forwarding since the last call.
    pub fn take_lost(&mut self, node: NodeId) -> BTreeSet<IpNet> {
        self.nodes.get_mut(node.0).map(|place| std::mem::take(&mut place.lost)).unwrap_or_default()
    }

    /// Whether a node has reported that it is in sync.
    #[must_use]
    pub fn in_sync(&self, node: NodeId) -> bool {
        self.nodes.get(node.0).is_some_and(|place| place.in_sync)
    }

    /// What a node's speaker logged.
    #[must_use]
    pub fn logs(&self, node: NodeId) -> &[Log] {
        self.nodes.get(node.0).map(|place| place.logs.as_slice()).unwrap_or_default()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, happening)) = self.queue.pop(end) {
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = end;
    }

    /// Lets time pass until a condition holds; whether it did within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.run_for(Duration::from_millis(100));
        }
        done(self)
    }

    fn schedule(&mut self, at: Time, happening: Happening) {
        self.queue.push(at, happening);
    }

    fn latency(&mut self) -> Duration {
        let (low, high) = (self.config.latency_min, self.config.latency_max);
        let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(0);
        low + Duration::from_nanos(self.random(span + 1))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(node) => {
                let due = self.nodes.get_mut(node.0).is_some_and(|place| {
                    let due = place.wake.is_some_and(|at| at <= self.now);
                    if due {
                        place.wake = None;
                    }
                    due
                });
                if due {
                    self.input(node, Input::Tick);
                }
            }
            Happening::Dialled(dial) => {
                let (node, conn, remote, local) = *dial;
                self.dialled(node, conn, remote, local);
            }
            Happening::Connected(link) => {
                let Some([Some((node, conn)), _]) = self.links.get(link).map(|link| link.ends) else {
                    return;
                };
                let local = SocketAddr::new(self.address(node), 40_000);
                self.input(node, Input::Connected { conn, local });
            }
            Happening::Refused(node, conn) => {
                self.input(node, Input::Closed { conn, reason: "connection refused".to_owned() });
            }
            Happening::Arrives(link, from, item) => self.arrives(link, from, item),
            Happening::Broken(node, conn) => {
                if let Some(place) = self.nodes.get_mut(node.0) {
                    place.conns.remove(&conn);
                }
                self.input(node, Input::Closed { conn, reason: "connection reset by peer".to_owned() });
            }
        }
    }

    /// Does what a node's speaker says and plans its next waking.
    fn settle(&mut self, node: NodeId) {
        let mut written = Vec::new();
        loop {
            while let Some(output) = self
                .nodes
                .get_mut(node.0)
                .and_then(|place| place.process.as_mut())
                .and_then(Process::poll_output)
            {
                if let Some(recorder) = self.recorder.as_mut() {
                    recorder.output(node, &output);
                }
                if let Output::Write { conn, data } = output {
                    written.extend(self.write(node, conn, data));
                } else {
                    self.output(node, output);
                }
            }
            let Some((conn, bytes)) = written.pop() else { break };
            self.feed(node, Input::Written { conn, bytes });
        }
        if let Some(recorder) = self.recorder.as_mut() {
            recorder.settled(node);
        }
        let Some(place) = self.nodes.get_mut(node.0) else { return };
        let Some(deadline) = place.process.as_ref().and_then(Process::next_deadline) else { return };
        let deadline = Time::ZERO + deadline.since(Time::ZERO + place.ahead);
        if place.wake.is_none_or(|wake| deadline < wake) {
            // At least a little later: a deadline that stays in the past must not stop the clock.
            let at = deadline.max(self.now + Duration::from_micros(1));
            place.wake = Some(at);
            self.schedule(at, Happening::Wake(node));
        }
    }

    /// Octets that the network took at once.
    fn write(&mut self, node: NodeId, conn: ConnId, data: Bytes) -> Option<(ConnId, usize)> {
        let &(link, end) = self.nodes.get(node.0)?.conns.get(&conn)?;
        self.links.get_mut(link)?.pipes[end].waiting.push_back(Item::Data(data));
        let taken = self.push(link, end);
        (taken > 0).then_some((conn, taken))
    }

    fn output(&mut self, node: NodeId, output: Output) {
        match output {
            Output::Dial { conn, remote, local, .. } => {
                let latency = self.latency();
                let local = local.unwrap_or(self.address(node));
                self.schedule(self.now + latency, Happening::Dialled(Box::new((node, conn, remote, local))));
            }
            Output::Close { conn } => self.close(node, conn),
            Output::Log(log) => {
                if let Some(place) = self.nodes.get_mut(node.0) {
                    place.logs.push(log);
                }
            }
            Output::Event(event) => self.event(node, event),
            // Written by the caller; options of sockets mean nothing here, and nobody looks.
            Output::Write { .. }
            | Output::Protect { .. }
            | Output::Rekey { .. }
            | Output::Authenticate { .. }
            | Output::Bfd { .. } => {}
            Output::Station { .. } | Output::Record { .. } | Output::Changed(_) => {}
        }
    }

    fn event(&mut self, node: NodeId, event: Event) {
        let Some(place) = self.nodes.get_mut(node.0) else { return };
        match event {
            // What agents do: what the speaker hasn't confirmed goes.
            Event::InSync => {
                place.in_sync = true;
                for prefix in std::mem::take(&mut place.unconfirmed) {
                    place.fib.remove(&prefix);
                    place.lost.insert(prefix);
                }
            }
            Event::PeerChanged { .. } | Event::BfdChanged { .. } | Event::NextHops(_) => {}
            Event::RouteChanges(changes) => {
                for change in changes {
                    place.unconfirmed.remove(&change.prefix);
                    if change.next_hops.is_empty() {
                        if place.fib.remove(&change.prefix).is_some() {
                            place.lost.insert(change.prefix);
                        }
                    } else {
                        place.fib.insert(change.prefix, change);
                    }
                }
            }
        }
    }
}
