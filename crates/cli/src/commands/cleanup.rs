//! `cleanup`: the agent's program does it, which knows its own marks.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::output::Report;

const AGENT: &str = "margay-agent";

#[derive(Debug, clap::Args)]
pub(crate) struct CleanupArgs {
    /// The pods' interfaces too: pods lose their network
    #[arg(long)]
    pods: bool,
    /// Only list what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl CleanupArgs {
    /// Works without a datastore; refused while the agent runs.
    pub(crate) fn run(&self) -> anyhow::Result<Report> {
        let program = agent();
        let output = Command::new(&program)
            .arg("--cleanup")
            .args(self.pods.then_some("--pods"))
            .args(self.dry_run.then_some("--dry-run"))
            .output()
            .with_context(|| format!("executing {}: is it installed on this node?", program.display()))?;
        let mut report = Report::text(String::from_utf8_lossy(&output.stdout).into_owned());
        report.complaints.extend(String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned));
        report.failed = !output.status.success();
        Ok(report)
    }
}

/// The agent's program that came with this one, else the one in `PATH`.
fn agent() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(AGENT));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| AGENT.into())
}
