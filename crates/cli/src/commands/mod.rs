//! One file per command; each returns what is to be printed.

mod bgp;
mod cleanup;
mod delete;
mod endpoints;
mod explain;
mod flows;
mod get;
mod ipam;
mod policy;
mod status;
mod tunnels;
mod version;
mod write;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use margay_api::Kind;
use margay_control::Client;

use crate::config::GlobalArgs;
use crate::output::Report;
use crate::store::{Access, Session};

/// The network of the cluster: its objects, and what this node does with them.
#[derive(Debug, Parser)]
#[command(name = "margay", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or change the objects of files
    Apply(write::WriteArgs),
    /// Create the objects of files; an error for those that exist
    Create(write::WriteArgs),
    /// Change the objects of files; an error for those that don't exist
    Replace(write::WriteArgs),
    /// Show objects
    Get(get::GetArgs),
    /// Delete objects by name or as named in files
    Delete(delete::DeleteArgs),
    /// BGP sessions and routes of the daemon on this node
    #[command(subcommand)]
    Bgp(bgp::BgpCommand),
    /// Blocks and addresses of this node
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
    /// Pods of this node
    Endpoints(endpoints::EndpointsArgs),
    /// Tunnel devices of this node and their other ends
    Tunnels(tunnels::TunnelsArgs),
    /// Policies this node enforces
    Policy(policy::PolicyArgs),
    /// Why a flow is allowed or denied, and which way it takes
    Explain(explain::ExplainArgs),
    /// Connections of this node's pods that policy let through, and packets it dropped, as they come
    Flows(flows::FlowsArgs),
    /// Remove everything of Margay's from this node's kernel
    Cleanup(cleanup::CleanupArgs),
    /// State of the daemon on this node
    Status(status::StatusArgs),
    /// Versions of this tool and of the daemon
    Version(version::VersionArgs),
}

impl Cli {
    pub(crate) fn run(&self) -> anyhow::Result<Report> {
        let global = &self.global;
        match &self.command {
            Command::Apply(args) => args.run(write::Mode::Apply, global),
            Command::Create(args) => args.run(write::Mode::Create, global),
            Command::Replace(args) => args.run(write::Mode::Replace, global),
            Command::Get(args) => args.run(global),
            Command::Delete(args) => args.run(global),
            Command::Bgp(command) => command.run(global),
            Command::Ipam(command) => command.run(global),
            Command::Endpoints(args) => args.run(global),
            Command::Tunnels(args) => args.run(global),
            Command::Policy(args) => args.run(global),
            Command::Explain(args) => args.run(global),
            Command::Flows(args) => args.run(global),
            Command::Cleanup(args) => args.run(),
            Command::Status(args) => args.run(global),
            Command::Version(args) => args.run(global),
        }
    }
}

/// The daemon on this node.
fn daemon(global: &GlobalArgs) -> anyhow::Result<Client> {
    Ok(Client::new(global.socket()?))
}

/// The cluster's objects.
fn session(global: &GlobalArgs, access: Access) -> anyhow::Result<Session> {
    Session::open(&global.store()?, access)
}

/// The kind a person means.
fn kind(text: &str) -> anyhow::Result<Kind> {
    Kind::parse(text).ok_or_else(|| {
        let known: Vec<String> = Kind::ALL.iter().map(|kind| kind.to_string().to_ascii_lowercase()).collect();
        anyhow!("{text:?} is no kind of object; there are: {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_kind_lists_the_known_ones() {
        let error = kind("gizmo").unwrap_err().to_string();
        assert!(error.contains("ippool") && error.contains("globalnetworkpolicy"), "{error}");
        assert_eq!(kind("gnp").unwrap(), Kind::GlobalNetworkPolicy);
    }
}
