//! The thread that takes pods' interfaces away: the kernel needs tens of milliseconds for one (it waits for everybody who may still
//! hold it), and hardly more for a hundred at once. Connections of a pod's addresses end with it: what conntrack has accepted no
//! policy looks at again, and the next pod may have the address.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc;

use margay_cni::wiring::remove_host_sides;
use margay_ipam::Handle;
use margay_netlink::Error;
use margay_netlink::conntrack::Conntrack;
use nix::errno::Errno;

/// Most interfaces in one request to the kernel, which does nothing else about interfaces meanwhile.
const BATCH: usize = 128;

/// What came of one.
pub(crate) type Outcome = (Handle, Result<(), String>);

/// What is taken away of an attachment.
#[derive(Debug)]
pub(crate) struct Remains {
    /// Whose it is.
    pub(crate) handle: Handle,
    /// The host's side.
    pub(crate) interface: String,
    /// Whose connections are forgotten.
    pub(crate) addresses: Vec<IpAddr>,
}

fn take_away(batch: Vec<Remains>) -> Vec<Outcome> {
    let names: Vec<&str> = batch.iter().map(|one| one.interface.as_str()).collect();
    let removed = remove_host_sides(&names);
    // Only now nothing can begin that an address of theirs answers.
    let forgotten = forget(&batch);
    let outcomes = batch.into_iter().zip(removed).map(|(one, removed)| {
        let removed = removed.map_err(|error| error.to_string());
        (one.handle, removed.and(if one.addresses.is_empty() { Ok(()) } else { forgotten.clone() }))
    });
    outcomes.collect()
}

/// Has conntrack forget the connections of all of them, in one look at each family's.
fn forget(batch: &[Remains]) -> Result<(), String> {
    let addresses: BTreeSet<IpAddr> = batch.iter().flat_map(|one| one.addresses.iter().copied()).collect();
    for is_ipv6 in [false, true] {
        if !addresses.iter().any(|address| address.is_ipv6() == is_ipv6) {
            continue;
        }
        let forgotten = Conntrack::open().and_then(|mut conntrack| {
            conntrack.forget(is_ipv6, |flow| flow.has(|end| addresses.contains(&end)))
        });
        match forgotten {
            Ok(_) => {}
            // `nf_conntrack_netlink` is a module of its own, and no reason to keep what is left of pods.
            Err(Error::Kernel { errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. }) => {
                tracing::warn!(
                    "conntrack of this kernel cannot be told to forget the connections of removed pods: load nf_conntrack_netlink"
                );
            }
            Err(error) => return Err(format!("its connections are not forgotten: {error}")),
        }
    }
    Ok(())
}

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Removal {
    wanted: mpsc::Sender<Remains>,
    /// Interfaces ever asked for.
    asked: u64,
    /// And answered: the thread takes them in order.
    done: u64,
}

impl Removal {
    /// Starts the thread; it hands every batch to `done`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn spawn(mut done: impl FnMut(Vec<Outcome>) + Send + 'static) -> io::Result<Self> {
        let (wanted, inbox) = mpsc::channel::<Remains>();
        std::thread::Builder::new().name("removal".to_owned()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).take(BATCH).collect();
                done(take_away(batch));
            }
        })?;
        Ok(Self { wanted, asked: 0, done: 0 })
    }

    /// Has an interface removed, of an attachment that is not under way already: so the queue is no longer than the pods are many.
    pub(crate) fn remove(&mut self, remains: Remains) {
        self.asked += 1;
        if self.wanted.send(remains).is_err() {
            tracing::error!("the thread that removes interfaces has ended: restart the agent");
        }
    }

    /// So many were answered.
    pub(crate) fn answered(&mut self, count: usize) {
        self.done += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// What [`Removal::has_reached`] has to be asked to know whether all that is under way now has ended; nothing is under way: none.
    pub(crate) fn horizon(&self) -> Option<u64> {
        (self.asked > self.done).then_some(self.asked)
    }

    /// Everything up to the horizon has ended.
    pub(crate) fn has_reached(&self, horizon: u64) -> bool {
        self.done >= horizon
    }
}
