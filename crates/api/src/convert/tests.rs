use serde_json::json;

use super::*;
use crate::{
    KubernetesNetworkPolicy, Namespace, Pod, Resource, ServiceAccount, StagedKubernetesNetworkPolicy,
    kinds::{Action, PolicyType, Rule},
};

fn policy(spec: serde_json::Value) -> KubernetesNetworkPolicy {
    let json = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
    match Resource::from_json(&json).unwrap() {
        Resource::KubernetesNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// The rules in short: protocol, selectors and networks of the peer, ports.
fn short(rules: &[Rule], peer: fn(&Rule) -> &crate::kinds::EntityRule) -> Vec<String> {
    let line = |rule: &Rule| {
        let end = peer(rule);
        let mut words = vec![rule.action.to_string()];
        words.extend(rule.protocol.map(|p| p.to_string()));
        words.extend(end.selector.as_ref().map(|s| format!("pods {s}")));
        words.extend(end.namespace_selector.as_ref().map(|s| format!("namespaces {s}")));
        words.extend(end.nets.iter().map(|n| format!("net {n}")));
        words.extend(end.not_nets.iter().map(|n| format!("not {n}")));
        words.extend(rule.destination.ports.iter().map(|p| format!("port {p}")));
        words.join(", ")
    };
    rules.iter().map(line).collect()
}

#[test]
fn a_whole_policy() {
    let converted = kubernetes_policy(&policy(json!({
        "podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Egress", "Ingress"],
        "ingress": [
            {"from": [
                {"podSelector": {"matchLabels": {"app": "web"}}},
                {"namespaceSelector": {}},
                {"namespaceSelector": {"matchLabels": {"env": "prod"}}, "podSelector": {"matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ], "ports": [
                {"port": 81}, {"port": 80, "protocol": "TCP"}, {"port": "http"}, {"port": 8080, "endPort": 8090}, {"port": 8085},
                {"port": 53, "protocol": "UDP"},
            ]},
            {},
        ],
        "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "SCTP"}, {"protocol": "SCTP", "port": 9}]}],
    })));
    assert_eq!(converted.origin.to_string(), "KubernetesNetworkPolicy(ns/p)");
    assert_eq!(converted.dropped, []);
    let result = &converted.policy;
    assert_eq!(result.key().to_string(), "NetworkPolicy(ns/knp.default.p)");
    assert_eq!(result.metadata.uid.as_deref(), Some("u"));
    assert_eq!(result.spec.tier.as_deref(), Some("default"));
    assert_eq!(result.spec.order, Some(1000.0));
    assert_eq!(
        result.spec.selector.as_ref().unwrap().to_string(),
        "(projectcalico.org/orchestrator == \"k8s\" && app == \"db\")"
    );
    assert_eq!(result.spec.types, [PolicyType::Ingress, PolicyType::Egress]);
    let k8s = "projectcalico.org/orchestrator == \"k8s\"";
    let peers = [
        format!("pods ({k8s} && app == \"web\")"),
        format!("pods {k8s}, namespaces all()"),
        format!("pods ({k8s} && !has(old)), namespaces env == \"prod\""),
        "net 10.0.0.0/8, not 10.1.0.0/16".to_owned(),
    ];
    let mut expected: Vec<String> = Vec::new();
    for ports in [("TCP", "port http, port 80:81, port 8080:8090"), ("UDP", "port 53")] {
        expected.extend(peers.iter().map(|peer| format!("Allow, {}, {peer}, {}", ports.0, ports.1)));
    }
    expected.push("Allow".to_owned());
    assert_eq!(short(&result.spec.ingress, |rule| &rule.source), expected);
    assert_eq!(short(&result.spec.egress, |rule| &rule.destination), ["Allow, SCTP, net 0.0.0.0/0"]);
    assert_eq!(converted.ingress_origins.len(), 9);
    assert_eq!(converted.ingress_origins[5], "spec.ingress[0].from[1]");
    assert_eq!(converted.ingress_origins[8], "spec.ingress[1]");
    assert_eq!(converted.egress_origins, ["spec.egress[0].to[0]"]);
    // What was converted is a valid Calico policy.
    result.validate().unwrap();
}

#[test]
fn directions_follow_kubernetes() {
    let types = |spec| kubernetes_policy(&policy(spec)).policy.spec.types;
    assert_eq!(types(json!({"podSelector": {}})), [PolicyType::Ingress]);
    assert_eq!(types(json!({"podSelector": {}, "egress": [{}]})), [PolicyType::Ingress, PolicyType::Egress]);
    assert_eq!(types(json!({"podSelector": {}, "policyTypes": ["Egress"]})), [PolicyType::Egress]);
    let all = kubernetes_policy(&policy(json!({"podSelector": {}})));
    assert_eq!(all.policy.spec.selector.unwrap().to_string(), "projectcalico.org/orchestrator == \"k8s\"");
}

#[test]
fn senseless_rules_are_left_out() {
    for (rule, reason) in [
        (json!({"from": [{}]}), "selects nothing"),
        (json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}), "can't be combined"),
        (json!({"ports": [{"protocol": "ICMP"}]}), "protocol ICMP is not TCP"),
        (json!({"ports": [{"port": "http", "endPort": 3}]}), "endPort 3 needs a port number"),
        (json!({"ports": [{"port": 4, "endPort": 3}]}), "endPort 3 needs a port number"),
        (json!({"ports": [{"endPort": 3}]}), "not nothing"),
    ] {
        let converted = kubernetes_policy(&policy(json!({"podSelector": {}, "ingress": [rule, {}]})));
        assert_eq!(converted.policy.spec.ingress.len(), 1);
        assert_eq!(converted.ingress_origins, ["spec.ingress[1]"]);
        assert_eq!(converted.dropped.len(), 1);
        assert_eq!(converted.dropped[0].path, "spec.ingress[0]");
        assert!(converted.dropped[0].reason.contains(reason), "{:?}", converted.dropped);
        // Even with every rule gone, the pods stay isolated.
        assert_eq!(converted.policy.spec.types, [PolicyType::Ingress]);
    }
}

#[test]
fn staged_policies_convert_alike() {
    let json = json!({"apiVersion": "projectcalico.org/v3", "kind": "StagedKubernetesNetworkPolicy", "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{}]}});
    let Resource::StagedKubernetesNetworkPolicy(staged) = Resource::from_json(&json).unwrap() else {
        panic!()
    };
    let staged: StagedKubernetesNetworkPolicy = staged;
    let converted = staged_kubernetes_policy(&staged);
    assert_eq!(converted.origin.to_string(), "StagedKubernetesNetworkPolicy(ns/p)");
    assert_eq!(converted.policy.spec.ingress.len(), 1);
}

#[test]
fn profiles() {
    let json = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod", "labels": {"env": "p", "projectcalico.org/name": "forged"}}});
    let Resource::Namespace(namespace) = Resource::from_json(&json).unwrap() else { panic!() };
    let namespace: Namespace = namespace;
    let profile = namespace_profile(&namespace);
    assert_eq!(profile.metadata.name, "kns.prod");
    assert_eq!(profile.spec.labels_to_apply["pcns.env"], "p");
    assert_eq!(profile.spec.labels_to_apply["pcns.projectcalico.org/name"], "prod");
    assert_eq!((profile.spec.ingress.len(), profile.spec.egress.len()), (1, 1));

    let json = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "prod", "labels": {"team": "a"}}, "secrets": []});
    let Resource::ServiceAccount(account) = Resource::from_json(&json).unwrap() else { panic!() };
    let account: ServiceAccount = account;
    let profile = service_account_profile(&account);
    assert_eq!(profile.metadata.name, "ksa.prod.web");
    assert_eq!(profile.spec.labels_to_apply["pcsa.team"], "a");
    assert_eq!(profile.spec.labels_to_apply["pcsa.projectcalico.org/name"], "web");
    assert_eq!((profile.spec.ingress.len(), profile.spec.egress.len()), (0, 0));
    default_allow_profile().validate().unwrap();
}

fn pod(change: impl FnOnce(&mut serde_json::Value)) -> Pod {
    let mut json = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "prod", "labels": {"app": "web", "projectcalico.org/serviceaccount": "forged"}},
        "spec": {"nodeName": "node-1", "serviceAccountName": "web",
            "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}, {"containerPort": 53, "protocol": "UDP", "hostPort": 5353, "hostIP": ""}]}],
            "initContainers": [{"name": "i", "ports": [{"name": "gone", "containerPort": 1}]}, {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    });
    change(&mut json);
    match Resource::from_json(&json).unwrap() {
        Resource::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pods_become_endpoints() {
    let endpoint = pod_endpoint(&pod(|_| {}), "mgy0123").unwrap();
    assert_eq!(endpoint.key().to_string(), "WorkloadEndpoint(prod/node--1-k8s-web--1-eth0)");
    assert_eq!(endpoint.metadata.labels["app"], "web");
    assert_eq!(endpoint.metadata.labels[LABEL_NAMESPACE], "prod");
    assert_eq!(endpoint.metadata.labels[LABEL_ORCHESTRATOR], "k8s");
    assert_eq!(endpoint.metadata.labels[LABEL_SERVICE_ACCOUNT], "web");
    let networks: Vec<String> = endpoint.spec.ip_networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.1/32", "fd00::1/128"]);
    assert_eq!(endpoint.spec.profiles, ["kns.prod", "ksa.prod.web"]);
    let ports: Vec<String> = endpoint
        .spec
        .ports
        .iter()
        .map(|p| format!("{}/{}/{}/{:?}", p.name, p.protocol, p.port, p.host_port))
        .collect();
    assert_eq!(ports, ["http/TCP/80/None", "/UDP/53/Some(5353)", "side/TCP/2/None"]);
    endpoint.validate().unwrap();
}

#[test]
fn pods_without_endpoint() {
    assert_eq!(pod_endpoint(&pod(|p| p["spec"]["hostNetwork"] = json!(true)), "a"), None);
    assert_eq!(pod_endpoint(&pod(|p| p["spec"]["nodeName"] = json!("")), "a"), None);
    let finished = pod(|p| p["status"]["phase"] = json!("Succeeded"));
    assert!(pod_is_finished(&finished));
    assert_eq!(pod_endpoint(&finished, "a").unwrap().spec.ip_networks, []);
    let nameless = pod(|p| p["spec"]["serviceAccountName"] = json!(null));
    assert_eq!(pod_labels(&nameless)[LABEL_SERVICE_ACCOUNT], "default");
    let long = pod(|p| p["spec"]["serviceAccountName"] = json!("a".repeat(63)));
    assert_eq!(pod_labels(&long).get(LABEL_SERVICE_ACCOUNT), None);
}

fn cluster(spec: serde_json::Value) -> crate::ClusterNetworkPolicy {
    let json = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec});
    match Resource::from_json(&json).unwrap() {
        Resource::ClusterNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_cluster_policy() {
    let policy = cluster(json!({
        "tier": "Baseline", "priority": 7, "subject": {"namespaces": {"matchLabels": {"env": "prod"}}},
        "ingress": [{
            "name": "web", "action": "Accept",
            "from": [{"namespaces": {}}, {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}}],
            "protocols": [
                {"udp": {"destinationPort": {"number": 53}}}, {"tcp": {"destinationPort": {"number": 81}}},
                {"tcp": {"destinationPort": {"range": {"start": 79, "end": 80}}}}, {"destinationNamedPort": "http"},
            ],
        }],
        "egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {"matchLabels": {"a": "b"}}}]}],
    }));
    policy.validate().unwrap();
    let converted = cluster_policy(&policy);
    assert_eq!(converted.dropped, []);
    let result = &converted.policy;
    assert_eq!(converted.origin.to_string(), "ClusterNetworkPolicy(p)");
    assert_eq!(result.key().to_string(), "GlobalNetworkPolicy(p)");
    assert_eq!((result.spec.tier.as_deref(), result.spec.order), (Some("kube-baseline"), Some(7.0)));
    let k8s = "projectcalico.org/orchestrator == \"k8s\"";
    assert_eq!(result.spec.selector.as_ref().unwrap().to_string(), k8s);
    assert_eq!(result.spec.namespace_selector.as_ref().unwrap().to_string(), "env == \"prod\"");
    let all = format!("pods {k8s}, namespaces all()");
    let web = format!("pods ({k8s} && app == \"web\"), namespaces all()");
    let expected: Vec<String> =
        [("TCP", "port http, port 79:81"), ("UDP", "port http, port 53"), ("SCTP", "port http")]
            .iter()
            .flat_map(|(protocol, ports)| {
                [&all, &web].map(|peer| format!("Allow, {protocol}, {peer}, {ports}"))
            })
            .collect();
    assert_eq!(short(&result.spec.ingress, |rule| &rule.source), expected);
    assert_eq!(converted.ingress_origins[3], "spec.ingress[0].from[1]");
    assert_eq!(result.spec.ingress[0].metadata.as_ref().unwrap().annotations[RULE_NAME], "web");
    assert_eq!(short(&result.spec.egress, |rule| &rule.destination), ["Deny, net 10.0.0.0/8", "Deny"]);
    assert_eq!(converted.egress_nodes[&1].to_string(), "a == \"b\"");
}

#[test]
fn senseless_cluster_rules_allow_less() {
    for (rest, reason) in [
        (json!({"from": []}), "without peers"),
        (json!({"from": [{}]}), "exactly one of namespaces and pods"),
        (json!({"from": [{"nodes": {}}]}), "exactly one of namespaces and pods"),
        (json!({"from": [{"namespaces": {}, "pods": {}}]}), "exactly one of namespaces and pods"),
        (json!({"from": [{"tenants": {}}]}), "peers by tenants are not supported"),
        (json!({"from": [{"namespaces": {}}], "protocols": [{}]}), "exactly one of tcp"),
        (json!({"from": [{"namespaces": {}}], "protocols": [{"http": {}}]}), "matching by http"),
        (
            json!({"from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]}),
            "0 is not a port",
        ),
        (
            json!({"from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"range": {"start": 2, "end": 2}}}}]}),
            "2 is not below 2",
        ),
    ] {
        for (action, stands) in [("Accept", None), ("Deny", Some(Action::Deny)), ("Pass", Some(Action::Deny))]
        {
            let mut rule = rest.clone();
            rule["action"] = action.into();
            let spec =
                json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "ingress": [rule]});
            let policy = cluster(spec);
            assert!(policy.validate().is_err(), "{rest}");
            let converted = cluster_policy(&policy);
            assert!(converted.dropped[0].reason.contains(reason), "{:?}", converted.dropped);
            let rules: Vec<Action> = converted.policy.spec.ingress.iter().map(|rule| rule.action).collect();
            assert_eq!(rules, Vec::from_iter(stands), "{rest}");
            assert_eq!(converted.policy.spec.types, [PolicyType::Ingress]);
        }
    }
}
