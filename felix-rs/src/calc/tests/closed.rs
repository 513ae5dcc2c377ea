//! What cannot be read, or is missing, fails closed.

use margay_api::{Key, Kind};

use super::{BOT, Cluster, DB, PODS, WEB, packet};
use crate::verdict::{Verdict, explain};

#[test]
fn unreadable_policies_deny_what_they_govern() {
    let mut cluster = Cluster::of(PODS);
    let key = Key::namespaced(Kind::NetworkPolicy, "shop", "db");
    let raw = serde_json::json!({"spec": {"selector": "app == 'db'", "types": ["Ingress"], "ingress": [{"action": "Maybe"}]}});
    cluster.calculator.update_unreadable(&key, "spec.ingress[0].action: Maybe", Some(&raw));
    cluster.flush();
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Deny);
    assert_eq!(cluster.verdict(DB, WEB, 1), Verdict::Allow);
    assert!(explain(&cluster.state, &packet(WEB, DB, 1)).to_string().contains("is quarantined"));
    // Nothing readable: the whole namespace, and no other.
    cluster.calculator.update_unreadable(&key, "not JSON", None);
    cluster.flush();
    assert_eq!(cluster.verdict(DB, WEB, 1), Verdict::Deny);
    assert_eq!(cluster.verdict(BOT, BOT, 1), Verdict::Allow);
    assert_eq!(cluster.verdict(BOT, "192.0.2.1", 1), Verdict::Allow);
    assert_eq!(cluster.calculator.problems().len(), 1);
    cluster.delete(&key);
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Allow);
    assert!(cluster.calculator.problems().is_empty());
}

#[test]
fn an_unreadable_network_set_names_the_policies_it_weakens() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: block}
spec: {selector: app == 'web', ingress: [{action: Deny, source: {selector: list == 'bad'}}, {action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: other}
spec: {selector: app == 'web', egress: [{action: Allow}]}
",
    );
    let key = Key::cluster(Kind::GlobalNetworkSet, "bad");
    let raw = serde_json::json!({
        "metadata": {"labels": {"list": "bad"}}, "spec": {"nets": ["192.0.2.0/24", "198.51.100.0/33"]},
    });
    cluster.calculator.update_unreadable(&key, "spec.nets[1]: not a network", Some(&raw));
    cluster.flush();
    assert_eq!(cluster.verdict("192.0.2.1", WEB, 80), Verdict::Deny, "what can be read counts");
    let problems: Vec<String> =
        cluster.calculator.problems().into_iter().map(|problem| problem.reason).collect();
    assert_eq!(
        problems,
        [
            "spec.nets[1]: not a network; these use it and match only the networks that can be read: GlobalNetworkPolicy(block)"
        ]
    );
    cluster.calculator.update_unreadable(&key, "not JSON", None);
    cluster.flush();
    assert_eq!(cluster.calculator.problems()[0].reason, "not JSON");
}

#[test]
fn unreadable_or_missing_profiles_deny() {
    let mut cluster = Cluster::of(PODS);
    cluster.calculator.update_unreadable(&Key::cluster(Kind::Namespace, "crawl"), "bad", None);
    cluster.flush();
    assert_eq!(cluster.verdict(WEB, BOT, 1), Verdict::Deny);
    assert_eq!(cluster.verdict(WEB, DB, 1), Verdict::Allow);
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: crawl}}");
    assert_eq!(cluster.verdict(WEB, BOT, 1), Verdict::Allow);
    cluster.apply(&PODS.replace("kns.crawl", "own"));
    assert_eq!(cluster.verdict(WEB, BOT, 1), Verdict::Deny);
    assert_eq!(cluster.calculator.problems()[0].object, Key::cluster(Kind::Profile, "own").to_string());
    cluster.apply(
        "{apiVersion: projectcalico.org/v3, kind: Profile, metadata: {name: own}, spec: {ingress: [{action: Allow}]}}",
    );
    assert_eq!(cluster.verdict(WEB, BOT, 1), Verdict::Allow);
}
