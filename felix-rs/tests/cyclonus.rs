//! The evaluator decides every probe of cyclonus' truth table as it says, at both ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: a bad vector has to stop it")]

mod truth;

use felix_rs::calc::{Calculator, Scope};
use felix_rs::verdict::{End, Verdict, explain};
use truth::{Cluster, Pod, cases};

fn allows(end: &End) -> bool {
    let End::Endpoint(verdict) = end else { panic!("both ends are pods") };
    verdict.verdict == Verdict::Allow
}

#[test]
fn every_probe_of_every_case() {
    let mut cluster = Cluster::new(Calculator::with_scope(Scope::All), Pod::pod);
    let (mut count, mut steps, mut probes, mut denied) = (0, 0, 0, 0);
    let mut differences = Vec::new();
    for case in cases() {
        count += 1;
        for step in &case.steps {
            steps += 1;
            cluster.go_to(step);
            for (probe, packet) in step.probes() {
                let explanation = explain(&cluster.state, &packet);
                let ours = (
                    allows(&explanation.source),
                    allows(&explanation.destination),
                    explanation.verdict == Verdict::Allow,
                );
                probes += 1;
                denied += u32::from(!probe.allowed);
                if ours != (probe.egress, probe.ingress, probe.allowed) {
                    differences.push(format!("case {} ({}): {explanation}", case.id, case.description));
                }
            }
        }
    }
    assert_eq!((count, steps), (230, 256));
    assert!(probes > 100_000 && denied > 20_000, "{probes} probes, {denied} denied");
    assert!(
        differences.is_empty(),
        "{} of {probes} probes differ:\n{}",
        differences.len(),
        differences[..differences.len().min(5)].join("\n")
    );
}
