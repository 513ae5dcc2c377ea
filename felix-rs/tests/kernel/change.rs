//! What happens when the state, the kernel or the process changes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix_rs::apply::{ApplyError, Options};
use felix_rs::model::{
    BackendChoice, Delta, Direction, EnforcedState, PolicyRule, RuleAction, SetChange, SetId, SetMember,
    TierDefault,
};
use felix_rs::rules::{Origin, Owner, names};
use nix::fcntl::{Flock, FlockArg};

use crate::lab::{Lab, echo};
use crate::states::{Build as _, endpoint, endpoint_id, in_set, open, policy, policy_id, ports, rule, tier};
use crate::{Node, Scenario, assert_same, clients, dump, infix, kernel_chain, lines};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("established_connection_survives_a_change", established_connection_survives_a_change),
    ("set_change_executes_nothing", set_change_executes_nothing),
    ("endpoint_joins_a_group_by_set_members", endpoint_joins_a_group_by_set_members),
    ("restart_adopts_what_is_right", restart_adopts_what_is_right),
    ("sweep_waits_for_sync", sweep_waits_for_sync),
    ("killed_after_each_step_still_enforces", killed_after_each_step_still_enforces),
    ("counters_by_rule", counters_by_rule),
];

/// About chains that are everybody's, ip sets, and programs.
pub(crate) const IPTABLES: &[Scenario] = &[
    ("damage_is_repaired", damage_is_repaired),
    ("foreign_rules_survive_and_cleanup_leaves_nothing", foreign_rules_survive_and_cleanup_leaves_nothing),
    ("failing_program_is_retried", failing_program_is_retried),
    ("full_set_is_enlarged", full_set_is_enlarged),
    ("a_failing_takeover_holds_nobody_up", a_failing_takeover_holds_nobody_up),
    ("a_refused_backend_leaves_the_other_in_use", a_refused_backend_leaves_the_other_in_use),
];

/// About the lock that users of iptables-legacy share.
pub(crate) const LEGACY: &[Scenario] = &[("lock_held_by_another_is_waited_for", lock_held_by_another)];

/// b takes port 80 from the set `clients` only.
pub(crate) fn guarded(lab: &Lab, clients: &[&str]) -> EnforcedState {
    let mut allow = rule(RuleAction::Allow);
    allow.protocol = Some(6);
    allow.destination = ports(&[80]);
    guarded_by(lab, clients, allow)
}

/// b takes UDP from the set `clients` only.
pub(crate) fn guarded_udp(lab: &Lab, clients: &[&str]) -> EnforcedState {
    let mut allow = rule(RuleAction::Allow);
    allow.protocol = Some(17);
    guarded_by(lab, clients, allow)
}

/// What b takes is what this rule allows from the set `clients`.
fn guarded_by(lab: &Lab, clients: &[&str], allow: PolicyRule) -> EnforcedState {
    let allow = PolicyRule { source: in_set("clients"), ..allow };
    let clients: Vec<_> = clients.iter().map(|name| lab.pod(name)).collect();
    open(lab)
        .with_set("clients", &clients)
        .with_policy(policy("b-in", vec![allow], vec![]))
        .with_endpoint(endpoint(lab.pod("b"), vec![tier("default", TierDefault::Deny, &["b-in"], &[])]))
}

fn established_connection_survives_a_change(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut node = Node::start(&lab, backend);
    node.apply(&open(&lab));
    let mut streams = [a.connect(b.v4, 8080).unwrap(), a.connect(b.v6, 8080).unwrap()];
    node.apply(&guarded(&lab, &[]));
    assert!(!a.tcp(b.v4, 8080) && !a.tcp(b.v6, 8080), "new connections are denied");
    assert!(streams.iter_mut().all(echo), "the old ones go on");
    drop(node);
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &[]));
    assert!(streams.iter_mut().all(echo), "also after a restart");
}

fn set_change_executes_nothing(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &["a"]));
    assert!(a.tcp(b.v4, 80) && !c.tcp(b.v4, 80));
    let change = SetChange::Update {
        added: [SetMember::Net(c.v4.into()), SetMember::Net(c.v6.into())].into(),
        removed: [SetMember::Net(a.v4.into())].into(),
    };
    let delta = Delta { sets: BTreeMap::from([(SetId("clients".into()), change)]), ..Delta::default() };
    let report = node.delta(&delta);
    assert_eq!((report.restores, report.members_added, report.members_removed), (0, 2, 1));
    assert!(!a.tcp(b.v4, 80) && a.tcp(b.v6, 80) && c.tcp(b.v4, 80) && c.tcp(b.v6, 80));
}

fn endpoint_joins_a_group_by_set_members(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    let mut state = guarded(&lab, &["a"]);
    state.endpoints.remove(&endpoint_id(c));
    node.apply(&state);
    assert!(!c.tcp(a.v4, 80), "unknown yet");
    let like_b = endpoint(c, vec![tier("default", TierDefault::Deny, &["b-in"], &[])]);
    let joins =
        Delta { endpoints: BTreeMap::from([(endpoint_id(c), Some(Arc::new(like_b)))]), ..Delta::default() };
    let report = node.delta(&joins);
    assert_eq!(report.restores, 0, "an endpoint with known policies is no rule change");
    assert!(report.live.contains(&endpoint_id(c)));
    assert!(c.tcp(a.v4, 80) && a.tcp(c.v4, 80) && !b.tcp(c.v4, 80) && !a.tcp(c.v4, 8080));
    let leaves = Delta { endpoints: BTreeMap::from([(endpoint_id(c), None)]), ..Delta::default() };
    assert_eq!(node.delta(&leaves).restores, 0);
    assert!(!c.tcp(a.v4, 80) && !a.tcp(c.v4, 80));
}

fn restart_adopts_what_is_right(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let state = guarded(&lab, &["a"]).with_settings(|settings| {
        settings.nat_outgoing = ["10.0.0.0/16".parse().unwrap()].into();
        settings.vxlan_port = Some(4789);
        settings.ipip = true;
    });
    let mut node = Node::start(&lab, backend);
    node.apply(&state);
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80));
    lab.silence();
    let before = dump(&lab, backend);
    let idle = if backend == BackendChoice::Nftables { "packets 0" } else { "[0:0]" };
    assert!(before.contains(idle) && before.contains("mgy40pods"), "{before}");
    assert!(!node.apply(&state).wrote(), "the same state again");
    assert!(!node.recheck().wrote(), "a re-check");
    drop(node);
    let mut node = Node::start(&lab, backend);
    let report = node.apply(&state);
    assert!(!report.wrote(), "{report:?}");
    assert_eq!(report.live.len(), 2);
    assert_same(&lines(&dump(&lab, backend)), &lines(&before), "rules, counters and sets");
}

fn damage_is_repaired(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &["a"]));
    let v = infix(backend);
    let clean = |text: String| -> Vec<String> {
        // Without counters and without the random start of a set's hash.
        let strip = |line: &str| {
            let line = line.split_once("] ").map_or(line, |(_, rule)| rule);
            line.split(" initval").next().unwrap_or_default().to_owned()
        };
        text.lines().filter(|line| !line.starts_with(':')).map(strip).collect()
    };
    let before = clean(dump(&lab, backend));
    let policy_chain = names::policy(&policy_id("b-in"), Direction::Ingress);
    let set = clients(backend);
    let damages = [
        format!("iptables-{v} -F {policy_chain}"),
        format!("iptables-{v} -F mgy-FORWARD"),
        format!("iptables-{v} -I {policy_chain} -j ACCEPT"),
        format!("iptables-{v} -D {policy_chain} 1"),
        format!("iptables-{v} -F"),
        format!("iptables-{v} -F FORWARD; iptables-{v} -F mgy-to-wl; iptables-{v} -F mgy-from-wl"),
        format!("iptables-{v} -t raw -F; iptables-{v} -t raw -X"),
        format!("iptables-{v} -F; iptables-{v} -X; ip6tables-{v} -F; ip6tables-{v} -X"),
        format!("ipset add {set} {}", c.v4),
        format!("ipset flush {set}"),
        "ipset flush mgy40pods; ipset flush mgy60pods".to_owned(),
        format!("iptables-{v} -F; iptables-{v} -X; iptables-{v} -t raw -F; ipset destroy {set}"),
        "ipset create mgy40s-nobody hash:net; ipset add mgy40s-nobody 10.0.0.1".to_owned(),
        format!("iptables-{v} -N mgy-nobody; iptables-{v} -A mgy-nobody -j ACCEPT"),
    ];
    for damage in &damages {
        lab.node.sh(damage);
        let report = node.recheck();
        assert!(report.wrote(), "{damage}");
        assert_same(&clean(dump(&lab, backend)), &before, damage);
        assert!(!node.recheck().wrote(), "once is enough after {damage}");
    }
    assert!(a.tcp(b.v4, 80) && !c.tcp(b.v4, 80));
    lab.node.sh(&format!("iptables-{v} -I FORWARD -j ACCEPT"));
    assert!(c.tcp(b.v4, 80), "a foreign rule at the top lets everything through");
    node.recheck();
    assert!(!c.tcp(b.v4, 80), "ours is first again");
    assert!(dump(&lab, backend).contains("-A FORWARD -j ACCEPT"), "the foreign rule stays");
}

fn foreign_rules_survive_and_cleanup_leaves_nothing(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let v = infix(backend);
    lab.node.sh(&format!(
        "for i in iptables-{v} ip6tables-{v}; do
           $i -N KUBE-FORWARD; $i -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
           $i -A FORWARD -m comment --comment 'kubernetes forwarding rules' -j KUBE-FORWARD
           $i -A INPUT -p tcp --dport 22 -m comment --comment 'mgyish but not ours' -j ACCEPT
           $i -t nat -N KUBE-POSTROUTING; $i -t nat -A POSTROUTING -j KUBE-POSTROUTING
           $i -t raw -A PREROUTING -p udp --dport 9 -j DROP
           $i -t mangle -A FORWARD -p tcp --dport 99 -j MARK --set-mark 0x1
         done
         ipset create foreign hash:ip; ipset add foreign 10.9.9.9
         iptables-{v} -A FORWARD -m set --match-set foreign src -j DROP"
    ));
    let before = dump(&lab, backend);
    let state = guarded(&lab, &["a"]).with_settings(|settings| {
        settings.nat_outgoing = ["10.0.0.0/16".parse().unwrap()].into();
    });
    let mut node = Node::start(&lab, backend);
    node.apply(&state);
    let during = dump(&lab, backend);
    for line in before.lines().filter(|line| line.contains("-A ") || line.starts_with("add ")) {
        let rule = line.split_once("] ").map_or(line, |(_, rule)| rule);
        assert!(during.contains(rule), "{rule} is gone");
    }
    // An apply by one process, the clean-up by another.
    drop(node);
    let mut node = Node::start(&lab, backend);
    let report = node.run(felix_rs::apply::Applier::cleanup).unwrap();
    assert!(report.leftovers.is_empty(), "{report:?}");
    let strip = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_once("] ").map_or(line, |(_, rule)| rule))
            .map(|line| line.split(" [").next().unwrap_or_default().to_owned())
            .collect()
    };
    let empty = |lines: Vec<String>| -> Vec<String> {
        // Tables that somebody only looked at stay behind empty in iptables-nft.
        lines.into_iter().filter(|line| !line.starts_with(['*', ':']) && line != "COMMIT").collect()
    };
    assert_same(&empty(strip(&dump(&lab, backend))), &empty(strip(&before)), "after the clean-up");
    assert!(!dump(&lab, backend).contains("mgy-") && !dump(&lab, backend).contains("mgy40"));
    assert!(!node.run(felix_rs::apply::Applier::cleanup).unwrap().wrote(), "nothing left to do");
}

fn sweep_waits_for_sync(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &["a"]));
    drop(node);
    let mut applier =
        lab.node.netns.run(|| felix_rs::apply::Applier::new(&crate::options(backend))).unwrap().unwrap();
    let chain = kernel_chain(backend, &names::policy(&policy_id("b-in"), Direction::Ingress));
    let set = clients(backend);
    lab.node.netns.run(|| applier.apply(&open(&lab))).unwrap().unwrap();
    assert!(dump(&lab, backend).contains(&chain) && dump(&lab, backend).contains(&set));
    applier.set_in_sync();
    let report = lab.node.netns.run(|| applier.retry()).unwrap().unwrap();
    assert!(report.chains_deleted > 0 && report.sets_destroyed > 0);
    assert!(!dump(&lab, backend).contains(&chain) && !dump(&lab, backend).contains(&set));
}

/// A state that shares nothing with `guarded`: b takes 8080 from the set `others`, other names throughout.
fn replaced(lab: &Lab) -> EnforcedState {
    let mut allow = rule(RuleAction::Allow);
    allow.protocol = Some(6);
    allow.source = in_set("others");
    allow.destination = ports(&[8080]);
    let mut keep = rule(RuleAction::Allow);
    keep.protocol = Some(17);
    keep.source = in_set("clients");
    open(lab)
        .with_set("others", &[lab.pod("a")])
        .with_set("clients", &[lab.pod("a")])
        .with_policy(policy("b-new", vec![allow, keep], vec![]))
        .with_endpoint(endpoint(lab.pod("b"), vec![tier("default", TierDefault::Deny, &["b-new"], &[])]))
}

fn killed_after_each_step_still_enforces(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let first = guarded(&lab, &["a", "c"]);
    let second = replaced(&lab);
    let mut steps = 0;
    for stop_after in 0.. {
        let mut node = Node::start(&lab, backend);
        node.apply(&first);
        assert!(a.tcp(b.v4, 80) && c.tcp(b.v6, 80) && !a.tcp(b.v4, 8080));
        drop(node);
        let mut node = Node::start(&lab, backend);
        let mut seen = 0;
        node.applier.observe(move |_| {
            seen += 1;
            if seen > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let result = node.try_apply(&second);
        drop(node);
        // Denied before and after: denied in between. Allowed before and after: allowed in between.
        assert!(!c.tcp(b.v4, 8080), "after step {stop_after}");
        assert!(!a.ping(b.v4) && !lab.outside.tcp(b.v4, 80), "after step {stop_after}");
        assert!(a.tcp(c.v4, 80) && a.tcp(c.v6, 8080) && b.tcp(a.v4, 80), "after step {stop_after}");
        let mut node = Node::start(&lab, backend);
        node.apply(&second);
        assert!(a.tcp(b.v4, 8080) && !a.tcp(b.v4, 80) && !c.tcp(b.v4, 80));
        let gone = kernel_chain(backend, &names::policy(&policy_id("b-in"), Direction::Ingress));
        assert!(!dump(&lab, backend).contains(&gone));
        match result {
            Ok(_) => break,
            Err(failure) => assert!(matches!(failure.source, ApplyError::Stopped(_)), "{failure}"),
        }
        steps += 1;
    }
    let least = if backend == BackendChoice::Nftables { 3 } else { 7 };
    assert!(steps >= least, "only {steps} steps were seen");
}

/// A program of a folder of our own.
pub(crate) fn program(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// How long somebody else holds the lock.
const HELD: Duration = Duration::from_secs(30);

/// Somebody holds the lock for half a minute, longer than `iptables-legacy-restore` waits: what was enforced is, what is new
/// comes when the lock is free. The lock is a file of the test's own, for the machine's is everybody's; `iptables-nft` and `nft`
/// have none, their transactions are the kernel's.
fn lock_held_by_another(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (folder, options) = programs(backend, "lock", "exit 1");
    let lock = folder.join("xtables.lock");
    for family in ["iptables", "ip6tables"] {
        let body = format!("exec env XTABLES_LOCKFILE={} {family}-legacy-restore \"$@\"", lock.display());
        program(&folder, &format!("{family}-restore"), &body);
    }
    let mut node = Node::start_with(&lab, &options);
    node.apply(&guarded(&lab, &["a"]));
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut established = a.connect(b.v4, 80).unwrap();
    let file = std::fs::File::create(&lock).unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let begun = Instant::now();
    let (report, failures) = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(HELD);
            drop(held);
        });
        let mut outcome = node.try_apply(&replaced(&lab));
        let mut failures = 0;
        loop {
            let failure = match outcome {
                Ok(report) => break (report, failures),
                Err(failure) => failure,
            };
            failures += 1;
            assert!(failure.to_string().contains("xtables lock") && failure.attempt == failures, "{failure}");
            assert!(begun.elapsed() < 3 * HELD, "{failure}");
            assert!(!c.tcp(b.v4, 80) && !c.tcp(b.v4, 8080) && echo(&mut established));
            std::thread::sleep(failure.next_retry);
            outcome = node.run(felix_rs::apply::Applier::retry);
        }
    });
    assert!(failures >= 2 && report.live.len() == 3, "{failures} failures, {report:?}");
    assert!(begun.elapsed() >= HELD, "written without the lock");
    assert!(a.tcp(b.v4, 8080) && !a.tcp(b.v4, 80) && !c.tcp(b.v4, 8080) && echo(&mut established));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Programs of this variant in a folder of our own, and an `nft` that does what it is told.
fn programs(backend: BackendChoice, what: &str, nft: &str) -> (PathBuf, Options) {
    let v = infix(backend);
    let folder = std::env::temp_dir().join(format!("margay-felix-{what}-{}-{v}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for family in ["iptables", "ip6tables"] {
        for verb in ["save", "restore"] {
            program(&folder, &format!("{family}-{verb}"), &format!("exec {family}-{v}-{verb} \"$@\""));
        }
    }
    program(&folder, "nft", nft);
    let options = Options { folders: Some(vec![folder.clone()]), ..Options::default() };
    (folder, options)
}

/// A program that can't say what another one left (a kernel without nf_tables, a Felix that still runs) holds nobody up.
fn a_failing_takeover_holds_nobody_up(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (folder, options) = programs(backend, "takeover", "echo 'Operation not supported' >&2; exit 1");
    let mut node = Node::start_with(&lab, &options);
    assert_eq!(node.apply(&guarded(&lab, &["a"])).live.len(), 2);
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80) && !lab.pod("a").tcp(lab.pod("b").v4, 8080));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A backend whose programs are missing: the one in use goes on, and says so.
fn a_refused_backend_leaves_the_other_in_use(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (folder, options) = programs(backend, "refused", "exit 1");
    std::fs::remove_file(folder.join("nft")).unwrap();
    let mut node = Node::start_with(&lab, &options);
    let state = guarded(&lab, &["a"]);
    for _ in 0..2 {
        let report = node.run(|applier| applier.switch(BackendChoice::Nftables, &state)).unwrap();
        assert!(report.refused.as_deref().is_some_and(|why| why.contains("nft")), "{report:?}");
        assert_eq!(report.live.len(), 2);
        assert_eq!(node.applier.choice(), BackendChoice::Auto);
    }
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80) && !lab.pod("a").tcp(lab.pod("b").v4, 8080));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Programs in a folder of our own: until a file says otherwise, restore writes the first table and fails at the next.
fn failing_program_is_retried(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let folder = std::env::temp_dir().join(format!("margay-felix-{}-{}", std::process::id(), infix(backend)));
    std::fs::create_dir_all(&folder).unwrap();
    let v = infix(backend);
    for family in ["iptables", "ip6tables"] {
        let write = |verb: &str, body: &str| program(&folder, &format!("{family}-{verb}"), body);
        write("save", &format!("exec {family}-{v}-save \"$@\""));
        let ready = folder.join("ready");
        let body = format!(
            "[ -e {} ] && exec {family}-{v}-restore \"$@\"
             sed /^COMMIT/q | {family}-{v}-restore \"$@\"; echo '{family}-restore: line 3 failed' >&2; exit 1",
            ready.display()
        );
        write("restore", &body);
    }
    let options = Options { folders: Some(vec![folder.clone()]), ..Options::default() };
    let mut node = Node::start_with(&lab, &options);
    let first = node.try_apply(&guarded(&lab, &["a"])).unwrap_err();
    assert_eq!(first.attempt, 1);
    assert!(first.to_string().contains("line 3 failed") && first.to_string().contains("(line: "), "{first}");
    let second = node.run(felix_rs::apply::Applier::retry).unwrap_err();
    assert!(second.attempt == 2 && second.next_retry > first.next_retry);
    std::fs::write(folder.join("ready"), "").unwrap();
    let report = node.run(felix_rs::apply::Applier::retry).unwrap();
    assert_eq!(report.live.len(), 2);
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80) && !lab.pod("a").tcp(lab.pod("b").v4, 8080));
    assert!(!node.recheck().wrote(), "what was written half is whole");
    std::fs::remove_dir_all(&folder).unwrap();
}

fn full_set_is_enlarged(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let mut state = guarded(&lab, &["a"]);
    let set = clients(backend);
    lab.node.sh(&format!("ipset create {set} hash:net maxelem 64"));
    let members = &mut state.sets.get_mut(&SetId("clients".into())).unwrap().1;
    for number in 0..3000u32 {
        let address = std::net::Ipv4Addr::from(0x0a10_0000 + number);
        members.insert(SetMember::Net(std::net::IpAddr::from(address).into()));
    }
    let mut node = Node::start(&lab, backend);
    node.apply(&state);
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80));
    let listed = lab.node.sh(&format!("ipset list -t {set}"));
    assert!(listed.contains("Number of entries: 3001"), "{listed}");
    assert!(!lab.node.sh("ipset list -n").contains("mgy4t"));
    assert!(!node.recheck().wrote());
}

fn counters_by_rule(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &["a"]));
    let origin = Origin { owner: Owner::Policy(policy_id("b-in")), direction: Direction::Ingress, index: 0 };
    let count = |node: &mut Node<'_>| node.run(|applier| applier.counters()).unwrap()[&origin].packets;
    assert_eq!(count(&mut node), 0);
    assert!(a.tcp(b.v4, 80) && a.tcp(b.v6, 80) && a.tcp(b.v4, 80));
    assert_eq!(count(&mut node), 3, "the first packet of each connection, both families together");
}
