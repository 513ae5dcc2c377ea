//! States written by hand, and the evaluator as the judge.

use super::*;
use crate::model::{
    ActivePolicy, ActiveProfile, EndpointTier, PeerMatch, PortRange, RuleAction, SetKind, TierDefault,
};

fn rule(source: PeerMatch, destination: PeerMatch, protocol: Option<u8>) -> PolicyRule {
    let (source, destination) = (source.into(), destination.into());
    PolicyRule { protocol, source, destination, ..PolicyRule::any(RuleAction::Allow) }
}

/// Pods shop/a, shop/b, shop/c and shop/d, 10.0.0.1 to .4, that may do everything.
fn open() -> EnforcedState {
    let mut state = EnforcedState::default();
    let id = ProfileId("open".into());
    let all = vec![rule(PeerMatch::default(), PeerMatch::default(), None)];
    let profile = ActiveProfile { id: id.clone(), ingress: all.clone(), egress: all };
    state.profiles.insert(id.clone(), Arc::new(profile));
    for (number, name) in (1..).zip(["a", "b", "c", "d"]) {
        let endpoint = LocalEndpoint {
            id: EndpointId::Workload { namespace: "shop".into(), name: name.into() },
            interface: format!("mgy{name}").into(),
            addresses: BTreeSet::from([IpAddr::from([10, 0, 0, number])]),
            allowed_sources: BTreeSet::new(),
            policy: Arc::new(EndpointPolicy { tiers: Vec::new(), profiles: vec![id.clone()] }),
            untracked: Arc::default(),
            pre_dnat: Arc::default(),
            forward: Arc::default(),
        };
        state.endpoints.insert(endpoint.id.clone(), Arc::new(endpoint));
    }
    state
}

/// Only `a` reaches `b`, on TCP ports 80 to 89.
fn guarded() -> EnforcedState {
    let mut state = open();
    let clients = SetId("clients".into());
    let member = SetMember::Net("10.0.0.1/32".parse().unwrap());
    state.sets.insert(clients.clone(), (SetKind::Net, BTreeSet::from([member])));
    let from = PeerMatch { sets: vec![clients], ..PeerMatch::default() };
    let to = PeerMatch { ports: vec![PortRange { first: 80, last: 89 }], ..PeerMatch::default() };
    let id = PolicyId { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "b".into() };
    let policy = ActivePolicy {
        id: id.clone(),
        tier: "default".into(),
        staged: false,
        ingress: vec![rule(from, to, Some(TCP))],
        egress: Vec::new(),
        do_not_track: false,
        pre_dnat: false,
        apply_on_forward: false,
        invalid: None,
    };
    state.policies.insert(id.clone(), Arc::new(policy));
    let b = EndpointId::Workload { namespace: "shop".into(), name: "b".into() };
    let endpoint = state.endpoints.get_mut(&b).unwrap();
    let tier = EndpointTier {
        name: "default".into(),
        default: TierDefault::Deny,
        ingress: vec![id],
        egress: Vec::new(),
    };
    let profiles = endpoint.policy.profiles.clone();
    Arc::make_mut(endpoint).policy = Arc::new(EndpointPolicy { tiers: vec![tier], profiles });
    state
}

/// Flows that were seen, by the pair test's own policy: who is denied, and who is let in again.
#[test]
fn flows_that_were_seen() {
    use crate::verdict::impact_on;
    let flow = |from: u8, to: u8, source_port, port| Packet {
        source_port,
        ..Packet::to_port([10, 0, 0, from].into(), [10, 0, 0, to].into(), TCP, port)
    };
    let own = BTreeSet::from([IpAddr::from([10, 0, 0, 99])]);
    let seen = [
        flow(1, 2, 4000, 80),
        flow(3, 2, 4000, 80),
        flow(3, 2, 4001, 80),
        flow(3, 1, 4000, 80),
        flow(99, 2, 1, 80),
    ];
    let changes = impact_on([&open(), &guarded()], &own, seen);
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((&*change.from, &*change.to, &*change.flow, change.count), ("shop/c", "shop/b", "tcp/80", 2));
    assert_eq!((change.turned.before, change.turned.after), (Verdict::Allow, Verdict::Deny));
    assert!(change.turned.by.starts_with("end of tier default"), "{}", change.turned.by);

    let changes = impact_on([&guarded(), &open()], &own, seen);
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((change.turned.before, change.turned.after), (Verdict::Deny, Verdict::Allow));
    assert!(change.turned.by.starts_with("rule 0 of profile open"), "{}", change.turned.by);
    assert_eq!(impact_on([&open(), &open()], &own, seen), []);
}

#[test]
fn nothing_changes_without_a_change() {
    assert_eq!(impact(&guarded(), &guarded()), Impact::default());
}

#[test]
fn flows_are_grouped_by_what_decides() {
    let impact = impact(&open(), &guarded());
    let lines: Vec<_> = impact
        .changes
        .iter()
        .map(|change| {
            format!("{} -> {}: {}", change.from.join(","), change.to.join(","), change.flows.join(" "))
        })
        .collect();
    assert!(
        impact.changes.iter().all(|change| change.turned.after == Verdict::Deny && change.to == ["shop/b"])
    );
    assert!(
        impact.changes.iter().all(|change| change.turned.by.starts_with("end of tier default")),
        "{impact:?}"
    );
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("shop/c,shop/d -> shop/b: ") && line.contains("tcp, all ports"))
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("shop/a -> shop/b: ") && line.contains("tcp/0-79 tcp/90-65535"))
    );
    assert!(lines.iter().any(|line| line.starts_with("anywhere else -> shop/b: ")), "{lines:#?}");
}

/// One pair at a time, by the evaluator alone.
#[test]
fn groups_say_what_each_pair_says() {
    for (before, after) in [(open(), guarded()), (guarded(), open())] {
        let impact = impact(&before, &after);
        for (source, from) in &before.endpoints {
            for (destination, to) in before.endpoints.iter().filter(|(id, _)| *id != source) {
                for (port, word) in [(79, "tcp/0-79"), (80, "tcp/80-89"), (90, "tcp/90-65535")] {
                    let (source_address, destination_address) =
                        (*from.addresses.first().unwrap(), *to.addresses.first().unwrap());
                    let packet = Packet::to_port(source_address, destination_address, TCP, port);
                    let verdicts =
                        [&before, &after].map(|state| crate::verdict::explain(state, &packet).verdict);
                    let told = impact.changes.iter().any(|change| {
                        change.from.contains(&source.to_string())
                            && change.to.contains(&destination.to_string())
                            && change.flows.iter().any(|flow| flow == word || flow == "tcp, all ports")
                    });
                    assert_eq!(
                        told,
                        verdicts[0] != verdicts[1],
                        "{source} -> {destination} {port}: {impact:#?}"
                    );
                }
            }
        }
    }
}
