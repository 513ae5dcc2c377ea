//! The demo: the scenario, shown.

use std::path::Path;

use anyhow::Result;

use crate::cluster::Datastore;
use crate::report::{Check, Report};
use crate::sandbox::Sandbox;
use crate::scenario::Scenario;

/// Folder of sockets, state and logs, on the sandbox's own `/run`.
pub const FOLDER: &str = "/run/margay-lab";

/// Runs it; true if every line holds.
pub fn run(datastore: Datastore, keep: bool, sandbox: Sandbox) -> Result<bool> {
    let mut report = Report::new(false);
    let mut scenario = Scenario::start(datastore, Path::new(FOLDER), &report)?;
    report.add("blocks and routes", scenario.blocks()?);
    scenario.attach(&report)?;
    report.step("probing every pair of pods and nodes");
    report.add("the Kubernetes network model", scenario.network_model()?);

    let (before, wrong) = scenario.connectivity(false)?;
    report.show(&before.table("without policy"));
    let mut checks = vec![connectivity("without policy, everybody reaches everybody", &before, &wrong)];
    report.step("margay apply -f examples/policies/demo.yaml");
    report.show(scenario.apply_policies()?.trim_end());
    let (after, wrong) = scenario.connectivity(true)?;
    report.show(&after.table("with three policies"));
    checks.push(connectivity("with policy, exactly what the three policies allow", &after, &wrong));
    let flows = [
        ("shop/backend", "shop/database", "tcp/8080", ["allowed", "database"]),
        ("guest/crawler", "shop/backend", "tcp/8080", ["denied", "guests"]),
    ];
    for (from, to, port, words) in flows {
        let (text, check) = scenario.explain(from, to, port, &words)?;
        report.show(text.trim_end());
        checks.push(check);
    }
    report.add("policy", checks);

    report.step("probes every 5 ms while reflectors and an agent come and go");
    let survived = scenario.survive(&report)?;
    report.add("nothing is lost while reflectors are killed and an agent restarts", survived);
    if keep {
        look_around(&scenario, sandbox)?;
        return Ok(report.failures().is_empty());
    }
    let gone = scenario.detach(&report)?;
    report.add("nothing is left of deleted pods", gone);
    let failures = report.failures();
    if failures.is_empty() {
        report.show(&format!("all {} lines hold, in {:.1} s", report.len(), report.elapsed().as_secs_f32()));
    } else {
        report.show(&format!(
            "{} of {} lines FAILED:\n  {}",
            failures.len(),
            report.len(),
            failures.join("\n  ")
        ));
    }
    Ok(failures.is_empty())
}

fn connectivity(rule: &str, matrix: &crate::matrix::Matrix, wrong: &[String]) -> Check {
    let mut measured = format!("{} of {} probes answered", matrix.reached(), matrix.probes());
    if !wrong.is_empty() {
        measured.push_str(&format!(", wrong:\n{}", wrong.join("\n")));
    }
    Check::new(rule, measured, wrong.is_empty())
}

/// Prints how to look around, and keeps everything up until interrupted.
fn look_around(scenario: &Scenario, sandbox: Sandbox) -> Result<()> {
    let names = crate::sandbox::name_namespaces(scenario)?;
    let margay = scenario.cluster.program("margay")?;
    let enter = format!("nsenter -t {} -a", sandbox.outer_pid);
    println!("\nThe lab is up until you press Ctrl-C. From another terminal, as the same user:\n");
    for (node, command) in [
        ("rr1", "bgp summary"),
        ("node1", "bgp peers"),
        ("node1", "bgp routes"),
        ("node1", "ipam show"),
        ("node1", "endpoints"),
        ("node1", "policy"),
    ] {
        let socket = scenario.cluster.socket(node);
        println!("  {enter} {} --socket {} {command}", margay.display(), socket.display());
    }
    println!("\nA shell in a node or pod ({}):\n", names.join(", "));
    println!("  {enter} ip netns exec node1 bash");
    // A message that never comes: the signal that ends the sandbox ends this.
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    let _interrupted = never.recv();
    Ok(())
}
