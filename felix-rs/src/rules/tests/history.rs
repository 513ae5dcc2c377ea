//! Random histories of the enforced state: where they end, and what holds while they are written.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::found::{self, Moment};
use super::*;
use crate::rules::changes::Touched;

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let net = prop_oneof![
        Just("10.0.0.0/8"),
        Just("0.0.0.0/0"),
        Just("192.0.2.1/32"),
        Just("fd00::/8"),
        Just("::/0")
    ]
    .prop_map(|text| text.parse().unwrap());
    let action = prop_oneof![
        Just(RuleAction::Allow),
        Just(RuleAction::Deny),
        Just(RuleAction::Pass),
        Just(RuleAction::Log)
    ];
    let nets = proptest::collection::vec(net, 0..3);
    let sets = proptest::collection::vec((0..4u8).prop_map(set_id), 0..2);
    let peer = (nets.clone(), nets, sets.clone(), sets).prop_map(|(nets, not_nets, sets, not_sets)| {
        SharedPeer::from(PeerMatch { nets, not_nets, sets, not_sets, ..PeerMatch::default() })
    });
    (action, peer.clone(), peer, proptest::option::of(prop_oneof![Just(6u8), Just(17), Just(1)])).prop_map(
        |(action, source, destination, protocol)| PolicyRule {
            protocol,
            source,
            destination,
            ..rule(action)
        },
    )
}

fn any_members() -> impl Strategy<Value = BTreeSet<SetMember>> {
    proptest::collection::btree_set(
        prop_oneof![
            Just("10.0.0.1/32"),
            Just("10.1.0.0/16"),
            Just("fd00::1/128"),
            Just("0.0.0.0/0"),
            Just("0.0.0.0/1"),
            Just("128.0.0.0/1"),
            Just("::/0"),
            Just("::/1")
        ]
        .prop_map(|net| SetMember::Net(net.parse().unwrap())),
        0..4,
    )
}

fn any_endpoint(number: u8) -> impl Strategy<Value = LocalEndpoint> {
    let ids = proptest::collection::vec((0..4u8).prop_map(policy_id), 0..3);
    let tiers = (ids.clone(), ids, any::<bool>()).prop_map(|(ingress, egress, deny)| EndpointTier {
        name: "default".into(),
        default: if deny { TierDefault::Deny } else { TierDefault::Pass },
        ingress,
        egress,
    });
    let policy = (
        proptest::collection::vec(tiers, 0..3),
        proptest::collection::vec((0..2u8).prop_map(profile_id), 0..2),
    )
        .prop_map(|(tiers, profiles)| Arc::new(EndpointPolicy { tiers, profiles }));
    let sources =
        prop_oneof![4 => Just(None), 1 => Just(Some("10.9.9.9/32")), 2 => Just(Some("172.16.0.0/24"))];
    (policy.clone(), policy, 0..3u8, sources).prop_map(move |(policy, other, address, sources)| {
        LocalEndpoint {
            id: endpoint_id(number),
            interface: format!("mgy{number}").into(),
            addresses: [format!("10.0.0.{address}").parse().unwrap()].into(),
            allowed_sources: sources.iter().map(|net| net.parse().unwrap()).collect(),
            policy,
            untracked: Arc::clone(&other),
            pre_dnat: Arc::default(),
            forward: other,
        }
    })
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Set(u8, Option<BTreeSet<SetMember>>),
    Policy(u8, Option<(Vec<PolicyRule>, bool)>),
    Profile(u8, Option<Vec<PolicyRule>>),
    Endpoint(Box<(u8, Option<LocalEndpoint>)>),
    Settings(bool, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let rules = || proptest::collection::vec(any_rule(), 0..3);
    prop_oneof![
        (0..4u8, proptest::option::of(any_members())).prop_map(|(n, m)| Step::Set(n, m)),
        (0..4u8, proptest::option::of((rules(), any::<bool>()))).prop_map(|(n, p)| Step::Policy(n, p)),
        (0..2u8, proptest::option::of(rules())).prop_map(|(n, p)| Step::Profile(n, p)),
        (0..5u8).prop_flat_map(|n| {
            proptest::option::of(any_endpoint(n)).prop_map(move |e| Step::Endpoint(Box::new((n, e))))
        }),
        (any::<bool>(), any::<bool>()).prop_map(|(ipv6, nat)| Step::Settings(ipv6, nat)),
    ]
}

fn take(delta: &mut Delta, state: &EnforcedState, step: Step) {
    match step {
        Step::Set(number, members) => {
            let id = set_id(number);
            let kind = |members: &BTreeSet<SetMember>| match members.iter().any(SetMember::is_network) {
                true => SetKind::Net,
                false => SetKind::Host,
            };
            let change = match (state.sets.get(&id), members) {
                (None, None) => return,
                (Some(_), None) => SetChange::Delete,
                (Some((before, members)), Some(now)) if *before == kind(&now) => SetChange::Update {
                    added: now.difference(members).copied().collect(),
                    removed: members.difference(&now).copied().collect(),
                },
                (_, Some(members)) => SetChange::Create { kind: kind(&members), members },
            };
            delta.sets.insert(id, change);
        }
        Step::Policy(number, content) => {
            let id = policy_id(number);
            let policy = content.map(|(rules, staged)| Arc::new(policy(id.clone(), rules, staged)));
            delta.policies.insert(id, policy);
        }
        Step::Profile(number, rules) => {
            let id = profile_id(number);
            let profile = rules.map(|rules| {
                Arc::new(ActiveProfile { id: id.clone(), ingress: rules.clone(), egress: rules })
            });
            delta.profiles.insert(id, profile);
        }
        Step::Endpoint(content) => {
            let (number, endpoint) = *content;
            delta.endpoints.insert(endpoint_id(number), endpoint.map(Arc::new));
        }
        Step::Settings(ipv6, nat) => {
            let nets = if nat { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() };
            let nat_outgoing = nets.into_iter().collect();
            delta.settings = Some(Arc::new(NodeSettings { ipv6, nat_outgoing, ..NodeSettings::default() }));
        }
    }
}

/// Adds up changes of sets as an applier does.
fn accumulate(sets: &mut BTreeMap<SetKey, BTreeSet<Member>>, changes: Changes) {
    for (key, update) in changes.sets {
        match update {
            SetUpdate::Whole { kind, members } => {
                let is_network = |member: &Member| match member {
                    Member::Net(net) | Member::NetIface(net, _) | Member::Dispatch(net, ..) => {
                        net.prefix_len() < net.max_prefix_len()
                    }
                    Member::IpPort(..) => false,
                };
                assert!(kind.has_networks() || !members.iter().any(is_network), "{key:?}: {members:?}");
                sets.insert(key, members);
            }
            SetUpdate::Change { added, removed } => {
                let set = sets.get_mut(&key).expect("a change of a set that was never made");
                set.extend(added);
                set.retain(|member| !removed.contains(member));
            }
            SetUpdate::Gone => {
                sets.remove(&key);
            }
        }
    }
}

/// Plays a history; what the kernel is to hold after each of its changes, and the state then.
fn play(by: DispatchBy, history: Vec<Vec<Step>>) -> Vec<(Moment, EnforcedState)> {
    let mut state = EnforcedState::default();
    let (mut compiler, changes) = Compiler::new(by, &state);
    let mut sets = BTreeMap::new();
    accumulate(&mut sets, changes);
    let mut moments = vec![(Moment { tables: compiler.tables().clone(), sets: sets.clone() }, state.clone())];
    for steps in history {
        let mut delta = Delta::default();
        for step in steps {
            take(&mut delta, &state, step);
        }
        state.apply(&delta);
        let before = compiler.tables().clone();
        let changes = compiler.update(&delta, &|_, _| false);
        for (id, table) in compiler.tables() {
            let touched = changes.tables.get(id);
            assert_eq!(touched.is_some(), before.get(id) != Some(table));
            if let (Some(Touched::Chains(names)), Some(before)) = (touched, before.get(id)) {
                let others = |table: &TableRules| {
                    let mut table = table.clone();
                    table.chains.retain(|name, _| !names.contains(name));
                    table
                };
                assert_eq!(others(before), others(table));
                assert!(names.iter().all(|name| before.chains.get(name) != table.chains.get(name)));
            }
        }
        assert!(
            before.keys().all(|id| compiler.tables().contains_key(id) || changes.tables.contains_key(id))
        );
        accumulate(&mut sets, changes);
        moments.push((Moment { tables: compiler.tables().clone(), sets: sets.clone() }, state.clone()));
    }
    moments
}

fn any_history() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(any_step(), 1..4), 1..8)
}

fn any_dispatch() -> impl Strategy<Value = DispatchBy> {
    prop_oneof![Just(DispatchBy::Sets), Just(DispatchBy::Map)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any history ends in the rules and sets of its last state, but for the names of groups, and says which tables it
    /// touched.
    #[test]
    fn incremental_equals_from_scratch(by in any_dispatch(), history in any_history()) {
        let (last, state) = play(by, history).pop().unwrap();
        let (fresh, changes) = Compiler::new(by, &state);
        let mut fresh = Moment { tables: fresh.tables().clone(), sets: BTreeMap::new() };
        accumulate(&mut fresh.sets, changes);
        for place in found::places(&state) {
            prop_assert_eq!(last.judge(&place), fresh.judge(&place), "{:?}", place);
            prop_assert!(last.judge(&place).is_some(), "{:?}", place);
        }
        let others = |moment: &Moment| {
            let mut tables = moment.tables.clone();
            tables.values_mut().for_each(|table| table.chains.retain(|name, _| !found::is_of_dispatch(name)));
            let mut sets = moment.sets.clone();
            sets.retain(|(name, _), _| !found::is_set_of_dispatch(name));
            (tables, sets)
        };
        prop_assert_eq!(others(&last), others(&fresh));
        // Whatever is jumped to or looked up exists.
        for ((family, _), table) in &last.tables {
            for rule in table.chains.values().flat_map(|rules| rules.iter()) {
                match &rule.action {
                    Action::Jump(name) | Action::Goto(name) => {
                        prop_assert!(table.chains.contains_key(name), "{name}");
                    }
                    Action::GotoMapped { map, .. } => {
                        prop_assert!(last.sets.contains_key(&(map.clone(), *family)), "{map:?}");
                    }
                    _ => {}
                }
                for part in &rule.matches {
                    if let Match::Set { set, .. } = part {
                        prop_assert!(last.sets.contains_key(&(set.clone(), *family)), "{set:?}");
                    }
                }
            }
        }
    }

    /// While a change is written (sets are extended, then rules are written, then sets shrink) every packet is judged as
    /// before or as after.
    #[test]
    fn no_moment_of_a_change_judges_otherwise(by in any_dispatch(), history in any_history()) {
        let moments = play(by, history);
        for pair in moments.windows(2) {
            let [(before, old), (after, new)] = pair else { continue };
            let extended = before.extended(after);
            let sets_written = Moment { tables: before.tables.clone(), sets: extended.clone() };
            let rules_written = Moment { tables: before.unswept(after), sets: extended };
            for place in found::places(old).into_iter().chain(found::places(new)) {
                let right = [before.judge(&place), after.judge(&place)];
                // An address that an endpoint comes to or leaves is its group's while sets are the longer ones, and the
                // group itself may change meanwhile: by its rules before, or after.
                let [comes, leaves] = right.each_ref().map(Option::is_none);
                for (moment, passing) in [(&sets_written, comes), (&rules_written, leaves)] {
                    let judge = moment.judge(&place);
                    // As if what the rules refer to had changed first, and the endpoints then.
                    let in_turn = || {
                        let between = EnforcedState { endpoints: old.endpoints.clone(), ..new.clone() };
                        let (compiler, changes) = Compiler::new(by, &between);
                        let mut sets = BTreeMap::new();
                        accumulate(&mut sets, changes);
                        Moment { tables: compiler.tables().clone(), sets }.judge(&place)
                    };
                    prop_assert!(
                        passing || right.contains(&judge) || in_turn() == judge,
                        "{place:?}: {judge:?} instead of {right:?}"
                    );
                }
            }
        }
    }
}
