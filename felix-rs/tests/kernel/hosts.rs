//! Host endpoints: the node's own interfaces.

use std::sync::Arc;

use felix_rs::model::BackendChoice;
use felix_rs::model::{
    EndpointId, EndpointPolicy, EndpointTier, EnforcedState, FailsafePort, LocalEndpoint, PolicyRule,
    ProfileId, RuleAction, TierDefault,
};

use crate::lab::{Lab, NODE_UPLINK, OUTSIDE, UDP_PORT};
use crate::states::{ALLOW_ALL, Build as _, open, policy, ports, rule, tier};
use crate::{Node, Scenario, infix};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("host_endpoint_normal_policy_and_failsafes", normal_policy_and_failsafes),
    ("host_endpoint_forwarded_packets", forwarded_packets),
    ("host_endpoint_before_dnat", before_dnat),
    ("host_endpoint_untracked", untracked),
    ("host_endpoint_leaves_forwarded_packets_to_others", forwarded_and_rewritten),
    ("host_endpoint_of_an_interface_is_the_first_by_name", first_by_name),
];

fn host(interface: &str, tiers: Vec<EndpointTier>, profiles: &[&str]) -> LocalEndpoint {
    let profiles = profiles.iter().map(|name| ProfileId((*name).into())).collect();
    LocalEndpoint {
        id: EndpointId::Host { name: format!("node-{interface}").into() },
        interface: interface.into(),
        addresses: [NODE_UPLINK].into(),
        allowed_sources: [].into(),
        policy: Arc::new(EndpointPolicy { tiers, profiles }),
        untracked: Arc::default(),
        pre_dnat: Arc::default(),
        forward: Arc::default(),
    }
}

/// The node's addresses are known.
fn known(lab: &Lab) -> EnforcedState {
    open(lab).with_settings(|settings| {
        settings.host_addresses = [("uplink0".into(), [NODE_UPLINK].into())].into();
    })
}

fn only(tiers: Vec<EndpointTier>) -> Arc<EndpointPolicy> {
    Arc::new(EndpointPolicy { tiers, profiles: Vec::new() })
}

fn tcp(action: RuleAction, port: u16) -> PolicyRule {
    PolicyRule { protocol: Some(6), destination: ports(&[port]), ..rule(action) }
}

fn normal_policy_and_failsafes(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let a = lab.pod("a");
    let mut node = Node::start(&lab, backend);
    for interface in ["uplink0", "*", ""] {
        let web = policy("web", vec![tcp(RuleAction::Allow, 80)], vec![]);
        let tiers = vec![tier("default", TierDefault::Deny, &["web"], &[])];
        let state = known(&lab).with_policy(web).with_endpoint(host(interface, tiers, &[ALLOW_ALL]));
        node.apply(&state);
        assert!(lab.outside.tcp(NODE_UPLINK, 80), "allowed: {interface}");
        assert!(!lab.outside.tcp(NODE_UPLINK, 8080) && !lab.outside.ping(NODE_UPLINK), "denied: {interface}");
        assert!(lab.node.tcp(OUTSIDE, 8080), "egress by profile: {interface}");
        assert!(
            lab.outside.tcp(a.v4, 8080) && a.tcp(OUTSIDE, 80),
            "forwarded is not the node's: {interface}"
        );

        let closed = host(interface, vec![], &[]);
        node.apply(&known(&lab).with_endpoint(closed.clone()));
        assert!(!lab.outside.tcp(NODE_UPLINK, 80) && !lab.node.tcp(OUTSIDE, 80), "closed: {interface}");
        assert!(lab.node.tcp(a.v4, 80), "pods are reached still: {interface}");

        let failsafe = known(&lab).with_endpoint(closed).with_settings(|settings| {
            settings.failsafe_inbound = vec![FailsafePort { protocol: 6, port: 8080, net: None }];
            let net = "192.0.2.2/32".parse().ok();
            settings.failsafe_outbound = vec![FailsafePort { protocol: 17, port: UDP_PORT, net }];
        });
        node.apply(&failsafe);
        assert!(lab.outside.tcp(NODE_UPLINK, 8080) && lab.node.udp(OUTSIDE), "failsafes: {interface}");
        assert!(!lab.outside.tcp(NODE_UPLINK, 80) && !lab.node.tcp(OUTSIDE, 80), "nothing else: {interface}");
    }
}

fn forwarded_packets(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let a = lab.pod("a");
    let mut node = Node::start(&lab, backend);
    let mut endpoint = host("uplink0", vec![], &[ALLOW_ALL]);
    endpoint.forward = only(vec![tier("default", TierDefault::Deny, &["in"], &["out"])]);
    let state = open(&lab)
        .with_policy(policy("in", vec![tcp(RuleAction::Allow, 80)], vec![]))
        .with_policy(policy("out", vec![], vec![tcp(RuleAction::Allow, 8080)]))
        .with_endpoint(endpoint);
    node.apply(&state);
    assert!(lab.outside.tcp(a.v4, 80) && !lab.outside.tcp(a.v4, 8080), "passing through towards pods");
    assert!(a.tcp(OUTSIDE, 8080) && !a.tcp(OUTSIDE, 80), "passing through from pods");
    assert!(lab.outside.tcp(NODE_UPLINK, 8080), "the node's own packets are not concerned");
}

fn before_dnat(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let v = infix(backend);
    for port in [3000, 3001] {
        lab.node.sh(&format!(
            "iptables-{v} -t nat -A PREROUTING -p tcp --dport {port} -d {NODE_UPLINK} \
             -j DNAT --to-destination {}:80",
            lab.pod("a").v4
        ));
    }
    let mut node = Node::start(&lab, backend);
    node.apply(&open(&lab));
    assert!(lab.outside.tcp(NODE_UPLINK, 3000) && lab.outside.tcp(NODE_UPLINK, 3001));
    let mut endpoint = host("uplink0", vec![], &[ALLOW_ALL]);
    endpoint.pre_dnat = only(vec![tier("default", TierDefault::Deny, &["pre"], &[])]);
    let pre = policy("pre", vec![tcp(RuleAction::Deny, 3001)], vec![]);
    node.apply(&open(&lab).with_policy(pre).with_endpoint(endpoint));
    assert!(lab.outside.tcp(NODE_UPLINK, 3000), "not concerned");
    assert!(!lab.outside.tcp(NODE_UPLINK, 3001), "denied by the port before translation");
}

fn untracked(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let mut node = Node::start(&lab, backend);
    let udp = |action, source, destination| PolicyRule {
        protocol: Some(17),
        source: ports(source),
        destination: ports(destination),
        ..rule(action)
    };
    let ingress = vec![udp(RuleAction::Allow, &[], &[UDP_PORT]), tcp(RuleAction::Deny, 80)];
    let egress = vec![udp(RuleAction::Allow, &[UDP_PORT], &[])];
    let mut endpoint = host("uplink0", vec![], &[ALLOW_ALL]);
    endpoint.untracked = only(vec![tier("default", TierDefault::Deny, &["raw"], &["raw"])]);
    node.apply(&open(&lab).with_policy(policy("raw", ingress, egress)).with_endpoint(endpoint));
    assert!(lab.outside.udp(NODE_UPLINK), "allowed in both directions without tracking");
    let counted = crate::dump(&lab, backend);
    let notrack = counted
        .lines()
        .filter(|line| ["CT --notrack", "-j NOTRACK", " notrack"].iter().any(|word| line.contains(word)))
        .filter(|line| !line.starts_with("[0:0]") && !line.contains("packets 0 "));
    assert_eq!(notrack.count(), 2, "request and answer:\n{counted}");
    assert!(!lab.outside.tcp(NODE_UPLINK, 80), "denied before tracking");
    assert!(lab.outside.tcp(NODE_UPLINK, 8080), "the rest goes on to the normal policies");
}

/// A forwarded packet that was rewritten, and that somebody else's rules accept behind ours, as kube-proxy's do with what
/// is for a service, is no packet of the node's.
fn forwarded_and_rewritten(backend: BackendChoice) {
    let lab = Lab::new(&[]);
    let v = infix(backend);
    lab.outside.sh("ip address add 192.0.2.3/32 dev lo");
    lab.node.sh(&format!(
        "ip route add 192.0.2.3/32 dev uplink0
         iptables-{v} -t nat -A PREROUTING -p tcp --dport 3000 -d {NODE_UPLINK} -j DNAT --to-destination 192.0.2.3:80
         iptables-{v} -t nat -A POSTROUTING -d 192.0.2.3 -j MASQUERADE
         iptables-{v} -A FORWARD -j ACCEPT"
    ));
    let mut node = Node::start(&lab, backend);
    node.apply(&open(&lab));
    assert!(lab.outside.tcp(NODE_UPLINK, 3000));
    let web = policy("web", vec![tcp(RuleAction::Allow, 80)], vec![]);
    let tiers = vec![tier("default", TierDefault::Deny, &["web"], &["web"])];
    node.apply(&open(&lab).with_policy(web).with_endpoint(host("uplink0", tiers, &[])));
    assert!(!lab.node.tcp(OUTSIDE, 80), "the node's own packets are denied");
    assert!(lab.outside.tcp(NODE_UPLINK, 3000), "what passes through is not the node's");
}

/// Whether it names the interface or has an address of it.
fn first_by_name(backend: BackendChoice) {
    let lab = Lab::new(&[]);
    let mut node = Node::start(&lab, backend);
    for (name, open_to_all) in [("a-found", true), ("o-found", false)] {
        let mut found = host("", vec![], &[ALLOW_ALL]);
        found.id = EndpointId::Host { name: name.into() };
        node.apply(&known(&lab).with_endpoint(host("uplink0", vec![], &[])).with_endpoint(found));
        assert_eq!(lab.outside.tcp(NODE_UPLINK, 80), open_to_all, "{name}");
    }
}
