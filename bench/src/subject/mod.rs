//! What is measured, and how each is configured as a reflector for the clients of a plan.

mod files;
mod margay;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::plan::Plan;

/// Until a process with a large configuration listens.
const START: Duration = Duration::from_secs(120);

/// A program that can be a reflector.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// The bare reflector in this package: what the machine can do.
    Mirror,
    /// Ours.
    Margay,
    /// Ours with one processor, where a scenario asks what the others are good for.
    Pinned,
    /// BIRD 2.
    Bird,
    /// FRRouting's bgpd.
    Frr,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
}

impl Subject {
    pub(crate) const ALL: [Self; 7] =
        [Self::Mirror, Self::Margay, Self::Pinned, Self::Bird, Self::Frr, Self::Gobgp, Self::Openbgpd];

    /// Where the program is.
    ///
    /// # Errors
    /// It is not there.
    fn program(self) -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        let (path, hint) = match self {
            Self::Mirror => return Ok(own),
            Self::Margay | Self::Pinned => {
                (own.with_file_name("margay-route-reflector"), "build the package margay-route-reflector")
            }
            Self::Bird => ("/usr/sbin/bird".into(), "install bird2"),
            Self::Frr => ("/usr/lib/frr/bgpd".into(), "install frr"),
            Self::Gobgp => ("/usr/bin/gobgpd".into(), "install gobgpd"),
            Self::Openbgpd => ("/usr/sbin/bgpd".into(), "install openbgpd"),
        };
        if path.exists() { Ok(path) } else { bail!("{} is not there: {hint}", path.display()) }
    }

    /// Whether it is neither ours nor the mirror.
    pub(crate) fn is_foreign(self) -> bool {
        !matches!(self, Self::Mirror | Self::Margay | Self::Pinned)
    }

    /// Why it cannot run here, if it cannot.
    pub(crate) fn missing(self) -> Option<String> {
        self.program().err().map(|error| error.to_string())
    }

    /// Starts it in the lab and waits until it listens.
    pub(crate) fn start(self, lab: &Lab, plan: &Plan, folder: &Path) -> Result<Running> {
        let mut command = match self {
            Self::Pinned => {
                let mut command = Command::new("/usr/bin/taskset");
                command.args(["--cpu-list", "0"]).arg(self.program()?);
                command
            }
            _ => Command::new(self.program()?),
        };
        match self {
            Self::Mirror => {
                command.arg("mirror");
            }
            Self::Margay | Self::Pinned => margay::prepare(&mut command, plan, folder)?,
            Self::Bird => files::bird(&mut command, plan, folder)?,
            Self::Frr => files::frr(&mut command, plan, folder)?,
            Self::Gobgp => files::gobgp(&mut command, plan, folder)?,
            Self::Openbgpd => files::openbgpd(&mut command, folder)?,
        }
        let log = std::fs::File::create(folder.join("output.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = lab.start(&mut command)?;
        let mut running = Running { child, log: folder.join("output.log") };
        let deadline = Instant::now() + START;
        while !Lab::listens(running.group()) {
            if running.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{self:?} does not listen: {}", running.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

/// A process under test; it ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process group.
    pub(crate) fn group(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Ok(group) = i32::try_from(self.child.id()) else { return };
        // It may have ended by itself.
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _gone = self.child.wait();
    }
}

/// A folder of its own, gone with this value. In memory where that is possible: disks are not what is measured.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("margay-bench-{}", std::process::id()));
        // A crash may have left one.
        let _none = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _none = std::fs::remove_dir_all(&self.0);
    }
}
