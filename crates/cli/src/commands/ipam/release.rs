//! `ipam release`.

use std::net::IpAddr;

use anyhow::ensure;
use margay_api::kinds::Affinity;
use margay_api::{Key, Kind, Resource};
use margay_control::status::{ReleaseRequest, Released};

use crate::commands::{daemon, session};
use crate::config::GlobalArgs;
use crate::output::{Report, chain};
use crate::store::Access;

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    /// Addresses of this node; those that a container has are refused
    #[arg(required_unless_present = "node", conflicts_with = "node")]
    addresses: Vec<IpAddr>,
    /// Everything of a node that does not exist any more
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Also addresses of which the node does not know whether anybody uses them
    #[arg(long, conflicts_with = "node")]
    force: bool,
}

impl ReleaseArgs {
    pub(super) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        match &self.node {
            Some(node) => of_node(node, global),
            None => self.of_this_node(global),
        }
    }

    fn of_this_node(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let request = ReleaseRequest { addresses: self.addresses.clone(), force: self.force };
        let released: Vec<Released> = daemon(global)?.post("/v1/ipam/release", &request)?;
        let mut report = Report::default();
        for Released { address, handle, refused } in released {
            match refused {
                Some(reason) => report.error(format!("{address}: {reason}")),
                None => report.line(format!("{address} released ({})", handle.unwrap_or_default())),
            }
        }
        Ok(report)
    }
}

/// As the agents do it after a while: endpoints first, so that whoever gets an address next isn't taken for the dead.
fn of_node(node: &str, global: &GlobalArgs) -> anyhow::Result<Report> {
    let session = session(global, Access::Read)?;
    ensure!(
        session.get(&Key::cluster(Kind::Node, node))?.is_none(),
        "Node({node}) exists, so its pods may be alive: if it is gone for good, `margay delete node {node}` first"
    );
    let mut report = Report::default();
    for kind in [Kind::WorkloadEndpoint, Kind::IpamBlock] {
        for stored in session.list(&[kind], None)? {
            let of_node = match stored.resource.as_deref() {
                Ok(Resource::WorkloadEndpoint(endpoint)) => endpoint.spec.node == node,
                Ok(Resource::IpamBlock(block)) => {
                    block.spec.affinity == Some(Affinity::Host(node.to_owned()))
                }
                _ => false,
            };
            if of_node {
                match session.delete(&stored.key, Some(stored.revision)) {
                    Ok(_) => report.line(format!("{} deleted", stored.key)),
                    Err(error) => report.error(format!("{}: {}", stored.key, chain(&error))),
                }
            }
        }
    }
    if report.text.is_empty() && !report.failed {
        report.line(format!("node {node} has nothing"));
    }
    Ok(report)
}
