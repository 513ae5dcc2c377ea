//! The thread that takes pods' interfaces away: the kernel needs tens of milliseconds for one (it waits for everybody who may still
//! hold it), and hardly more for a hundred at once.

use std::io;
use std::sync::mpsc;

use margay_cni::wiring::remove_host_sides;
use margay_ipam::Handle;

/// Most interfaces in one request to the kernel, which does nothing else about interfaces meanwhile.
const BATCH: usize = 128;

/// What came of one.
pub(crate) type Outcome = (Handle, Result<(), String>);

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Removal {
    wanted: mpsc::Sender<(Handle, String)>,
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
        let (wanted, inbox) = mpsc::channel::<(Handle, String)>();
        std::thread::Builder::new().name("removal".to_owned()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).take(BATCH).collect();
                let names: Vec<&str> = batch.iter().map(|(_, name)| name.as_str()).collect();
                let outcomes = remove_host_sides(&names);
                let said = outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.to_string()));
                let handles = batch.into_iter().map(|(handle, _)| handle);
                done(handles.zip(said).collect());
            }
        })?;
        Ok(Self { wanted, asked: 0, done: 0 })
    }

    /// Has an interface removed, of an attachment that is not under way already: so the queue is no longer than the pods are many.
    pub(crate) fn remove(&mut self, handle: Handle, interface: String) {
        self.asked += 1;
        if self.wanted.send((handle, interface)).is_err() {
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
