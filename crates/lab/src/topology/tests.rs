use std::collections::BTreeMap;

use super::*;

fn parse(text: &str) -> Result<Topology> {
    Topology::parse("x.clab.yml", text, &BTreeMap::from([("PORT".to_owned(), "eth7".to_owned())]))
}

const FULL: &str = r#"
name: lab1
mgmt: {network: clab}
surprise: 1
topology:
  defaults:
    kind: linux
    env: {A: defaults, B: defaults}
    exec: ["echo __clabNodeName__"]
  kinds:
    linux: {image: "debian:12", env: {B: kind, C: kind}, sysctls: {net.ipv4.ip_forward: 1}}
  groups:
    leaf: {env: {C: group}, labels: {margay.role: node}, exec: ["echo group"]}
  nodes:
    n1: {group: leaf, exec: ['ip addr add 10.0.0.1/24 dev eth1'], labels: {margay.address: 10.0.0.1/24}, ports: ["80:80"], wat: 1}
    n2:
    sw1: {kind: bridge}
  links:
    - endpoints: ["n1:eth1", "sw1:p1"]
      mtu: 1400
    - type: veth
      endpoints:
        - {node: n1, interface: "${PORT}", mac: "02:00:00:00:00:01", ipv4: 10.1.0.1/30}
        - {node: n2, interface: eth1}
    - endpoints: ["n1:eth8", "n2:eth8"]
      ipv4: ["10.2.0.1/30", "10.2.0.2/30"]
"#;

#[test]
fn everything_is_inherited_and_merged() {
    let lab = parse(FULL).unwrap();
    assert_eq!(lab.name, "lab1");
    let n1 = &lab.nodes["n1"];
    assert_eq!((n1.kind, n1.image.as_deref()), (NodeKind::Linux, Some("debian:12")));
    let env: Vec<(&str, &str)> = n1.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("A", "defaults"), ("B", "kind"), ("C", "group")]);
    assert_eq!(n1.exec, ["echo n1", "echo group", "ip addr add 10.0.0.1/24 dev eth1"]);
    assert_eq!(n1.sysctls["net.ipv4.ip_forward"], "1");
    assert_eq!(n1.labels.len(), 2);
    assert_eq!(lab.nodes["sw1"].kind, NodeKind::Bridge);
    assert_eq!(
        lab.labelled("margay.role").map(|(n, v)| (n.name.as_str(), v)).collect::<Vec<_>>(),
        [("n1", "node")]
    );
    assert_eq!(lab.links[0].mtu, Some(1400));
    let extended = &lab.links[1].ends[0];
    assert_eq!((extended.interface.as_str(), extended.mac), ("eth7", Some(Mac([2, 0, 0, 0, 0, 1]))));
    assert_eq!(extended.addresses, ["10.1.0.1/30".parse::<IpNet>().unwrap()]);
    assert_eq!(lab.links[2].ends[1].addresses, ["10.2.0.2/30".parse::<IpNet>().unwrap()]);
}

#[test]
fn what_is_passed_over_is_said() {
    let warnings = parse(FULL).unwrap().warnings;
    for word in
        ["mgmt: passed over", "surprise: unknown", "nodes.n1.ports: passed over", "nodes.n1.wat: unknown"]
    {
        assert!(warnings.iter().any(|warning| warning.contains(word)), "{word}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
}

#[test]
fn what_cannot_be_done_is_refused_with_its_place() {
    let nodes = |nodes: &str| format!("name: x\ntopology:\n  nodes:\n    {nodes}\n");
    let links = |links: &str| {
        format!(
            "name: x\ntopology:\n  nodes:\n    a: {{kind: linux}}\n    b: {{kind: linux}}\n  links:\n    - {links}\n"
        )
    };
    for (text, place, reason) in [
        ("topology: {nodes: {a: {kind: linux}}}".to_owned(), "name", "name"),
        ("name: x".to_owned(), "topology", "missing"),
        ("name: x\ntopology: {nodes: {}}".to_owned(), "topology.nodes", "empty"),
        (nodes("a: {}"), "topology.nodes.a.kind", "missing"),
        (nodes("a: {kind: nokia_srlinux}"), "topology.nodes.a.kind", "nokia_srlinux"),
        (
            nodes("a: {kind: linux, image: 'frrouting/frr:v8.4'}"),
            "topology.nodes.a.image",
            "frrouting/frr:v8.4",
        ),
        (nodes("a: {kind: linux, network-mode: host}"), "topology.nodes.a.network-mode", "own"),
        (nodes("a: {kind: linux, exec: ['echo \"x']}"), "topology.nodes.a.exec", "quotes"),
        (nodes("a-long-name-for-it: {kind: bridge}"), "topology.nodes.a-long-name-for-it", "15"),
        (links("endpoints: ['a:eth1']"), "links[0].endpoints", "two"),
        (links("endpoints: ['a:eth1', 'c:eth1']"), "links[0].endpoints", "\"c\""),
        (links("endpoints: ['a:eth1', 'host:eth1']"), "links[0].endpoints", "never touches"),
        (links("endpoints: ['a:eth1', 'b']"), "links[0].endpoints", "node:interface"),
        (links("endpoints: ['a:eth1', 'b:sixteen-bytes-xx']"), "links[0].endpoints", "15"),
        (links("{endpoints: ['a:eth1', 'b:eth1'], mtu: 12}"), "links[0].mtu", "68"),
        (links("{type: vxlan, endpoint: {node: a}}"), "links[0].type", "vxlan"),
        (
            links("endpoints: ['a:eth1', 'b:eth1']\n    - endpoints: ['a:eth1', 'b:eth2']"),
            "links[1]",
            "a:eth1",
        ),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(
            error.starts_with("x.clab.yml: ") && error.contains(place) && error.contains(reason),
            "{text}\n{error}"
        );
    }
    assert!(matches!(parse("name: [").unwrap_err(), Error::Yaml { .. }));
}

#[test]
fn the_example_is_valid_and_without_warnings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/labs/three-nodes.clab.yml");
    let lab = Topology::load(&path).unwrap();
    assert!(lab.warnings.is_empty(), "{:#?}", lab.warnings);
    let roles: Vec<(&str, &str)> =
        lab.labelled("margay.role").map(|(n, role)| (n.name.as_str(), role)).collect();
    let (node, reflector) = ("node", "route-reflector");
    assert_eq!(
        roles,
        [("node1", node), ("node2", node), ("node3", node), ("rr1", reflector), ("rr2", reflector)]
    );
}
