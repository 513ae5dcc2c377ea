//! The policy engine's thread: calculation and kernel writes, blocking, away from the async runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix_rs::apply::{Applier, Failure, Options, Report, Seen};
use felix_rs::calc::{Calculator, Interfaces};
use felix_rs::model::{BackendChoice, EndpointId, EnforcedState};
use felix_rs::rules::Origin;
use margay_api::{Key, Kind, Resource, WorkloadEndpoint};
use margay_control::status::Problem;
use margay_daemon::health::Health;
use margay_datastore::Unreadable;
use margay_netlink::sysctl;
use tokio::sync::{mpsc, oneshot};

use crate::flow_log::FlowLog;
use crate::flows::Flows;
use crate::interfaces::Watch;
use crate::memory;

/// Inputs that may wait for the thread.
const QUEUE: usize = 1024;

/// How often the kernel is read back to repair what somebody else changed, and how long that waits for changes to pause:
/// beside one, both take longer, and a look that a write overtakes says nothing.
const RECHECK: Duration = Duration::from_secs(30);
const RECHECK_WAITS: Duration = Duration::from_secs(60);

/// How long nothing has to happen before what nobody wants is removed from the kernel, and how long it may stay at most.
const IDLE: Duration = Duration::from_millis(200);
const UNSWEPT: Duration = Duration::from_secs(5);
/// Between two steps of a sweep where changes never pause: each holds up the next change.
const BETWEEN_STEPS: Duration = Duration::from_secs(1);

/// Looks at the kernel in a row that may be overtaken by writes.
const OVERTAKEN: u32 = 3;

/// Told once the endpoint's policy is in the kernel, or why it cannot be.
pub(crate) type Live = oneshot::Sender<Result<(), String>>;

/// What the thread is told or asked.
#[derive(Debug)]
pub(crate) enum Input {
    /// An object of the datastore.
    Put(Arc<Resource>),
    /// An object is gone.
    Delete(Key),
    /// An object cannot be read; what it governs fails closed.
    Unreadable(Key, Unreadable),
    /// A pod of this node; the answer comes when its policy is live.
    SetLocal(Box<WorkloadEndpoint>, Option<Live>),
    /// A pod of this node is gone.
    RemoveLocal(Key),
    /// The datastore was told completely: the kernel may be written.
    InSync,
    /// The enforced state, with packet counts of rules.
    Snapshot(oneshot::Sender<Snapshot>),
    /// What a look at the kernel has found.
    Seen(Box<Seen>),
    /// The node's own interfaces and their addresses.
    Interfaces(Interfaces),
}

/// The enforced state as the control API shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// What is wanted.
    pub(crate) state: EnforcedState,
    /// Endpoints whose policy is in the kernel.
    pub(crate) live: BTreeSet<EndpointId>,
    /// Packets each rule has matched.
    pub(crate) packets: BTreeMap<Origin, u64>,
}

/// Where inputs go.
pub(crate) type Engine = mpsc::Sender<Input>;

/// Starts the thread.
///
/// # Errors
/// iptables or netlink are missing; the sentence says what to install or allow.
pub(crate) fn spawn(
    node: &str,
    health: Health,
    flows: Option<Flows>,
    flow_log: FlowLog,
) -> Result<Engine, String> {
    let (sender, inputs) = mpsc::channel(QUEUE);
    let runtime = tokio::runtime::Handle::current();
    let mut applier = Applier::new(&Options::default()).map_err(|error| error.to_string())?;
    applier.sweep_later();
    let (watch, interfaces) = Watch::begin().map_err(|error| error.to_string())?;
    let mut calculator = Calculator::new(node);
    calculator.set_interfaces(interfaces.clone());
    let mut thread = Thread {
        calculator: if sysctl::has_ipv6() { calculator } else { calculator.without_ipv6() },
        applier,
        state: EnforcedState::default(),
        started: false,
        rebuilt: false,
        in_sync: false,
        refused: None,
        waiting: Vec::new(),
        live: BTreeSet::new(),
        due: None,
        recheck_at: Instant::now() + RECHECK,
        changed_at: Instant::now(),
        sweep_at: None,
        seen: None,
        overtaken: 0,
        engine: sender.downgrade(),
        problems: Problems::default(),
        health,
        flows,
        flow_log,
    };
    let engine = sender.downgrade();
    let threads = [
        std::thread::Builder::new().name("policy".to_owned()).spawn(move || thread.run(&runtime, inputs)),
        std::thread::Builder::new()
            .name("interfaces".to_owned())
            .spawn(move || watch.run(interfaces, &engine)),
    ];
    for thread in threads {
        thread.map_err(|error| format!("cannot start the policy thread: {error}"))?;
    }
    Ok(sender)
}

struct Thread {
    calculator: Calculator,
    applier: Applier,
    state: EnforcedState,
    /// The whole state was handed to the applier once.
    started: bool,
    /// A lot of memory was needed for a moment.
    rebuilt: bool,
    in_sync: bool,
    /// A backend that can't be used: why, and when it is tried again.
    refused: Option<(BackendChoice, String, Instant)>,
    waiting: Vec<(EndpointId, Live)>,
    live: BTreeSet<EndpointId>,
    /// When a failed write is to be tried again.
    due: Option<Instant>,
    recheck_at: Instant,
    /// When a change was written last.
    changed_at: Instant,
    /// When what nobody wants is to be removed if nothing happens before, and when at the latest.
    sweep_at: Option<(Instant, Instant)>,
    /// A look at the kernel that is to be taken in.
    seen: Option<Box<Seen>>,
    /// Looks in a row that writes have overtaken.
    overtaken: u32,
    /// For those who look at the kernel.
    engine: mpsc::WeakSender<Input>,
    problems: Problems,
    health: Health,
    flows: Option<Flows>,
    flow_log: FlowLog,
}

/// Whether the list of problems has to be made anew: not for every change, it grows with the policies.
#[derive(Debug, Default, PartialEq, Eq)]
enum Problems {
    /// None when last looked at.
    #[default]
    None,
    /// Some when last looked at: any change of an object may end one.
    Some,
    /// Look at them with the next write.
    Due,
}

impl Problems {
    fn object_changed(&mut self) {
        if *self == Self::Some {
            *self = Self::Due;
        }
    }
}

impl Thread {
    fn run(&mut self, runtime: &tokio::runtime::Handle, mut inputs: mpsc::Receiver<Input>) {
        loop {
            let seen = self.seen.as_ref().map(|_| Instant::now());
            let due = [self.due, self.sweep_at.map(|(idle, _)| idle), seen].into_iter().flatten();
            let deadline = due.fold(self.recheck_due(), Instant::min);
            let wait = deadline.saturating_duration_since(Instant::now());
            match runtime.block_on(async { tokio::time::timeout(wait, inputs.recv()).await }) {
                Ok(None) => return,
                Ok(Some(input)) => {
                    self.take(input);
                    // Everything that is there already goes into the same write.
                    while let Ok(input) = inputs.try_recv() {
                        self.take(input);
                    }
                }
                Err(_elapsed) => {}
            }
            if self.in_sync {
                self.write();
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Put(resource) => {
                self.problems.object_changed();
                if resource.kind() == Kind::FelixConfiguration {
                    // What has no effect changes nothing else.
                    self.problems = Problems::Due;
                }
                self.flow_log.put(&resource);
                self.calculator.update(&resource.key(), Some(&resource));
            }
            Input::Delete(key) => {
                self.problems.object_changed();
                self.calculator.update(&key, None);
            }
            Input::Unreadable(key, unreadable) => {
                self.problems = Problems::Due;
                self.calculator.update_unreadable(&key, &unreadable.reason, unreadable.raw.as_ref());
            }
            Input::SetLocal(endpoint, live) => {
                let id = EndpointId::Workload {
                    namespace: endpoint.metadata.namespace.as_deref().unwrap_or_default().into(),
                    name: endpoint.metadata.name.as_str().into(),
                };
                self.calculator.set_local_endpoint(&endpoint);
                if let Some(live) = live {
                    self.waiting.push((id, live));
                }
            }
            Input::RemoveLocal(key) => {
                let namespace = key.namespace.as_deref().unwrap_or_default();
                self.calculator.remove_local_endpoint(namespace, &key.name);
            }
            Input::InSync => self.in_sync = true,
            Input::Snapshot(answer) => {
                let _gone = answer.send(self.snapshot());
            }
            Input::Seen(seen) => self.seen = Some(seen),
            Input::Interfaces(interfaces) => {
                self.problems = Problems::Due;
                self.calculator.set_interfaces(interfaces);
            }
        }
    }

    fn write(&mut self) {
        let delta = self.calculator.flush();
        let changed = delta != felix_rs::model::Delta::default();
        self.state.apply(&delta);
        if changed {
            self.flow_log.changed(&delta, &self.state, &self.calculator);
        }
        if changed || self.problems == Problems::Due {
            self.report_problems();
        }
        let now = Instant::now();
        let (mut sweeping, mut overdue) = (false, false);
        let outcome = if !self.started {
            self.started = true;
            self.rebuilt = true;
            self.applier.set_in_sync();
            self.applier.switch(self.state.settings.backend, &self.state)
        } else if self.is_to_switch(now) {
            self.applier.switch(self.state.settings.backend, &self.state)
        } else if changed {
            self.changed_at = now;
            overdue = self.sweep_at.is_some_and(|(_, latest)| latest <= now);
            self.applier.apply_delta(&delta)
        } else if self.due.is_some_and(|due| due <= now) {
            self.applier.retry()
        } else if let Some(seen) = self.seen.take() {
            match self.applier.repair(*seen) {
                Ok(Some(report)) => {
                    self.overtaken = 0;
                    memory::give_back();
                    Ok(report)
                }
                Ok(None) => {
                    self.overtaken += 1;
                    return;
                }
                Err(failure) => Err(failure),
            }
        } else if self.recheck_due() <= now {
            self.recheck_at = now + RECHECK;
            if self.look() {
                return;
            }
            self.overtaken = 0;
            self.applier.recheck()
        } else if self.sweep_at.is_some_and(|(idle, _)| idle <= now) {
            sweeping = true;
            self.applier.sweep()
        } else if self.waiting.is_empty() || self.due.is_some() {
            return;
        } else {
            let live = self.live.clone();
            self.answer(&live);
            return;
        };
        match outcome {
            Ok(report) => {
                self.succeeded(report, sweeping);
                if let Some(flows) = &mut self.flows {
                    flows.enforced(&delta, &self.state);
                }
            }
            Err(failure) => return self.failed(&failure),
        }
        if overdue {
            // Changes that never end must not keep what nobody wants for ever.
            match self.applier.sweep() {
                Ok(report) => {
                    self.succeeded(report, true);
                    let now = Instant::now();
                    self.sweep_at = self.sweep_at.map(|_| (now + IDLE, now + BETWEEN_STEPS));
                }
                Err(failure) => self.failed(&failure),
            }
        }
    }

    /// When the kernel is to be read back.
    fn recheck_due(&self) -> Instant {
        self.recheck_at.max(self.changed_at + IDLE).min(self.recheck_at + RECHECK_WAITS)
    }

    /// Whether another backend is wanted than the one in use, and not just refused.
    fn is_to_switch(&self, now: Instant) -> bool {
        let wanted = self.state.settings.backend;
        let refused =
            self.refused.as_ref().is_some_and(|(choice, _, until)| *choice == wanted && now < *until);
        wanted != self.applier.choice() && !refused
    }

    /// Has somebody look at the kernel while this thread goes on; not if writes have overtaken too many looks.
    fn look(&mut self) -> bool {
        if self.overtaken >= OVERTAKEN {
            return false;
        }
        let (look, engine) = (self.applier.look(), self.engine.clone());
        let looks = std::thread::Builder::new().name("policy-look".to_owned()).spawn(move || {
            let seen = Box::new(look.take());
            // The agent may have ended meanwhile.
            let _ended = engine.upgrade().map(|engine| engine.blocking_send(Input::Seen(seen)));
        });
        looks.is_ok()
    }

    fn succeeded(&mut self, report: Report, sweeping: bool) {
        self.due = None;
        let now = Instant::now();
        if sweeping && !self.applier.is_unswept() && std::mem::take(&mut self.rebuilt) {
            self.calculator.pack();
            memory::give_back();
        }
        self.sweep_at = self.applier.is_unswept().then(|| {
            let latest = self.sweep_at.map_or(now + UNSWEPT, |(_, latest)| latest);
            // A sweep that has begun goes on as soon as nothing else is to do.
            (if sweeping { now } else { (now + IDLE).min(latest) }, latest)
        });
        if report.wrote() {
            tracing::debug!(?report, "policy written");
        }
        self.answer(&report.live);
        self.live = report.live;
        let endpoints = self.state.endpoints.len();
        let policies = self.state.policies.len();
        let wanted = self.state.settings.backend;
        if let Some(why) = report.refused {
            tracing::warn!("{why}; {} goes on", self.applier.backend());
            self.refused = Some((wanted, why, now + RECHECK));
        }
        let enforced = format!("{policies} policies enforced for {endpoints} endpoints");
        match &self.refused {
            Some((choice, why, _)) if *choice == wanted && wanted != self.applier.choice() => {
                self.health.set("policy", false, format!("{enforced} by {}: {why}", self.applier.backend()));
            }
            _ => {
                self.refused = None;
                self.health.set("policy", true, enforced);
            }
        }
    }

    fn failed(&mut self, failure: &Failure) {
        tracing::warn!("{failure}");
        self.health.set("policy", false, failure.to_string());
        let due = Instant::now() + failure.next_retry;
        self.due = Some(due);
        self.sweep_at = self.sweep_at.map(|(idle, latest)| (idle.max(due + IDLE), latest.max(due + IDLE)));
        if let Some(flows) = &mut self.flows {
            flows.delayed();
        }
        // Those who wait for an endpoint go on waiting: the next attempt may succeed before they give up.
    }

    /// Answers those whose endpoint is live; an endpoint that is not wanted any more never will be.
    fn answer(&mut self, live: &BTreeSet<EndpointId>) {
        for (id, answer) in self.waiting.drain(..) {
            let outcome = if live.contains(&id) {
                Ok(())
            } else {
                Err("the endpoint was removed or replaced while it was being added".to_owned())
            };
            let _gone = answer.send(outcome);
        }
    }

    fn report_problems(&mut self) {
        let problems = self.calculator.problems();
        self.problems = if problems.is_empty() { Problems::None } else { Problems::Some };
        let problems = problems
            .into_iter()
            .map(|problem| Problem { object: problem.object, message: problem.reason })
            .collect();
        self.health.set_problems("policy", problems);
    }

    fn snapshot(&self) -> Snapshot {
        let packets = match self.applier.counters() {
            Ok(counters) => counters.into_iter().map(|(origin, count)| (origin, count.packets)).collect(),
            Err(error) => {
                tracing::warn!("cannot read the rules' counters: {error}");
                BTreeMap::new()
            }
        };
        Snapshot { state: self.state.clone(), live: self.live.clone(), packets }
    }
}

/// The policies' shared values make this cheap enough to be asked for by people.
pub(crate) async fn snapshot(engine: &Engine) -> Option<Arc<Snapshot>> {
    let (answer, wait) = oneshot::channel();
    engine.send(Input::Snapshot(answer)).await.ok()?;
    wait.await.ok().map(Arc::new)
}
