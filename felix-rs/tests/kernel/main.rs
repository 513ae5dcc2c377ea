//! Real packets through the rules in a real kernel, in anonymous network namespaces.
//!
//! Scenarios run with both variants of iptables and with nftables. Without root they are shown as ignored;
//! `TESTS_REQUIRE_ALL=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod change;
mod features;
mod flows;
mod hosts;
mod lab;
mod neighbours;
mod nftables;
mod objects;
mod policy;
mod settings;
mod states;
mod sweep;
mod takeover;
#[path = "../truth/mod.rs"]
mod truth;
mod vectors;

use std::path::PathBuf;

use felix_rs::apply::{Applier, Failure, Options, Report};
use felix_rs::model::{BackendChoice, Delta, EnforcedState, SetId};
use felix_rs::render::nftables::chain_name as nftables_chain;
use felix_rs::rules::{ChainName, Family, SetType, Table, names};
use lab::Lab;
use libtest_mimic::{Arguments, Trial};

/// Name and work of a test.
type Scenario = (&'static str, fn(BackendChoice));

/// An applier inside the lab's node.
struct Node<'a> {
    lab: &'a Lab,
    applier: Applier,
}

fn options(backend: BackendChoice) -> Options {
    Options { backend, ..Options::default() }
}

impl<'a> Node<'a> {
    /// A fresh applier, as after a restart, that knows to be in sync.
    fn start(lab: &'a Lab, backend: BackendChoice) -> Self {
        Self::start_with(lab, &options(backend))
    }

    fn start_with(lab: &'a Lab, options: &Options) -> Self {
        let mut applier = lab.node.netns.run(|| Applier::new(options)).unwrap().unwrap();
        applier.set_in_sync();
        Self { lab, applier }
    }

    fn run<T: Send>(&mut self, work: impl FnOnce(&mut Applier) -> T + Send) -> T {
        self.lab.node.netns.run(|| work(&mut self.applier)).unwrap()
    }

    fn apply(&mut self, state: &EnforcedState) -> Report {
        self.try_apply(state).unwrap()
    }

    fn try_apply(&mut self, state: &EnforcedState) -> Result<Report, Failure> {
        self.run(|applier| applier.apply(state))
    }

    fn delta(&mut self, delta: &Delta) -> Report {
        self.run(|applier| applier.apply_delta(delta)).unwrap()
    }

    fn recheck(&mut self) -> Report {
        self.run(Applier::recheck).unwrap()
    }
}

/// The iptables that others use beside us.
fn infix(backend: BackendChoice) -> &'static str {
    match backend {
        BackendChoice::IptablesLegacy => "legacy",
        _ => "nft",
    }
}

/// The kernel's name of a chain of the filter table.
fn kernel_chain(backend: BackendChoice, chain: &ChainName) -> String {
    match backend {
        BackendChoice::Nftables => nftables_chain(Table::Filter, chain),
        _ => chain.to_string(),
    }
}

/// The kernel's name of the IPv4 set `clients`, which holds addresses alone.
fn clients(backend: BackendChoice) -> String {
    let kind = if backend == BackendChoice::Nftables { SetType::Host } else { SetType::Net };
    names::address_set(&SetId("clients".into()), kind).kernel_name(Family::V4)
}

/// All rules and sets of the node as text, with counters; comments of the tools removed.
fn dump(lab: &Lab, backend: BackendChoice) -> String {
    let v = infix(backend);
    let text = match backend {
        BackendChoice::Nftables => {
            lab.node.sh("nft list tables; nft list table ip margay; nft list table ip6 margay")
        }
        _ => lab.node.sh(&format!("iptables-{v}-save -c; ip6tables-{v}-save -c; ipset save -sorted")),
    };
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Fails with the lines that differ.
fn assert_same(now: &[String], before: &[String], what: &str) {
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        these.iter().filter(|line| !others.contains(line)).cloned().collect()
    };
    assert!(now == before, "{what}\nnow: {:#?}\nbefore: {:#?}", only(now, before), only(before, now));
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// What is missing to run here.
fn missing() -> Option<&'static str> {
    let programs = ["nft", "iptables-nft-save", "iptables-legacy-save", "ipset", "ip", "ping"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if margay_netlink::Netns::new().is_err() {
        return Some("root");
    }
    programs.into_iter().find(|program| !folders.iter().any(|folder| folder.join(program).is_file()))
}

fn main() {
    let all = [BackendChoice::IptablesNft, BackendChoice::IptablesLegacy, BackendChoice::Nftables];
    let (iptables, nftables) = all.split_at(2);
    let scenarios = [
        (policy::SCENARIOS, &all[..]),
        (policy::IPTABLES, iptables),
        (hosts::SCENARIOS, &all[..]),
        (objects::SCENARIOS, &all[..]),
        (features::SCENARIOS, &all[..]),
        (settings::SCENARIOS, &all[..]),
        (settings::IPTABLES, iptables),
        (flows::SCENARIOS, &all[..]),
        (change::SCENARIOS, &all[..]),
        (change::IPTABLES, iptables),
        (change::LEGACY, &all[1..2]),
        (sweep::SCENARIOS, &all[..]),
        (sweep::IPTABLES, iptables),
        (nftables::SCENARIOS, nftables),
        (neighbours::SCENARIOS, &all[..]),
        (takeover::SCENARIOS, &all[..]),
        (vectors::SCENARIOS, &all[..]),
    ];
    let missing = missing();
    let require = std::env::var_os("TESTS_REQUIRE_ALL").is_some();
    let mut trials = Vec::new();
    let scenarios = scenarios.iter().flat_map(|(scenarios, backends)| {
        scenarios.iter().flat_map(|scenario| backends.iter().map(move |b| (*scenario, *b)))
    });
    for ((name, scenario), backend) in scenarios {
        {
            let title = match missing {
                Some(what) => format!("{name}::{backend:?} [needs {what}]"),
                None => format!("{name}::{backend:?}"),
            };
            let trial = Trial::test(title, move || match missing {
                Some(what) => Err(format!("needs {what}").into()),
                None => {
                    scenario(backend);
                    Ok(())
                }
            });
            trials.push(trial.with_ignored_flag(missing.is_some() && !require));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
