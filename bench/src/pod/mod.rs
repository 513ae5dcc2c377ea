//! `pod`: how long a pod waits for its network, beside the plugins `ptp` and `host-local` of containernetworking.
//!
//! Both are executed as a runtime does it, in turns, each on a node of its own. Ours returns when route and policy are in
//! the kernel; theirs knows no policy. From the execution of the plugin to its end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use margay_api::kinds::IpPoolSpec;
use margay_api::{IpPool, Metadata};
use margay_datastore::{Store, StoreConfig};
use margay_netlink::Netns;
use serde::Serialize;
use serde_json::{Value, json};

use crate::fib::{AGENT, Agent, SUBNET, lab};
use crate::form::Form;
use crate::scenario::quantile;

/// Longest wait for the agent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian has the plugins we are compared with.
const PLUGINS: &str = "/usr/lib/cni";

/// Pods that are added at once.
const BURST: usize = 100;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    form: Form,
    /// Pods of each (default 200, quick 10)
    #[arg(long, value_name = "N")]
    pods: Option<usize>,
    /// The shim; without it, the one beside this program
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
}

/// A plugin as its runtime knows it.
struct Plugin {
    program: PathBuf,
    config: Value,
    node: Netns,
}

/// Milliseconds.
#[derive(Debug, Default, Serialize)]
struct Figures {
    add: Vec<f64>,
    add_theirs: Vec<f64>,
    del: Vec<f64>,
    del_theirs: Vec<f64>,
    version: Vec<f64>,
    /// `/bin/true`.
    nothing: Vec<f64>,
    /// All of a hundred ADDs at once.
    burst: f64,
}

/// One line of the outcome.
#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    ours: f64,
    theirs: Option<f64>,
    /// Ours in relation to theirs, or in milliseconds.
    measured: f64,
    goal: f64,
}

pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let pods = flags.pods.unwrap_or(if flags.form.quick { 10 } else { 200 });
    let own = std::env::current_exe()?;
    let shim = flags.shim.clone().unwrap_or_else(|| own.with_file_name("margay-cni"));
    ensure!(shim.exists(), "{} is not there: build the package margay-cni", shim.display());
    let folder = std::env::temp_dir().join(format!("margay-bench-pod-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = measure(&shim, &folder, pods);
    std::fs::remove_dir_all(&folder)?;
    let figures = outcome?;
    let lines = lines(&figures);
    println!("{pods} pods of each, milliseconds");
    for line in &lines {
        let theirs = line.theirs.map_or_else(String::new, |theirs| format!("{theirs:8.2} theirs"));
        let missed = if line.measured <= line.goal { "" } else { "  missed" };
        println!(
            "  {:26} {:8.2} {theirs:15}  {:8.2}  (goal {}){missed}",
            line.what, line.ours, line.measured, line.goal
        );
    }
    flags.form.keep(&json!({ "pods": pods, "figures": figures, "lines": lines }))?;
    Ok(!flags.form.check || lines.iter().all(|line| line.measured <= line.goal))
}

fn lines(figures: &Figures) -> Vec<Line> {
    let ratio = |what, ours: &[f64], theirs: &[f64], part, goal| {
        let (ours, theirs) = (quantile(ours, part), quantile(theirs, part));
        Line { what, ours, theirs: Some(theirs), measured: ours / theirs, goal }
    };
    vec![
        ratio("ADD, p50", &figures.add, &figures.add_theirs, 0.5, 0.5),
        ratio("ADD, p99", &figures.add, &figures.add_theirs, 0.99, 0.5),
        ratio("DEL, p50", &figures.del, &figures.del_theirs, 0.5, 0.2),
        ratio("VERSION, /bin/true, p50", &figures.version, &figures.nothing, 0.5, 1.5),
        Line {
            what: "100 ADDs at once",
            ours: figures.burst,
            theirs: None,
            measured: figures.burst,
            goal: 1000.0,
        },
    ]
}

fn measure(shim: &Path, folder: &Path, pods: usize) -> Result<Figures> {
    let (ours, theirs) = (lab()?, lab()?);
    let _agent = start_agent(&ours.0, folder)?;
    let ours = Plugin {
        program: shim.to_owned(),
        config: json!({
            "cniVersion": "1.1.0", "name": "bench", "type": "margay-cni",
            "socket": folder.join("agent.sock"), "spool_dir": folder.join("spool"),
        }),
        node: ours.0,
    };
    let theirs = Plugin {
        program: Path::new(PLUGINS).join("ptp"),
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
    let begun = Instant::now();
    while ours.call("STATUS", "", "").is_err() {
        ensure!(begun.elapsed() < PATIENCE, "the agent is not ready: {:?}", ours.call("STATUS", "", ""));
        std::thread::sleep(Duration::from_millis(20));
    }
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
        figures.del.push(ours.pod("DEL", number, one)?);
        figures.del_theirs.push(theirs.pod("DEL", number, other)?);
    }
    for _ in 0..pods {
        figures.version.push(ours.call("VERSION", "", "")?);
        figures.nothing.push(nothing()?);
    }
    figures.burst = burst(&ours)?;
    Ok(figures)
}

/// Milliseconds since.
fn since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn start_agent(node: &Netns, folder: &Path) -> Result<Agent> {
    let store = folder.join("store.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::connect(&StoreConfig::embedded(&store)).await?;
        let pool: IpPoolSpec = serde_json::from_value(json!({ "cidr": "10.0.0.0/16", "blockSize": 22 }))?;
        store.create(IpPool::new(Metadata::named("default"), pool).into()).await.map_err(anyhow::Error::from)
    })?;
    let program = std::env::current_exe()?.with_file_name("margay-agent");
    ensure!(program.exists(), "{} is not there: build the package margay-agent", program.display());
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.arg("--datastore-path").arg(store).arg("--socket").arg(folder.join("agent.sock"));
    command.arg("--state-dir").arg(folder.join("state")).arg("--spool-dir").arg(folder.join("spool"));
    command.args(["--node", "n1", "--log-level", "warn"]).arg(format!("--ipv4-address={AGENT}/{SUBNET}"));
    Ok(Agent(node.spawn(command.stdout(Stdio::null()))?))
}

/// A hundred ADDs at the same moment, until the last one is live.
fn burst(plugin: &Plugin) -> Result<f64> {
    let namespaces: Vec<Netns> = (0..BURST).map(|_| Ok(Netns::new()?)).collect::<Result<_>>()?;
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
    fn pod(&self, verb: &str, number: usize, netns: &Netns) -> Result<f64> {
        self.call(verb, &format!("pod-{number}"), &netns.path().to_string_lossy())
    }

    /// Executes a verb; how long it took, milliseconds.
    fn call(&self, verb: &str, id: &str, netns: &str) -> Result<f64> {
        let mut command = Command::new(&self.program);
        command.env_clear().envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns)]);
        command.envs([("CNI_IFNAME", "eth0"), ("CNI_PATH", PLUGINS)]);
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
        Ok(time)
    }
}
