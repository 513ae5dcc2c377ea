//! Real packets through the rules in a real kernel, in anonymous network namespaces.
//!
//! Every scenario runs with both variants of iptables. Without root they are shown as ignored;
//! `TESTS_REQUIRE_ALL=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod change;
mod hosts;
mod lab;
mod policy;
mod states;

use std::path::PathBuf;

use felix_rs::apply::{Applier, Failure, Options, ProgramChoice, Report, Variant};
use felix_rs::model::{Delta, EnforcedState};
use lab::Lab;
use libtest_mimic::{Arguments, Trial};

/// Name and work of a test.
type Scenario = (&'static str, fn(Variant));

/// An applier inside the lab's node.
struct Node<'a> {
    lab: &'a Lab,
    applier: Applier,
}

fn options(variant: Variant) -> Options {
    Options {
        programs: ProgramChoice { variant: Some(variant), ..ProgramChoice::default() },
        ..Options::default()
    }
}

impl<'a> Node<'a> {
    /// A fresh applier, as after a restart, that knows to be in sync.
    fn start(lab: &'a Lab, variant: Variant) -> Self {
        Self::start_with(lab, &options(variant))
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

fn infix(variant: Variant) -> &'static str {
    match variant {
        Variant::Nft => "nft",
        Variant::Legacy => "legacy",
    }
}

/// All rules and sets of the node as text, with counters; comments of the tools removed.
fn dump(lab: &Lab, variant: Variant) -> String {
    let v = infix(variant);
    let text = lab.node.sh(&format!("iptables-{v}-save -c; ip6tables-{v}-save -c; ipset save -sorted"));
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
    let programs = ["iptables-nft-save", "iptables-legacy-save", "ipset", "ip", "ping"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if margay_netlink::Netns::new().is_err() {
        return Some("root");
    }
    programs.into_iter().find(|program| !folders.iter().any(|folder| folder.join(program).is_file()))
}

fn main() {
    let scenarios: Vec<Scenario> = [policy::SCENARIOS, hosts::SCENARIOS, change::SCENARIOS].concat();
    let missing = missing();
    let require = std::env::var_os("TESTS_REQUIRE_ALL").is_some();
    let mut trials = Vec::new();
    for (name, scenario) in scenarios {
        for variant in [Variant::Nft, Variant::Legacy] {
            let title = match missing {
                Some(what) => format!("{name}::{} [needs {what}]", infix(variant)),
                None => format!("{name}::{}", infix(variant)),
            };
            let trial = Trial::test(title, move || match missing {
                Some(what) => Err(format!("needs {what}").into()),
                None => {
                    scenario(variant);
                    Ok(())
                }
            });
            trials.push(trial.with_ignored_flag(missing.is_some() && !require));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
