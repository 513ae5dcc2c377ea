use std::fmt::Write as _;
use std::sync::Arc;

use super::{iptables, nftables};
use crate::model::*;
use crate::rules::{Compiler, DispatchBy, Family, SetUpdate, Table};

/// A small node: one pod with a policy, one without, tunnels, NAT.
fn state() -> EnforcedState {
    let mut state = EnforcedState::default();
    let id = PolicyId { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "db".into() };
    let clients = SetId("role == 'web'".into());
    state
        .sets
        .insert(clients.clone(), (SetKind::Host, [SetMember::Net("10.0.1.9/32".parse().unwrap())].into()));
    let allow = PolicyRule {
        index: 0,
        action: RuleAction::Allow,
        ip_version: None,
        protocol: Some(6),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: PeerMatch { sets: vec![clients], ..PeerMatch::default() }.into(),
        destination: PeerMatch { ports: vec![PortRange { first: 5432, last: 5432 }], ..PeerMatch::default() }
            .into(),
        annotations: [].into(),
    };
    let any = PolicyRule {
        protocol: None,
        source: SharedPeer::default(),
        destination: SharedPeer::default(),
        ..allow.clone()
    };
    let log = PolicyRule { index: 1, action: RuleAction::Log, ..any.clone() };
    let policy = ActivePolicy {
        id: id.clone(),
        tier: "default".into(),
        staged: false,
        ingress: vec![allow, log],
        egress: vec![],
        do_not_track: false,
        pre_dnat: false,
        apply_on_forward: false,
        invalid: None,
    };
    state.policies.insert(id.clone(), Arc::new(policy));
    let profile = ProfileId("kns.shop".into());
    let content = ActiveProfile { id: profile.clone(), ingress: vec![any.clone()], egress: vec![any] };
    state.profiles.insert(profile.clone(), Arc::new(content));
    let tier = EndpointTier {
        name: "default".into(),
        default: TierDefault::Deny,
        ingress: vec![id],
        egress: vec![],
    };
    for (name, address, tiers) in [("db", "10.0.0.2", vec![tier]), ("web", "10.0.0.3", vec![])] {
        let id = EndpointId::Workload { namespace: "shop".into(), name: name.into() };
        let endpoint = LocalEndpoint {
            id: id.clone(),
            interface: format!("mgy{name}").into(),
            addresses: [address.parse().unwrap()].into(),
            allowed_sources: [].into(),
            policy: Arc::new(EndpointPolicy { tiers, profiles: vec![profile.clone()] }),
            untracked: Arc::default(),
            pre_dnat: Arc::default(),
            forward: Arc::default(),
        };
        state.endpoints.insert(id, Arc::new(endpoint));
    }
    state.settings = Arc::new(NodeSettings {
        vxlan_port: Some(4789),
        nat_outgoing: ["10.0.0.0/16".parse().unwrap()].into(),
        pools: ["10.0.0.0/16".parse().unwrap()].into(),
        ..NodeSettings::default()
    });
    state
}

fn rendered(family: Family) -> String {
    let (compiler, _) = Compiler::new(DispatchBy::Sets, &state());
    Table::ALL
        .into_iter()
        .filter_map(|table| Some(iptables::table(family, table, compiler.tables().get(&(family, table))?)))
        .collect()
}

#[test]
fn tables_of_a_small_node() {
    insta::assert_snapshot!("small_node_ipv4", rendered(Family::V4));
    insta::assert_snapshot!("small_node_ipv6", rendered(Family::V6));
}

/// Chains and sets as `nft -f` is given them.
fn rendered_for_nftables(family: Family) -> String {
    let (compiler, changes) = Compiler::new(DispatchBy::Map, &state());
    let mut text = String::new();
    for ((name, own), update) in &changes.sets {
        let SetUpdate::Whole { kind, members } = update else { panic!("a new compiler makes whole sets") };
        if *own == family {
            let name = name.kernel_name(family);
            writeln!(text, "{}", nftables::set_definition(family, *kind, &name)).unwrap();
            for member in members {
                writeln!(text, "  {}", nftables::element(member)).unwrap();
            }
        }
    }
    for ((_, id), table) in compiler.tables().iter().filter(|((own, _), _)| *own == family) {
        let chains =
            table.chains.iter().map(|(name, rules)| (nftables::chain_name(*id, name), rules.to_vec()));
        let base = table.base.iter().map(|(hook, base)| {
            let definition = nftables::BaseChain::of(*id, *hook).definition();
            (format!("{} {definition}", nftables::BaseChain::name(*id, *hook)), nftables::base_rules(base))
        });
        for (name, rules) in chains.chain(base) {
            writeln!(text, "chain {name}").unwrap();
            for (_, rule) in nftables::chain(family, *id, &name, &rules) {
                writeln!(text, "  {rule}").unwrap();
            }
        }
    }
    text
}

#[test]
fn nftables_of_a_small_node() {
    insta::assert_snapshot!("small_node_nftables_ipv4", rendered_for_nftables(Family::V4));
    insta::assert_snapshot!("small_node_nftables_ipv6", rendered_for_nftables(Family::V6));
}

/// Calico's scheme: a hash says that the rule and all before it are the same, in a chain of that name.
#[test]
fn hashes_chain() {
    use crate::rules::{Action, Rule};
    let rules = [Rule::new([], Action::Drop), Rule::new([], Action::Accept), Rule::new([], Action::Drop)];
    let hashes = |name, rules: &[Rule]| -> Vec<_> {
        iptables::chain(Family::V4, name, rules).into_iter().map(|(hash, _)| hash).collect()
    };
    let all = hashes("a", &rules);
    assert_ne!(all[0], all[2], "the same rule in another place");
    assert_eq!(hashes("a", &rules[..2]), all[..2]);
    assert_ne!(hashes("b", &rules[..1]), all[..1]);
    assert_ne!(hashes("a", &rules[1..])[1], all[2]);
}

/// Names come from people's objects: nothing in them ends a comment or a line.
#[test]
fn comments_are_harmless() {
    use crate::rules::{Action, Rule};
    let hostile = Rule::new([], Action::Drop).note("x\" -j ACCEPT\n-A INPUT -j ACCEPT \\é");
    let (_, text) = iptables::chain(Family::V4, "c", &[hostile]).remove(0);
    assert_eq!(text.matches('"').count(), 2, "{text}");
    assert!(!text.contains('\n') && text.is_ascii() && text.ends_with("\" -j DROP"), "{text}");
    let long = Rule::new([], Action::Drop).note("n".repeat(1000));
    let (_, text) = iptables::chain(Family::V4, "c", &[long]).remove(0);
    assert_eq!(text.split('"').nth(1).unwrap().len(), 255);
}
