//! Supervised processes: started in a node, logging to a file, ended with their handle.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use margay_netlink::Netns;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// How often a condition on a process is looked at again.
const POLL: Duration = Duration::from_millis(5);

/// A running process and everything it starts (its process group). Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` in `netns`, with no input and all output appended to the file `log`.
    ///
    /// # Errors
    /// When the log can't be opened or the program not started.
    pub fn spawn(name: &str, netns: &Netns, mut command: Command, log: &Path) -> Result<Self> {
        let failed = |source| Error::Process { what: format!("log {} of {name}", log.display()), source };
        let out = File::options().create(true).append(true).open(log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // Its own group: what it executes can be ended with it, and a Ctrl-C at the terminal reaches only us, who then
        // end it in order.
        command.process_group(0);
        let child = netns
            .spawn(&mut command)
            .map_err(|source| Error::Kernel { place: format!("process {name}"), source })?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        Ok(Self { name: name.to_owned(), child, pid, log: log.to_path_buf(), status: None })
    }

    /// Name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// File its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far; empty when the file is gone.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().map_err(|source| self.failed("await", source))?;
        }
        Ok(self.status)
    }

    /// Still running?
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.status()?.is_none())
    }

    /// Sends a signal to the process itself. One that has ended already is fine.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Awaited means its id may belong to someone else by now.
        if self.status()?.is_some() {
            return Ok(());
        }
        match kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(self.failed(signal.as_str(), errno.into())),
        }
    }

    /// Waits for the end, at most `timeout`; `None` when it is still running.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.status()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }

    /// SIGTERM, then, when `grace` has passed, SIGKILL for the whole group. Returns how it ended.
    ///
    /// # Errors
    /// When it can be neither signalled nor awaited.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match self.wait(grace)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// SIGKILL for the whole group, and waits. Returns how it ended.
    ///
    /// # Errors
    /// When it can be neither signalled nor awaited.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        // The group exists as long as its leader hasn't been awaited: also when it has ended and left others.
        match killpg(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(self.failed("SIGKILL", errno.into())),
        }
        let status = self.child.wait().map_err(|source| self.failed("await", source))?;
        self.status = Some(status);
        Ok(status)
    }

    fn failed(&self, operation: &str, source: std::io::Error) -> Error {
        Error::Process { what: format!("{operation} process {} ({})", self.name, self.pid), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing more can be done about one that can't be killed.
        let _ended = self.kill();
    }
}

/// How a process ended, for people: `exit status 3` or `SIGKILL`.
pub fn describe(status: ExitStatus) -> String {
    match status.signal().map(Signal::try_from) {
        Some(Ok(signal)) => signal.as_str().to_owned(),
        _ => status.to_string(),
    }
}
