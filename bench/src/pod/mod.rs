//! `pod`: what a pod's network costs: its start and end beside the plugins `ptp` and `host-local` of containernetworking; its
//! packets beside hand-made routes; the agent's routes beside netlink's limit; and an agent that has nothing to do.

mod idle;
mod plugin;
mod traffic;

use std::path::{Path, PathBuf};

pub(crate) use plugin::{fill, start_agent};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::fib;
use crate::form::Form;

/// Where Debian has the plugins we are compared with.
const PLUGINS: &str = "/usr/lib/cni";

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    form: Form,
    /// Only parts whose names contain this: plugin, traffic, routes, idle
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The shim; without it, the one beside this program
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// Folder of the plugins to compare with
    #[arg(long, value_name = "DIR", default_value = PLUGINS)]
    plugins: PathBuf,
}

/// How much of each.
struct Extent {
    /// Pods of either plugin, one after the other.
    pods: usize,
    /// Pods at once.
    burst: usize,
    /// Rounds of all ways in turn.
    rounds: usize,
    /// Nodes and blocks of each, and runs.
    routes: (u32, u32, usize),
    /// Nodes, local pods, and seconds of doing nothing.
    idle: (u32, usize, u64),
}

impl Extent {
    const FULL: Self =
        Self { pods: 200, burst: 100, rounds: 21, routes: (100, 100, 5), idle: (1_000, 250, 100) };
    const QUICK: Self = Self { pods: 10, burst: 20, rounds: 1, routes: (10, 10, 1), idle: (20, 5, 1) };
}

/// What has to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// One line of the outcome.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    unit: &'static str,
    ours: f64,
    theirs: Option<f64>,
    /// What counts: ours in relation to theirs where there is such a thing.
    measured: f64,
    goal: Option<Goal>,
}

impl Line {
    /// A relation. `measured` need not be the quotient of the two: medians of quotients are steadier than quotients of medians.
    fn ratio(
        what: impl Into<String>,
        unit: &'static str,
        pair: (f64, f64),
        measured: f64,
        goal: Option<Goal>,
    ) -> Self {
        Self { what: what.into(), unit, ours: pair.0, theirs: Some(pair.1), measured, goal }
    }

    /// A figure with a limit.
    fn limit(what: impl Into<String>, unit: &'static str, measured: f64, at_most: f64) -> Self {
        let goal = Some(Goal::AtMost(at_most));
        Self { what: what.into(), unit, ours: measured, theirs: None, measured, goal }
    }

    fn is_missed(&self) -> bool {
        match self.goal {
            None => false,
            Some(Goal::AtMost(most)) => self.measured > most,
            Some(Goal::AtLeast(least)) => self.measured < least,
        }
    }

    fn print(&self) {
        let theirs = self.theirs.map_or_else(String::new, |theirs| format!("{theirs:.2} theirs"));
        let goal = match self.goal {
            None => String::new(),
            Some(Goal::AtMost(most)) => format!("(goal: at most {most})"),
            Some(Goal::AtLeast(least)) => format!("(goal: at least {least})"),
        };
        let missed = if self.is_missed() { "  missed" } else { "" };
        println!(
            "  {:40} {:9.2} {:7} {theirs:>18}  {:8.3}  {goal}{missed}",
            self.what, self.ours, self.unit, self.measured
        );
    }
}

/// Programs the parts execute.
struct Programs<'a> {
    shim: &'a Path,
    plugins: &'a Path,
}

pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let extent = if flags.form.quick { Extent::QUICK } else { Extent::FULL };
    let own = std::env::current_exe()?;
    let shim = flags.shim.clone().unwrap_or_else(|| own.with_file_name("margay-cni"));
    ensure!(shim.exists(), "{} is not there: build the package margay-cni", shim.display());
    let programs = Programs { shim: &shim, plugins: &flags.plugins };
    let mut lines = Vec::new();
    let mut part = |name: &str, measure: &dyn Fn() -> Result<Vec<Line>>| -> Result<()> {
        if flags.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            println!("{name}");
            let measured = measure().with_context(|| name.to_owned())?;
            measured.iter().for_each(Line::print);
            lines.extend(measured);
        }
        Ok(())
    };
    part("plugin", &|| plugin::measure(&programs, extent.pods, extent.burst))?;
    part("traffic", &|| traffic::measure(&programs, extent.rounds))?;
    part("routes", &|| {
        let (nodes, blocks, runs) = extent.routes;
        let (raw, agent) = fib::compare(nodes, blocks, runs)?;
        let what = format!("{} blocks from BGP, raw netlink batches", nodes * blocks);
        let ratio = agent / raw;
        Ok(vec![Line::ratio(what, "ms", (agent * 1e3, raw * 1e3), ratio, Some(Goal::AtMost(1.5)))])
    })?;
    part("idle", &|| idle::measure(&programs, extent.idle))?;
    let plugins = flags.plugins.display().to_string();
    flags.form.keep(&serde_json::json!({ "plugins": plugins, "lines": lines }))?;
    Ok(!flags.form.check || !lines.iter().any(Line::is_missed))
}
