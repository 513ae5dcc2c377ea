use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn view<'a>(prefix: &str, attributes: &'a PathAttributes) -> RouteView<'a> {
    RouteView { prefix: net(prefix), attributes, learned: true, peer_type: PeerType::Internal }
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
fn default_applies_without_a_match() {
    let attributes = PathAttributes::default();
    let route = view("10.0.0.0/24", &attributes);
    let rule = Rule { action: Action::Reject, priority: Some(5), ..Rule::default() };
    assert_eq!(policy(vec![rule.clone()], Action::Accept).apply(&route), Verdict::Accept);
    assert_eq!(policy(vec![rule], Action::Reject).apply(&route), Verdict::Reject);
    assert!(Policy::default().is_transparent());
}
