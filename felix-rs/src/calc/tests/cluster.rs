//! ClusterNetworkPolicy, by the words of its API (`apis/v1alpha2/clusternetworkpolicy_types.go` of network-policy-api).

use margay_api::{Key, Kind};
use serde_json::json;

use super::{BOT, Cluster, DB, PODS, WEB, packet};
use crate::verdict::{Verdict, explain};

fn policy(name: &str, tier: &str, priority: u16, rest: &str) -> String {
    format!(
        "
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: {name}}}
spec:
  tier: {tier}
  priority: {priority}
  {rest}
"
    )
}

/// Subject: the namespace of web and db.
fn shop(tier: &str, priority: u16, rules: &str) -> String {
    let subject = "subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}";
    policy(&format!("p{priority}"), tier, priority, &format!("{subject}\n  {rules}"))
}

const ALLOW_CRAWL: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-crawl, namespace: shop}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: crawl}}}]}]}
";

#[test]
fn admin_and_baseline_by_the_book() {
    let from = |action: &str, namespaces: &str| {
        format!("ingress: [{{action: {action}, from: [{{namespaces: {namespaces}}}]}}]")
    };
    let crawl = "{matchLabels: {kubernetes.io/metadata.name: crawl}}";
    let (allow, deny) = (Verdict::Allow, Verdict::Deny);
    // What is there, and the verdicts from another namespace and from the same one.
    for (what, objects, expected) in [
        ("nothing decides: pods can talk", shop("Admin", 1, "egress: []"), [allow, allow]),
        ("Admin denies", shop("Admin", 1, &from("Deny", crawl)), [deny, allow]),
        (
            "Admin wins over NetworkPolicy: Deny",
            shop("Admin", 1, &from("Deny", crawl)) + ALLOW_CRAWL,
            [deny, deny],
        ),
        (
            "Admin wins over NetworkPolicy: Accept",
            shop("Admin", 1, &from("Accept", "{}")) + ALLOW_CRAWL,
            [allow, allow],
        ),
        (
            "lower priority values go first",
            shop("Admin", 2, &from("Deny", "{}")) + &shop("Admin", 1, &from("Accept", crawl)),
            [allow, deny],
        ),
        (
            "Pass skips the rest of the tier",
            shop("Admin", 1, &from("Pass", crawl)) + &shop("Admin", 2, &from("Deny", "{}")) + ALLOW_CRAWL,
            [allow, deny],
        ),
        ("Baseline decides what is not selected", shop("Baseline", 1, &from("Deny", "{}")), [deny, deny]),
        (
            "NetworkPolicy overrides Baseline",
            shop("Baseline", 1, &from("Deny", "{}")) + ALLOW_CRAWL,
            [allow, deny],
        ),
        (
            "Admin passes, no NetworkPolicy, Baseline denies",
            shop("Admin", 1, &from("Pass", "{}"))
                + &shop("Baseline", 1, &from("Deny", crawl)).replace("p1", "base"),
            [deny, allow],
        ),
        (
            "no ingress rules: ingress is not governed",
            shop("Admin", 1, "egress: [{action: Deny, to: [{namespaces: {}}]}]").replace("shop", "crawl"),
            [deny, allow],
        ),
        (
            "rules in the order written",
            shop(
                "Admin",
                1,
                &format!(
                    "ingress: [{{action: Accept, from: [{{namespaces: {crawl}}}]}}, {{action: Deny, from: [{{namespaces: {{}}}}]}}]"
                ),
            ),
            [allow, deny],
        ),
    ] {
        let cluster = Cluster::of(&format!("{PODS}{objects}"));
        assert_eq!([cluster.verdict(BOT, DB, 80), cluster.verdict(WEB, DB, 80)], expected, "{what}");
        assert!(cluster.calculator.problems().is_empty(), "{what}: {:?}", cluster.calculator.problems());
    }
}

#[test]
fn peers_and_ports() {
    let node = "
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n9, labels: {role: control}}
spec: {addresses: [{address: 192.0.2.9}]}
";
    // An egress rule of web, and what of 192.0.2.9:6443, db:5432 and bot:80 it denies.
    for (rule, expected) in [
        ("to: [{nodes: {matchLabels: {role: control}}}]", [true, false, false]),
        ("to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 443}}}]", [false; 3]),
        ("to: [{nodes: {matchLabels: {role: worker}}}]", [false; 3]),
        ("to: [{networks: [192.0.2.0/24, 10.0.0.3/32]}]", [true, false, true]),
        (
            "to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}]",
            [false, true, false],
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 5432}}}}]",
            [false, true, true],
        ),
        (
            "to: [{namespaces: {}}], protocols: [{udp: {}}, {tcp: {destinationPort: {number: 80}}}]",
            [false, false, true],
        ),
        ("to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]", [false; 3]),
        (
            "to: [{networks: [192.0.2.9/32]}, {namespaces: {matchLabels: {kubernetes.io/metadata.name: crawl}}}]",
            [true, false, true],
        ),
    ] {
        let subject = "subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}, podSelector: {matchLabels: {app: web}}}}";
        let rules = format!("{subject}\n  egress: [{{action: Deny, name: the-rule, {rule}}}]");
        let cluster = Cluster::of(&format!("{PODS}{node}{}", policy("p", "Admin", 0, &rules)));
        let denied = [("192.0.2.9", 6443), (DB, 5432), (BOT, 80)].map(|(to, port)| {
            let explanation = explain(&cluster.state, &packet(WEB, to, port));
            let denied = explanation.verdict == Verdict::Deny;
            assert_eq!(
                denied,
                explanation
                    .to_string()
                    .contains("by rule 0 \"the-rule\" of ClusterNetworkPolicy p (tier kube-admin)")
            );
            denied
        });
        assert_eq!(denied, expected, "{rule}");
        assert!(cluster.calculator.problems().is_empty());
    }
    let named =
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]";
    let cluster = Cluster::of(&format!("{PODS}{}", shop("Admin", 0, named)));
    assert_eq!(cluster.verdict(BOT, WEB, 8080), Verdict::Deny, "the port called http");
    assert_eq!(cluster.verdict(BOT, WEB, 80), Verdict::Allow);
    assert_eq!(cluster.verdict(BOT, DB, 8080), Verdict::Allow, "db has no such port");
}

#[test]
fn nodes_come_and_go() {
    let rules = "egress: [{action: Deny, to: [{nodes: {matchLabels: {role: control}}}]}]";
    let mut cluster = Cluster::of(&format!("{PODS}{}", shop("Admin", 0, rules)));
    let node = |role: &str, address: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: n9, labels: {{role: {role}}}}}\nspec: {{addresses: [{{address: {address}}}]}}\n"
        )
    };
    for (role, address, expected) in [
        ("control", "192.0.2.9", Verdict::Deny),
        ("worker", "192.0.2.9", Verdict::Allow),
        ("control", "192.0.2.8", Verdict::Allow),
        ("control", "192.0.2.9", Verdict::Deny),
    ] {
        cluster.apply(&node(role, address));
        assert_eq!(cluster.verdict(WEB, "192.0.2.9", 1), expected, "{role} {address}");
    }
    cluster.delete(&Key::cluster(Kind::Node, "n9"));
    assert_eq!(cluster.verdict(WEB, "192.0.2.9", 1), Verdict::Allow);
}

/// "If an implementation sees no fields are set [...] it should fail closed": such an object comes from a newer API.
#[test]
fn what_is_not_understood_fails_closed() {
    let spec = |action: &str| {
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"},
            "spec": {
                "tier": "Admin", "priority": 5,
                "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
                "egress": [
                    {"action": action, "to": [{"domainNames": ["example.org"]}]},
                    {"action": "Accept", "to": [{"namespaces": {}}]},
                ],
            },
        })
    };
    for (action, expected, instead) in [
        ("Accept", Verdict::Allow, "is left out"),
        ("Deny", Verdict::Deny, "denies everything"),
        ("Pass", Verdict::Deny, "denies everything"),
    ] {
        let mut cluster = Cluster::of(PODS);
        let resource = margay_api::Resource::from_json(&spec(action)).unwrap();
        assert!(resource.validate().is_err(), "nobody can write it here");
        cluster.calculator.update(&resource.key(), Some(&resource));
        cluster.flush();
        assert_eq!(cluster.verdict(WEB, BOT, 80), expected, "{action}");
        assert_eq!(cluster.verdict(BOT, WEB, 80), Verdict::Allow, "ingress is not governed");
        let problems = cluster.calculator.problems();
        assert_eq!(
            problems[0].reason,
            format!("spec.egress[0] {instead}: peers by domainNames are not supported")
        );
    }
    // A whole policy that cannot be read closes what it governs, and nothing else.
    let mut cluster = Cluster::of(PODS);
    let mut raw = spec("Perhaps");
    let key = Key::cluster(Kind::ClusterNetworkPolicy, "p");
    cluster.calculator.update_unreadable(&key, "spec.egress[0].action: Perhaps", Some(&raw));
    cluster.flush();
    assert_eq!(cluster.verdict(WEB, BOT, 80), Verdict::Deny);
    assert_eq!(cluster.verdict(BOT, WEB, 80), Verdict::Allow);
    raw["spec"]["subject"] = json!({"serviceAccounts": {}});
    cluster.calculator.update_unreadable(&key, "spec.subject", Some(&raw));
    cluster.flush();
    assert_eq!(cluster.verdict(BOT, "192.0.2.1", 80), Verdict::Deny, "whom it means is not known: everybody");
}
