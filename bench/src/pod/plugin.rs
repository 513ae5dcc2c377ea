//! How long a pod waits for its network, from the execution of the plugin to its end.
//!
//! Both plugins are executed as a runtime does it, in turns, each on a node of its own. Ours returns from ADD when route and
//! policy are in the kernel; theirs knows no policy. Ours returns from DEL before the kernel has removed the interface; that
//! is waited for, unmeasured, before it is their turn.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_api::kinds::IpPoolSpec;
use margay_api::{IpPool, Metadata, Resource};
use margay_control::Client;
use margay_datastore::{Store, StoreConfig};
use margay_netlink::Netns;
use serde_json::{Value, json};

use super::{Goal, Line, Programs};
use crate::fib::{AGENT, Agent, SUBNET, lab};
use crate::policy::Folder;
use crate::scenario::quantile;

/// Longest wait for the agent.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A plugin as its runtime knows it.
pub(super) struct Plugin {
    program: PathBuf,
    path: PathBuf,
    config: Value,
    node: Netns,
}

/// Milliseconds.
#[derive(Default)]
struct Figures {
    add: Vec<f64>,
    add_theirs: Vec<f64>,
    del: Vec<f64>,
    /// Until the kernel is done.
    gone: Vec<f64>,
    del_theirs: Vec<f64>,
    version: Vec<f64>,
    /// `/bin/true`.
    nothing: Vec<f64>,
}

pub(super) fn measure(programs: &Programs<'_>, pods: usize, burst: usize) -> Result<Vec<Line>> {
    let folder = Folder::new("pod")?;
    let (figures, at_once) = figures(programs, &folder.0, pods, burst)?;
    let ratio = |what: &str, ours: &[f64], theirs: &[f64], part, goal: Option<f64>| {
        let (ours, theirs) = (quantile(ours, part), quantile(theirs, part));
        Line::ratio(what, "ms", (ours, theirs), ours / theirs, goal.map(Goal::AtMost))
    };
    Ok(vec![
        ratio("ADD, p50", &figures.add, &figures.add_theirs, 0.5, Some(0.5)),
        ratio("ADD, p99", &figures.add, &figures.add_theirs, 0.99, Some(0.5)),
        ratio("DEL, p50", &figures.del, &figures.del_theirs, 0.5, Some(0.2)),
        ratio("DEL until the kernel is done, p50", &figures.gone, &figures.del_theirs, 0.5, None),
        ratio("VERSION, /bin/true, p50", &figures.version, &figures.nothing, 0.5, Some(1.5)),
        Line::limit(format!("{burst} ADDs at once"), "ms", at_once, 1000.0),
    ])
}

fn figures(programs: &Programs<'_>, folder: &Path, pods: usize, burst: usize) -> Result<(Figures, f64)> {
    let (ours, theirs) = (lab()?, lab()?);
    let pool = json!({ "cidr": "10.0.0.0/16", "blockSize": 22 });
    fill(folder, vec![IpPool::new(Metadata::named("default"), pool_spec(pool)?).into()])?;
    let _agent = start_agent(&ours.0, folder, "n1", AGENT)?;
    let ours = Plugin::margay(programs.shim, ours.0, folder, "n1");
    let theirs = Plugin {
        program: programs.plugins.join("ptp"),
        path: programs.plugins.to_owned(),
        config: json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "ptp",
            "ipam": {
                "type": "host-local", "dataDir": folder.join("host-local"),
                "ranges": [[{ "subnet": "10.1.0.0/16" }]],
            },
        }),
        node: theirs.0,
    };
    ensure!(
        theirs.program.exists(),
        "{} is not there: install containernetworking-plugins",
        theirs.program.display()
    );
    ours.wait_ready()?;
    let agent = Client::new(socket(folder, "n1")).with_timeout(PATIENCE);
    let mut figures = Figures::default();
    let namespaces: Vec<(Netns, Netns)> =
        (0..pods).map(|_| Ok((Netns::new()?, Netns::new()?))).collect::<Result<_>>()?;
    // Files are read from the disk, and the agent's first rules written, before anything counts.
    for plugin in [&ours, &theirs] {
        let netns = Netns::new()?;
        plugin.pod("ADD", usize::MAX, &netns)?;
        plugin.pod("DEL", usize::MAX, &netns)?;
    }
    for (number, (one, other)) in namespaces.iter().enumerate() {
        figures.add.push(ours.pod("ADD", number, one)?);
        figures.add_theirs.push(theirs.pod("ADD", number, other)?);
    }
    for (number, (one, other)) in namespaces.iter().enumerate() {
        let begun = Instant::now();
        figures.del.push(ours.pod("DEL", number, one)?);
        agent.post::<_, Value>("/v1/cni/settle", &())?;
        figures.gone.push(since(begun));
        figures.del_theirs.push(theirs.pod("DEL", number, other)?);
    }
    for _ in 0..pods {
        figures.version.push(ours.call("VERSION", "", "")?);
        figures.nothing.push(nothing()?);
    }
    let at_once = at_once(&ours, burst)?;
    Ok((figures, at_once))
}

/// Milliseconds since.
fn since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

pub(super) fn pool_spec(spec: Value) -> Result<IpPoolSpec> {
    Ok(serde_json::from_value(spec)?)
}

/// Writes objects into the datastore of the agents in this folder.
pub(crate) fn fill(folder: &Path, objects: Vec<Resource>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::connect(&StoreConfig::embedded(folder.join("store.db"))).await?;
        for object in objects {
            store.create(object).await?;
        }
        Ok(())
    })
}

/// Control socket of a node's agent.
pub(super) fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

pub(crate) fn start_agent(node: &Netns, folder: &Path, name: &str, address: Ipv4Addr) -> Result<Agent> {
    let program = std::env::current_exe()?.with_file_name("margay-agent");
    ensure!(program.exists(), "{} is not there: build the package margay-agent", program.display());
    let own = folder.join(name);
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.arg("--datastore-path").arg(folder.join("store.db")).arg("--socket").arg(socket(folder, name));
    command.arg("--state-dir").arg(own.join("state")).arg("--spool-dir").arg(own.join("spool"));
    command.args(["--node", name, "--log-level", "warn"]).arg(format!("--ipv4-address={address}/{SUBNET}"));
    Ok(Agent(node.spawn(command.stdout(Stdio::null()))?))
}

/// So many ADDs at the same moment, until the last one is live.
fn at_once(plugin: &Plugin, count: usize) -> Result<f64> {
    let namespaces: Vec<Netns> = (0..count).map(|_| Ok(Netns::new()?)).collect::<Result<_>>()?;
    let all = |verb: &str| -> Result<f64> {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = namespaces
                .iter()
                .enumerate()
                .map(|(number, netns)| scope.spawn(move || plugin.pod(verb, number, netns)))
                .collect();
            for thread in threads {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(since(begun))
        })
    };
    let time = all("ADD")?;
    all("DEL")?;
    Ok(time)
}

/// A process that does nothing.
fn nothing() -> Result<f64> {
    let begun = Instant::now();
    let status = Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "/bin/true: {status}");
    Ok(since(begun))
}

impl Plugin {
    /// Ours, on a node with an agent.
    pub(super) fn margay(shim: &Path, node: Netns, folder: &Path, name: &str) -> Self {
        let config = json!({
            "cniVersion": "1.1.0", "name": "bench", "type": "margay-cni",
            "socket": socket(folder, name), "spool_dir": folder.join(name).join("spool"),
        });
        Self { program: shim.to_owned(), path: PathBuf::from(super::PLUGINS), config, node }
    }

    pub(super) fn wait_ready(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.call("STATUS", "", "") {
            ensure!(begun.elapsed() < PATIENCE, "the agent is not ready: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The verb for one of our own pods; how long it took, milliseconds.
    pub(super) fn pod(&self, verb: &str, number: usize, netns: &Netns) -> Result<f64> {
        self.call(verb, &format!("pod-{number}"), &netns.path().to_string_lossy())
    }

    /// ADD; the pod's address.
    pub(super) fn attach(&self, number: usize, netns: &Netns) -> Result<Ipv4Addr> {
        let (_, output) = self.execute("ADD", &format!("pod-{number}"), &netns.path().to_string_lossy())?;
        let result: Value = serde_json::from_slice(&output)?;
        let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        Ok(address.context("no address")?.parse()?)
    }

    fn call(&self, verb: &str, id: &str, netns: &str) -> Result<f64> {
        self.execute(verb, id, netns).map(|(time, _)| time)
    }

    fn execute(&self, verb: &str, id: &str, netns: &str) -> Result<(f64, Vec<u8>)> {
        let mut command = Command::new(&self.program);
        command.env_clear().envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns)]);
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", &self.path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let config = serde_json::to_vec(&self.config)?;
        let (time, output) = self.node.run(|| -> Result<_> {
            let begun = Instant::now();
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                // VERSION does not read it.
                let _closed = input.write_all(&config);
            }
            let output = child.wait_with_output()?;
            Ok((since(begun), output))
        })??;
        ensure!(
            output.status.success(),
            "{} {verb} {id}: {}{}",
            self.program.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((time, output.stdout))
    }
}
