//! Without root.

use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};
use margay_tests::pods::said;

use crate::{Lacks, host};

/// The user without any rights.
const NOBODY: &str = "65534";

/// Executes a program as a user without rights, which we may already be.
fn as_user(program: &str, arguments: &[&str]) -> Command {
    if !nix::unistd::geteuid().is_root() {
        let mut command = Command::new(program);
        command.args(arguments);
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", program]).args(arguments);
    command
}

fn run(mut command: Command) -> Result<Output> {
    Ok(command.stdin(Stdio::null()).output()?)
}

/// The demo's file, which such a user must be able to execute and whose repository to read.
fn demo() -> Result<String> {
    let demo = host::program("margay-demo")?.to_string_lossy().into_owned();
    let lab = margay_tests::cluster::repository().join(margay_tests::scenario::LAB);
    let may = run(as_user("test", &["-x", &demo, "-a", "-r", &lab.to_string_lossy()]))?;
    if !may.status.success() {
        return Err(Lacks(format!("a user without rights cannot read {demo} and {}", lab.display())).into());
    }
    Ok(demo)
}

/// It works, or says in one sentence what to do: whichever the machine allows.
pub(crate) fn a_user_runs_the_demo() -> Result<()> {
    let demo = demo()?;
    let allowed = run(as_user(
        "unshare",
        &["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"],
    ))?;
    let output = run(as_user(&demo, &[]))?;
    if allowed.status.success() {
        ensure!(output.status.success() && said(&output).contains("lines hold"), "{}", said(&output));
        return Ok(());
    }
    one_sentence(&output)
}

/// In a user namespace that there can be one of, which it is in already.
pub(crate) fn without_namespaces_one_sentence() -> Result<()> {
    let demo = host::program("margay-demo")?;
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "true"]);
    if !run(probe)?.status.success() {
        return Err(
            Lacks("this machine lets users make no user namespace that could be limited".into()).into()
        );
    }
    let mut command = Command::new("unshare");
    let script = "echo 1 > /proc/sys/user/max_user_namespaces && exec unshare --user --map-user=1000 \"$@\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(demo);
    one_sentence(&run(command)?)
}

fn one_sentence(output: &Output) -> Result<()> {
    let text = said(output);
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    ensure!(text.trim().lines().count() == 1, "more than one line: {text}");
    ensure!(text.contains("needs root") && text.contains("sudo"), "it does not say what to do: {text}");
    Ok(())
}
