use serde_json::json;

use crate::{Kind, Resource, yaml};

fn errors(text: &str) -> Vec<String> {
    yaml::parse("policies.yaml", text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_error_of_the_brief() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata:
  name: fine
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: p
  namespace: n
spec:
  ingress:
    - protocol: TCP
      action: Alow
";
    assert_eq!(
        errors(text),
        [
            "policies.yaml: document 2, line 14: spec.ingress[0].action: \"Alow\" is not one of Allow, Deny, Log, Pass"
        ]
    );
    let all = yaml::parse("policies.yaml", text).unwrap_err();
    assert_eq!((all[0].document, all[0].at.line, all[0].at.column), (2, 14, 15));
}

#[test]
fn validation_errors_know_their_line() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: My_Pool
  labels:
    example.org/site: a b
spec:
  cidr: 10.0.0.1/16
  ipipMode: Always
  vxlanMode: Always
";
    assert_eq!(
        errors(text),
        [
            "policies.yaml: document 1, line 4: metadata.name: \"My_Pool\" is not a DNS name: lower-case letters, digits, '-' and '.', at most 253",
            "policies.yaml: document 1, line 6: metadata.labels[example.org/site]: \"a b\" is not a label value: letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit",
            "policies.yaml: document 1, line 8: spec.cidr: 10.0.0.1/16 has host bits set: use 10.0.0.0/16",
            "policies.yaml: document 1, line 10: spec.vxlanMode: ipipMode and vxlanMode can't both be enabled",
        ]
    );
}

#[test]
fn every_broken_document_is_reported() {
    let good = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: a}\n";
    let text = format!(
        "---\n# only a comment\n---\n{good}---\n---\nkind: 3\n---\n- a\n---\n{good}spec: {{nets: x}}\n...\n"
    );
    assert_eq!(
        errors(&text),
        [
            "policies.yaml: document 2, line 9: apiVersion is missing: for Calico's kinds it is projectcalico.org/v3",
            "policies.yaml: document 3, line 11: not a resource: a mapping with apiVersion, kind, metadata and spec is expected",
            "policies.yaml: document 4, line 16: spec.nets: \"x\" found where a list is expected",
        ]
    );
}

#[test]
fn empty_files_and_documents_hold_nothing() {
    for text in ["", "\n", "---\n", "---\n---\n", "# comment\n", "\u{feff}# comment\n", "null\n"] {
        assert_eq!(yaml::parse("f", text), Ok(Vec::new()), "{text:?}");
    }
}

#[test]
fn lists_and_json() {
    let item = |name: &str| json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": name}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [item("a"), item("b")]}).to_string();
    let names = |text: &str| -> Vec<String> {
        yaml::parse("f", text).unwrap().iter().map(|r| r.value.metadata().name.clone()).collect()
    };
    assert_eq!(names(&list), ["a", "b"]);
    let typed = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSetList
metadata:
  resourceVersion: '1'
items:
- apiVersion: projectcalico.org/v3
  kind: GlobalNetworkSet
  metadata:
    name: c
    creationTimestamp: null
";
    assert_eq!(names(typed), ["c"]);
    assert_eq!(names("apiVersion: v1\nkind: List\nitems: []\n"), [""; 0]);
    let broken = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: Tier\n  metadata: {name: A}\n- {}\n";
    assert_eq!(
        errors(broken),
        [
            "policies.yaml: document 1, line 6: items[0].metadata.name: \"A\" is not a DNS label: lower-case letters, digits and '-', at most 63",
            "policies.yaml: document 1, line 7: items[1]: apiVersion is missing: for Calico's kinds it is projectcalico.org/v3",
        ]
    );
}

#[test]
fn kinds_that_are_not_read_get_a_sentence() {
    let message = |version: &str, kind: &str| {
        errors(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n")).remove(0)
    };
    for (version, kind, expected) in [
        (
            "v1",
            "ipPool",
            "line 2: kind: ipPool of apiVersion v1 is calicoctl's format from before Calico 3.0, which is not read: rewrite it as projectcalico.org/v3",
        ),
        (
            "projectcalico.org/v3",
            "IPool",
            "line 2: kind: \"IPool\" is not a kind of projectcalico.org/v3; did you mean IPPool?",
        ),
        (
            "projectcalico.org/v3",
            "Deployment",
            "line 2: kind: \"Deployment\" is not a kind of projectcalico.org/v3 known here; known: IPPool, ",
        ),
        (
            "extensions/v1beta1",
            "NetworkPolicy",
            "line 1: apiVersion: \"extensions/v1beta1\" has no NetworkPolicy: use projectcalico.org/v3 or networking.k8s.io/v1",
        ),
        (
            "apps/v1",
            "Deployment",
            "line 1: apiVersion: \"apps/v1\" is not known here; known: discovery.k8s.io/v1, networking.k8s.io/v1, policy.networking.k8s.io/v1alpha2, ",
        ),
        ("3", "IPPool", "line 1: apiVersion: a string is expected"),
    ] {
        let message = message(version, kind);
        assert!(message.contains(expected), "{message}");
    }
    // The storage group of Calico's CRDs is the same thing by another name.
    let text = "apiVersion: crd.projectcalico.org/v1\nkind: IPAMConfig\nmetadata: {name: default}\nspec: {strictAffinity: true}\n";
    assert_eq!(yaml::parse("f", text).unwrap()[0].value.kind(), Kind::IpamConfiguration);
}

#[test]
fn broken_yaml_names_the_place() {
    let head = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\n";
    for (text, place) in [
        (format!("{head}---\n{head}spec: {{order: 1\n"), "policies.yaml: document 2, line "),
        (format!("{head}spec:\n  order: 1\n  order: 2\n"), "policies.yaml: document 1, line 6: "),
        ("a: \t- b\n  - c: [\n".to_owned(), "policies.yaml: document 1, line "),
        ("a: *nowhere\n".to_owned(), "policies.yaml: document 1, line 1: "),
        ("\"\u{0}".to_owned(), "policies.yaml: "),
    ] {
        let all = errors(&text);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].starts_with(place), "{all:?}");
    }
    // A file that expands without bound is refused, not expanded.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let previous = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![previous; 9].join(", ")));
    }
    assert_eq!(errors(&bomb).len(), 1);
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(errors(&deep).len(), 1);
}

#[test]
fn whole_clusters_fit_in_one_file() {
    let one = |i: u32| {
        format!("---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: s{i}}}\n")
    };
    let text: String = (0..3000).map(one).collect();
    let resources = yaml::parse("f", &text).unwrap();
    assert_eq!(
        (resources.len(), resources[2999].document, resources[2999].at.line),
        (3000, 3000, 3000 * 4 - 2)
    );
    let nets: Vec<String> = (0..50_000_u32).map(|i| std::net::Ipv4Addr::from(i).to_string()).collect();
    let text = format!("{}spec: {{nets: [{}]}}\n", one(0), nets.join(", "));
    assert_eq!(yaml::parse("f", &text).unwrap().len(), 1);
}

#[test]
fn anchors_and_old_booleans() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: p, namespace: n}
spec:
  ingress:
    - &rule {action: Allow, protocol: TCP}
    - *rule
";
    let Resource::NetworkPolicy(policy) = yaml::parse("f", text).unwrap().remove(0).value else { panic!() };
    assert_eq!(policy.metadata.namespace.as_deref(), Some("n"));
    assert_eq!(policy.spec.ingress[0], policy.spec.ingress[1]);
    let text = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/16, natOutgoing: yes}\n";
    let Resource::IpPool(pool) = yaml::parse("f", text).unwrap().remove(0).value else { panic!() };
    assert!(pool.spec.nat_outgoing);
    let text = text.replace("yes", "maybe");
    assert_eq!(
        errors(&text),
        [
            "policies.yaml: document 1, line 4: spec.natOutgoing: \"maybe\" found where true or false is expected"
        ]
    );
}

#[test]
fn a_namespace_is_filled_in() {
    let text = "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: a}\n";
    assert_eq!(yaml::parse("f", text).unwrap()[0].value.key().to_string(), "NetworkSet(default/a)");
}

#[test]
fn written_yaml_reads_well() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: p
spec:
  order: 10
  selector: app == 'web'
";
    let json: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    assert_eq!(yaml::to_string(&Resource::from_json(&json).unwrap()).unwrap(), text);
}

#[test]
fn json_errors_name_the_field() {
    let error = |value: serde_json::Value| Resource::from_json(&value).unwrap_err().to_string();
    let base = |spec: serde_json::Value| json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "a"}, "spec": spec});
    assert_eq!(
        error(base(json!({"cidr": "10.0.0.0/33"}))),
        "spec.cidr: \"10.0.0.0/33\": not a network: use address/length, for example 10.1.0.0/16 or fd00::/48"
    );
    assert_eq!(
        error(base(json!({"cidr": "10.0.0.0/8", "blockSize": -1}))),
        "spec.blockSize: -1 is not a whole number from 0 to 255"
    );
    assert_eq!(error(json!({})), "apiVersion is missing: for Calico's kinds it is projectcalico.org/v3");
    let mut extra = base(json!({"cidr": "10.0.0.0/8"}));
    extra["specs"] = json!({});
    assert_eq!(error(extra), "specs: unknown field; did you mean spec?");
}

#[test]
fn kinds_are_found_by_every_name() {
    for kind in Kind::ALL {
        for name in kind.short_names().iter().copied().chain([kind.plural()]) {
            assert_eq!(Kind::parse(name), Some(*kind), "{name}");
        }
        assert_eq!(Kind::of(kind.api_version(), kind.kind()), Some(*kind));
    }
    assert_eq!(Kind::parse("NetworkPolicy"), Some(Kind::NetworkPolicy));
    assert_eq!(Kind::parse("networkpolicies.networking.k8s.io"), Some(Kind::KubernetesNetworkPolicy));
    assert_eq!(Kind::parse("KubernetesNetworkPolicy"), Some(Kind::KubernetesNetworkPolicy));
    assert_eq!(Kind::parse("networkpolicies.projectcalico.org"), Some(Kind::NetworkPolicy));
    assert_eq!(Kind::parse("GNP"), Some(Kind::GlobalNetworkPolicy));
    assert_eq!(Kind::parse("gnp.example.org"), None);
    assert_eq!(Kind::parse("potato"), None);
    let mut plurals: Vec<_> = Kind::ALL.iter().map(|k| k.plural()).collect();
    plurals.sort_unstable();
    plurals.dedup();
    assert_eq!(plurals.len(), Kind::ALL.len());
}

#[test]
fn kubernetes_metadata_may_grow() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, somethingNew: 1}\nmore: {}\n";
    assert_eq!(yaml::parse("f", text).unwrap()[0].value.key().to_string(), "Namespace(a)");
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, annotation: {}}\nspec: {}\n";
    assert_eq!(
        errors(text),
        ["policies.yaml: document 1, line 3: metadata.annotation: unknown field; did you mean annotations?"]
    );
}

proptest::proptest! {
    /// Whatever happens to a file, it is read or refused with a message; and what is read can be written and read again.
    #[test]
    fn mutilated_files_never_panic(
        cut in 0..12_000_usize,
        at in 0..12_000_usize,
        insert in "[ -~\n]{0,12}",
        remove in 0..40_usize,
    ) {
        let examples = include_str!("kinds/examples.yaml");
        let mut text: Vec<char> = examples.chars().take(cut).collect();
        let at = at.min(text.len());
        let end = (at + remove).min(text.len());
        text.splice(at..end, insert.chars());
        let text: String = text.into_iter().collect();
        match yaml::parse("f", &text) {
            Ok(resources) => {
                for resource in resources {
                    let json = resource.value.to_json();
                    proptest::prop_assert_eq!(&Resource::from_json(&json).unwrap(), &resource.value);
                }
            }
            Err(errors) => proptest::prop_assert!(!errors.is_empty() && errors.iter().all(|e| e.to_string().starts_with("f: "))),
        }
    }
}
