//! The thread that keeps the flow table (`nftablesFlowTableOffload` of FelixConfiguration): its interfaces are those of pods, our
//! tunnels, and those the node's data passes (`nftablesFlowTableDataIfacePattern`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use felix_rs::apply::FlowTable;
use felix_rs::model::workload_prefixes;
use margay_api::kinds::{FelixConfigurationSpec, FlowTableOffload};
use margay_control::status::Problem;
use margay_daemon::health::Health;
use margay_netlink::monitor::Monitor;
use margay_netlink::{Error, Netlink};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::fib;
use crate::pattern::Pattern;

/// Each change of the table sends every flow the ordinary way for a packet: many pods at once are one change.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the table is looked for, and what the kernel refused is tried again, if no interface changes before.
const AUDIT: Duration = Duration::from_secs(30);

/// What the table should be.
#[derive(Debug, Clone, Default)]
struct Wish {
    /// Absent: not known yet, the kernel stays as it is.
    on: Option<bool>,
    prefixes: Vec<Arc<str>>,
    pattern: Option<String>,
    /// It lets go of all flows for a while.
    held: bool,
}

#[derive(Debug)]
struct Shared {
    wish: Mutex<Wish>,
    /// Readable when there is a new wish.
    wake: EventFd,
}

impl Shared {
    fn wish<T>(&self, with: impl FnOnce(&mut Wish) -> T) -> T {
        with(&mut self.wish.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread, as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Offload(Arc<Shared>);

impl Offload {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(health: Health) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { wish: Mutex::default(), wake });
        let worker = Worker {
            shared: Arc::clone(&shared),
            health,
            pattern: Pattern::default(),
            kernel: None,
            written: None,
        };
        std::thread::Builder::new().name("offload".to_owned()).spawn(move || {
            worker.run();
        })?;
        Ok(Self(shared))
    }

    /// Follows the settings. To be called once the datastore is in sync.
    pub(crate) fn follow(&self, felix: &FelixConfigurationSpec) {
        let pattern = felix.nftables_flow_table_data_iface_pattern.as_ref();
        self.0.wish(|wish| {
            wish.on = Some(felix.nftables_flow_table_offload == Some(FlowTableOffload::All));
            wish.prefixes = workload_prefixes(felix.interface_prefix.as_deref());
            wish.pattern = pattern.filter(|pattern| !pattern.is_empty()).cloned();
        });
        self.wake();
    }

    /// Lets go of all flows, or takes them up again; whether that is new.
    pub(crate) fn hold(&self, held: bool) -> bool {
        let news = self.0.wish(|wish| std::mem::replace(&mut wish.held, held) != held);
        if news {
            self.wake();
        }
        news
    }

    fn wake(&self) {
        // It fails only when it is readable already.
        let _full = self.0.wake.write(1);
    }
}

/// What is needed once the table was wanted.
#[derive(Debug)]
struct Kernel {
    netlink: Netlink,
    monitor: Monitor,
}

struct Worker {
    shared: Arc<Shared>,
    health: Health,
    pattern: Pattern,
    kernel: Option<Kernel>,
    /// Interfaces of the table as it was written last.
    written: Option<BTreeMap<String, u32>>,
}

impl Worker {
    fn run(mut self) -> ! {
        loop {
            let wish = self.shared.wish(|wish| wish.clone());
            if wish.on.is_some() {
                let failure = self
                    .write(&wish)
                    .err()
                    .map(|error| format!("nftablesFlowTableOffload: packets go the ordinary way: {error}"));
                let pattern = self.pattern.problem().map(|reason| {
                    format!("nftablesFlowTableDataIfacePattern {reason}; the flow table is for pods and tunnels only")
                });
                let messages = [failure, pattern].into_iter().flatten();
                let object = || "FelixConfiguration".to_owned();
                let problems = messages.map(|message| Problem { object: object(), message });
                self.health.set_problems("offload", problems.collect());
            }
            self.wait();
        }
    }

    /// Makes the table what it should be, if it is not.
    fn write(&mut self, wish: &Wish) -> Result<(), String> {
        self.pattern.follow(wish.pattern.as_ref());
        let devices = self.devices(wish).map_err(|error| error.to_string())?;
        let table = match FlowTable::new() {
            // Without the program there is none of ours.
            Err(_) if devices.is_empty() => return Ok(()),
            table => table.map_err(|error| error.to_string())?,
        };
        if self.written.as_ref() == Some(&devices) && (devices.is_empty() || table.is_there()) {
            return Ok(());
        }
        let names: Vec<&str> = devices.keys().map(String::as_str).collect();
        let outcome = table.write(&names);
        std::thread::sleep(PAUSE);
        match outcome {
            Ok(()) => self.written = Some(devices),
            // An interface went meanwhile: that was heard of.
            Err(_) if self.devices(wish).is_ok_and(|now| now != devices) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// The interfaces of the table by name, with their indices.
    fn devices(&mut self, wish: &Wish) -> Result<BTreeMap<String, u32>, Error> {
        if wish.on != Some(true) || wish.held {
            return Ok(BTreeMap::new());
        }
        let kernel = match &mut self.kernel {
            Some(kernel) => kernel,
            // Notices come from before the first look.
            none => none.insert(Kernel { monitor: Monitor::links()?, netlink: Netlink::open()? }),
        };
        let takes = |name: &str| {
            let pods = wish.prefixes.iter().any(|prefix| name.starts_with(&**prefix));
            pods || fib::DEVICES.contains(&name) || self.pattern.matches(name)
        };
        let links = kernel.netlink.links()?.into_iter().filter(|link| takes(&link.name));
        Ok(links.map(|link| (link.name, link.index)).collect())
    }

    /// Waits for another wish, or another interface; not for ever while there is a table somebody could remove.
    fn wait(&mut self) {
        let monitor =
            self.kernel.as_ref().map(|kernel| PollFd::new(kernel.monitor.as_fd(), PollFlags::POLLIN));
        let wake = PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = [wake].into_iter().chain(monitor).collect();
        let on = self.shared.wish(|wish| wish.on == Some(true));
        let timeout = PollTimeout::try_from(AUDIT).ok().filter(|_| on).unwrap_or(PollTimeout::NONE);
        let _woken = poll(&mut fds, timeout);
        drop(fds);
        let _none = self.shared.wake.read();
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.monitor.read(|_| {})
        {
            tracing::warn!("the flow table does not follow interfaces: {error}");
            self.kernel = None;
        }
    }
}
