use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod found;
mod history;
mod translation;

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
    let set = names::address_set(&SetId("s".repeat(500).into()), SetType::Net).kernel_name(Family::V6);
    assert!(set.len() <= 31, "{set}");
    assert_eq!(&*names::policy(&policy_id(1), Direction::Ingress).0, "mgy-pi-Zo5jSDMy0IOFH4zo");
}
