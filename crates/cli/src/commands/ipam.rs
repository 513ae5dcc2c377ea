//! `ipam show`.

use clap::Subcommand;
use margay_control::status::IpamStatus;

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, dash, render, table};

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Blocks of this node and their addresses
    Show {
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl IpamCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let Self::Show { output } = self;
        let status: IpamStatus = daemon(global)?.get("/v1/ipam")?;
        Ok(Report::text(render(output.output, &status, |wide| show(&status, wide))?))
    }
}

fn show(status: &IpamStatus, wide: bool) -> String {
    let blocks = status.blocks.iter().map(|block| {
        let free = block.total.saturating_sub(block.used);
        let percent = (block.used * 100).checked_div(block.total).unwrap_or(0);
        [
            block.cidr.to_string(),
            block.pool.clone(),
            block.total.to_string(),
            format!("{} ({percent}%)", block.used),
            free.to_string(),
        ]
    });
    let heads = ["BLOCK", "POOL", "IPS TOTAL", "IPS IN USE", "IPS FREE"];
    let blocks = table(heads, blocks.collect(), "blocks");
    let short = |handle: &str| {
        if wide || handle.chars().count() <= 40 {
            handle.to_owned()
        } else {
            handle.chars().take(39).chain(['…']).collect()
        }
    };
    let addresses = status
        .addresses
        .iter()
        .map(|a| [a.address.to_string(), dash(a.pod.as_ref()), short(&a.handle)])
        .collect();
    let addresses = table(["ADDRESS", "POD", "HANDLE"], addresses, "addresses in use");
    format!("Node {}\n\n{blocks}\n{addresses}", status.node)
}
