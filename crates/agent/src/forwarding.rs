//! The thread that owns the [`Fib`]: it works towards the newest desired state and repairs what others change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use margay_daemon::health::Health;
use margay_routing::{Route, Tunnels};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::watch;

use crate::fib::{Fib, Report, Underlay};

/// How often everything is read back although nobody said that it changed.
const AUDIT: Duration = Duration::from_secs(90);
/// Shortest and longest wait between two rounds that others caused: with somebody who keeps undoing what we do, rounds get rare.
const REPAIR: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// Shortest and longest wait before what the kernel refused is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Most wishes that are taken up before the round is ended.
const WISHES: usize = 16;

/// What is wanted and not taken up by the thread yet. Of several wishes for one destination only the last counts.
#[derive(Debug, Default)]
struct Wish {
    generation: u64,
    routes: BTreeMap<IpNet, Option<Route>>,
    tunnels: Option<Arc<Tunnels>>,
    complete: bool,
    /// Nobody will wish for anything any more.
    closed: bool,
}

/// What the node's task and the thread share.
#[derive(Debug)]
struct Shared {
    wish: Mutex<Wish>,
    /// Readable when there is a new wish.
    wake: EventFd,
}

impl Shared {
    fn wake(&self) {
        // It fails only when it is readable already, by 2^64 - 1 wishes.
        let _full = self.wake.write(1);
    }

    fn wish<T>(&self, with: impl FnOnce(&mut Wish) -> T) -> T {
        with(&mut self.wish.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How far the thread has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reached {
    /// The newest wish that was worked on.
    generation: u64,
    /// Addresses of local pods whose route is not in the kernel.
    pods_missing: Arc<BTreeSet<IpNet>>,
}

impl Reached {
    /// The routes of these pod addresses, wanted with `generation`, are in the kernel.
    pub(crate) fn has(&self, generation: u64, pods: &[IpNet]) -> bool {
        self.generation >= generation && !pods.iter().any(|pod| self.pods_missing.contains(pod))
    }
}

/// The thread's ends.
#[derive(Debug)]
pub(crate) struct Forwarding {
    shared: Arc<Shared>,
    reached: watch::Receiver<Reached>,
    underlay: watch::Receiver<Arc<Underlay>>,
    generation: u64,
}

impl Forwarding {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn spawn(fib: Fib, health: Health) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { wish: Mutex::default(), wake });
        let (underlay_sender, underlay) = watch::channel(Arc::new(fib.underlay()));
        let (reached_sender, reached) = watch::channel(Reached::default());
        let worker = Worker {
            fib,
            shared: Arc::clone(&shared),
            reached: reached_sender,
            underlay: underlay_sender,
            health,
            complete: false,
        };
        std::thread::Builder::new().name("forwarding".to_owned()).spawn(move || worker.run())?;
        Ok(Self { shared, reached, underlay, generation: 0 })
    }

    /// Wants these changes, and from now on removes what is not wanted if nothing is missing (`complete`); returns the
    /// generation to wait for.
    pub(crate) fn want(
        &mut self,
        routes: BTreeMap<IpNet, Option<Route>>,
        tunnels: Option<Arc<Tunnels>>,
        complete: bool,
    ) -> u64 {
        let news = self.shared.wish(|wish| {
            let news = !routes.is_empty() || tunnels.is_some() || complete != wish.complete;
            if news {
                self.generation += 1;
                wish.generation = self.generation;
                wish.complete = complete;
                if wish.routes.is_empty() {
                    wish.routes = routes;
                } else {
                    wish.routes.extend(routes);
                }
                wish.tunnels = tunnels.or(wish.tunnels.take());
            }
            news
        });
        if news {
            self.shared.wake();
        }
        self.generation
    }

    /// To wait with until a generation is in the kernel.
    pub(crate) fn reached(&self) -> watch::Receiver<Reached> {
        self.reached.clone()
    }

    /// How this node reaches its neighbours, now.
    pub(crate) fn underlay(&self) -> Arc<Underlay> {
        Arc::clone(&self.underlay.borrow())
    }

    /// Resolves when the ways to the neighbours have changed. Never, when the thread has ended.
    pub(crate) async fn underlay_changed(&mut self) {
        if self.underlay.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.shared.wish(|wish| wish.closed = true);
        self.shared.wake();
    }
}

/// Lets a repeated action happen at once first, and less and less often if it does not stop.
#[derive(Debug)]
struct Backoff {
    limits: (Duration, Duration),
    wait: Duration,
    last: Option<Instant>,
}

impl Backoff {
    fn new(limits: (Duration, Duration)) -> Self {
        Self { limits, wait: limits.0, last: None }
    }

    /// When it may happen again.
    fn next(&self) -> Option<Instant> {
        self.last.map(|last| last + self.wait)
    }

    /// It was looked at and not needed: the next look comes after the shortest wait, if it does not have to wait longer.
    fn seen(&mut self, now: Instant) {
        if self.wait == self.limits.0 {
            self.last = Some(now);
        }
    }

    /// It happens now. After a rest as long as several waits, it starts from the shortest one again.
    fn happened(&mut self, now: Instant) {
        let rested = self.last.is_none_or(|last| now - last > self.wait * 4);
        self.wait = if rested { self.limits.0 } else { (self.wait * 2).min(self.limits.1) };
        self.last = Some(now);
    }
}

/// Outcome of a round.
struct Done {
    /// Something was written, or everything was read back.
    repaired: bool,
    /// Something has to be tried again.
    failed: bool,
}

struct Worker {
    fib: Fib,
    shared: Arc<Shared>,
    reached: watch::Sender<Reached>,
    underlay: watch::Sender<Arc<Underlay>>,
    health: Health,
    complete: bool,
}

impl Worker {
    fn run(mut self) {
        let mut repairs = Backoff::new(REPAIR);
        let mut retries = Backoff::new(RETRY);
        let mut audit = Instant::now() + AUDIT;
        let mut failed = false;
        loop {
            let retry = retries.next().filter(|_| failed).unwrap_or(audit);
            let by_others = self.wait(retry.min(audit), repairs.next());
            if self.shared.wish(|wish| wish.closed) {
                return;
            }
            let now = Instant::now();
            if now >= audit {
                audit = now + AUDIT;
                self.fib.doubt();
            }
            let done = self.round();
            if by_others && done.repaired {
                repairs.happened(now);
            } else if by_others {
                repairs.seen(now);
            }
            failed = done.failed;
            if failed {
                retries.happened(now);
            }
        }
    }

    /// Waits for a wish, for others to change something (but not before `quiet_until`), or for `until`. True if it was
    /// the others.
    fn wait(&self, until: Instant, quiet_until: Option<Instant>) -> bool {
        loop {
            let now = Instant::now();
            let quiet = quiet_until.filter(|quiet| *quiet > now);
            let rest = quiet.unwrap_or(until).min(until).saturating_duration_since(now);
            // Rounded up: a wait of less than a millisecond must not become none at all.
            let timeout = PollTimeout::try_from(rest + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.fib.as_fd(), PollFlags::POLLIN),
            ];
            let count = if quiet.is_some() { 1 } else { 2 };
            match poll(fds.get_mut(..count).unwrap_or_default(), timeout) {
                Ok(0) if Instant::now() < until => {}
                Ok(0) => return false,
                Ok(_) => {
                    let others = fds[1].any() == Some(true);
                    let _none = self.shared.wake.read();
                    return others;
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!("waiting for changes: {error}");
                    std::thread::sleep(RETRY.0);
                    return false;
                }
            }
        }
    }

    fn round(&mut self) -> Done {
        let heard = match self.fib.listen() {
            Ok(underlay) => underlay,
            Err(error) => {
                self.fib.doubt();
                self.health.set("routes", false, format!("cannot follow the kernel's routes: {error}"));
                false
            }
        };
        let mut generation = self.take_wish();
        // Of a table that is still coming in, what has come is taken in while the kernel writes what came before.
        for _ in 1..WISHES {
            if !self.fib.is_writing() || self.shared.wish(|wish| wish.routes.is_empty()) {
                break;
            }
            generation = self.take_wish();
        }
        let fib = &mut self.fib;
        let read_back = fib.is_suspect();
        if read_back && let Err(error) = fib.learn() {
            self.health.set(
                "routes",
                false,
                format!("cannot read the kernel's routes: {error}; trying again"),
            );
            return Done { repaired: true, failed: true };
        }
        // Before the first wish the datastore is not in sync, and the kernel stays as it is.
        let report = (generation > 0).then(|| fib.apply(self.complete));
        let suspect = fib.is_suspect();
        if heard || read_back || report.as_ref().is_some_and(|report| report.keys_changed) {
            let now = fib.underlay();
            self.underlay.send_if_modified(|known| {
                let differs = **known != now;
                if differs {
                    *known = Arc::new(now);
                }
                differs
            });
        }
        let Some(report) = report else { return Done { repaired: read_back, failed: suspect } };
        self.tell(&report);
        let pods_missing = Arc::new(report.pods_missing);
        let failed = suspect || !report.errors.is_empty();
        self.reached.send_replace(Reached { generation, pods_missing });
        Done { repaired: read_back || report.changed > 0, failed }
    }

    /// Hands on what is wished for; returns the generation of the wish.
    fn take_wish(&mut self) -> u64 {
        let (generation, routes, tunnels) = self.shared.wish(|wish| {
            self.complete = wish.complete;
            (wish.generation, std::mem::take(&mut wish.routes), wish.tunnels.take())
        });
        // Before routes: what is routed into an encrypting device depends on which they are.
        if let Some(tunnels) = tunnels {
            self.fib.want_tunnels(tunnels);
        }
        self.fib.want_routes(routes);
        generation
    }

    fn tell(&self, report: &Report) {
        if report.changed > 0 {
            tracing::debug!(routes = report.routes, changed = report.changed, "routes written");
        }
        match report.errors.first() {
            None => self.health.set("routes", true, format!("{} routes", report.routes)),
            Some(first) => {
                let more = report.errors.len() - 1;
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                self.health.set("routes", false, format!("{first}{more}; trying again"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_at_once_and_a_fight_gets_slow() {
        let mut backoff = Backoff::new(REPAIR);
        let start = Instant::now();
        assert_eq!(backoff.next(), None);
        let mut now = start;
        for _ in 0..100 {
            backoff.happened(now);
            now = backoff.next().unwrap();
        }
        assert!(now - start > Duration::from_secs(100), "{:?}", now - start);
        backoff.happened(now + Duration::from_secs(60));
        assert_eq!(backoff.next(), Some(now + Duration::from_secs(60) + REPAIR.0), "after a rest");
    }
}
