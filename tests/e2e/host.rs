//! The machine is the same before and after the demo, however that ends.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_tests::cluster::wait;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::labs::same;

/// Longest wait for the kernel to end processes and namespaces.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file of one of our programs.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program's folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("target folder")? } else { folder };
    Ok(folder.join(name))
}

/// The folder cargo builds in.
pub(crate) fn target() -> Result<PathBuf> {
    let debug = program("margay")?.parent().map(Path::to_path_buf).context("this program's folder")?;
    Ok(debug.parent().context("target folder")?.to_path_buf())
}

/// The Go compiler, where there is one that gets the release a module asks for (1.21).
pub(crate) fn go() -> Option<PathBuf> {
    let found = |path: &PathBuf| {
        let said = Command::new(path).args(["env", "GOTOOLCHAIN"]).output();
        said.is_ok_and(|output| output.status.success() && output.stdout.len() > 1)
    };
    ["go", "/usr/local/go/bin/go"].map(PathBuf::from).into_iter().find(found)
}

/// `cnitool` of the project containernetworking, once it is built.
pub(crate) fn cnitool() -> Result<PathBuf> {
    Ok(program("tools")?.join("cnitool"))
}

/// Builds it, unless it was built before. Needs the network, so it is not done in the sandbox.
pub(crate) fn build_cnitool() -> Result<()> {
    let tool = cnitool()?;
    if tool.exists() {
        return Ok(());
    }
    let folder = tool.parent().context("its folder")?;
    let output = Command::new(go().context("no Go compiler")?)
        .args(["install", "github.com/containernetworking/cni/cnitool@v1.3.0"])
        .env("GOBIN", folder)
        .env("GOPATH", folder.join("go"))
        .env("GOFLAGS", "-modcacherw")
        .output()?;
    ensure!(output.status.success(), "go install cnitool: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Text of `ip`, `iptables-save`, `nft` and `ipset` without what changes by itself: counters, timers, times.
pub(crate) fn without_counters(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut hide = false;
        for word in line.split(' ') {
            let counters = word.starts_with('[') && word.ends_with(']') && word.contains(':');
            let shown = if hide || counters { "…" } else { word };
            let timers =
                ["packets", "bytes", "expires", "valid_lft", "preferred_lft", "age", "timeout", "used"];
            hide = timers.contains(&word) || word.ends_with("_timer");
            out.push_str(shown);
            out.push(' ');
        }
        out.push('\n');
    }
    out
}

/// Everything of the machine that the demo could have changed.
fn machine() -> Result<String> {
    let commands: [(&str, &[&str]); 12] = [
        ("ip", &["-d", "link", "show"]),
        ("ip", &["-d", "address", "show"]),
        ("ip", &["-d", "route", "show", "table", "all"]),
        ("ip", &["-d", "-6", "route", "show", "table", "all"]),
        ("ip", &["rule", "show"]),
        ("ip", &["-6", "rule", "show"]),
        ("ip", &["netns", "list"]),
        ("iptables-save", &[]),
        ("ip6tables-save", &[]),
        ("nft", &["list", "ruleset"]),
        ("ipset", &["save"]),
        ("sysctl", &["-a", "--pattern", r"^net\."]),
    ];
    let mut state = String::new();
    for (program, arguments) in commands {
        // As a user some of these say nothing but that they may not: that is the same before and after.
        let output = Command::new(program).args(arguments).output();
        let output = output.with_context(|| format!("executing {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = text.lines().filter(|line| !line.starts_with("net.netfilter.nf_conntrack_count"));
        let text = without_counters(&text.collect::<Vec<_>>().join("\n"));
        state.push_str(&format!("## {program} {}\n{text}", arguments.join(" ")));
    }
    for folder in ["/run", "/var/run", "/run/netns", "/tmp", "/var/lib", "/etc"] {
        let all: BTreeSet<String> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| folder == "/run/netns" || name.contains("margay") || name == "xtables.lock")
            // A folder of these tests themselves.
            .filter(|name| !name.starts_with("margay-e2e-"))
            .collect();
        state.push_str(&format!("## {folder}\n{all:?}\n"));
    }
    state.push_str(&format!("## mounts\n{}", mounts()?));
    state.push_str(&format!("## processes\n{:?}\n", processes()?));
    Ok(state)
}

fn mounts() -> Result<String> {
    let text = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(text.lines().filter(|line| line.contains("margay") || line.contains("/run/netns")).collect())
}

/// Our programs that run, by process id; those of another checkout are not ours.
fn processes() -> Result<BTreeSet<String>> {
    let folder = program("margay")?;
    let folder = folder.parent().context("target folder")?;
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(file) = std::fs::read_link(entry.path().join("exe")) else { continue };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.parent() == Some(folder) && name.starts_with("margay") {
            all.insert(format!("{} {name}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(all)
}

/// The machine is as before; processes and namespaces may take a moment to go.
fn unchanged(before: &str) -> Result<()> {
    let _late = wait(PATIENCE, || Ok(machine()? == before));
    same(before, &machine()?).context("the machine before and after the demo")
}

/// A demo under way, with its output.
struct Demo {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    said: String,
}

impl Demo {
    fn start(mut command: Command) -> Result<Self> {
        // What a terminal does with the programs it starts: a group of their own.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, output, said: String::new() })
    }

    fn id(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }

    /// Reads on until a line contains `word`.
    fn until(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            self.said.push_str(&line);
            if line.contains(word) {
                return Ok(());
            }
            line.clear();
        }
        anyhow::bail!("it ended before it said {word:?}:\n{}", self.said)
    }

    /// Reads to the end, which comes when the last process of the demo has gone.
    fn end(mut self) -> Result<(ExitStatus, String)> {
        self.output.read_to_string(&mut self.said)?;
        Ok((self.child.wait()?, self.said))
    }
}

fn demo() -> Result<Command> {
    Ok(Command::new(program("margay-demo")?))
}

pub(crate) fn untouched_by_the_demo() -> Result<()> {
    let before = machine()?;
    let mut demo = Demo::start(demo()?)?;
    demo.until("margay-cni ADD")?;
    ensure!(processes()?.iter().any(|one| one.ends_with("margay-agent")), "the comparison sees no agent");
    let (status, said) = demo.end()?;
    ensure!(status.success() && said.contains("lines hold"), "{status}:\n{said}");
    unchanged(&before)
}

pub(crate) fn untouched_after_ctrl_c() -> Result<()> {
    let before = machine()?;
    for word in ["starting two route reflectors", "margay-cni ADD", "kill -9 rr1"] {
        let mut demo = Demo::start(demo()?)?;
        demo.until(word)?;
        killpg(demo.id()?, Signal::SIGINT)?;
        let (status, said) = demo.end()?;
        ensure!(!status.success() && !said.contains("lines hold"), "{status}:\n{said}");
        unchanged(&before).with_context(|| format!("Ctrl-C at {word:?}"))?;
    }
    Ok(())
}

pub(crate) fn untouched_after_sigkill() -> Result<()> {
    let before = machine()?;
    for (signal, word) in [(Signal::SIGKILL, "margay-cni ADD"), (Signal::SIGTERM, "margay-cni ADD")] {
        let mut demo = Demo::start(demo()?)?;
        demo.until(word)?;
        // Only the process that was started: those it started must end with it.
        kill(demo.id()?, signal)?;
        let (status, said) = demo.end()?;
        ensure!(!status.success() && !said.contains("lines hold"), "{status}:\n{said}");
        unchanged(&before).with_context(|| format!("{signal} at {word:?}"))?;
    }
    Ok(())
}

/// A program the demo needs in its middle is missing.
pub(crate) fn untouched_after_a_failed_step() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("margay-e2e-{}", std::process::id()));
    let outcome = path_without(&folder, "ipset").and_then(|()| failed_step(&folder));
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn failed_step(path: &Path) -> Result<()> {
    let before = machine()?;
    let mut command = demo()?;
    command.env("PATH", path).stderr(Stdio::piped());
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains("ipset"), "it does not name what is missing: {said}");
    unchanged(&before)
}

/// A folder with everything of PATH but one program.
fn path_without(folder: &Path, missing: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = std::env::var_os("PATH").context("no PATH")?;
    for place in std::env::split_paths(&path) {
        for entry in std::fs::read_dir(place).into_iter().flatten() {
            let entry = entry?;
            let link = folder.join(entry.file_name());
            // The first in PATH wins.
            if entry.file_name() != missing && link.symlink_metadata().is_err() {
                std::os::unix::fs::symlink(entry.path(), link)?;
            }
        }
    }
    Ok(())
}
