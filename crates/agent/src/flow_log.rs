//! The flow log (`flowLogsLocalReporter` of FelixConfiguration): connections that policy let through and packets it dropped,
//! with the names of pods and of what decided.
//!
//! The kernel tells a thread of its own; names come from the evaluator, which knows the rules that the kernel has. When
//! the kernel or a reader is faster than the thread, some are lost, and that is told.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use felix_rs::apply::first_packet;
use felix_rs::calc::Calculator;
use felix_rs::model::{Delta, EnforcedState};
use felix_rs::rules::FLOW_LOG_GROUP;
use felix_rs::verdict::{self, Packet};
use margay_api::{Pod, Resource, WorkloadEndpoint};
use margay_control::flows::{Action, Flow, FlowLine, Peer};
use margay_daemon::lines::line;
use margay_datastore::rfc3339;
use margay_netlink::Error;
use margay_netlink::flows::{Event, FlowEvents};
use tokio::sync::broadcast;

/// Lines that wait for a slow reader of `margay flows`.
const WAITING: usize = 1024;
/// Dropped packets that are remembered.
const REMEMBERED: usize = 4096;
/// How often the thread looks whether it is still wanted, when nothing happens.
const PATIENCE: Duration = Duration::from_secs(1);
/// The file is moved to `<file>.1` when it has this many octets.
const LONGEST: u64 = 64 << 20;

/// What names are made from.
#[derive(Debug, Default)]
struct Known {
    state: EnforcedState,
    /// `namespace/name` by address. A pod that is gone keeps its name until somebody else has its address.
    pods: BTreeMap<IpAddr, String>,
}

/// Where the control API hears the log.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    /// Absent while the log is off: who listens then hears that it has ended.
    lines: Arc<Mutex<Option<broadcast::Sender<FlowLine>>>>,
    /// Packets that were dropped lately, the last ones at the end.
    dropped: Arc<Mutex<VecDeque<Packet>>>,
}

impl Feed {
    /// The lines from now on; none while the log is off.
    pub(crate) fn listen(&self) -> Option<broadcast::Receiver<FlowLine>> {
        lock(&self.lines).as_ref().map(broadcast::Sender::subscribe)
    }

    fn is_on(&self) -> bool {
        lock(&self.lines).is_some()
    }

    fn switch(&self, on: bool) {
        *lock(&self.lines) = on.then(|| broadcast::Sender::new(WAITING));
    }

    fn tell(&self, line: FlowLine) {
        if let Some(lines) = &*lock(&self.lines) {
            let _nobody_listens = lines.send(line);
        }
    }

    /// The first packets of flows that were dropped lately, as far as the log was on.
    pub(crate) fn dropped(&self) -> Vec<Packet> {
        lock(&self.dropped).iter().copied().collect()
    }

    fn remember(&self, packet: Packet) {
        let mut dropped = lock(&self.dropped);
        if dropped.len() == REMEMBERED {
            dropped.pop_front();
        }
        dropped.push_back(packet);
    }
}

/// The log as the policy thread sees it.
#[derive(Debug)]
pub(crate) struct FlowLog {
    feed: Feed,
    file: Option<PathBuf>,
    known: Arc<Mutex<Known>>,
    /// Who hears the kernel, or did.
    thread: Option<JoinHandle<()>>,
}

impl FlowLog {
    /// Off until the settings turn it on; lines go to `file` too.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let feed = Feed { lines: Arc::default(), dropped: Arc::default() };
        Self { feed, file, known: Arc::default(), thread: None }
    }

    pub(crate) fn feed(&self) -> Feed {
        self.feed.clone()
    }

    fn is_on(&self) -> bool {
        self.feed.is_on()
    }

    /// An object of the datastore came or changed.
    pub(crate) fn put(&self, resource: &Resource) {
        if !self.is_on() {
            return;
        }
        let (metadata, name, addresses): (_, _, Vec<IpAddr>) = match resource {
            Resource::WorkloadEndpoint(WorkloadEndpoint { metadata, spec, .. }) => {
                let Some(pod) = &spec.pod else { return };
                (metadata, pod, spec.ip_networks.iter().map(ipnet::IpNet::addr).collect())
            }
            Resource::Pod(Pod { metadata, status, .. }) => {
                (metadata, &metadata.name, status.pod_ips.iter().map(|address| address.ip).collect())
            }
            _ => return,
        };
        let name = format!("{}/{name}", metadata.namespace.as_deref().unwrap_or_default());
        let mut known = lock(&self.known);
        for address in addresses {
            known.pods.insert(address, name.clone());
        }
    }

    /// What is to be enforced is `state` now, to which `delta` led.
    pub(crate) fn changed(&mut self, delta: &Delta, state: &EnforcedState, calculator: &Calculator) {
        match (state.settings.flow_log, self.is_on()) {
            (true, true) => lock(&self.known).state.apply(delta),
            (true, false) => {
                let pods = calculator.pods();
                let pods = pods.map(|(address, namespace, name)| (address, format!("{namespace}/{name}")));
                *lock(&self.known) = Known { state: state.clone(), pods: pods.collect() };
                self.start();
            }
            (false, true) => {
                self.feed.switch(false);
                *lock(&self.known) = Known::default();
                lock(&self.feed.dropped).clear();
            }
            (false, false) => {}
        }
    }

    fn start(&mut self) {
        // Switched off a moment ago: the kernel has one place for a listener.
        if let Some(before) = self.thread.take() {
            let _ended = before.join();
        }
        let failed = |error: &dyn std::fmt::Display| tracing::warn!("no flow log: {error}");
        // In this thread: the socket belongs to its network namespace.
        let events = match FlowEvents::open(FLOW_LOG_GROUP) {
            Ok(events) => events,
            Err(error) => return failed(&error),
        };
        self.feed.switch(true);
        let (known, feed) = (Arc::clone(&self.known), self.feed());
        let output = self.file.as_deref().map(Output::open);
        let spawned = std::thread::Builder::new()
            .name("flow-log".to_owned())
            .spawn(move || run(events, &known, &feed, output));
        match spawned {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => {
                self.feed.switch(false);
                failed(&error);
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic happens under a lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(mut events: FlowEvents, known: &Mutex<Known>, feed: &Feed, mut output: Option<Output>) {
    while feed.is_on() {
        let mut lines = Vec::new();
        let read = events.read(PATIENCE, |event| {
            let flow = match event {
                Event::Begun(flow) => Some((Action::Allow, first_packet(&flow))),
                Event::Logged(head) => Packet::parse(head).map(|packet| (Action::Deny, packet)),
            };
            if let Some((Action::Deny, packet)) = flow {
                feed.remember(packet);
            }
            lines.extend(flow.and_then(|(action, packet)| describe(&lock(known), action, &packet)));
        });
        match read {
            Ok(()) => {}
            Err(error @ Error::Lost { .. }) => lines.push(FlowLine::Lost { lost: error.to_string() }),
            Err(error) => {
                tracing::warn!("the flow log ends: {error}");
                feed.switch(false);
            }
        }
        if let Some(output) = &mut output {
            output.write(&lines);
        }
        for line in lines {
            feed.tell(line);
        }
    }
}

/// A flow from or to a pod of this node; what else the node sees is not told.
fn describe(known: &Known, action: Action, packet: &Packet) -> Option<FlowLine> {
    let explanation = verdict::explain(&known.state, packet);
    let decision = |end: &verdict::End| match end {
        verdict::End::Endpoint(verdict) => Some(verdict.decision.to_string()),
        verdict::End::Node | verdict::End::Unknown => None,
    };
    let (egress, ingress) = (decision(&explanation.source), decision(&explanation.destination));
    if egress.is_none() && ingress.is_none() {
        return None;
    }
    let has_ports = verdict::has_ports(packet.protocol);
    let peer = |address: IpAddr, port: u16| Peer {
        address,
        port: has_ports.then_some(port),
        pod: known.pods.get(&address).cloned(),
    };
    Some(FlowLine::Flow(Flow {
        time: rfc3339(SystemTime::now()).unwrap_or_default(),
        action,
        protocol: verdict::protocol_name(packet.protocol),
        source: peer(packet.source, packet.source_port),
        destination: peer(packet.destination, packet.destination_port),
        egress,
        ingress,
    }))
}

/// The file of the log.
struct Output {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl Output {
    fn open(path: &Path) -> Self {
        let mut output = Self { path: path.to_owned(), file: None, length: 0 };
        output.reopen();
        output
    }

    fn reopen(&mut self) {
        let opened = OpenOptions::new().create(true).append(true).open(&self.path);
        self.file =
            opened.map_err(|error| tracing::warn!("no flow log in {}: {error}", self.path.display())).ok();
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        self.length = metadata.map_or(0, |metadata| metadata.len());
    }

    fn write(&mut self, lines: &[FlowLine]) {
        let mut text = String::new();
        lines.iter().for_each(|flow| line(&mut text, flow));
        let Some(file) = self.file.as_mut().filter(|_| !text.is_empty()) else { return };
        if let Err(error) = file.write_all(text.as_bytes()) {
            tracing::warn!("the flow log in {} ends: {error}", self.path.display());
            self.file = None;
            return;
        }
        self.length += text.len() as u64;
        if self.length > LONGEST {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            if let Err(error) = std::fs::rename(&self.path, &old) {
                tracing::warn!("moving {}: {error}", self.path.display());
            }
            self.reopen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_put_aside() {
        let folder = std::env::temp_dir().join(format!("margay-flow-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("flows.json");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let mut output = Output::open(&path);
        let mut say = |text: &str, length: Option<u64>| {
            output.length = length.unwrap_or(output.length);
            output.write(&[FlowLine::Lost { lost: text.to_owned() }]);
        };
        say("one", None);
        say("two", Some(LONGEST));
        assert_eq!(read("flows.json.1"), "{\"lost\":\"one\"}\n{\"lost\":\"two\"}\n");
        assert_eq!(read("flows.json"), "");
        say("three", None);
        say("four", Some(LONGEST));
        assert_eq!(
            read("flows.json.1"),
            "{\"lost\":\"three\"}\n{\"lost\":\"four\"}\n",
            "one old file is kept"
        );
        say("five", None);
        assert_eq!(read("flows.json"), "{\"lost\":\"five\"}\n");
        // What was there before is gone on with.
        Output::open(&path).write(&[FlowLine::Lost { lost: "six".to_owned() }]);
        assert_eq!(read("flows.json").lines().count(), 2);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// The kernel tells faster than the log reads: what is missing then is a line of its own, for whoever listens and in the file.
    #[test]
    fn what_the_kernel_had_to_drop_is_said() {
        use std::net::UdpSocket;
        use std::process::Command;
        use std::time::Instant;

        use margay_netlink::Netns;

        let netns = match Netns::new() {
            Err(error) if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
                eprintln!("skipped: {error}");
                return;
            }
            made => made.unwrap(),
        };
        let path = std::env::temp_dir().join(format!("margay-flows-lost-{}", std::process::id()));
        let (mut log, socket) = netns
            .run(|| {
                let tell = format!(
                    "ip link set lo up; iptables -A OUTPUT -p udp -j NFLOG --nflog-group {FLOW_LOG_GROUP}"
                );
                assert!(Command::new("sh").args(["-ec", &tell]).status().unwrap().success());
                let mut log = FlowLog::new(Some(path.clone()));
                log.start();
                (log, UdpSocket::bind("127.0.0.1:0").unwrap())
            })
            .unwrap();
        let mut lines = log.feed.listen().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut heard = false;
        while !heard || !std::fs::read_to_string(&path).unwrap().contains("{\"lost\":") {
            assert!(Instant::now() < deadline, "nothing is missing, or nobody says so");
            // The thread waits for names, and the queue of 8 MiB overflows.
            let names = lock(&log.known);
            for _ in 0..200_000 {
                let _maybe_full = socket.send_to(b"flood", "127.0.0.1:9");
            }
            drop(names);
            std::thread::sleep(Duration::from_millis(50));
            while let Ok(line) = lines.try_recv() {
                heard |= matches!(line, FlowLine::Lost { .. });
            }
        }
        log.feed.switch(false);
        log.thread.take().unwrap().join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
