//! `bgp neighbor`: as `show bgp neighbors X` of FRR, `show protocols all X` of birdc.

use std::net::IpAddr;

use margay_control::Client;
use margay_control::bgp::Peer;

use super::{routes, undivided};
use crate::output::{OutputArgs, Report, dash, duration, dynamic_table, render};

#[derive(Debug, clap::Args)]
pub(crate) struct NeighborArgs {
    /// Address of the neighbour
    address: IpAddr,
    /// Its routes instead of the session
    #[arg(value_enum)]
    what: Option<What>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// What it is sent, as it is sent
    Advertised,
    /// What it has sent, also what is not used
    Received,
    /// What it has sent and is not used, and why
    Filtered,
}

impl NeighborArgs {
    pub(super) fn run(&self, client: &Client) -> anyhow::Result<Report> {
        let address = self.address.to_string();
        let parameters = match self.what {
            None => return self.session(client),
            Some(What::Advertised) => vec![("advertised", address)],
            Some(What::Received) => vec![("peer", address)],
            Some(What::Filtered) => vec![("peer", address), ("filtered", "true".to_owned())],
        };
        routes::list(client, &parameters, self.output.output)
    }

    fn session(&self, client: &Client) -> anyhow::Result<Report> {
        let format = undivided(self.output)?;
        let peers: Vec<Peer> = client.get(&format!("/v1/bgp/peers?address={}", self.address))?;
        Ok(Report::text(render(format, &peers, |_| peers.iter().map(details).collect())?))
    }
}

fn details(peer: &Peer) -> String {
    let mut text =
        format!("BGP neighbor {} ({}), {}, AS {}\n", peer.address, peer.name, peer.kind, peer.remote_as);
    let up = peer.state == "Established";
    let since = match peer.established_count {
        _ if up => format!("up for {}", duration(peer.since_seconds)),
        0 => "never up".to_owned(),
        _ => format!("down for {}", duration(peer.since_seconds)),
    };
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<14} {value}\n"));
    line("state", format!("{}, {since}", peer.state));
    let times = if peer.established_count == 1 {
        "once".to_owned()
    } else {
        format!("{} times", peer.established_count)
    };
    line("established", times);
    for (name, what, seconds) in [
        ("last reset", &peer.last_reset, peer.last_reset_seconds),
        ("last error", &peer.last_error, peer.last_error_seconds),
    ] {
        if let Some(text) = what {
            let ago = seconds.map_or_else(String::new, |ago| format!(", {} ago", duration(ago)));
            line(name, format!("{text}{ago}"));
        }
    }
    line("router id", dash(peer.remote_id.as_ref()));
    line("local address", dash(peer.local));
    line("capabilities", peer.capabilities.join(", "));
    line("bfd", dash(peer.bfd.as_ref()));
    let messages = &peer.messages;
    let received = format!(
        "{} messages, {} of them UPDATEs, {} bytes",
        messages.received, messages.updates_received, messages.bytes_received
    );
    line("received", received);
    line("sent", format!("{} bytes, {} not taken yet", messages.bytes_sent, peer.lag_bytes));
    line("resyncs", peer.resyncs.to_string());
    let refused = (messages.unauthorised, messages.unroutable);
    line("refused", format!("{} unauthorised and {} unroutable prefixes", refused.0, refused.1));
    line("malformed", format!("{} UPDATEs treated as withdrawals", messages.treated_as_withdraw));
    line("update group", dash(peer.group));
    let heads = ["  FAMILY", "RECEIVED", "FILTERED", "STALE", "ADVERTISED", "END-OF-RIB"];
    let rows = peer.families.iter().map(|family| {
        let ends = match (family.end_of_rib_received, family.end_of_rib_sent) {
            (true, true) => "received, sent",
            (true, false) => "received",
            (false, true) => "sent",
            (false, false) => "-",
        };
        let counts = [family.received, family.filtered, family.stale, family.advertised];
        let mut row = vec![format!("  {}", family.family)];
        row.extend(counts.map(|count| count.to_string()));
        row.push(ends.to_owned());
        row
    });
    text.push('\n');
    text + &dynamic_table(&heads, rows.collect())
}
