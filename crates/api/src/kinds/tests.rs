use serde_json::{Value, json};

use crate::{Kind, Resource, yaml};

/// One example of every kind, in the form of Calico's documentation.
const EXAMPLES: &str = include_str!("examples.yaml");

/// The documents as generic values, read without any of the types.
fn raw() -> Vec<Value> {
    serde_saphyr::from_multiple(EXAMPLES).unwrap()
}

#[test]
fn every_kind_has_an_example() {
    let kinds: Vec<Kind> =
        yaml::parse("examples.yaml", EXAMPLES).unwrap().iter().map(|r| r.value.kind()).collect();
    for kind in Kind::ALL {
        assert!(kinds.contains(kind), "{kind} has no example");
    }
}

#[test]
fn examples_come_back_as_written() {
    for document in raw() {
        let resource = Resource::from_json(&document).unwrap();
        assert_eq!(resource.to_json(), document);
        assert_eq!(Resource::from_json(&resource.to_json()).unwrap(), resource);
    }
}

#[test]
fn examples_survive_yaml() {
    for located in yaml::parse("examples.yaml", EXAMPLES).unwrap() {
        let text = yaml::to_string(&located.value).unwrap();
        let again = yaml::parse("again.yaml", &text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].value, located.value);
    }
}

#[test]
fn defaults_are_idempotent() {
    for document in raw() {
        let once = Resource::from_json(&document).unwrap().with_defaults();
        assert_eq!(once.clone().with_defaults(), once);
    }
}

#[test]
fn server_side_fields_are_tolerated() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "managedFields": [{"manager": "kubelet"}], "creationTimestamp": null},
        "spec": {"nodeName": "n", "volumes": [], "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": []},
    });
    let Resource::Pod(pod) = Resource::from_json(&pod).unwrap() else { panic!("not a pod") };
    assert_eq!(pod.spec.node_name.as_deref(), Some("n"));
    assert_eq!(pod.status.pod_ips[0].ip.to_string(), "10.0.0.1");
}
