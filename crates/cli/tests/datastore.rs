//! The real binary on an embedded datastore of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Lab;

const POOL: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: default
spec:
  cidr: 10.65.0.0/16
  blockSize: 24
  vxlanMode: CrossSubnet
";

const POLICIES: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    destination: {ports: [80]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
";

#[test]
fn apply_get_delete_round_trip() {
    let lab = Lab::new("round-trip");
    let pool = lab.file("pool.yaml", POOL);
    let policies = lab.file("policies.yaml", POLICIES);
    assert_eq!(lab.ok(&["apply", "-f", &pool]), "ippool/default created\n");
    assert_eq!(lab.ok(&["apply", "-f", &pool]), "ippool/default unchanged\n");
    assert_eq!(
        lab.ok(&["apply", "-f", &policies]),
        "networkpolicy/shop/web created\nkubernetesnetworkpolicy/shop/web created\n"
    );
    let disabled = lab.file("pool.yaml", &format!("{POOL}  disabled: true\n"));
    assert_eq!(lab.ok(&["apply", "-f", &disabled]), "ippool/default configured\n");

    let table = lab.ok(&["get", "ippool"]);
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("NAME     CIDR          BLOCK"), "{table}");
    assert!(lines.next().unwrap().starts_with("default  10.65.0.0/16  24"), "{table}");
    assert!(lab.ok(&["get", "pools", "-o", "wide"]).contains("DISABLEBGPEXPORT"));
    assert!(lab.ok(&["get", "np", "-n", "shop"]).contains("app == 'web'"));
    assert!(lab.ok(&["get", "knp", "-A"]).contains("shop"));
    assert_eq!(lab.ok(&["get", "np"]), "No networkpolicies found.\n", "namespace default");

    let json: serde_json::Value =
        serde_json::from_str(&lab.ok(&["get", "ippool", "default", "-o", "json"])).unwrap();
    assert_eq!(json["spec"]["disabled"], true);
    let list: serde_json::Value = serde_json::from_str(&lab.ok(&["get", "ippool", "-o", "json"])).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]), (&"IPPoolList".into(), &json));

    // What get writes, apply takes: nothing changes.
    let yaml = lab.ok(&["get", "ippool,np,knp", "-A", "-o", "yaml"]);
    let again = lab.file("again.yaml", &yaml);
    let applied = lab.ok(&["apply", "-f", &again]);
    assert_eq!(applied.lines().filter(|l| l.ends_with("unchanged")).count(), 3, "{applied}\n{yaml}");
    let list = lab.file("list.json", &list.to_string());
    assert_eq!(lab.ok(&["apply", "-f", &list]), "ippool/default unchanged\n");

    assert_eq!(lab.ok(&["delete", "ippool", "default"]), "IPPool(default) deleted\n");
    assert!(lab.fails(&["delete", "ippool", "default"]).contains("IPPool(default) does not exist"));
    assert_eq!(lab.ok(&["delete", "ippool", "default", "--ignore-not-found"]), "");
    assert!(lab.ok(&["delete", "-f", &policies]).contains("NetworkPolicy(shop/web) deleted"));
    assert!(
        lab.fails(&["get", "np", "web", "-n", "shop"]).contains("NetworkPolicy(shop/web) does not exist")
    );
}

#[test]
fn create_wants_nothing_there_and_replace_wants_something() {
    let lab = Lab::new("create");
    let pool = lab.file("pool.yaml", POOL);
    assert!(lab.fails(&["replace", "-f", &pool]).contains("IPPool(default) does not exist"));
    assert_eq!(lab.ok(&["create", "-f", &pool]), "ippool/default created\n");
    assert!(lab.fails(&["create", "-f", &pool]).contains("IPPool(default) already exists"));
    assert_eq!(lab.ok(&["replace", "-f", &pool]), "ippool/default unchanged\n");
}

#[test]
fn mistakes_name_file_document_line_and_field_and_nothing_is_written() {
    let lab = Lab::new("mistakes");
    let text = format!("{POOL}---\n{}", POLICIES.replace("action: Allow", "action: Alow"));
    let file = lab.file("bad.yaml", &text);
    let error = lab.fails(&["apply", "-f", &file]);
    let line = 1 + text.lines().position(|l| l.contains("Alow")).unwrap();
    let place = format!("bad.yaml: document 2, line {line}: spec.ingress[0].action: ");
    assert!(error.contains(&place), "{place:?} in {error}");
    assert!(error.contains("Allow, Deny") && error.contains("nothing was written"), "{error}");
    let other = lab.file("other.yaml", &POOL.replace("vxlanMode", "vxlanMod"));
    let error = lab.fails(&["apply", "-f", &other]);
    assert!(error.contains("other.yaml: document 1, line 9") && error.contains("vxlanMod"), "{error}");
    let broken = lab.file("broken.yaml", "kind: [IPPool\n");
    assert!(lab.fails(&["apply", "-f", &broken]).contains("broken.yaml"));
    assert!(lab.fails(&["apply", "-f", "/nonexistent.yaml"]).contains("cannot read /nonexistent.yaml"));
    assert!(lab.fails(&["get", "ippool"]).contains("there is no datastore"), "nothing was made");
}

#[test]
fn overlapping_pools_are_refused() {
    let lab = Lab::new("overlap");
    let pool = lab.file("pool.yaml", POOL);
    lab.ok(&["apply", "-f", &pool]);
    let second = POOL.replace("name: default", "name: second").replace("10.65.0.0/16", "10.65.128.0/17");
    let second = lab.file("second.yaml", &second);
    let error = lab.fails(&["apply", "-f", &second]);
    let says = "spec.cidr: 10.65.128.0/17 of IPPool(second) overlaps 10.65.0.0/16 of IPPool(default)";
    assert!(error.contains(says), "{error}");
    assert_eq!(lab.ok(&["get", "ippool"]).lines().count(), 2, "head and the first pool");
}

#[test]
fn a_pool_in_use_is_not_deleted() {
    let lab = Lab::new("in-use");
    let block = "
apiVersion: projectcalico.org/v3
kind: IPAMBlock
metadata: {name: 10-65-1-0-30}
spec:
  cidr: 10.65.1.0/30
  affinity: host:n1
  strictAffinity: true
  allocations: [0, null, null, null]
  attributes: [{handle_id: margay.c1.eth0}]
  unallocated: [1, 2, 3]
";
    let pool = lab.file("pool.yaml", &POOL.replace("blockSize: 24", "blockSize: 30"));
    let block = lab.file("block.yaml", block);
    lab.ok(&["apply", "-f", &pool, "-f", &block]);
    let error = lab.fails(&["delete", "ippool", "default"]);
    assert!(error.contains("1 of its addresses are in use"), "{error}");
    lab.ok(&["delete", "ippool", "default", "--force"]);
}

#[test]
fn folders_and_standard_input() {
    let lab = Lab::new("folders");
    std::fs::create_dir_all(lab.dir.join("all/more")).unwrap();
    lab.file("all/10-pool.yaml", POOL);
    lab.file("all/more/20-policies.yml", POLICIES);
    lab.file("all/notes.txt", "not: [yaml");
    let folder = lab.dir.join("all").display().to_string();
    assert_eq!(lab.ok(&["apply", "-f", &folder]), "ippool/default created\n");
    assert_eq!(lab.ok(&["apply", "-R", "-f", &folder]).lines().count(), 3);
    let (status, out, _) = lab.run(&["apply", "-f", "-"], Some(POOL), &[]);
    assert_eq!((status, out.as_str()), (Some(0), "ippool/default unchanged\n"));
    let (status, _, error) = lab.run(&["apply", "-f", "-"], Some("kind: Gizmo\n"), &[]);
    assert!(status == Some(1) && error.contains("standard input: document 1"), "{error}");
    assert_eq!(
        lab.ok(&["apply", "--dry-run", "-f", &folder]),
        "ippool/default is right (nothing was written)\n"
    );
}

#[test]
fn the_datastore_comes_from_flag_environment_or_file() {
    let lab = Lab::new("config");
    let pool = lab.file("pool.yaml", POOL);
    lab.ok(&["apply", "-f", &pool]);
    let store = lab.store();
    let config = lab.file("margay.yaml", &format!("datastore: {{type: embedded, path: {store}}}\n"));
    let seen = |args: &[&str], env: &[(&str, &str)]| lab.bare(args, None, env).1.contains("10.65.0.0/16");
    assert!(seen(&["get", "ippool"], &[("MARGAY_DATASTORE_PATH", &store)]));
    assert!(seen(&["get", "ippool", "--config", &config], &[]));
    assert!(seen(
        &["get", "ippool", "--datastore-path", &store],
        &[("MARGAY_DATASTORE_PATH", "/nonexistent/x.db")]
    ));
    let wrong = lab.file("wrong.yaml", "datastor: {}\n");
    let (status, _, error) = lab.bare(&["get", "ippool", "--config", &wrong], None, &[]);
    assert!(status == Some(1) && error.contains("wrong.yaml") && error.contains("datastor"), "{error}");
    let (status, _, error) = lab.bare(&["get", "gizmos", "--datastore", &store], None, &[]);
    assert!(status == Some(1) && error.contains("\"gizmos\" is no kind of object"), "{error}");
    let (status, ..) = lab.bare(&["frobnicate"], None, &[]);
    assert_eq!(status, Some(2), "wrong usage");
}
