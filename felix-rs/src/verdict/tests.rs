//! The evaluator on states written by hand.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::model::{
    ActivePolicy, ActiveProfile, Direction, EndpointId, EndpointPolicy, EndpointTier, EndpointToHostAction,
    EnforcedState, FailsafePort, IcmpMatch, LocalEndpoint, NodeSettings, PeerMatch, PolicyId, PolicyRule,
    PortRange, ProfileId, RuleAction, SetId, SetKind, SetMember, TierDefault,
};

fn rule(index: u32, action: RuleAction) -> PolicyRule {
    PolicyRule { index, ..PolicyRule::any(action) }
}

fn policy_id(name: &str) -> PolicyId {
    PolicyId { kind: "GlobalNetworkPolicy".into(), namespace: None, name: name.into() }
}

fn set(name: &str) -> SetId {
    SetId(name.into())
}

/// Name, default action, and policies: name, staged, ingress rules.
type TierSketch<'a> = (&'a str, TierDefault, &'a [(&'a str, bool, Vec<PolicyRule>)]);

/// One endpoint, 10.0.0.1, with one tier per list of (policy, staged, ingress rules).
fn state(tiers: &[TierSketch<'_>]) -> EnforcedState {
    let mut state = EnforcedState::default();
    let mut ordered = Vec::new();
    for (tier, default, policies) in tiers {
        for (name, staged, rules) in *policies {
            let policy = ActivePolicy {
                id: policy_id(name),
                tier: (*tier).into(),
                staged: *staged,
                ingress: rules.clone(),
                egress: Vec::new(),
                do_not_track: false,
                pre_dnat: false,
                apply_on_forward: false,
                invalid: None,
            };
            state.policies.insert(policy.id.clone(), Arc::new(policy));
        }
        ordered.push(EndpointTier {
            name: (*tier).into(),
            default: *default,
            ingress: policies.iter().map(|(name, ..)| policy_id(name)).collect(),
            egress: Vec::new(),
        });
    }
    let profile = ProfileId("kns.shop".into());
    let allow = vec![rule(0, RuleAction::Allow)];
    let rules = ActiveProfile { id: profile.clone(), ingress: allow.clone(), egress: allow };
    state.profiles.insert(profile.clone(), Arc::new(rules));
    let endpoint = LocalEndpoint {
        id: EndpointId::Workload { namespace: "shop".into(), name: "db".into() },
        interface: "mgy1".into(),
        addresses: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
        allowed_sources: BTreeSet::new(),
        policy: Arc::new(EndpointPolicy { tiers: ordered, profiles: vec![profile] }),
        untracked: Arc::default(),
        pre_dnat: Arc::default(),
        forward: Arc::default(),
    };
    state.endpoints.insert(endpoint.id.clone(), Arc::new(endpoint));
    state.sets.insert(
        set("web"),
        (SetKind::Net, BTreeSet::from([SetMember::Net("192.0.2.0/24".parse().unwrap())])),
    );
    state.set_names.insert(set("web"), "app == \"web\" in namespace shop".into());
    let http = SetMember::IpPort("10.0.0.1".parse().unwrap(), TCP, 8080);
    state.sets.insert(set("http"), (SetKind::IpPort, BTreeSet::from([http])));
    state
}

fn ingress(state: &EnforcedState, packet: &Packet) -> EndpointVerdict {
    let endpoint = state.endpoints.values().next().unwrap();
    evaluate(state, endpoint, Direction::Ingress, packet)
}

fn tcp(from: &str, port: u16) -> Packet {
    Packet::to_port(from.parse().unwrap(), "10.0.0.1".parse().unwrap(), TCP, port)
}

/// Whether a rule that allows, as the only one, lets the packet in.
fn matches(rule: PolicyRule, packet: &Packet) -> bool {
    let state = state(&[("default", TierDefault::Deny, &[("p", false, vec![rule])])]);
    ingress(&state, packet).verdict == Verdict::Allow
}

#[test]
fn every_part_of_a_rule_narrows_it() {
    let allow = || rule(0, RuleAction::Allow);
    let packet = tcp("192.0.2.7", 8080);
    let udp = Packet { protocol: UDP, ..packet };
    let range = |first, last| vec![PortRange { first, last }];
    assert!(matches(allow(), &packet));
    assert!(matches(PolicyRule { ip_version: Some(4), ..allow() }, &packet));
    assert!(!matches(PolicyRule { ip_version: Some(6), ..allow() }, &packet));
    assert!(matches(PolicyRule { protocol: Some(TCP), ..allow() }, &packet));
    assert!(!matches(PolicyRule { protocol: Some(TCP), ..allow() }, &udp));
    assert!(!matches(PolicyRule { not_protocol: Some(UDP), ..allow() }, &udp));
    let source = |source: PeerMatch| PolicyRule { source: source.into(), ..allow() };
    let to = |destination: PeerMatch| PolicyRule { destination: destination.into(), ..allow() };
    let any = PeerMatch::default;
    for (matching, part) in [
        (true, source(PeerMatch { nets: vec!["192.0.2.0/24".parse().unwrap()], ..any() })),
        (false, source(PeerMatch { nets: vec!["198.51.100.0/24".parse().unwrap()], ..any() })),
        (false, source(PeerMatch { not_nets: vec!["192.0.2.0/24".parse().unwrap()], ..any() })),
        (true, source(PeerMatch { sets: vec![set("web")], ..any() })),
        (false, source(PeerMatch { sets: vec![set("web"), set("nobody")], ..any() })),
        (false, source(PeerMatch { not_sets: vec![set("web")], ..any() })),
        (true, source(PeerMatch { not_sets: vec![set("nobody")], ..any() })),
        (true, source(PeerMatch { service: Some(set("web")), ..any() })),
        (false, source(PeerMatch { service: Some(set("nobody")), ..any() })),
        (true, to(PeerMatch { ports: range(8000, 9000), ..any() })),
        (false, to(PeerMatch { ports: range(80, 443), ..any() })),
        (true, to(PeerMatch { named_ports: vec![set("http")], ..any() })),
        (true, to(PeerMatch { ports: range(80, 80), named_ports: vec![set("http")], ..any() })),
        (false, to(PeerMatch { not_ports: range(8080, 8080), ..any() })),
        (false, to(PeerMatch { not_named_ports: vec![set("http")], ..any() })),
    ] {
        assert_eq!(matches(part.clone(), &packet), matching, "{part:?}");
    }
    // A named port is of one protocol.
    assert!(!matches(to(PeerMatch { named_ports: vec![set("http")], ..any() }), &udp));
}

#[test]
fn icmp_matches_by_type_and_code() {
    let ping = Packet::echo("192.0.2.7".parse().unwrap(), "10.0.0.1".parse().unwrap());
    let with = |kind, code| Some(IcmpMatch { kind, code });
    let allow = || rule(0, RuleAction::Allow);
    assert!(matches(PolicyRule { icmp: with(Some(8), None), ..allow() }, &ping));
    assert!(matches(PolicyRule { icmp: with(Some(8), Some(0)), ..allow() }, &ping));
    assert!(!matches(PolicyRule { icmp: with(Some(8), Some(1)), ..allow() }, &ping));
    assert!(!matches(PolicyRule { icmp: with(Some(0), None), ..allow() }, &ping));
    assert!(!matches(PolicyRule { not_icmp: with(Some(8), None), ..allow() }, &ping));
    assert!(!matches(PolicyRule { icmp: with(Some(8), None), ..allow() }, &tcp("192.0.2.7", 80)));
}

#[test]
fn pass_leaves_the_tier_and_log_goes_on() {
    let rules = vec![rule(0, RuleAction::Log), rule(1, RuleAction::Pass), rule(2, RuleAction::Deny)];
    let state = state(&[
        ("first", TierDefault::Deny, &[("a", false, rules)]),
        ("second", TierDefault::Pass, &[("b", false, Vec::new())]),
        ("third", TierDefault::Deny, &[("c", true, vec![rule(0, RuleAction::Deny)])]),
    ]);
    let verdict = ingress(&state, &tcp("192.0.2.7", 80));
    assert_eq!(verdict.verdict, Verdict::Allow);
    assert_eq!(verdict.decision, Decision::ProfileRule { profile: ProfileId("kns.shop".into()), rule: 0 });
    let outcomes: Vec<TierOutcome> = verdict.tiers.iter().map(|tier| tier.outcome).collect();
    assert_eq!(outcomes, [TierOutcome::Pass, TierOutcome::DefaultPass, TierOutcome::OnlyStaged]);
    assert_eq!(verdict.tiers[2].policies[0].outcome, RulesOutcome::Deny);
}

#[test]
fn host_endpoints_keep_their_failsafe_ports() {
    let mut state = state(&[("default", TierDefault::Deny, &[("p", false, Vec::new())])]);
    let ssh = FailsafePort { protocol: TCP, port: 22, net: Some("192.0.2.0/24".parse().unwrap()) };
    state.settings = Arc::new(NodeSettings { failsafe_inbound: vec![ssh], ..NodeSettings::default() });
    let mut endpoint = LocalEndpoint::clone(state.endpoints.values().next().unwrap());
    let packet = tcp("192.0.2.7", 22);
    assert_eq!(evaluate(&state, &endpoint, Direction::Ingress, &packet).verdict, Verdict::Deny);
    endpoint.id = EndpointId::Host { name: "eth0".into() };
    assert_eq!(evaluate(&state, &endpoint, Direction::Ingress, &packet).decision, Decision::Failsafe);
    let stranger = tcp("198.51.100.1", 22);
    assert_eq!(evaluate(&state, &endpoint, Direction::Ingress, &stranger).verdict, Verdict::Deny);
}

#[test]
fn an_explanation_reads_well() {
    let web = PeerMatch { sets: vec![set("web")], ..PeerMatch::default() };
    let port = PeerMatch { ports: vec![PortRange { first: 5432, last: 5432 }], ..PeerMatch::default() };
    let rules = vec![
        PolicyRule { source: web.into(), ..rule(0, RuleAction::Allow) },
        PolicyRule { protocol: Some(TCP), destination: port.into(), ..rule(1, RuleAction::Allow) },
    ];
    let state = state(&[("default", TierDefault::Deny, &[("db", false, rules)])]);
    let explanation = explain(&state, &tcp("198.51.100.1", 80));
    assert_eq!(
        explanation.to_string(),
        "\
tcp 198.51.100.1 -> 10.0.0.1 port 80: denied
  from no endpoint known here has this address: no policy was run
  to   ingress of shop/db: denied
    by end of tier default: no rule matched in GlobalNetworkPolicy db
    tier default: undecided, denies by default
      GlobalNetworkPolicy db: no rule matches
        rule 0 (Allow): passed over, the source is not among: app == \"web\" in namespace shop
        rule 1 (Allow): passed over, the destination port is none of the rule's ports
"
    );
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["destination"]["decision"]["by"], "endOfTier");
    assert_eq!(json["verdict"], "Deny");
}

#[test]
fn a_pod_talks_to_itself_unpoliced() {
    let state = state(&[("default", TierDefault::Deny, &[("p", false, Vec::new())])]);
    let explanation = explain(&state, &tcp("10.0.0.1", 80));
    assert!(explanation.loopback);
    assert_eq!(explanation.verdict, Verdict::Allow);
}

#[test]
fn a_pod_and_its_own_node() {
    let mut state = state(&[("default", TierDefault::Deny, &[("p", false, Vec::new())])]);
    let node: std::net::IpAddr = "203.0.113.1".parse().unwrap();
    let with = |endpoint_to_host| {
        let own = BTreeSet::from([node]);
        Arc::new(NodeSettings { own_addresses: own, endpoint_to_host, ..NodeSettings::default() })
    };
    state.settings = with(EndpointToHostAction::Accept);
    let to_pod = explain(&state, &tcp("203.0.113.1", 80));
    assert_eq!((to_pod.verdict, to_pod.own_node), (Verdict::Allow, Some(OwnNode::ToPod)));
    let from_pod = Packet::to_port("10.0.0.1".parse().unwrap(), node, TCP, 80);
    assert_eq!(explain(&state, &from_pod).verdict, Verdict::Allow);
    state.settings = with(EndpointToHostAction::Drop);
    assert_eq!(explain(&state, &from_pod).verdict, Verdict::Deny);
    // Another node is a stranger.
    assert_eq!(explain(&state, &tcp("203.0.113.2", 80)).verdict, Verdict::Deny);
}
