//! `margay bgp …`: sessions and routes of a daemon, as birdc, vtysh and calicoctl show theirs.

mod neighbor;
mod routes;
mod watch;

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use margay_control::bgp::{Explanation, Peer};

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{Format, OutputArgs, Report, comma, dash, duration, dynamic_table, render};
use routes::RouteArgs;
use watch::Sight;

#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// Sessions
    Peers {
        #[command(flatten)]
        output: OutputArgs,
        /// Go on with what changes
        #[arg(short, long)]
        watch: bool,
    },
    /// Paths by prefix; > marks the one in use
    Routes(RouteArgs),
    /// All about the paths of one prefix, or of the route to an address
    Route {
        /// Prefix or address
        prefix: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// All about one session, or what it brings and takes
    Neighbor(neighbor::NeighborArgs),
    /// Why a prefix is what it is: import policy, decision, and the way out to each neighbour
    Explain {
        /// Prefix or address
        prefix: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Sessions with prefix counts
    Summary {
        #[command(flatten)]
        output: OutputArgs,
        /// Go on with what changes
        #[arg(short, long)]
        watch: bool,
    },
    /// Write the table to a file
    Dump {
        /// As MRT (RFC 6396, TABLE_DUMP_V2), which bgpdump and others read; - is standard output
        #[arg(long, value_name = "FILE", required = true)]
        mrt: PathBuf,
    },
}

impl BgpCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let client = daemon(global)?;
        let text = match self {
            Self::Peers { output, watch: true } => {
                return watch::peers(&client, output.output, &PEERS);
            }
            Self::Summary { output, watch: true } => {
                return watch::peers(&client, output.output, &SUMMARY);
            }
            Self::Peers { output, .. } => {
                let peers: Vec<Peer> = client.get("/v1/bgp/peers")?;
                render(output.output, &peers, |wide| peers_table(&peers, wide))?
            }
            Self::Summary { output, .. } => {
                let peers: Vec<Peer> = client.get("/v1/bgp/peers")?;
                render(output.output, &peers, |wide| summary(&peers, wide))?
            }
            Self::Routes(args) => return args.run(&client),
            Self::Route { prefix, output } => {
                return routes::one(&client, prefix, undivided(*output)?);
            }
            Self::Neighbor(args) => return args.run(&client),
            Self::Explain { prefix, output } => {
                let format = undivided(*output)?;
                let found: Explanation = client.get(&format!("/v1/bgp/explain?prefix={}", escape(prefix)))?;
                render(format, &found, |_| explanation(&found))?
            }
            Self::Dump { mrt } => {
                if mrt.as_os_str() == "-" {
                    client.download("/v1/bgp/dump", &mut std::io::stdout().lock())?;
                    return Ok(Report::default());
                }
                let path = mrt.display();
                let mut file = File::create(mrt).with_context(|| format!("cannot write {path}"))?;
                let bytes = client.download("/v1/bgp/dump", &mut file)?;
                file.flush().with_context(|| format!("cannot write {path}"))?;
                format!("{bytes} bytes written to {path}")
            }
        };
        Ok(Report::text(text))
    }
}

/// The form of what has no columns.
fn undivided(output: OutputArgs) -> anyhow::Result<Format> {
    let wide = output.output == Format::Wide;
    anyhow::ensure!(!wide, "there is no wide form of this, it shows everything: leave out `-o wide`");
    Ok(output.output)
}

/// What a person wrote, as part of a query: everything that means something there is escaped.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./:-".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

const PEERS: Sight = Sight { heads: peer_heads, row: peer_row, table: peers_table };

const PEER_HEADS: [&str; 7] = ["PEER ADDRESS", "NAME", "TYPE", "AS", "STATE", "SINCE", "INFO"];
const MORE_PEER_HEADS: [&str; 7] =
    ["RECEIVED", "FILTERED", "STALE", "ADVERTISED", "LAG", "BFD", "CAPABILITIES"];

fn peer_heads(wide: bool) -> Vec<&'static str> {
    let more: &[&str] = if wide { &MORE_PEER_HEADS } else { &[] };
    [&PEER_HEADS, more].concat()
}

/// As `calicoctl node status`: address, type, state, since, info.
fn peers_table(peers: &[Peer], wide: bool) -> String {
    if peers.is_empty() {
        return "No BGP peers.\n".to_owned();
    }
    dynamic_table(&peer_heads(wide), peers.iter().map(|peer| peer_row(peer, wide)).collect())
}

/// How long the session is up or down, as FRR says it: one that has never been up is no time down.
fn since(peer: &Peer) -> String {
    let ever = peer.state == "Established" || peer.established_count > 0;
    if ever { duration(peer.since_seconds) } else { "never".to_owned() }
}

fn peer_row(peer: &Peer, wide: bool) -> Vec<String> {
    let up = peer.state == "Established";
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
        if up { "up".to_owned() } else { peer.state.clone() },
        since(peer),
        info,
    ];
    if wide {
        let counts = [peer.received, peer.filtered, peer.stale, peer.advertised, peer.lag_bytes];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(dash(peer.bfd.as_ref()));
        cells.push(comma(&peer.capabilities));
    }
    cells
}

const SUMMARY: Sight = Sight { heads: summary_heads, row: summary_row, table: summary };

const SUMMARY_HEADS: [&str; 8] =
    ["NEIGHBOR", "AS", "MSGRCVD", "OUTQ", "UP/DOWN", "STATE/PFXRCD", "PFXSNT", "NAME"];
const MORE_SUMMARY_HEADS: [&str; 5] = ["FILTERED", "STALE", "RESYNCS", "GROUP", "LAST RESET"];

fn summary_heads(wide: bool) -> Vec<&'static str> {
    let more: &[&str] = if wide { &MORE_SUMMARY_HEADS } else { &[] };
    [&SUMMARY_HEADS, more].concat()
}

/// As `show bgp summary` of FRR.
fn summary(peers: &[Peer], wide: bool) -> String {
    let up = peers.iter().filter(|peer| peer.state == "Established").count();
    let received: u64 = peers.iter().map(|peer| peer.received).sum();
    let stale: u64 = peers.iter().map(|peer| peer.stale).sum();
    let mut text = format!("{up} of {} sessions established, {received} prefixes received", peers.len());
    if stale > 0 {
        text.push_str(&format!(", {stale} of them stale"));
    }
    text.push_str("\n\n");
    text + &dynamic_table(&summary_heads(wide), peers.iter().map(|peer| summary_row(peer, wide)).collect())
}

fn summary_row(peer: &Peer, wide: bool) -> Vec<String> {
    let up = peer.state == "Established";
    let mut cells = vec![
        peer.address.to_string(),
        peer.remote_as.to_string(),
        peer.messages.received.to_string(),
        peer.lag_bytes.to_string(),
        since(peer),
        if up { peer.received.to_string() } else { peer.state.clone() },
        peer.advertised.to_string(),
        peer.name.clone(),
    ];
    if wide {
        cells.extend([peer.filtered, peer.stale, peer.resyncs].map(|count| count.to_string()));
        cells.push(dash(peer.group));
        cells.push(dash(peer.last_reset.as_ref()));
    }
    cells
}

fn explanation(found: &Explanation) -> String {
    let mut text = format!("{}\n", found.prefix);
    let from = |address: Option<IpAddr>| address.map_or_else(|| "here".to_owned(), |from| from.to_string());
    let mut lines = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    };
    let paths = found.paths.iter().map(|path| {
        let mark = if path.best { ">" } else { " " };
        let hop = path.next_hop.map_or_else(|| "local".to_owned(), |hop| hop.to_string());
        format!("{mark} from {} via {hop}: {}", from(path.from), path.reason)
    });
    lines("Paths, best first:", paths.collect());
    let policy = |policy: &margay_control::bgp::Policy| {
        policy.rules.iter().map(|rule| format!("    {rule}")).collect::<Vec<_>>()
    };
    let imported = found
        .imported
        .iter()
        .flat_map(|it| std::iter::once(format!("from {}: {}", it.peer, it.verdict)).chain(policy(it)));
    lines("Import policy:", imported.collect());
    lines("Decision:", found.decision.clone());
    let advertised = found.advertised.iter().flat_map(|to| {
        let verb = if to.sent { "sent" } else { "not sent" };
        let rules = to
            .policy
            .iter()
            .flat_map(|it| std::iter::once(format!("    export policy: {}", it.verdict)).chain(policy(it)));
        std::iter::once(format!("{}: {verb}: {}", to.peer, to.reason)).chain(rules).collect::<Vec<_>>()
    });
    lines("Advertised:", advertised.collect());
    text
}
