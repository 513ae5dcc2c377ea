//! What groups are called while policies come and go, and what becomes of what nobody wants any more.

use std::ops::ControlFlow;
use std::sync::Arc;

use felix_rs::apply::{Applier, ApplyError, Options};
use felix_rs::model::{BackendChoice, Delta, Direction, EnforcedState, RuleAction, TierDefault};
use felix_rs::rules::names;

use crate::change::program;
use crate::lab::Lab;
use crate::states::{Build as _, endpoint, open, policy, policy_id, ports, rule, tier};
use crate::{Node, Scenario, dump, kernel_chain};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("changes_come_between_steps_of_a_sweep", changes_between_steps),
    ("policy_for_a_whole_group_touches_no_set", policy_for_a_whole_group),
    ("restart_takes_no_name_that_means_something_else", restart_takes_no_taken_name),
];

/// About the programs of both families.
pub(crate) const IPTABLES: &[Scenario] = &[("families_fail_alone", families_fail_alone)];

/// Pods of these names take TCP on this port, by a policy of this name.
fn only_port(state: EnforcedState, lab: &Lab, pods: &[&str], name: &str, port: u16) -> EnforcedState {
    let mut allow = rule(RuleAction::Allow);
    allow.protocol = Some(6);
    allow.destination = ports(&[port]);
    let state = state.with_policy(policy(name, vec![allow], vec![]));
    pods.iter().fold(state, |state, pod| {
        state.with_endpoint(endpoint(lab.pod(pod), vec![tier("default", TierDefault::Deny, &[name], &[])]))
    })
}

/// What leads from one state to another that differs in policies and endpoints.
fn delta(from: &EnforcedState, to: &EnforcedState) -> Delta {
    let gone = from.policies.keys().filter(|id| !to.policies.contains_key(*id));
    let policies = to.policies.iter().map(|(id, policy)| (id.clone(), Some(Arc::clone(policy))));
    Delta {
        policies: policies.chain(gone.map(|id| (id.clone(), None))).collect(),
        endpoints: to.endpoints.iter().map(|(id, pod)| (id.clone(), Some(Arc::clone(pod)))).collect(),
        ..Delta::default()
    }
}

fn chain_of(backend: BackendChoice, name: &str) -> String {
    kernel_chain(backend, &names::policy(&policy_id(name), Direction::Ingress))
}

fn changes_between_steps(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut node = Node::start(&lab, backend);
    node.applier.sweep_later();
    let state = |name: &str| only_port(open(&lab), &lab, &["b"], name, 80);
    let mut now = state("b-0");
    node.apply(&now);
    let names: Vec<String> = (0..12).map(|round| format!("b-{round}")).collect();
    for (round, name) in names.iter().enumerate().skip(1) {
        let next = state(name);
        node.delta(&delta(&now, &next));
        now = next;
        assert!(a.tcp(b.v4, 80) && a.tcp(b.v6, 80) && !a.tcp(b.v4, 8080) && !a.tcp(b.v6, 8080));
        let step = node.run(Applier::sweep).unwrap();
        let programs = if backend == BackendChoice::Nftables { 2 } else { 1 };
        assert!(step.restores <= programs, "a change waits for no more than that: {step:?}");
        assert!(a.tcp(b.v4, 80) && a.tcp(b.v6, 80) && !a.tcp(b.v4, 8080) && !a.tcp(b.v6, 8080));
        let there = dump(&lab, backend);
        let left = names.iter().take(round).filter(|name| there.contains(&chain_of(backend, name))).count();
        // A step takes away from one family: it empties what is deleted by the next of this family.
        assert!(left <= 3, "{left} policies that are gone are still there after {round} changes");
    }
    while node.applier.is_unswept() {
        node.run(Applier::sweep).unwrap();
    }
    let there = dump(&lab, backend);
    assert!(there.contains(&chain_of(backend, "b-11")) && !there.contains(&chain_of(backend, "b-10")));
    assert!(!node.recheck().wrote(), "the kernel is as it is thought to be");
}

fn policy_for_a_whole_group(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut node = Node::start(&lab, backend);
    let before = open(&lab);
    node.apply(&before);
    let after = only_port(before.clone(), &lab, &["a", "b"], "both", 80);
    let report = node.delta(&delta(&before, &after));
    assert!(a.tcp(b.v4, 80) && !a.tcp(b.v4, 8080) && !b.tcp(a.v6, 8080));
    let sets = |report: felix_rs::apply::Report| {
        [report.sets_created, report.sets_destroyed, report.members_added, report.members_removed]
    };
    assert_eq!(sets(report), [0; 4]);
    assert_eq!(sets(node.delta(&delta(&after, &before))), [0; 4]);
    assert!(a.tcp(b.v4, 8080) && b.tcp(a.v6, 8080));
    assert!(!node.recheck().wrote());
}

/// After a restart a group is named after what its endpoints share, but what the kernel has under that name may be a group
/// that has come to share something else.
fn restart_takes_no_taken_name(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let all_open = open(&lab);
    let guarded = only_port(all_open.clone(), &lab, &["a", "b", "c"], "all", 80);
    // While nobody looked, the policy has let c go.
    let next = only_port(all_open.clone(), &lab, &["a", "b"], "all", 80);
    let mut steps = 0;
    for stop_after in 0.. {
        let mut node = Node::start(&lab, backend);
        node.run(Applier::cleanup).unwrap();
        node.apply(&all_open);
        node.delta(&delta(&all_open, &guarded));
        assert!(!a.tcp(b.v4, 8080) && !a.tcp(c.v4, 8080) && a.tcp(c.v4, 80));
        drop(node);
        let mut node = Node::start(&lab, backend);
        let mut seen = 0;
        node.applier.observe(move |_| {
            seen += 1;
            if seen > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let result = node.try_apply(&next);
        assert!(!a.tcp(b.v4, 8080) && !c.tcp(b.v6, 8080) && !b.tcp(a.v4, 8080), "after step {stop_after}");
        assert!(a.tcp(b.v4, 80) && a.tcp(c.v4, 80), "after step {stop_after}");
        match result {
            Ok(_) => break,
            Err(failure) => assert!(matches!(failure.source, ApplyError::Stopped(_)), "{failure}"),
        }
        steps += 1;
    }
    assert!(steps >= 2, "only {steps} steps were seen");
    assert!(a.tcp(c.v4, 8080) && a.tcp(c.v6, 8080));
}

/// A family whose program fails does not keep the other from what it has to have, and the next attempt writes what is
/// missing only.
fn families_fail_alone(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let folder =
        std::env::temp_dir().join(format!("margay-felix-families-{}-{backend:?}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let v = crate::infix(backend);
    let broken = |family: &str| folder.join(format!("{family}-is-broken"));
    for family in ["iptables", "ip6tables"] {
        program(&folder, &format!("{family}-{v}-save"), &format!("exec {family}-{v}-save \"$@\""));
        let restore = format!("{family}-{v}-restore");
        let fails = format!("[ ! -e {} ] || exit 1; exec {restore} \"$@\"", broken(family).display());
        program(&folder, &restore, &fails);
    }
    let options = Options { backend, folders: Some(vec![folder.clone()]) };
    let mut node = Node::start_with(&lab, &options);
    let before = open(&lab);
    let after = only_port(before.clone(), &lab, &["a", "b"], "both", 80);
    for (family, written, unwritten) in [("iptables", b.v6, b.v4), ("ip6tables", b.v4, b.v6)] {
        node.apply(&before);
        std::fs::write(broken(family), "").unwrap();
        node.run(|applier| applier.apply_delta(&delta(&before, &after))).unwrap_err();
        assert!(!a.tcp(written, 8080), "{written} has the policy");
        assert!(a.tcp(unwritten, 8080), "{unwritten} has what it had");
        std::fs::remove_file(broken(family)).unwrap();
        let report = node.run(Applier::retry).unwrap();
        assert_eq!(report.restores, 1, "{report:?}");
        assert!(!a.tcp(b.v4, 8080) && !a.tcp(b.v6, 8080) && a.tcp(b.v4, 80) && a.tcp(b.v6, 80));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
