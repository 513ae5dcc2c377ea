//! `ipam`: addresses of this node and of the cluster.

mod cluster;
mod configure;
mod release;
mod show;
mod split;

use clap::Subcommand;
use margay_ipam::audit;

use self::cluster::Cluster;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, render, table};

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Blocks of this node and their addresses, or pools and blocks of the cluster, or who has an address
    Show(show::ShowArgs),
    /// Compare blocks, nodes and endpoints of the cluster; fails when addresses conflict or leak
    Check {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Free addresses of this node that nobody uses, or all a dead node has
    Release(release::ReleaseArgs),
    /// Settings of the cluster's IPAM
    Configure(configure::ConfigureArgs),
    /// Replace an IPPool by parts of it
    Split(split::SplitArgs),
}

impl IpamCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        match self {
            Self::Show(args) => args.run(global),
            Self::Check { output } => check(*output, global),
            Self::Release(args) => args.run(global),
            Self::Configure(args) => args.run(global),
            Self::Split(args) => args.run(global),
        }
    }
}

fn check(output: OutputArgs, global: &GlobalArgs) -> anyhow::Result<Report> {
    let cluster = Cluster::read(global)?;
    let findings: Vec<_> = cluster.view(audit).into_iter().collect();
    let people = |_wide| {
        let rows = findings.iter().map(|finding| {
            let kind = if finding.is_conflict() { "conflict" } else { "leak" };
            [kind.to_owned(), finding.to_string()]
        });
        if findings.is_empty() {
            "No conflicts, no leaks.\n".to_owned()
        } else {
            table(["KIND", "FINDING"], rows.collect(), "findings")
        }
    };
    let mut report = Report::text(render(output.output, &findings, people)?);
    if !findings.is_empty() {
        report.error(format!("{} findings", findings.len()));
    }
    Ok(report)
}
