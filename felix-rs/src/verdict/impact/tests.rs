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

/// A network stands for what is in no smaller one, wherever that begins.
#[test]
fn networks_with_the_same_first_address_stand_for_themselves() {
    let net = |text: &str| -> IpNet { text.parse().unwrap() };
    let before = guarded();
    let mut after = before.clone();
    let id = before.policies.keys().next().unwrap();
    let policy = Arc::make_mut(after.policies.get_mut(id).unwrap());
    let ten = PeerMatch {
        nets: vec![net("172.16.0.0/12")],
        not_nets: vec![net("172.16.0.0/16")],
        ..PeerMatch::default()
    };
    policy.ingress.push(rule(ten, PeerMatch::default(), Some(TCP)));
    let impact = impact(&before, &after);
    let from: BTreeSet<&str> =
        impact.changes.iter().flat_map(|change| &change.from).map(String::as_str).collect();
    assert_eq!(from, ["172.16.0.0/12"].into(), "{impact:#?}");
}

#[test]
fn an_address_of_its_own() {
    let net = |text: &str| -> IpNet { text.parse().unwrap() };
    let all: BTreeSet<IpNet> = [
        "10.0.0.0/8",
        "10.0.0.0/16",
        "10.0.0.0/24",
        "10.1.0.0/16",
        "192.0.2.0/31",
        "192.0.2.0/32",
        "192.0.2.1/32",
        "::/0",
        "::/1",
    ]
    .map(net)
    .into();
    let own = |text: &str| own_address(net(text), &all).map(|address| address.to_string());
    assert_eq!(own("10.0.0.0/8").as_deref(), Some("10.2.0.0"));
    assert_eq!(own("10.0.0.0/16").as_deref(), Some("10.0.1.0"));
    assert_eq!(own("10.0.0.0/24").as_deref(), Some("10.0.0.0"));
    assert_eq!(own("192.0.2.0/31"), None);
    assert_eq!(own("::/0").as_deref(), Some("8000::"));
}

/// A profile's rules speak of a set: its members change, the profile does not.
#[test]
fn sets_that_profiles_speak_of_are_looked_at() {
    let mut before = guarded();
    let friends = SetId("friends".into());
    before.sets.insert(friends.clone(), (SetKind::Net, BTreeSet::new()));
    for profile in before.profiles.values_mut() {
        let from = PeerMatch { sets: vec![friends.clone()], ..PeerMatch::default() };
        Arc::make_mut(profile).ingress = vec![rule(from, PeerMatch::default(), None)];
    }
    let mut after = before.clone();
    let member = SetMember::Net("10.0.0.3/32".parse().unwrap());
    after.sets.get_mut(&friends).unwrap().1.insert(member);
    let changes = impact(&before, &after).changes;
    assert!(
        changes.iter().any(|change| change.from == ["shop/c"] && change.to.contains(&"shop/a".to_owned())),
        "{changes:#?}"
    );
}
