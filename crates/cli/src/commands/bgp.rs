//! `bgp peers`, `bgp routes`, `bgp summary`.

use clap::Subcommand;
use ipnet::IpNet;
use margay_control::bgp::{Peer, Route};

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, comma, dash, duration, dynamic_table, render};

#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// Sessions
    Peers {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Paths by prefix; > marks the one in use
    Routes {
        /// Only this prefix
        prefix: Option<IpNet>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Sessions with prefix counts
    Summary {
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl BgpCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let client = daemon(global)?;
        let text = match self {
            Self::Peers { output } => {
                let peers: Vec<Peer> = client.get("/v1/bgp/peers")?;
                render(output.output, &peers, |wide| peers_table(&peers, wide))?
            }
            Self::Summary { output } => {
                let peers: Vec<Peer> = client.get("/v1/bgp/peers")?;
                render(output.output, &peers, |_| summary(&peers))?
            }
            Self::Routes { prefix, output } => {
                let query = prefix.map(|p| format!("?prefix={p}")).unwrap_or_default();
                let routes: Vec<Route> = client.get(&format!("/v1/bgp/routes{query}"))?;
                render(output.output, &routes, |wide| routes_table(&routes, wide))?
            }
        };
        Ok(Report::text(text))
    }
}

/// As `calicoctl node status`: address, type, state, since, info.
fn peers_table(peers: &[Peer], wide: bool) -> String {
    if peers.is_empty() {
        return "No BGP peers.\n".to_owned();
    }
    let mut heads = vec!["PEER ADDRESS", "NAME", "TYPE", "AS", "STATE", "SINCE", "INFO"];
    if wide {
        heads.extend(["RECEIVED", "STALE", "ADVERTISED", "BFD", "CAPABILITIES"]);
    }
    let row = |peer: &Peer| {
        let up = peer.state == "Established";
        let state = if up { "up".to_owned() } else { peer.state.clone() };
        let info = match &peer.last_error {
            Some(error) if !up => error.clone(),
            _ if up => peer.state.clone(),
            _ => "-".to_owned(),
        };
        let mut cells = vec![
            peer.address.to_string(),
            peer.name.clone(),
            peer.kind.clone(),
            peer.remote_as.to_string(),
            state,
            duration(peer.since_seconds),
            info,
        ];
        if wide {
            let counts = [peer.received, peer.stale, peer.advertised];
            cells.extend(counts.map(|count| count.to_string()));
            cells.push(dash(peer.bfd.as_ref()));
            cells.push(comma(&peer.capabilities));
        }
        cells
    };
    dynamic_table(&heads, peers.iter().map(row).collect())
}

/// As `show bgp summary` of FRR.
fn summary(peers: &[Peer]) -> String {
    let up = peers.iter().filter(|peer| peer.state == "Established").count();
    let received: u64 = peers.iter().map(|peer| peer.received).sum();
    let stale: u64 = peers.iter().map(|peer| peer.stale).sum();
    let rows = peers.iter().map(|peer| {
        let up = peer.state == "Established";
        vec![
            peer.address.to_string(),
            peer.remote_as.to_string(),
            duration(peer.since_seconds),
            if up { peer.received.to_string() } else { peer.state.clone() },
            peer.advertised.to_string(),
            peer.name.clone(),
        ]
    });
    let heads = ["NEIGHBOR", "AS", "UP/DOWN", "STATE/PFXRCD", "PFXSNT", "NAME"];
    let mut text = format!("{up} of {} sessions established, {received} prefixes received", peers.len());
    if stale > 0 {
        text.push_str(&format!(", {stale} of them stale"));
    }
    text.push_str("\n\n");
    text + &dynamic_table(&heads, rows.collect())
}

fn routes_table(routes: &[Route], wide: bool) -> String {
    if routes.is_empty() {
        return "No BGP routes.\n".to_owned();
    }
    let mut heads = vec!["", "PREFIX", "NEXT HOP", "FROM", "LOCALPREF", "AS PATH", "AGE", "REASON"];
    if wide {
        heads.extend(["ORIGINATOR", "CLUSTERS", "COMMUNITIES"]);
    }
    let row = |route: &Route| {
        let mark = match (route.best, route.stale) {
            (true, false) => ">",
            (true, true) => ">s",
            (false, true) => "s",
            (false, false) => "",
        };
        let mut cells = vec![
            mark.to_owned(),
            route.prefix.to_string(),
            route.next_hop.map_or_else(|| "local".to_owned(), |hop| hop.to_string()),
            dash(route.from),
            dash(route.local_pref),
            if route.as_path.is_empty() { "-".to_owned() } else { route.as_path.clone() },
            duration(route.age_seconds),
            route.reason.clone(),
        ];
        if wide {
            cells.push(dash(route.originator_id.as_ref()));
            cells.push(comma(&route.cluster_list));
            cells.push(comma(&route.communities));
        }
        cells
    };
    dynamic_table(&heads, routes.iter().map(row).collect())
}
