//! Namespaces around everything the demo and the end-to-end tests do.
//!
//! The program executes itself again under `unshare`: network, mount and PID namespaces of its own, and a user
//! namespace when it isn't root. Inside, it is process 1 and `/run` is an empty tmpfs. When it ends, in whatever way,
//! the kernel ends every process it started and drops every interface, route, rule and mount: nothing can be left.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};

/// Tells the second execution where it is; the value says whether there is a user namespace.
const MARK: &str = "MARGAY_SANDBOX";

/// The process inside.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox {
    /// Process id as seen from outside, for `nsenter`.
    pub outer_pid: u32,
}

/// Where the caller is after [`enter`].
#[derive(Debug)]
pub enum Entered {
    /// Inside: do the work.
    Inside(Sandbox),
    /// Outside, and the work is done: leave with this code.
    Done(ExitCode),
}

/// Enters the sandbox with the program's own arguments.
///
/// # Errors
/// The machine allows no namespaces; the message says what to do.
pub fn enter() -> anyhow::Result<Entered> {
    if is_inside() {
        return inside().map(Entered::Inside);
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = command()?.args(arguments).status();
    let status = status.context("executing `setpriv` and `unshare` (package util-linux)")?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(Entered::Done(ExitCode::from(u8::try_from(code).unwrap_or(1))))
}

/// Whether this is the second execution.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// This program, to be executed a second time, in a sandbox; its arguments are the caller's. The sandbox ends
/// with the caller, however that ends.
///
/// # Errors
/// The machine allows no namespaces; the message says what to do.
pub fn command() -> anyhow::Result<Command> {
    // Executed as it would be later: what it says then is what is wrong.
    let probe = unshare()
        .args(["--", "true"])
        .output()
        .context("executing `setpriv` and `unshare`: install the package util-linux, which has them")?;
    if !probe.status.success() {
        let said = String::from_utf8_lossy(&probe.stderr);
        bail!(
            "this needs root (or a kernel that lets users make network namespaces, \
             sysctl user.max_user_namespaces > 0): run it with sudo ({})",
            said.trim()
        );
    }
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mut command = unshare();
    command.arg("--").arg(program).env(MARK, "1");
    Ok(command)
}

/// `unshare` ends what it started when it ends; that it ends with us is what `setpriv` sees to.
fn unshare() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Takes possession of the sandbox: a /proc and a /run of its own.
///
/// # Errors
/// A mount is refused.
pub fn inside() -> anyhow::Result<Sandbox> {
    // /proc is still the outside's here, so "self" is the number the outside knows us by.
    let outer_pid = std::fs::read_link("/proc/self")
        .context("reading /proc/self")?
        .to_string_lossy()
        .parse()
        .context("reading /proc/self")?;
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), flags | MsFlags::MS_NOEXEC, none)
        .context("mounting a /proc of our own (not possible inside some containers: run it as root)")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=755")).context("mounting an empty /run")?;
    leave_on_signal()?;
    Ok(Sandbox { outer_pid })
}

/// Process 1 of a PID namespace gets no signal it has no handler for. Leaving is all there is to do: the kernel
/// ends what we started.
fn leave_on_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            eprintln!("\ninterrupted; everything is gone with the namespaces");
            std::process::exit(code);
        });
    })?;
    Ok(())
}

/// Makes the scenario's namespaces known to `ip netns`, on the sandbox's own `/run`.
///
/// # Errors
/// A mount is refused.
pub fn name_namespaces(scenario: &crate::scenario::Scenario) -> anyhow::Result<Vec<String>> {
    let folder = std::path::Path::new("/run/netns");
    std::fs::create_dir_all(folder)?;
    let nodes = scenario.cluster.lab.nodes().map(|node| (node.topology().name.clone(), node.netns()));
    let pods = scenario.pods.iter().map(|pod| (pod.name.clone(), &pod.netns));
    let mut names = Vec::new();
    for (name, netns) in nodes.chain(pods) {
        let file = folder.join(&name);
        std::fs::File::create(&file)?;
        let none = None::<&str>;
        mount(Some(&netns.path()), &file, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("naming the namespace {name}"))?;
        names.push(name);
    }
    Ok(names)
}
