use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

mod found;

use found::Moment;

use super::*;
use crate::model::*;

fn set_id(number: u8) -> SetId {
    SetId(format!("set-{number}").into())
}

fn policy_id(number: u8) -> PolicyId {
    PolicyId { kind: "GlobalNetworkPolicy".into(), namespace: None, name: format!("p{number}").into() }
}

fn profile_id(number: u8) -> ProfileId {
    ProfileId(format!("profile-{number}").into())
}

fn endpoint_id(number: u8) -> EndpointId {
    match number {
        0 => EndpointId::Host { name: "host".into() },
        _ => EndpointId::Workload { namespace: "ns".into(), name: format!("pod-{number}").into() },
    }
}

fn rule(action: RuleAction) -> PolicyRule {
    PolicyRule::any(action)
}

fn policy(id: PolicyId, rules: Vec<PolicyRule>, staged: bool) -> ActivePolicy {
    ActivePolicy {
        id,
        tier: "default".into(),
        staged,
        ingress: rules.clone(),
        egress: rules,
        do_not_track: false,
        pre_dnat: false,
        apply_on_forward: false,
        invalid: None,
    }
}

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
    (policy.clone(), policy, 0..3u8).prop_map(move |(policy, other, address)| LocalEndpoint {
        id: endpoint_id(number),
        interface: format!("mgy{number}").into(),
        addresses: [format!("10.0.0.{address}").parse().unwrap()].into(),
        allowed_sources: [].into(),
        policy,
        untracked: Arc::clone(&other),
        pre_dnat: Arc::default(),
        forward: other,
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
            let change = match (state.sets.get(&id), members) {
                (None, None) => return,
                (None, Some(members)) => SetChange::Create { kind: SetKind::Net, members },
                (Some(_), None) => SetChange::Delete,
                (Some((_, before)), Some(now)) => SetChange::Update {
                    added: now.difference(before).copied().collect(),
                    removed: before.difference(&now).copied().collect(),
                },
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
            SetUpdate::Whole { members, .. } => {
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
            assert_eq!(changes.tables.contains(id), before.get(id) != Some(table));
        }
        assert!(before.keys().all(|id| compiler.tables().contains_key(id) || changes.tables.contains(id)));
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
                if let Action::Jump(name) | Action::Goto(name) = &rule.action {
                    prop_assert!(table.chains.contains_key(name), "{name}");
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
                    prop_assert!(
                        passing || right.contains(&judge),
                        "{place:?}: {judge:?} instead of {right:?}"
                    );
                }
            }
        }
    }
}

/// A policy that selects all endpoints of a group adds its jump to the group's chain: no set changes, and no other chain.
#[test]
fn a_policy_for_a_whole_group_changes_its_chain_alone() {
    let endpoint = |number: u8, policies: &[u8]| {
        let tier = EndpointTier {
            name: "default".into(),
            default: TierDefault::Deny,
            ingress: policies.iter().copied().map(policy_id).collect(),
            egress: vec![policy_id(0)],
        };
        let policy = Arc::new(EndpointPolicy { tiers: vec![tier], profiles: vec![] });
        let endpoint = LocalEndpoint {
            id: endpoint_id(number),
            interface: format!("mgy{number}").into(),
            addresses: [format!("10.0.0.{number}").parse().unwrap()].into(),
            allowed_sources: [].into(),
            policy,
            untracked: Arc::default(),
            pre_dnat: Arc::default(),
            forward: Arc::default(),
        };
        (endpoint_id(number), Some(Arc::new(endpoint)))
    };
    let some = |number| (policy_id(number), Some(Arc::new(policy(policy_id(number), vec![], false))));
    let pods: Vec<u8> = (1..40).collect();
    let of = |pods: &[u8], first: &[u8]| {
        pods.iter().map(|pod| endpoint(*pod, &[first, &[pod % 4]].concat())).collect()
    };
    let mut compiler = Compiler::nothing(DispatchBy::Sets);
    let policies = (0..4).map(some).collect();
    compiler.update(&Delta { policies, endpoints: of(&pods, &[]), ..Delta::default() }, &|_, _| false);
    let before = compiler.tables().clone();
    let delta = Delta { policies: [some(9)].into(), endpoints: of(&pods, &[9]), ..Delta::default() };
    let changes = compiler.update(&delta, &|_, _| false);
    assert_eq!(changes.sets, BTreeMap::new());
    let table = &compiler.tables()[&(Family::V4, Table::Filter)];
    let old = &before[&(Family::V4, Table::Filter)];
    let changed: Vec<_> =
        table.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules)).collect();
    let names: BTreeSet<&str> = changed.iter().map(|(name, _)| name.0.split_at(7).0).collect();
    assert_eq!(names, ["mgy-gi-", "mgy-pi-"].into());
    assert_eq!(changed.len(), 5, "four groups and the policy");
    // One pod less in the policy leaves its group: a new one, which does not take a name that stands for something else.
    let one = of(&pods[..1], &[]);
    compiler.update(&Delta { endpoints: one, ..Delta::default() }, &|_, _| false);
    let table = &compiler.tables()[&(Family::V4, Table::Filter)];
    let groups =
        |table: &TableRules| table.chains.keys().filter(|name| name.0.starts_with("mgy-gi-")).count();
    assert_eq!((groups(old), groups(table)), (4, 5));
    // What the kernel has under a name for other reasons is left alone too.
    let occupied: BTreeSet<_> = old.chains.keys().cloned().collect();
    let mut state = EnforcedState::default();
    state.apply(&Delta {
        policies: (0..4).map(some).collect(),
        endpoints: of(&pods, &[]),
        ..Delta::default()
    });
    let (beside, _) = Compiler::beside(DispatchBy::Sets, &state, &|name, _| occupied.contains(name));
    let table = &beside.tables()[&(Family::V4, Table::Filter)];
    assert!(
        table.chains.keys().filter(|name| name.0.starts_with("mgy-gi-")).all(|name| !occupied.contains(name))
    );
}

fn translated(rule: PolicyRule, family: Family) -> Vec<Rule> {
    let kinds = BTreeMap::from([(set_id(0), SetKind::Net), (set_id(1), SetKind::IpPort)]);
    let prefix = "log".into();
    let mut net_sets = BTreeMap::new();
    let mut context = policy::Context {
        family,
        marks: Marks::default(),
        kinds: &kinds,
        log_prefix: &prefix,
        net_sets: &mut net_sets,
    };
    policy::chain(&mut context, &Owner::Policy(policy_id(0)), Direction::Ingress, &[rule], false)
}

fn texts(rule: PolicyRule, family: Family) -> Vec<String> {
    let rules = translated(rule, family);
    let strip = |text: String| {
        let (matches, rest) = text.split_once("-m comment ").unwrap();
        format!("{matches}{}", rest.split_once("\" ").unwrap().1)
    };
    crate::render::iptables::chain(family, "c", &rules).into_iter().map(|(_, text)| strip(text)).collect()
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

#[test]
fn more_ports_than_a_match_takes_are_several_rules() {
    let mut many = rule(RuleAction::Allow);
    many.protocol = Some(6);
    many.destination.ports =
        (1..=14).map(|port| range(port, port)).chain([range(100, 200), range(9, 9)]).collect();
    assert_eq!(
        texts(many.clone(), Family::V4),
        [
            "-p 6 -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14 -g mgy-mark-10000",
            "-p 6 -m multiport --dports 100:200,9 -g mgy-mark-10000",
        ]
    );
    many.destination.not_ports = std::mem::take(&mut many.destination.ports);
    assert_eq!(
        texts(many, Family::V4),
        [
            "-p 6 -m multiport ! --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14 -m multiport ! --dports 100:200,9 -g mgy-mark-10000",
        ]
    );
}

#[test]
fn numeric_and_named_ports_are_alternatives() {
    let mut ports = rule(RuleAction::Deny);
    ports.protocol = Some(17);
    ports.destination.ports = vec![range(53, 53)];
    ports.destination.named_ports = vec![set_id(1)];
    let set = names::address_set(&set_id(1)).kernel_name(Family::V6);
    assert_eq!(
        texts(ports, Family::V6),
        [
            "-p 17 -m udp --dport 53 -j DROP".to_owned(),
            format!("-p 17 -m set --match-set {set} dst,dst -j DROP"),
        ]
    );
}

#[test]
fn ports_without_a_protocol_mean_those_that_have_ports() {
    let mut ports = rule(RuleAction::Pass);
    ports.source.ports = vec![range(1, 9)];
    ports.not_protocol = Some(17);
    assert_eq!(
        texts(ports, Family::V4),
        ["-p 6 -m tcp --sport 1:9 -g mgy-mark-20000", "-p 132 -m multiport --sports 1:9 -g mgy-mark-20000",]
    );
}

#[test]
fn a_rule_of_the_other_family_is_no_rule() {
    let mut v6 = rule(RuleAction::Allow);
    v6.source.nets = vec!["fd00::/8".parse().unwrap()];
    assert_eq!(texts(v6.clone(), Family::V4), [""; 0]);
    assert_eq!(texts(v6, Family::V6), ["-s fd00::/8 -g mgy-mark-10000"]);
    let version = PolicyRule { ip_version: Some(4), ..rule(RuleAction::Deny) };
    assert_eq!(texts(version.clone(), Family::V6), [""; 0]);
    assert_eq!(texts(version, Family::V4), ["-j DROP"]);
    let ping = PolicyRule {
        protocol: Some(1),
        icmp: Some(IcmpMatch { kind: Some(8), code: None }),
        ..rule(RuleAction::Allow)
    };
    assert_eq!(texts(ping.clone(), Family::V6), [""; 0]);
    assert_eq!(texts(ping, Family::V4), ["-p 1 -m icmp --icmp-type 8 -g mgy-mark-10000"]);
}

#[test]
fn several_networks_are_a_set_and_everything_is_no_match() {
    let mut nets = rule(RuleAction::Allow);
    nets.source.nets = vec!["10.2.0.0/16".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
    nets.source.not_nets = vec!["10.1.9.0/24".parse().unwrap()];
    let mut sorted = nets.source.nets.clone();
    sorted.sort();
    let set = names::net_set(&sorted).kernel_name(Family::V4);
    assert_eq!(
        texts(nets.clone(), Family::V4),
        [format!("-m set --match-set {set} src ! -s 10.1.9.0/24 -g mgy-mark-10000")]
    );
    nets.source.nets.push("0.0.0.0/0".parse().unwrap());
    assert_eq!(texts(nets.clone(), Family::V4), ["! -s 10.1.9.0/24 -g mgy-mark-10000"]);
    nets.source.not_nets.push("0.0.0.0/0".parse().unwrap());
    assert_eq!(texts(nets, Family::V4), [""; 0]);
}

#[test]
fn sets_nobody_knows_fail_closed() {
    let with = |action, negated| {
        let mut rule = rule(action);
        let sets = if negated { &mut rule.source.not_sets } else { &mut rule.source.sets };
        sets.push(set_id(9));
        texts(rule, Family::V4)
    };
    for negated in [false, true] {
        assert_eq!(with(RuleAction::Allow, negated), [""; 0]);
        assert_eq!(with(RuleAction::Deny, negated), ["-j DROP"]);
    }
}

#[test]
fn names_fit_the_kernel_and_are_stable() {
    let id = PolicyId {
        kind: "NetworkPolicy".into(),
        namespace: Some("n".repeat(63).into()),
        name: "p".repeat(253).into(),
    };
    for name in [
        names::policy(&id, Direction::Ingress),
        names::profile(&ProfileId("x".repeat(300).into()), Direction::Egress),
        names::GroupId::of(&EndpointPolicy::default(), Direction::Ingress).chain(Direction::Ingress),
    ] {
        assert!(name.0.len() <= 28 && name.0.starts_with("mgy-"), "{name}");
    }
    let set = names::address_set(&SetId("s".repeat(500).into())).kernel_name(Family::V6);
    assert!(set.len() <= 31, "{set}");
    assert_eq!(&*names::policy(&policy_id(1), Direction::Ingress).0, "mgy-pi-Zo5jSDMy0IOFH4zo");
}
