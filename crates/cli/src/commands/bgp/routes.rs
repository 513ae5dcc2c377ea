//! Routes of any number: printed while they come.

use std::io::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_control::Client;
use margay_control::bgp::Route;

use super::{escape, watch};
use crate::output::{Columns, Format, OutputArgs, Report, comma, dash, duration, owned, render};

/// Rows that decide how wide the columns are. Later ones that are wider only push theirs.
const SAMPLE: usize = 512;

#[derive(Debug, clap::Args)]
pub(crate) struct RouteArgs {
    /// Only this prefix and those inside it, or the route to this address
    prefix: Option<String>,
    /// Only the prefix itself
    #[arg(long, requires = "prefix")]
    exact: bool,
    /// Only routes of this family
    #[arg(long, value_parser = ["ipv4", "ipv6"], value_name = "FAMILY")]
    family: Option<String>,
    /// Only paths from this neighbour
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Only paths in use
    #[arg(long)]
    best: bool,
    /// At most so many paths
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Go on with what changes
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl RouteArgs {
    pub(super) fn run(&self, client: &Client) -> anyhow::Result<Report> {
        if self.watch {
            return watch::routes(client, self);
        }
        list(client, &self.parameters(), self.output.output)
    }

    pub(super) fn path(&self) -> String {
        path(&self.parameters())
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        let mut add = |name, value: Option<String>| parameters.extend(value.map(|value| (name, value)));
        add("prefix", self.prefix.as_deref().map(escape));
        add("exact", self.exact.then(|| "true".to_owned()));
        add("family", self.family.clone());
        add("peer", self.peer.map(|peer| peer.to_string()));
        add("best", self.best.then(|| "true".to_owned()));
        add("limit", self.limit.map(|limit| limit.to_string()));
        parameters
    }

    pub(super) fn format(&self) -> Format {
        self.output.output
    }

    /// Whether a prefix that changed is one of those asked for.
    pub(super) fn concerns(&self, prefix: &IpNet) -> bool {
        let inside = self.prefix.as_deref().is_none_or(|text| match text.parse::<IpNet>() {
            Ok(wanted) if self.exact => wanted == *prefix,
            Ok(wanted) => wanted.contains(prefix),
            Err(_) => text.parse::<IpAddr>().is_ok_and(|address| prefix.contains(&address)),
        });
        let family = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        inside && self.family.as_deref().is_none_or(|wanted| wanted == family)
    }

    /// Whether a path that changed is one of those asked for.
    pub(super) fn shows(&self, route: &Route) -> bool {
        self.concerns(&route.prefix)
            && self.peer.is_none_or(|peer| route.from == Some(peer))
            && (!self.best || route.best)
    }
}

fn path(parameters: &[(&'static str, String)]) -> String {
    let query: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/v1/bgp/routes{mark}{}", query.join("&"))
}

/// Prints the routes of a query.
pub(super) fn list(
    client: &Client,
    parameters: &[(&'static str, String)],
    format: Format,
) -> anyhow::Result<Report> {
    let mut lines = client.lines(&path(parameters))?;
    let mut out = Printer::new(format);
    while let Some(route) = lines.next_value::<Route>()? {
        if !out.route(&route)? {
            return Ok(Report::default());
        }
    }
    out.end()?;
    Ok(Report::default())
}

/// Prints routes in any form without holding more than the first of them.
pub(super) struct Printer {
    format: Format,
    out: std::io::StdoutLock<'static>,
    sample: Vec<Vec<String>>,
    columns: Columns,
    count: usize,
}

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        let out = std::io::stdout().lock();
        Self { format, out, sample: Vec::new(), columns: Columns::default(), count: 0 }
    }

    /// False if nobody reads any more.
    pub(super) fn route(&mut self, route: &Route) -> anyhow::Result<bool> {
        self.count += 1;
        let text = match self.format {
            Format::Json => {
                let item = serde_json::to_string_pretty(route)?.replace('\n', "\n  ");
                format!("{}  {item}", if self.count == 1 { "[\n" } else { ",\n" })
            }
            Format::Yaml => render(Format::Yaml, &[route], |_| String::new())?,
            Format::Table | Format::Wide => {
                let row = row(route, self.format == Format::Wide);
                if self.columns.is_empty() {
                    self.sample.push(row);
                    if self.sample.len() < SAMPLE {
                        return Ok(true);
                    }
                    self.begin()
                } else {
                    self.columns.line(&row)
                }
            }
        };
        self.print(&text)
    }

    fn begin(&mut self) -> String {
        let heads = owned(&heads(self.format == Format::Wide));
        let rows: Vec<Vec<String>> = std::iter::once(heads).chain(std::mem::take(&mut self.sample)).collect();
        self.columns = Columns::of(&rows);
        rows.iter().map(|row| self.columns.line(row)).collect()
    }

    /// What is held back, and what closes the form.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json if self.count == 0 => "[]\n".to_owned(),
            Format::Json => "\n]\n".to_owned(),
            Format::Yaml if self.count == 0 => "[]\n".to_owned(),
            Format::Yaml => String::new(),
            _ if self.count == 0 => "No BGP routes.\n".to_owned(),
            _ if self.columns.is_empty() => self.begin(),
            _ => String::new(),
        };
        self.print(&text).map(drop)
    }

    /// Rows held back, so that what follows is seen when it comes.
    pub(super) fn flush(&mut self) -> anyhow::Result<bool> {
        let text = if self.columns.is_empty() { self.begin() } else { String::new() };
        self.print(&text)
    }

    pub(super) fn print(&mut self, text: &str) -> anyhow::Result<bool> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn heads(wide: bool) -> Vec<&'static str> {
    let mut heads = vec!["", "PREFIX", "NEXT HOP", "FROM", "LOCALPREF", "AS PATH", "AGE", "REASON"];
    if wide {
        heads.extend(["MED", "ORIGIN", "ORIGINATOR", "CLUSTERS", "COMMUNITIES", "PATH ID"]);
    }
    heads
}

/// `>` in use, `=` as good, `x` filtered, `s` stale.
fn mark(route: &Route) -> String {
    let used = match route {
        Route { filtered: true, .. } => "x",
        Route { best: true, .. } => ">",
        Route { multipath: true, .. } => "=",
        _ => "",
    };
    used.to_owned() + if route.stale { "s" } else { "" }
}

fn row(route: &Route, wide: bool) -> Vec<String> {
    let mut cells = vec![
        mark(route),
        route.prefix.to_string(),
        route.next_hop.map_or_else(|| "local".to_owned(), |hop| hop.to_string()),
        dash(route.from),
        dash(route.local_pref),
        if route.as_path.is_empty() { "-".to_owned() } else { route.as_path.clone() },
        duration(route.age_seconds),
        route.reason.clone(),
    ];
    if wide {
        cells.push(dash(route.med));
        cells.push(if route.origin.is_empty() { "-".to_owned() } else { route.origin.clone() });
        cells.push(dash(route.originator_id.as_ref()));
        cells.push(comma(&route.cluster_list));
        cells.push(comma(&route.communities));
        cells.push(dash(route.path_id));
    }
    cells
}

/// `bgp route`: as `show route for … all` of birdc.
pub(super) fn one(client: &Client, prefix: &str, format: Format) -> anyhow::Result<Report> {
    let query = format!("/v1/bgp/routes?exact=true&prefix={}", escape(prefix));
    let routes: Vec<Route> = client.get(&query)?;
    if routes.is_empty() {
        return Ok(Report::failed(format!("no BGP route for {prefix}")));
    }
    Ok(Report::text(render(format, &routes, |_| routes.iter().map(details).collect())?))
}

fn details(route: &Route) -> String {
    let from = route.from.map_or_else(|| "originated here".to_owned(), |from| format!("from {from}"));
    let mut text = format!("{:<2} {} {from}: {}\n", mark(route), route.prefix, route.reason);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("     {name:<14} {value}\n"));
        }
    };
    line("next hop", Some(route.next_hop.map_or_else(|| "local".to_owned(), |hop| hop.to_string())));
    line("path id", route.path_id.map(|id| id.to_string()));
    line("origin", Some(route.origin.clone()));
    line("as path", Some(route.as_path.clone()));
    line("local pref", route.local_pref.map(|value| value.to_string()));
    line("med", route.med.map(|value| value.to_string()));
    line("communities", Some(route.communities.join(" ")));
    line("originator id", route.originator_id.clone());
    line("cluster list", Some(route.cluster_list.join(" ")));
    line("age", Some(duration(route.age_seconds)));
    text
}
