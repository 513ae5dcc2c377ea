//! The thread that owns the [`Fib`]: it always works towards the newest desired state.

use std::sync::Arc;
use std::time::Duration;

use margay_daemon::health::Health;
use margay_routing::Desired;
use tokio::sync::watch;

use crate::fib::Fib;

/// How often the kernel is read back to repair what somebody else removed.
const RECHECK: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Counts up; the thread says which one it has reached.
    pub(crate) generation: u64,
    /// The state.
    pub(crate) desired: Arc<Desired>,
    /// Nothing is missing from it: what is ours and not wanted may go.
    pub(crate) complete: bool,
}

/// The thread's two ends.
#[derive(Debug)]
pub(crate) struct Forwarding {
    wanted: watch::Sender<Option<Wanted>>,
    reached: watch::Receiver<u64>,
    generation: u64,
}

impl Forwarding {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn spawn(mut fib: Fib, health: Health) -> Result<Self, String> {
        let (wanted, receive) = watch::channel(None);
        let (report, reached) = watch::channel(0);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("forwarding".to_owned())
            .spawn(move || run(&runtime, &mut fib, receive, &report, &health))
            .map_err(|error| format!("cannot start the forwarding thread: {error}"))?;
        Ok(Self { wanted, reached, generation: 0 })
    }

    /// Wants this state from now on; returns its generation.
    pub(crate) fn want(&mut self, desired: Arc<Desired>, complete: bool) -> u64 {
        self.generation += 1;
        self.wanted.send_replace(Some(Wanted { generation: self.generation, desired, complete }));
        self.generation
    }

    /// To wait with until a generation is in the kernel.
    pub(crate) fn reached(&self) -> watch::Receiver<u64> {
        self.reached.clone()
    }
}

fn run(
    runtime: &tokio::runtime::Handle,
    fib: &mut Fib,
    mut wanted: watch::Receiver<Option<Wanted>>,
    reached: &watch::Sender<u64>,
    health: &Health,
) {
    loop {
        let changed = runtime.block_on(async { tokio::time::timeout(RECHECK, wanted.changed()).await });
        match changed {
            Ok(Err(_closed)) => return,
            Ok(Ok(())) => {}
            Err(_elapsed) => {
                if let Err(error) = fib.learn() {
                    health.set("routes", false, format!("cannot read the kernel's routes: {error}"));
                    continue;
                }
            }
        }
        let Some(now) = wanted.borrow_and_update().clone() else { continue };
        let report = fib.apply(&now.desired, now.complete);
        if report.changed > 0 {
            tracing::debug!(routes = report.routes, changed = report.changed, "routes written");
        }
        match report.errors.first() {
            None => health.set("routes", true, format!("{} routes", report.routes)),
            Some(first) => {
                let more = report.errors.len() - 1;
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                health.set("routes", false, format!("{first}{more}; trying again"));
            }
        }
        reached.send_replace(now.generation);
    }
}
