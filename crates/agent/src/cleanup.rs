//! `margay-agent --cleanup`: takes everything of ours out of the kernel. Needs no datastore, and the agent stopped.
//!
//! What is ours is recognised by the marks that it was made with, in the order in which nothing refers to what is removed:
//! rules and sets, routes, nexthop objects, tunnels and, if asked for, the pods' interfaces. Settings of the kernel
//! (forwarding) stay: somebody else may rely on them by now.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use felix_rs::apply::{Applier, Loose, Options};
use margay_daemon::instance::Instance;
use margay_netlink::{Error, Netlink, NexthopChange, NexthopTarget, RouteChange};

use crate::{PROGRAM, fib};

/// How the pods' interfaces begin.
const POD_INTERFACES: &str = "mgy";

/// What to remove.
#[derive(Debug)]
pub(crate) struct Cleanup {
    /// The pods' interfaces too: pods lose their network.
    pub(crate) pods: bool,
    /// Only say what would be removed.
    pub(crate) dry_run: bool,
    /// Where it is noted what a setting of conntrack was.
    pub(crate) loose_note: PathBuf,
}

impl Cleanup {
    /// Does it and prints what was done.
    #[allow(clippy::print_stdout, clippy::print_stderr, reason = "a command, not the daemon")]
    pub(crate) fn main(&self) -> ExitCode {
        let done = if self.dry_run { "would remove" } else { "removed" };
        match self.run() {
            Ok(lines) if lines.is_empty() => println!("nothing of Margay's is in the kernel"),
            Ok(lines) => lines.iter().for_each(|line| println!("{done} {line}")),
            Err(error) => {
                eprintln!("{PROGRAM}: {error:#}");
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }

    /// Removes it; one line for everything that was (or would be) removed.
    fn run(&self) -> Result<Vec<String>> {
        // A dry run may look at the node of an agent that runs.
        let _instance = match self.dry_run {
            true => None,
            false => Some(Instance::claim(PROGRAM).map_err(|error| anyhow!(error))?),
        };
        let mut lines = self.conntrack()?;
        lines.extend(self.rules()?);
        let mut netlink =
            Netlink::open().context("opening the kernel's routing table (this needs CAP_NET_ADMIN)")?;
        lines.extend(self.routes(&mut netlink)?);
        lines.extend(self.nexthops(&mut netlink)?);
        lines.extend(self.links(&mut netlink)?);
        Ok(lines)
    }

    /// Before the rules: without them the setting may not be there any more.
    fn conntrack(&self) -> Result<Vec<String>> {
        let mut loose = Loose::noted(self.loose_note.clone());
        let held = loose.is_held();
        if !self.dry_run {
            loose.give_back().context("giving nf_conntrack_tcp_loose back")?;
        }
        Ok(held.then(|| "nf_conntrack_tcp_loose=0".to_owned()).into_iter().collect())
    }

    fn rules(&self) -> Result<Vec<String>> {
        let mut applier = Applier::new(&Options::default())?;
        let found = applier.holdings()?;
        if !self.dry_run {
            // The kernel lets go of a deleted rule's sets a moment later: then a second call finds them free.
            let mut left = applier.cleanup()?.leftovers;
            if !left.is_empty() {
                left = applier.cleanup()?.leftovers;
            }
            if !left.is_empty() {
                let message = "rules of somebody else refer to ip sets of ours; remove those, then these";
                return Err(anyhow!("{message}: {}", left.join(", ")));
            }
        }
        Ok(found)
    }

    fn routes(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let routes = fib::own_routes(netlink)?;
        let rules = fib::own_rules(netlink)?;
        let routes_shown = routes.iter().map(|route| format!("route {route}"));
        let lines = routes_shown.chain(rules.iter().map(|rule| format!("rule {}", rule.priority))).collect();
        if !self.dry_run {
            gone(rules.iter().map(|rule| netlink.delete_unmarked_rule(rule)))?;
            let changes: Vec<_> = routes.into_iter().map(RouteChange::Delete).collect();
            gone(netlink.apply_routes(&changes))?;
        }
        Ok(lines)
    }

    fn nexthops(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let mut objects = fib::own_nexthops(netlink)?;
        let lines = objects.iter().map(|object| format!("nexthop id {}", object.id)).collect();
        if !self.dry_run {
            // Groups first: they go by themselves with the last of their members.
            objects.sort_by_key(|object| !matches!(object.target, NexthopTarget::Group(_)));
            let changes: Vec<_> = objects.iter().map(|object| NexthopChange::Delete(object.id)).collect();
            gone(netlink.apply_nexthops(&changes))?;
        }
        Ok(lines)
    }

    fn links(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for link in netlink.links()? {
            let tunnel = fib::DEVICES.contains(&link.name.as_str());
            let pod = link.name.starts_with(POD_INTERFACES);
            if !(tunnel || pod && self.pods) {
                continue;
            }
            if !self.dry_run {
                gone([netlink.delete_link(link.index)])?;
            }
            lines.push(format!("interface {}", link.name));
        }
        Ok(lines)
    }
}

/// What went by itself meanwhile is no failure.
fn gone(outcomes: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    outcomes.into_iter().try_for_each(|outcome| match outcome {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    })
}
