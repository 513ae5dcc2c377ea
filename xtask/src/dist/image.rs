//! The container image: built with podman or docker, then tried.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::read;
use crate::{Outcome, cargo};

/// The name the manifests in `examples/kubernetes` use.
const IMAGE: &str = concat!("registry.example/margay:", env!("CARGO_PKG_VERSION"));

/// What can build an image, in the order of preference: podman needs no daemon.
const ENGINES: [&str; 2] = ["podman", "docker"];

/// How everything is tried: with nothing that the manifests do not give.
const CONFINED: [&str; 5] = [
    "--read-only",
    "--network=none",
    "--cap-drop=ALL",
    // podman asks for its own limits, which a root that may not raise limits cannot have.
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
];

/// Longest time for a daemon to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a daemon is asked.
const POLL: Duration = Duration::from_millis(100);

/// Builds the image from `dist` and tries everything in it.
pub(super) fn make_and_check(dist: &Path) -> Outcome {
    let engine = Engine::find()?;
    println!("building {IMAGE} with {}", engine.0);
    let dockerfile = cargo::root().join("examples/container/Dockerfile");
    engine.run(&[
        "build",
        "--quiet",
        "--tag",
        IMAGE,
        "--file",
        &dockerfile.display().to_string(),
        &text(dist),
    ])?;
    programs(&engine)?;
    shim(&engine, dist)?;
    for daemon in [AGENT, REFLECTOR] {
        live(&engine, &daemon)?;
    }
    println!("{IMAGE} works");
    Ok(())
}

struct Engine(&'static str);

impl Engine {
    /// The first that answers: a client without its daemon does not.
    fn find() -> Result<Self, String> {
        let works = |engine: &&str| {
            let info = Command::new(engine).arg("info").stdout(Stdio::null()).stderr(Stdio::null()).status();
            info.is_ok_and(|status| status.success())
        };
        ENGINES.into_iter().find(works).map(Self).ok_or_else(|| {
            "--image needs podman or docker: apt-get install -y --no-install-recommends podman runc"
                .to_owned()
        })
    }

    /// Runs the engine; its standard output, or what failed.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let failed = |what: String| format!("`{} {}` failed: {what}", self.0, arguments.join(" "));
        let output = Command::new(self.0)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        Err(failed(format!(
            "{}\n{stdout}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }

    /// Runs one program of the image, alone in a network namespace.
    fn once(&self, options: &[&str], program: &[&str]) -> Result<String, String> {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(CONFINED);
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(program);
        self.run(&arguments)
    }
}

/// Every program starts, knows its version, takes the example configuration, and both kinds of iptables write a rule.
fn programs(engine: &Engine) -> Outcome {
    let configuration =
        format!("--volume={}:/etc/margay:ro", cargo::root().join("examples/config").display());
    for daemon in ["margay-agent", "margay-route-reflector", "margay"] {
        let version = engine.once(&[], &[daemon, "--version"])?;
        if !version.ends_with(env!("CARGO_PKG_VERSION")) {
            return Err(format!("`{daemon} --version` in the image says {version}"));
        }
    }
    for daemon in ["margay-agent", "margay-route-reflector"] {
        engine.once(&[&configuration], &[daemon, "--check-config"])?;
    }
    for program in ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"] {
        let options = ["--cap-add=NET_ADMIN", "--cap-add=NET_RAW", "--tmpfs=/run"];
        let rule = |rest: &str| {
            let words = format!("{program} -A INPUT -j ACCEPT {rest}");
            engine.once(&options, &words.split(' ').collect::<Vec<_>>())
        };
        rule("-m mark --mark 1 -m comment --comment try")?;
        // The extension that asks the kernel: the set is not there, so it did.
        match rule("-m set --match-set absent src") {
            Err(complaint) if complaint.contains("Set absent doesn't exist") => {}
            other => return Err(format!("{program} in the image should miss the set, but: {other:?}")),
        }
        println!("{program} in the image works");
    }
    Ok(())
}

/// The shim installs itself and the conflist, as the DaemonSet's init container does it.
fn shim(engine: &Engine, dist: &Path) -> Outcome {
    let host = dist.join("check");
    super::empty(&host)?;
    let conflist = cargo::root().join("examples/cni/10-margay.conflist");
    let options = [
        format!("--volume={}:/host", host.display()),
        format!("--volume={}:/etc/margay/10-margay.conflist:ro", conflist.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    engine.once(&options, &["margay-cni", "install", "/host", "/etc/margay/10-margay.conflist", "/host"])?;
    for (installed, source) in
        [("margay-cni", dist.join("bin").join(super::SHIM)), ("10-margay.conflist", conflist)]
    {
        if read(&host.join(installed))? != read(&source)? {
            return Err(format!("the installed {installed} is not the one it was made from"));
        }
    }
    fs::remove_dir_all(&host).map_err(|error| format!("{}: {error}", host.display()))
}

/// A daemon as it is tried: with exactly the capabilities of its manifest.
struct Daemon {
    program: &'static str,
    capabilities: &'static [&'static str],
    environment: &'static [&'static str],
    /// Objects to give it, in the repository.
    objects: Option<&'static str>,
    /// A program in the image, and what its output has when the daemon has done its work.
    proof: Option<(&'static str, &'static str)>,
}

const AGENT: Daemon = Daemon {
    program: "margay-agent",
    capabilities: &["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"],
    environment: &["MARGAY_NODE=node1", "MARGAY_IPV4_ADDRESS=192.0.2.1/24"],
    objects: Some("examples/cluster"),
    proof: Some(("iptables-save", "mgy-")),
};

const REFLECTOR: Daemon = Daemon {
    program: "margay-route-reflector",
    capabilities: &["NET_BIND_SERVICE"],
    environment: &[
        "MARGAY_NODE=rr-node1",
        "MARGAY_IPV4_ADDRESS=192.0.2.1/32",
        "MARGAY_SOCKET=/run/margay/route-reflector.sock",
    ],
    objects: None,
    proof: None,
};

/// Starts a daemon as a cluster of one node on the embedded datastore, waits until it is ready, and stops it.
fn live(engine: &Engine, daemon: &Daemon) -> Outcome {
    let mut arguments: Vec<String> =
        ["run", "--detach", "--sysctl=net.ipv4.ip_forward=1"].map(str::to_owned).to_vec();
    arguments.extend(CONFINED.map(str::to_owned));
    arguments.extend(["--tmpfs=/run".to_owned(), "--tmpfs=/var/lib/margay".to_owned()]);
    arguments.extend(daemon.capabilities.iter().map(|capability| format!("--cap-add={capability}")));
    arguments.extend(daemon.environment.iter().map(|variable| format!("--env={variable}")));
    if let Some(objects) = daemon.objects {
        arguments.push(format!("--volume={}:/objects:ro", cargo::root().join(objects).display()));
    }
    arguments.extend([IMAGE.to_owned(), daemon.program.to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let container = engine.run(&arguments)?;
    let outcome =
        observe(engine, &container, daemon).and_then(|took| stop(engine, &container).map(|()| took));
    let outcome = outcome.map_err(|error| {
        let log = Command::new(engine.0).args(["logs", &container]).output();
        let log = log.map(|log| [log.stdout, log.stderr].concat()).unwrap_or_default();
        format!("{error}\n{}", String::from_utf8_lossy(&log))
    });
    engine.run(&["rm", "--force", &container])?;
    let took = outcome?;
    println!("{} in a container is ready after {took:.1?}", daemon.program);
    Ok(())
}

fn observe(engine: &Engine, container: &str, daemon: &Daemon) -> Result<Duration, String> {
    let start = Instant::now();
    if daemon.objects.is_some() {
        engine.run(&["exec", container, "margay", "apply", "-f", "/objects"])?;
    }
    // It ends with success once every part is ready.
    poll(|| engine.run(&["exec", container, "margay", "status"]))?;
    let took = start.elapsed();
    if let Some((program, word)) = daemon.proof {
        poll(|| {
            let text = engine.run(&["exec", container, program])?;
            if text.contains(word) {
                Ok(())
            } else {
                Err(format!("no {word} in the output of {program}:\n{text}"))
            }
        })?;
    }
    Ok(took)
}

/// As process 1 of its container it ends when it is told to, and well.
fn stop(engine: &Engine, container: &str) -> Outcome {
    engine.run(&["stop", "--time=10", container])?;
    let code = engine.run(&["inspect", "--format={{.State.ExitCode}}", container])?;
    if code == "0" { Ok(()) } else { Err(format!("it was told to stop and ended with exit code {code}")) }
}

/// Tries until it works or the patience ends.
fn poll<T>(attempt: impl Fn() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(POLL),
            outcome => return outcome,
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
