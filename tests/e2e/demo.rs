//! The demo's steps as assertions.

use anyhow::{Result, ensure};
use margay_tests::cluster::Datastore;
use margay_tests::pods::said;
use margay_tests::report::Report;
use margay_tests::scenario::POLICIES;

use crate::labs::{Labs, all_hold, margay};

pub(crate) fn embedded(labs: &mut Labs) -> Result<()> {
    steps(labs, Datastore::Embedded)
}

pub(crate) fn etcd(labs: &mut Labs) -> Result<()> {
    steps(labs, Datastore::Etcd)
}

fn steps(labs: &mut Labs, datastore: Datastore) -> Result<()> {
    let report = Report::new(true);
    let scenario = labs.demo(datastore)?;
    all_hold(&scenario.blocks()?)?;
    scenario.attach(&report)?;
    all_hold(&scenario.network_model()?)?;
    let (before, wrong) = scenario.connectivity(false)?;
    ensure!(wrong.is_empty(), "without policy: {}", wrong.join("\n"));
    ensure!(before.reached() == before.probes(), "without policy: {}", before.table("pods"));
    let impact = said(&scenario.cluster.margay_on("node1", &["policy", "impact", "-f", POLICIES])?);
    ensure!(impact.contains("allowed -> denied by"), "before the policies are applied: {impact}");
    scenario.apply_policies()?;
    let impact = said(&scenario.cluster.margay_on("node1", &["policy", "impact", "-f", POLICIES])?);
    ensure!(impact.contains("no flow would have another verdict"), "once they are: {impact}");
    let (after, wrong) = scenario.connectivity(true)?;
    ensure!(wrong.is_empty(), "with policies: {}\n{}", wrong.join("\n"), after.table("pods"));
    let flows = [
        ("shop/backend", "shop/database", ["allowed", "database"]),
        ("guest/crawler", "shop/backend", ["denied", "guests"]),
    ];
    for (from, to, words) in flows {
        let (_, check) = scenario.explain(from, to, "tcp/8080", &words)?;
        all_hold(&[check])?;
    }
    for (node, from, to, words) in [
        ("node1", "shop/backend", "shop/database", "kernel ALLOWED the packet, as"),
        ("node3", "guest/crawler", "shop/backend", "kernel DENIED the packet, as"),
    ] {
        let arguments = ["explain", "--from", from, "--to", to, "--port", "tcp/8080", "--verify"];
        let verified = said(&scenario.cluster.margay_on(node, &arguments)?);
        ensure!(verified.contains(words), "{from} to {to} on {node}: {verified}");
    }
    all_hold(&scenario.survive(&report)?)?;
    all_hold(&scenario.detach(&report)?)?;
    margay(&scenario.cluster, &["delete", "-f", POLICIES]).map(|_| ())
}
