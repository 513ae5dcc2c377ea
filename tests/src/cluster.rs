//! A cluster of real processes in a lab.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use margay_control::Client;
use margay_control::status::DaemonStatus;
use margay_lab::{Lab, LabNode, Process, Topology};
use nix::sys::signal::Signal;

use crate::pods::{Runtime, said};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// Which datastore the cluster uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Datastore {
    /// SQLite, one file.
    Embedded,
    /// Debian's etcd-server, started in the lab.
    Etcd,
}

/// What a node of the lab runs (label `margay.role`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `margay-agent`.
    Node,
    /// `margay-route-reflector`.
    Reflector,
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    /// The lab under it.
    pub lab: Lab,
    datastore: Datastore,
    folder: PathBuf,
    binaries: PathBuf,
    repository: PathBuf,
    roles: BTreeMap<String, (Role, IpNet)>,
    daemons: BTreeMap<String, Process>,
    etcd: Mutex<Option<Process>>,
}

/// Address of the node that runs etcd, and its name.
const STORE: (&str, &str) = ("r1", "172.30.1.1");

impl Cluster {
    /// Builds the lab of `file` and starts nothing yet. `folder` takes sockets, state and logs.
    pub fn build(file: &Path, datastore: Datastore, folder: &Path) -> Result<Self> {
        let repository = repository();
        let topology = Topology::load(&repository.join(file))?;
        ensure!(topology.warnings.is_empty(), "{}: {}", file.display(), topology.warnings.join("; "));
        let mut roles = BTreeMap::new();
        for (node, role) in topology.labelled("margay.role") {
            let role = match role {
                "node" => Role::Node,
                "route-reflector" => Role::Reflector,
                other => bail!("{}: node {}: unknown margay.role {other}", file.display(), node.name),
            };
            let address = node.labels.get("margay.address").context("a node without label margay.address")?;
            roles.insert(node.name.clone(), (role, address.parse()?));
        }
        std::fs::create_dir_all(folder)?;
        let lab = Lab::build(&topology, &mut |_| {})?;
        let binaries = std::env::current_exe()?;
        let mut binaries = binaries.parent().context("this program's folder")?.to_path_buf();
        if binaries.ends_with("deps") {
            binaries.pop();
        }
        let folder = folder.to_path_buf();
        let daemons = BTreeMap::new();
        Ok(Self { lab, datastore, folder, binaries, repository, roles, daemons, etcd: Mutex::default() })
    }

    /// A file of one of our programs.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.binaries.join(name);
        ensure!(path.exists(), "{} is not built: run `cargo build --workspace`", path.display());
        Ok(path)
    }

    /// The repository's top folder.
    #[must_use]
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// Folder of a node's socket, state and log.
    #[must_use]
    pub fn folder(&self, node: &str) -> PathBuf {
        self.folder.join(node)
    }

    /// Names of the nodes with this role.
    #[must_use]
    pub fn with_role(&self, role: Role) -> Vec<String> {
        self.roles.iter().filter(|(_, (of, _))| *of == role).map(|(name, _)| name.clone()).collect()
    }

    /// A node's address.
    pub fn address(&self, node: &str) -> Result<IpAddr> {
        let (_, address) = self.roles.get(node).with_context(|| format!("no node {node}"))?;
        Ok(address.addr())
    }

    /// A node's address with the mask of its subnet.
    pub fn subnet(&self, node: &str) -> Result<IpNet> {
        let (_, address) = self.roles.get(node).with_context(|| format!("no node {node}"))?;
        Ok(*address)
    }

    /// A node of the lab.
    pub fn node(&self, name: &str) -> Result<&LabNode> {
        Ok(self.lab.node(name)?)
    }

    /// Starts etcd, if that is the datastore.
    pub fn start_datastore(&self) -> Result<()> {
        if self.datastore == Datastore::Embedded {
            return Ok(());
        }
        let (node, address) = STORE;
        let folder = self.folder("etcd");
        std::fs::create_dir_all(&folder)?;
        let url = format!("http://{address}:2379");
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "lab", "--unsafe-no-fsync", "--log-level", "warn"])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        let process = self.node(node)?.spawn("etcd", etcd, &folder.join("log"))?;
        *self.etcd.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// Kills the datastore, as a machine that dies does.
    pub fn kill_datastore(&self) -> Result<()> {
        if let Some(mut etcd) = self.etcd.lock().unwrap_or_else(PoisonError::into_inner).take() {
            etcd.kill()?;
        }
        Ok(())
    }

    fn datastore_arguments(&self) -> Vec<String> {
        match self.datastore {
            Datastore::Embedded => {
                vec!["--datastore-path".into(), self.folder.join("margay.db").to_string_lossy().into_owned()]
            }
            Datastore::Etcd => vec!["--etcd-endpoints".into(), format!("http://{}:2379", STORE.1)],
        }
    }

    /// A node's daemon, ready to be started with further flags.
    pub fn daemon(&self, node: &str) -> Result<Command> {
        let (role, address) = self.roles.get(node).with_context(|| format!("no node {node}"))?;
        let folder = self.folder(node);
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new(self.program(match role {
            Role::Node => "margay-agent",
            Role::Reflector => "margay-route-reflector",
        })?);
        command
            .args(["--node", node, "--ipv4-address", &address.to_string()])
            .arg("--socket")
            .arg(self.socket(node))
            .args(self.datastore_arguments());
        if let Some(address) = self.node(node)?.topology().labels.get("margay.address6") {
            command.args(["--ipv6-address", address]);
        }
        if let Ok(level) = std::env::var("MARGAY_LOG_LEVEL") {
            command.args(["--log-level", &level]);
        }
        if *role == Role::Node {
            command.arg("--state-dir").arg(folder.join("state")).arg("--spool-dir").arg(folder.join("spool"));
        }
        Ok(command)
    }

    /// A reflector that is no node of the lab, ready to be started on some machine of it that has the address.
    pub fn reflector(&self, name: &str, address: &str) -> Result<Command> {
        std::fs::create_dir_all(self.folder(name))?;
        let mut command = Command::new(self.program("margay-route-reflector")?);
        command.args(["--node", name, "--ipv4-address", address]);
        command.arg("--socket").arg(self.socket(name)).args(self.datastore_arguments());
        Ok(command)
    }

    /// Starts a node's daemon.
    pub fn start(&mut self, node: &str) -> Result<()> {
        self.start_with(node, &[])
    }

    /// Starts a node's daemon with further flags.
    pub fn start_with(&mut self, node: &str, flags: &[&str]) -> Result<()> {
        let mut command = self.daemon(node)?;
        command.args(flags);
        let log = self.folder(node).join("log");
        let process = self.node(node)?.spawn(node, command, &log)?;
        self.daemons.insert(node.to_owned(), process);
        Ok(())
    }

    /// Starts everything.
    pub fn start_all(&mut self) -> Result<()> {
        let nodes: Vec<String> = self.roles.keys().cloned().collect();
        nodes.iter().try_for_each(|node| self.start(node))
    }

    /// Resident memory of a node's daemon, KiB.
    pub fn resident(&self, node: &str) -> Result<u64> {
        let process = self.daemons.get(node).with_context(|| format!("{node} is not running"))?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Ends a node's daemon with SIGKILL.
    pub fn kill(&mut self, node: &str) -> Result<()> {
        let mut process = self.daemons.remove(node).with_context(|| format!("{node} is not running"))?;
        process.kill()?;
        Ok(())
    }

    /// Ends a node's daemon with SIGTERM and waits for it.
    pub fn stop(&mut self, node: &str) -> Result<()> {
        let mut process = self.daemons.remove(node).with_context(|| format!("{node} is not running"))?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(Duration::from_secs(10))?;
        let status =
            status.with_context(|| format!("{node} did not stop on SIGTERM:\n{}", tail(&process)))?;
        ensure!(status.success(), "{node} ended with {status}:\n{}", tail(&process));
        Ok(())
    }

    /// Lets a node's reflector be replaced by its program, started anew. What takes over is of the same process group and ends
    /// with it ([`Self::kill`]).
    pub fn upgrade(&self, node: &str) -> Result<()> {
        let mut command = self.daemon(node)?;
        command.arg("--upgrade").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = command.output()?;
        ensure!(output.status.success(), "upgrading {node}: {}\n{}", said(&output), self.log(node));
        Ok(())
    }

    /// The control socket of a node's daemon.
    #[must_use]
    pub fn socket(&self, node: &str) -> PathBuf {
        self.folder(node).join("control.sock")
    }

    /// A client of a node's daemon.
    #[must_use]
    pub fn client(&self, node: &str) -> Client {
        Client::new(self.socket(node)).with_timeout(Duration::from_secs(60))
    }

    /// What a daemon says of itself.
    pub fn status(&self, node: &str) -> Result<DaemonStatus> {
        Ok(self.client(node).get("/v1/status")?)
    }

    /// Waits until a node's daemon says it is ready.
    pub fn wait_ready(&mut self, node: &str, timeout: Duration) -> Result<()> {
        let outcome = wait(timeout, || Ok(self.status(node).is_ok_and(|status| status.ready)));
        if outcome.is_ok() {
            return Ok(());
        }
        let status = self.status(node).map(|status| format!("{:#?}", status.components));
        let log = self.daemons.get(node).map(tail).unwrap_or_default();
        bail!("{node} is not ready after {timeout:?}: {status:?}\nits log ends:\n{log}");
    }

    /// The last lines of a daemon's log.
    #[must_use]
    pub fn log(&self, node: &str) -> String {
        self.daemons.get(node).map(tail).unwrap_or_default()
    }

    /// The whole log of a node's daemon, earlier instances included.
    #[must_use]
    pub fn whole_log(&self, node: &str) -> String {
        std::fs::read_to_string(self.folder(node).join("log")).unwrap_or_default()
    }

    /// Executes `margay` where it reaches the datastore.
    pub fn margay(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.program("margay")?);
        command.args(arguments).args(self.datastore_arguments()).current_dir(&self.repository);
        let child = self.node(STORE.0)?.netns().spawn(
            command
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped()),
        )?;
        Ok(child.wait_with_output()?)
    }

    /// Executes `margay` as a client of a node's daemon.
    pub fn margay_on(&self, node: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.program("margay")?);
        command.args(arguments).arg("--socket").arg(self.socket(node)).current_dir(&self.repository);
        Ok(command.output()?)
    }

    /// Applies a file of the repository with `margay apply -f`.
    pub fn apply(&self, file: &str) -> Result<String> {
        let output = self.margay(&["apply", "-f", file])?;
        ensure!(output.status.success(), "margay apply -f {file}: {}", said(&output));
        Ok(said(&output))
    }

    /// How pods are attached on a node.
    pub fn runtime(&self, node: &str) -> Result<Runtime<'_>> {
        Ok(Runtime {
            plugin: self.program("margay-cni")?,
            node: self.node(node)?,
            socket: self.socket(node),
            spool: self.folder(node).join("spool"),
            conflist: self.repository.join("examples/cni/10-margay.conflist"),
        })
    }

    /// Executes a program inside a node and returns what it printed.
    pub fn run_in(&self, node: &str, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = self.node(node)?.netns().spawn(&mut command)?.wait_with_output()?;
        ensure!(output.status.success(), "{program} {} in {node}: {}", arguments.join(" "), said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Waits for a condition.
pub fn wait(timeout: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within {timeout:?}");
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn tail(process: &Process) -> String {
    let text = process.log_text();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n")
}

/// The repository's top folder.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.to_path_buf(), Path::to_path_buf)
}
