//! The thread that cuts established flows which a change of policy denies (`cutDeniedFlows`): reading conntrack takes
//! long, and no pod waits for it.

use std::time::{Duration, Instant};

use felix_rs::apply::{Cutter, Loose};
use felix_rs::model::{Delta, EnforcedState};
use margay_netlink::Error;
use nix::errno::Errno;
use tokio::sync::mpsc;

use crate::offload::Offload;

/// Changes that may wait; when there are more, the whole state is told instead.
const QUEUE: usize = 64;

/// Conntrack is read at most once in this time, however often policy changes.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the ends of a cut connection may go on sending: TCP gives up after 924 s (`tcp_retries2`).
const MEMORY: Duration = Duration::from_secs(1000);

/// What the kernel enforces now.
enum Told {
    Whole(Box<EnforcedState>),
    Change(Box<Delta>),
}

/// The thread, as the policy thread sees it.
#[derive(Debug)]
pub(crate) struct Flows {
    sender: mpsc::Sender<Told>,
    /// Something was not told: changes alone would not do.
    behind: bool,
}

impl Flows {
    /// Starts the thread; `loose` as the agent before left it.
    ///
    /// # Errors
    /// A sentence: the kernel has no conntrack, or its settings cannot be written.
    pub(crate) fn spawn(loose: Loose, offload: Offload) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("cutDeniedFlows: {error}");
        let cutter = Cutter::new(loose).map_err(|error| failed(&error))?;
        let (sender, inputs) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || run(cutter, inputs, &offload))
            .map_err(|error| failed(&error))?;
        Ok(Self { sender, behind: true })
    }

    /// The kernel enforces `state`, to which `delta` led. Never waits.
    pub(crate) fn enforced(&mut self, delta: &Delta, state: &EnforcedState) {
        if !self.behind && delta.is_empty() {
            return;
        }
        let Ok(permit) = self.sender.try_reserve() else {
            self.behind = true;
            return;
        };
        permit.send(if std::mem::take(&mut self.behind) {
            Told::Whole(Box::new(state.clone()))
        } else {
            Told::Change(Box::new(delta.clone()))
        });
    }

    /// A change is not in the kernel yet; the next that is tells everything.
    pub(crate) fn delayed(&mut self) {
        self.behind = true;
    }
}

fn run(mut cutter: Cutter, mut inputs: mpsc::Receiver<Told>, offload: &Offload) {
    let mut relax_at = cutter.is_tight().then(|| Instant::now() + MEMORY);
    loop {
        // What failed is tried again, also when nothing new comes.
        if cutter.is_idle() && relax_at.is_none() {
            let Some(told) = inputs.blocking_recv() else { return };
            take(&mut cutter, told);
        }
        while let Ok(told) = inputs.try_recv() {
            take(&mut cutter, told);
        }
        let outcome = cutter.cut();
        // Conntrack does not forget what a flow table holds: that lets go of all flows, and takes up again what is left.
        let held = matches!(&outcome, Err(Error::Kernel { errno: Errno::EBUSY, .. }));
        let first = offload.hold(held) && held;
        match outcome {
            Ok(0) => {}
            Err(_) if first => {}
            Ok(count) => {
                relax_at = Some(Instant::now() + MEMORY);
                tracing::info!("cut {count} established flows that policy denies now");
            }
            Err(error) => tracing::warn!("cannot cut established flows that policy denies now: {error}"),
        }
        if relax_at.is_some_and(|at| at <= Instant::now()) {
            match cutter.relax() {
                Ok(()) => relax_at = None,
                Err(error) => tracing::warn!("cannot let conntrack take up connections again: {error}"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn take(cutter: &mut Cutter, told: Told) {
    match told {
        Told::Whole(state) => cutter.replace(*state),
        Told::Change(delta) => cutter.change(&delta),
    }
}
