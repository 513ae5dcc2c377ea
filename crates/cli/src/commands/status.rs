//! `status`.

use margay_control::status::DaemonStatus;

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, render, table};

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

impl StatusArgs {
    /// Fails when the daemon is not ready, so that scripts can wait for it.
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let status: DaemonStatus = daemon(global)?.get("/v1/status")?;
        let text = render(self.output.output, &status, |_| show(&status))?;
        Ok(Report { text, failed: !status.ready, ..Report::default() })
    }
}

fn show(status: &DaemonStatus) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut text = format!("{} {} on node {}: {ready}\n\n", status.program, status.version, status.node);
    let yes = |ready| if ready { "yes" } else { "no" }.to_owned();
    let components = status.components.iter().map(|c| [c.name.clone(), yes(c.ready), c.message.clone()]);
    text.push_str(&table(["COMPONENT", "READY", "MESSAGE"], components.collect(), "components"));
    if !status.problems.is_empty() {
        let problems = status.problems.iter().map(|p| [p.object.clone(), p.message.clone()]);
        text.push('\n');
        text.push_str(&table(["OBJECT", "PROBLEM"], problems.collect(), "problems"));
    }
    text
}
