use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn view<'a>(prefix: &str, attributes: &'a PathAttributes) -> RouteView<'a> {
    RouteView {
        prefix: net(prefix),
        next_hop: Some(IpAddr::from([172, 20, 0, 7])),
        attributes,
        learned: true,
        peer_type: PeerType::Internal,
    }
}

fn policy(rules: Vec<Rule>, default: Action) -> Policy {
    Policy { filters: vec![Filter { name: "f".to_owned(), rules }], default }
}

fn cidr(text: &str, operator: CidrOperator, length: Option<RangeInclusive<u8>>) -> Option<CidrMatch> {
    Some(CidrMatch { cidr: net(text), operator, length })
}

#[test]
fn prefix_operators() {
    let attributes = PathAttributes::default();
    for (operator, prefix, expected) in [
        (CidrOperator::Equal, "10.0.0.0/8", true),
        (CidrOperator::Equal, "10.1.0.0/16", false),
        (CidrOperator::NotEqual, "10.1.0.0/16", true),
        (CidrOperator::NotEqual, "10.0.0.0/8", false),
        (CidrOperator::In, "10.1.0.0/16", true),
        (CidrOperator::In, "11.0.0.0/16", false),
        (CidrOperator::NotIn, "11.0.0.0/16", true),
        (CidrOperator::NotIn, "10.1.0.0/16", false),
        (CidrOperator::NotIn, "fd00::/64", false),
    ] {
        let rule = Rule { prefix: cidr("10.0.0.0/8", operator, None), ..Rule::default() };
        assert_eq!(rule.mismatch(&view(prefix, &attributes)).is_none(), expected, "{operator:?} {prefix}");
    }
}

#[test]
fn prefix_length_bounds() {
    let attributes = PathAttributes::default();
    let rule = Rule { prefix: cidr("10.0.0.0/8", CidrOperator::In, Some(24..=26)), ..Rule::default() };
    assert!(rule.mismatch(&view("10.1.1.0/24", &attributes)).is_none());
    assert!(rule.mismatch(&view("10.1.0.0/16", &attributes)).is_some());
    assert!(rule.mismatch(&view("10.1.1.0/27", &attributes)).is_some());
}

#[test]
fn first_match_decides_and_the_trace_says_so() {
    let attributes = PathAttributes { as_path: AsPath::sequence([65001, 65002]), ..Default::default() };
    let policy = policy(
        vec![
            Rule { action: Action::Reject, as_path_prefix: vec![65009], ..Rule::default() },
            Rule {
                as_path_prefix: vec![65001],
                operations: vec![
                    Operation::AddCommunity(AnyCommunity::Plain(Community::new(64512, 7))),
                    Operation::SetPriority(100),
                    Operation::PrependAsPath(vec![1, 2]),
                ],
                ..Rule::default()
            },
            Rule { action: Action::Reject, ..Rule::default() },
        ],
        Action::Reject,
    );
    let Verdict::Change(changed) = policy.apply(&view("10.0.0.0/24", &attributes)) else { panic!() };
    assert_eq!(changed.as_path.asns().collect::<Vec<_>>(), [1, 2, 65001, 65002]);
    assert!(changed.communities.has(&Community::new(64512, 7)));
    assert_eq!(changed.local_pref, Some(2_147_483_547));
    let trace = policy.explain(&view("10.0.0.0/24", &attributes));
    assert_eq!(trace.summary(), "accepted by rule 2 of filter f");
    assert_eq!(trace.steps[0].mismatch.as_deref(), Some("AS path"));
}

#[test]
fn every_condition_and_every_operation() {
    let large = LargeCommunity { global: 64512, local1: 1, local2: 2 };
    let attributes = PathAttributes {
        communities: [Community::new(64512, 7)].into_iter().collect(),
        large_communities: [large].into_iter().collect(),
        local_pref: Some(preference(1024)),
        as_path: AsPath::sequence([65001, 65002]),
        ..Default::default()
    };
    let route = view("10.0.0.0/24", &attributes);
    let own = RouteView { learned: false, next_hop: None, peer_type: PeerType::External, ..route };
    let behind = |networks: &[(&str, bool)]| {
        let networks = networks.iter().map(|(network, meant)| (net(network), *meant)).collect();
        Some(NextHopMatch { networks })
    };
    let plain = |value| Some(AnyCommunity::Plain(Community::new(64512, value)));
    let other = LargeCommunity { local2: 3, ..large };
    for (rule, on_learned, on_own) in [
        (Rule { learned: true, ..Rule::default() }, true, false),
        (
            Rule { next_hop: behind(&[("172.20.0.0/24", true), ("0.0.0.0/0", false)]), ..Rule::default() },
            true,
            false,
        ),
        (
            Rule { next_hop: behind(&[("172.20.0.0/24", false), ("0.0.0.0/0", true)]), ..Rule::default() },
            false,
            false,
        ),
        (Rule { next_hop: behind(&[("172.21.0.0/24", true)]), ..Rule::default() }, false, false),
        (Rule { peer_type: Some(PeerType::Internal), ..Rule::default() }, true, false),
        (Rule { peer_type: Some(PeerType::External), ..Rule::default() }, false, true),
        (Rule { community: plain(7), ..Rule::default() }, true, true),
        (Rule { community: plain(8), ..Rule::default() }, false, false),
        (Rule { community: Some(AnyCommunity::Large(large)), ..Rule::default() }, true, true),
        (Rule { community: Some(AnyCommunity::Large(other)), ..Rule::default() }, false, false),
        (Rule { as_path_prefix: vec![65001, 65002], ..Rule::default() }, true, true),
        (Rule { as_path_prefix: vec![65002], ..Rule::default() }, false, false),
        (Rule { priority: Some(1024), ..Rule::default() }, true, true),
        (Rule { priority: Some(1025), ..Rule::default() }, false, false),
    ] {
        let matches = [route, own].map(|route| rule.mismatch(&route).is_none());
        assert_eq!(matches, [on_learned, on_own], "{rule:?}");
    }
    let operations = vec![
        Operation::AddCommunity(AnyCommunity::Large(other)),
        Operation::SetLocalPref(5),
        Operation::SetMed(6),
    ];
    let rule = Rule { operations, ..Rule::default() };
    let Verdict::Change(changed) = policy(vec![rule], Action::Reject).apply(&route) else { panic!() };
    assert_eq!((changed.local_pref, changed.med), (Some(5), Some(6)));
    assert_eq!(changed.large_communities.to_vec(), [large, other]);
}

#[test]
fn default_applies_without_a_match() {
    let attributes = PathAttributes::default();
    let route = view("10.0.0.0/24", &attributes);
    let rule = Rule { action: Action::Reject, priority: Some(5), ..Rule::default() };
    assert_eq!(policy(vec![rule.clone()], Action::Accept).apply(&route), Verdict::Accept);
    assert_eq!(policy(vec![rule], Action::Reject).apply(&route), Verdict::Reject);
    assert!(Policy::default().is_transparent());
}
