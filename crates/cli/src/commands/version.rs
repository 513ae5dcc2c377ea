//! `version`.

use margay_control::status::DaemonStatus;
use serde::Serialize;

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, render};

#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// Don't ask the daemon
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    daemon: Option<String>,
}

impl VersionArgs {
    /// A daemon that isn't there is no error here: the tool has a version all the same.
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let mut versions = Versions { client: env!("CARGO_PKG_VERSION"), daemon: None };
        let mut why = None;
        if !self.client {
            match daemon(global)?.get::<DaemonStatus>("/v1/status") {
                Ok(status) => versions.daemon = Some(format!("{} {}", status.program, status.version)),
                Err(error) => why = Some(error.to_string()),
            }
        }
        let text = render(self.output.output, &versions, |_| {
            let mut text = format!("margay {}\n", versions.client);
            match (&versions.daemon, &why) {
                (Some(daemon), _) => text.push_str(&format!("{daemon}\n")),
                (None, Some(why)) => text.push_str(&format!("daemon: {why}\n")),
                (None, None) => {}
            }
            text
        })?;
        Ok(Report::text(text))
    }
}
