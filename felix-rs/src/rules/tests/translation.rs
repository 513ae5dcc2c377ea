//! Rules of policies as the text of rules.

use super::*;

fn translated(rule: PolicyRule, family: Family) -> Vec<Rule> {
    let kinds = BTreeMap::from([(set_id(0), SetType::Net), (set_id(1), SetType::IpPort)]);
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
    let set = names::address_set(&set_id(1), SetType::IpPort).kernel_name(Family::V6);
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
