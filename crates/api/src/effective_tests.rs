use crate::{Kind, Metadata, Tier, effective::*, kinds::*};

#[test]
fn types_follow_the_rules() {
    use PolicyType::{Egress, Ingress};
    for (given, ingress, egress, expected) in [
        (&[][..], false, false, &[Ingress][..]),
        (&[], true, false, &[Ingress]),
        (&[], false, true, &[Egress]),
        (&[], true, true, &[Ingress, Egress]),
        (&[Egress], true, false, &[Egress]),
        (&[Egress, Ingress], false, false, &[Ingress, Egress]),
    ] {
        assert_eq!(policy_types(given, ingress, egress), expected);
    }
}

#[test]
fn policies_sort_like_calicos() {
    let key = |order, kind, namespace: &str, name: &str| {
        SortKey::policy(order, kind, Some(namespace).filter(|n| !n.is_empty()), name)
    };
    let (np, gnp) = (Kind::NetworkPolicy, Kind::GlobalNetworkPolicy);
    let sorted = [
        key(Some(f64::NEG_INFINITY), np, "z", "z"),
        key(Some(-1.0), np, "z", "z"),
        key(Some(0.5), np, "z", "z"),
        key(Some(10.0), gnp, "", "a"),
        key(Some(10.0), np, "ns", "a"),
        key(Some(10.0), np, "a", "b"),
        key(None, np, "a", "a"),
        key(Some(f64::NAN), np, "a", "b"),
    ];
    assert!(sorted.is_sorted());
    assert_eq!(key(Some(0.0), np, "a", "a"), key(Some(0.0), np, "a", "a"));
    assert!(key(Some(-0.0), np, "a", "b") > key(Some(0.0), np, "a", "a"));
    assert_eq!(sorted[4].to_string(), "10 a/ns/NetworkPolicy");
}

#[test]
fn tiers_sort_by_order() {
    let tier = |name: &str, order| Tier::new(Metadata::named(name), TierSpec { order, default_action: None });
    let early = tier("early", Some(5.0));
    let late = tier("late", None);
    let keys = [
        SortKey::tier("early", Some(&early)),
        SortKey::tier(KUBE_ADMIN_TIER, None),
        SortKey::tier(DEFAULT_TIER, None),
        SortKey::tier(KUBE_BASELINE_TIER, None),
        SortKey::tier("late", Some(&late)),
        SortKey::tier("missing", None),
    ];
    assert!(keys.is_sorted());
    assert_eq!(tier_default_action("early", Some(&early)), TierAction::Deny);
    assert_eq!(tier_default_action(KUBE_ADMIN_TIER, None), TierAction::Pass);
    assert_eq!(tier_default_action("missing", None), TierAction::Deny);
}
