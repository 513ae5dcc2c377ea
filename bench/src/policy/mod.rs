//! `policy`: what policy costs packets, and how long changes take to reach them. Everything inside namespaces.

mod calculation;
mod cluster;
mod floor;
mod latency;
mod live;
mod node;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

pub(crate) use calculation::{Flags as Calculation, run as calculate};
use cluster::Size;
use latency::{Connects, compare};
pub(crate) use node::{Folder, sh, wire};
use node::{Node, Site};

use crate::form::Form;
use crate::process::{current_kib_of, peak_kib_of};
use crate::scenario::quantile;

/// Port that the last of the policies that select the server lets clients connect to.
const LAST_PORT: u16 = 83;
/// Applications whose endpoints the new policy selects; each has one on the node.
const SELECTED: u32 = 100;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    form: Form,
    /// What writes the rules
    #[arg(long, value_enum, default_value_t = Backend::IptablesNft)]
    backend: Backend,
    /// Only lines whose group contains this: connect, change, start, calculation
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

impl Backend {
    /// Settings of FelixConfiguration.
    const fn felix(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::IptablesNft => [("nftablesMode", "Disabled"), ("iptablesBackend", "NFT")],
            Self::IptablesLegacy => [("nftablesMode", "Disabled"), ("iptablesBackend", "Legacy")],
            Self::Nftables => [("nftablesMode", "Enabled"), ("iptablesBackend", "Auto")],
        }
    }
}

/// One figure.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    value: f64,
    unit: &'static str,
    /// At most so much.
    goal: Option<f64>,
}

/// All figures, in the order in which they were taken.
#[derive(Debug, Default)]
struct Figures(Vec<Line>);

impl Figures {
    fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str, goal: Option<f64>) {
        let line = Line { what: what.into(), value, unit, goal };
        eprintln!("{}: {:.3} {}", line.what, line.value, line.unit);
        self.0.push(line);
    }

    fn missed(&self) -> impl Iterator<Item = &Line> {
        self.0.iter().filter(|line| line.goal.is_some_and(|goal| line.value > goal))
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["policy", "measured", "", "at most"]);
        for Line { what, value, unit, goal } in &self.0 {
            let goal = goal.map(|goal| format!("{goal}")).unwrap_or_default();
            table.add_row([what.clone(), format!("{value:.2}"), (*unit).to_owned(), goal]);
        }
        for column in [1, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// Sizes and repetitions.
#[derive(Debug)]
struct Extent {
    /// Policies and members of sets, two pods.
    policies: Size,
    /// The same with endpoints here and elsewhere.
    endpoints: Size,
    /// A cold start.
    start: Size,
    selected: u32,
    rounds: usize,
    changes: usize,
    calculations: [(u32, u32); 2],
}

impl Extent {
    const FULL: Self = Self {
        policies: Size { local: 2, remote: 10, outsiders: 10_000, policies: 1_000 },
        endpoints: Size { local: 250, remote: 10_000, outsiders: 10_000, policies: 1_000 },
        start: Size { local: 250, remote: 10_000, outsiders: 10, policies: 2_000 },
        selected: SELECTED,
        rounds: 60,
        changes: 100,
        calculations: [(25_000, 1_000), (250_000, 10_000)],
    };
    const QUICK: Self = Self {
        policies: Size { local: 2, remote: 10, outsiders: 50, policies: 20 },
        endpoints: Size { local: 5, remote: 50, outsiders: 50, policies: 20 },
        start: Size { local: 5, remote: 50, outsiders: 10, policies: 20 },
        selected: 4,
        rounds: 1,
        changes: 2,
        calculations: [(250, 10), (500, 20)],
    };
}

/// Takes some figures.
type Group = fn(&Extent, Backend, &mut Figures) -> Result<()>;

/// Measures and prints.
pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let extent = if flags.form.quick { Extent::QUICK } else { Extent::FULL };
    let mut figures = Figures::default();
    let groups: [(&str, Group); 4] =
        [("connect", connect), ("change", change), ("start", start), ("calculation", calculation)];
    for (name, group) in groups {
        if flags.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            group(&extent, flags.backend, &mut figures).context(name)?;
        }
    }
    println!("{}", figures.table());
    let cores = std::thread::available_parallelism()?.get();
    let backend = format!("{:?}", flags.backend);
    flags.form.keep(&serde_json::json!({ "cores": cores, "backend": backend, "figures": figures.0 }))?;
    if !flags.form.check {
        return Ok(true);
    }
    figures.missed().for_each(|line| println!("missed: {}", line.what));
    Ok(figures.missed().next().is_none())
}

fn connect(extent: &Extent, backend: Backend, figures: &mut Figures) -> Result<()> {
    let conntrack = Node::without_agent()?;
    floor::conntrack_alone(&conntrack)?;
    let least = Node::without_agent()?;
    floor::least(&least, extent.policies.outsiders, backend == Backend::Nftables)?;
    let naive = Node::without_agent()?;
    floor::naive(&naive, extent.policies.outsiders)?;
    let policies = Site::new("policies", extent.policies, &backend.felix())?;
    let endpoints = Site::new("endpoints", extent.endpoints, &backend.felix())?;
    let logging: Vec<_> = backend.felix().into_iter().chain([("flowLogsLocalReporter", "Enabled")]).collect();
    let logged = Site::new("flow-log", extent.policies, &logging)?;
    let others: Vec<_> = Backend::value_variants().iter().filter(|other| **other != backend).collect();
    let by_others: Vec<_> = others
        .iter()
        .map(|other| Site::new(&format!("{other:?}"), extent.policies, &other.felix()))
        .collect::<Result<_>>()?;
    let nodes = [&conntrack, &policies.node, &endpoints.node, &naive, &logged.node, &least];
    let nodes = nodes.into_iter().chain(by_others.iter().map(|site| &site.node));
    let connects: Vec<_> = nodes.map(|node| Connects::new(node, LAST_PORT)).collect::<Result<_>>()?;
    let times = compare(&connects, extent.rounds)?;
    let names = [
        "conntrack alone",
        "1,000 policies",
        "and 10,000 endpoints, 250 here",
        "10,000 naive rules",
        "1,000 policies and the flow log",
        "anti-spoofing and one set only",
    ];
    for (name, (time, _)) in names.iter().zip(&times) {
        figures.add(format!("connect, {name}"), *time, "us", None);
    }
    if let [_, (_, policies), (_, endpoints), (_, naive), (_, logged), (_, least), by_others @ ..] =
        times.as_slice()
    {
        figures.add("anti-spoofing and one set only to conntrack alone", *least, "x", None);
        figures.add("policies to anti-spoofing and one set only", policies / least, "x", None);
        figures.add("policies to conntrack alone", *policies, "x", Some(1.05));
        figures.add("endpoints to policies (no growth)", endpoints / policies, "x", Some(1.03));
        figures.add("naive rules to conntrack alone", *naive, "x", None);
        figures.add("flow log to none", logged / policies, "x", None);
        for (other, (_, ratio)) in others.iter().zip(by_others) {
            figures.add(format!("policies by {other:?} to conntrack alone"), *ratio, "x", None);
        }
    }
    Ok(())
}

fn change(extent: &Extent, backend: Backend, figures: &mut Figures) -> Result<()> {
    let mut site = Site::new("change", extent.endpoints, &backend.felix())?;
    let times = live::remote_pod(&site, extent.changes)?;
    figures.add("remote pod written to the datastore, p50", quantile(&times.write, 0.5), "ms", None);
    figures.add("remote pod appears, p50", quantile(&times.felt, 0.5), "ms", Some(5.0));
    figures.add("remote pod appears, p99", quantile(&times.felt, 0.99), "ms", Some(20.0));
    let times = floor::ipset_add(&site.node.netns, extent.changes)?;
    figures.add("executing ipset add, p50", quantile(&times, 0.5), "ms", None);
    let times = live::policy(&site, extent.selected, extent.changes)?.felt;
    let median = quantile(&times, 0.5);
    figures.add("new policy for 100 endpoints, p50", median, "ms", None);
    figures.add("new policy for 100 endpoints, p99", quantile(&times, 0.99), "ms", Some(100.0));
    if backend == Backend::Nftables {
        // What `nft` is given deletes by name: it can be given once only.
        return Ok(());
    }
    let times = floor::policy(&mut site, extent.selected, extent.changes.min(20))?;
    let bare = quantile(&times, 0.5);
    figures.add("bare programs for the same policy, p50", bare, "ms", None);
    figures.add("new policy to bare programs", median / bare, "x", Some(2.0));
    Ok(())
}

fn start(extent: &Extent, backend: Backend, figures: &mut Figures) -> Result<()> {
    let mut site = Site::new("start", extent.start, &backend.felix())?;
    let floor = floor::restore_all(&site.node.netns)?;
    site.kill();
    site.clean_kernel()?;
    site.start()?;
    let seconds = site.wait_ready()?;
    figures.add("cold start", seconds, "s", Some(2.0));
    figures.add("bare programs restore the same", floor / 1e3, "s", None);
    // What the start needed for a moment is given back once nothing is left to do.
    std::thread::sleep(Duration::from_secs(2));
    let process = site.process()?;
    figures.add("memory", current_kib_of(process) as f64 / 1024.0, "MiB", Some(60.0));
    figures.add("memory, peak", peak_kib_of(process) as f64 / 1024.0, "MiB", None);
    site.kill();
    site.start()?;
    figures.add("start that finds its rules", site.wait_ready()?, "s", None);
    Ok(())
}

fn calculation(extent: &Extent, _: Backend, figures: &mut Figures) -> Result<()> {
    let mut costs = Vec::new();
    for (endpoints, policies) in extent.calculations {
        let cost = calculation::measure(endpoints, policies)?;
        let what = format!("calculation of {endpoints} endpoints, {policies} policies");
        figures.add(format!("{what}: time"), cost.seconds, "s", None);
        figures.add(format!("{what}: memory"), cost.mib, "MiB", None);
        figures.add(format!("{what}: one endpoint more"), cost.one_us, "us", None);
        costs.push(cost);
    }
    if let [small, large] = costs.as_slice() {
        let size = f64::from(large.endpoints) / f64::from(small.endpoints);
        figures.add("growth of time to growth of size", large.seconds / small.seconds / size, "x", None);
    }
    Ok(())
}
