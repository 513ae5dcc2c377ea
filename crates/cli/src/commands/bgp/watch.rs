//! What changes, as it comes, until the reader or the daemon goes. A reader that is slower than the changes is told so.

use std::collections::BTreeSet;
use std::net::IpAddr;

use margay_control::bgp::{Change, Peer, Route};
use margay_control::{Client, Lines};

use super::routes::{Printer, RouteArgs};
use crate::output::{Columns, Format, Report, owned, render};

/// Begins to watch, so that nothing is missed between what is shown first and what follows.
fn changes(client: &Client) -> anyhow::Result<Lines> {
    Ok(client.lines("/v1/bgp/watch")?)
}

fn lost(format: Format, batches: u64) -> anyhow::Result<String> {
    let people =
        || format!("# too slow: {batches} batches of changes are lost; start again to see the whole\n");
    document(format, &serde_json::json!({ "lost": batches }), people)
}

/// A value in a form that has no end: one document per value, rows for people.
fn document<T: serde::Serialize>(
    format: Format,
    value: &T,
    people: impl FnOnce() -> String,
) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string(value)? + "\n",
        Format::Yaml => format!("---\n{}", render(Format::Yaml, value, |_| String::new())?),
        Format::Table | Format::Wide => people(),
    })
}

/// How sessions are shown, wide or not.
pub(super) struct Sight {
    pub(super) heads: fn(bool) -> Vec<&'static str>,
    pub(super) row: fn(&Peer, bool) -> Vec<String>,
    pub(super) table: fn(&[Peer], bool) -> String,
}

/// The sessions, then a row for each that changes.
pub(super) fn peers(client: &Client, format: Format, sight: &Sight) -> anyhow::Result<Report> {
    let mut changes = changes(client)?;
    let mut out = Printer::new(format);
    let all: Vec<Peer> = client.get("/v1/bgp/peers")?;
    let mut shown: BTreeSet<IpAddr> = all.iter().map(|peer| peer.address).collect();
    let wide = format == Format::Wide;
    let row = |peer: &Peer| (sight.row)(peer, wide);
    let columns = Columns::of(&[vec![owned(&(sight.heads)(wide))], all.iter().map(row).collect()].concat());
    let mut text = String::new();
    match format {
        Format::Table | Format::Wide => text = (sight.table)(&all, wide),
        _ => {
            for peer in &all {
                text.push_str(&document(format, peer, String::new)?);
            }
        }
    }
    let mut open = out.print(&text)?;
    while open && let Some(change) = changes.next_value::<Change>()? {
        open = match change {
            Change::Route { .. } => true,
            Change::Removed { peer } if shown.remove(&peer) => {
                let gone = serde_json::json!({ "address": peer, "removed": true });
                out.print(&document(format, &gone, || format!("-  {peer}  removed\n"))?)?
            }
            Change::Removed { .. } => true,
            Change::Peer(peer) => {
                shown.insert(peer.address);
                let text = document(format, &peer, || columns.line(&row(&peer)))?;
                out.print(&text)?
            }
            Change::Lost { batches } => out.print(&lost(format, batches)?)?,
        };
    }
    Ok(Report::default())
}

pub(super) fn routes(client: &Client, args: &RouteArgs) -> anyhow::Result<Report> {
    let mut changes = changes(client)?;
    let format = args.format();
    let mut out = Printer::new(format);
    let people = matches!(format, Format::Table | Format::Wide);
    let show = |out: &mut Printer, route: &Route| -> anyhow::Result<bool> {
        if people { out.route(route) } else { out.print(&document(format, route, String::new)?) }
    };
    let mut lines = client.lines(&args.path())?;
    // What is shown of a prefix may go while others still have it.
    let mut shown = BTreeSet::new();
    while let Some(route) = lines.next_value::<Route>()? {
        shown.insert(route.prefix);
        if !show(&mut out, &route)? {
            return Ok(Report::default());
        }
    }
    let mut open = !people || out.flush()?;
    while open && let Some(change) = changes.next_value::<Change>()? {
        match change {
            Change::Peer(_) | Change::Removed { .. } => {}
            Change::Lost { batches } => open = out.print(&lost(format, batches)?)?,
            Change::Route { prefix, paths } => {
                let some = paths.iter().any(|route| args.shows(route));
                if some {
                    shown.insert(prefix);
                } else if shown.remove(&prefix) {
                    let gone = serde_json::json!({ "prefix": prefix, "withdrawn": true });
                    open = out.print(&document(format, &gone, || format!("-   {prefix}  withdrawn\n"))?)?;
                }
                for route in paths.iter().filter(|route| args.shows(route)) {
                    open = open && show(&mut out, route)?;
                }
            }
        }
    }
    Ok(Report::default())
}
