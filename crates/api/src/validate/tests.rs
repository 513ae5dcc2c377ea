use crate::{IpPool, Metadata, Resource, kinds::*, yaml};

/// The errors of a document, as a person sees them.
fn errors(text: &str) -> Vec<String> {
    match yaml::parse("f.yaml", text) {
        Ok(resources) => panic!("accepted: {resources:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// A one-line spec of a kind, in YAML's flow form.
pub(super) fn document(kind: &str, name: &str, spec: &str) -> String {
    let namespaced = [
        "NetworkPolicy",
        "NetworkSet",
        "StagedNetworkPolicy",
        "WorkloadEndpoint",
        "StagedKubernetesNetworkPolicy",
    ];
    let namespace = if namespaced.contains(&kind) { ", namespace: ns" } else { "" };
    format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\nspec: {spec}\n"
    )
}

#[track_caller]
pub(super) fn refused(kind: &str, spec: &str, expected: &str) {
    let all = errors(&document(kind, "default", spec));
    assert!(all.iter().any(|e| e.contains(expected)), "wanted {expected:?} for {spec}, got {all:#?}");
}

#[track_caller]
pub(super) fn accepted(kind: &str, spec: &str) -> Resource {
    let text = document(kind, "default", spec);
    yaml::parse("f.yaml", &text).unwrap_or_else(|e| panic!("{text}: {e:#?}")).remove(0).value
}

#[test]
fn ip_pool() {
    for (spec, expected) in [
        ("{}", "spec.cidr: required, but missing"),
        ("{cidr: 10.0.0.0}", "spec.cidr: \"10.0.0.0\": the prefix length is missing"),
        ("{cidr: 10.0.0.1/16}", "spec.cidr: 10.0.0.1/16 has host bits set: use 10.0.0.0/16"),
        (
            "{cidr: 169.254.1.0/24}",
            "spec.cidr: 169.254.1.0/24 overlaps with the link-local range 169.254.0.0/16",
        ),
        ("{cidr: 'fe80::/64', blockSize: 122}", "overlaps with the link-local range fe80::/10"),
        (
            "{cidr: 10.0.0.0/16, blockSize: 19}",
            "spec.blockSize: 19 is not a block size: use 20 to 32 for IPv4 pools",
        ),
        (
            "{cidr: 'fd00::/48', blockSize: 64}",
            "spec.blockSize: 64 is not a block size: use 116 to 128 for IPv6 pools",
        ),
        ("{cidr: 10.0.0.0/24, blockSize: 23}", "spec.cidr: 10.0.0.0/24 is smaller than one block (/23)"),
        ("{cidr: 10.0.0.0/28}", "10.0.0.0/28 is smaller than one block (/26)"),
        (
            "{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet}",
            "ipipMode and vxlanMode can't both be enabled",
        ),
        ("{cidr: 'fd00::/48', ipipMode: Always}", "spec.ipipMode: IPIP is not supported on IPv6 pools"),
        ("{cidr: 10.0.0.0/16, nodeSelector: global()}", "spec.nodeSelector: global() can only be used"),
        (
            "{cidr: 10.0.0.0/16, namespaceSelector: global()}",
            "spec.namespaceSelector: global() can only be used",
        ),
        ("{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Workload]}", "LoadBalancer can't be combined"),
        (
            "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], vxlanMode: Always}",
            "a LoadBalancer pool can't be encapsulated",
        ),
        (
            "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], disableBGPExport: true}",
            "can't disable BGP export",
        ),
        (
            "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: has(a)}",
            "must have node selector all()",
        ),
        (
            "{cidr: 10.0.0.0/16, allowedUses: [Tunnel], namespaceSelector: has(a)}",
            "can't have a namespace selector",
        ),
        ("{cidr: 10.0.0.0/16, allowedUses: [Tunnel, Tunnel]}", "spec.allowedUses[1]: Tunnel is listed twice"),
        (
            "{cidr: 10.0.0.0/16, vxlanMode: Sometimes}",
            "spec.vxlanMode: \"Sometimes\" is not one of Never, Always, CrossSubnet",
        ),
        (
            "{cidr: 10.0.0.0/16, natOutgoin: true}",
            "spec.natOutgoin: unknown field; did you mean natOutgoing?",
        ),
        (
            "{cidr: 10.0.0.0/16, blockSize: big}",
            "spec.blockSize: \"big\" found where a whole number from 0 to 255 is expected",
        ),
    ] {
        refused("IPPool", spec, expected);
    }
    let Resource::IpPool(pool) = accepted("IPPool", "{cidr: 10.0.0.0/16}") else { panic!() };
    assert_eq!(pool.spec.block_size, Some(24));
    assert_eq!(pool.spec.allowed_uses, [AllowedUse::Workload, AllowedUse::Tunnel]);
    let Resource::IpPool(pool) = accepted("IPPool", "{cidr: 'fd00:1::/64'}") else { panic!() };
    assert_eq!(pool.spec.block_size, Some(120));
    let Resource::IpPool(pool) = accepted("IPPool", "{cidr: 10.0.0.0/25}") else { panic!() };
    assert_eq!(pool.spec.block_size, Some(25));
}

#[test]
fn pools_must_not_overlap() {
    let pool =
        |name: &str, cidr: &str| IpPool::new(Metadata::named(name), IpPoolSpec::new(cidr.parse().unwrap()));
    let others = [
        pool("c", "10.0.0.0/8"),
        pool("b", "10.1.2.0/24"),
        pool("d", "192.168.0.0/16"),
        pool("a", "fd00::/8"),
    ];
    let found = |cidr: &str| overlapping_pool(&pool("new", cidr), &others).map(|p| p.metadata.name.as_str());
    assert_eq!(found("10.1.0.0/16"), Some("b"));
    assert_eq!(found("10.200.0.0/16"), Some("c"));
    assert_eq!(found("172.16.0.0/12"), None);
    // A pool doesn't overlap with its own older version.
    assert_eq!(overlapping_pool(&pool("d", "192.168.0.0/16"), &others), None);
    // Of those that overlap, the oldest counts.
    let mut pools = [pool("wide", "10.0.0.0/8"), pool("old", "10.1.0.0/16"), pool("other", "10.2.0.0/16")];
    pools[1].metadata.creation_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
    pools[0].metadata.creation_timestamp = Some("2026-01-02T00:00:00Z".to_owned());
    let (in_force, clashes) = disjoint_pools(&pools);
    assert_eq!(in_force.iter().map(|pool| pool.metadata.name.as_str()).collect::<Vec<_>>(), ["old", "other"]);
    assert_eq!(
        clashes.iter().map(|(a, b)| (a.metadata.name.as_str(), b.metadata.name.as_str())).collect::<Vec<_>>(),
        [("wide", "old")]
    );
    let changed = check_pool_update(&others[0], &pool("c", "10.0.0.0/9")).unwrap_err();
    assert!(changed.to_string().starts_with("spec.cidr: can't be changed"), "{changed}");
    check_pool_update(&others[0], &others[0]).unwrap();
}

#[test]
fn policy_rules() {
    let ingress = [
        ("{action: Alow}", "spec.ingress[0].action: \"Alow\" is not one of Allow, Deny, Log, Pass"),
        ("{}", "spec.ingress[0].action: required, but missing"),
        (
            "{action: Allow, protocol: tcp}",
            "spec.ingress[0].protocol: \"tcp\": protocols are case-sensitive: write TCP",
        ),
        ("{action: Allow, protocol: 0}", "spec.ingress[0].protocol: 0 is not TCP, UDP"),
        ("{action: Allow, protocol: 256}", "spec.ingress[0].protocol: 256 is not TCP, UDP"),
        ("{action: Allow, ipVersion: 5}", "spec.ingress[0].ipVersion: 5 is not 4 or 6"),
        ("{action: Allow, protocol: ICMP, ipVersion: 6}", "protocol: ICMP exists only with ipVersion 4"),
        (
            "{action: Allow, notProtocol: ICMPv6, ipVersion: 4}",
            "notProtocol: ICMPv6 exists only with ipVersion 6",
        ),
        ("{action: Allow, icmp: {type: 8}}", "spec.ingress[0].icmp: needs protocol ICMP or ICMPv6"),
        (
            "{action: Allow, protocol: ICMP, icmp: {type: 255}}",
            "icmp.type: an ICMP type is a number from 0 to 254",
        ),
        ("{action: Allow, protocol: ICMP, icmp: {code: 1}}", "icmp.code: needs a type beside it"),
        ("{action: Allow, notICMP: {code: 1}}", "notICMP.code: needs a type beside it"),
        ("{action: Deny, notICMP: {type: 8}}", "notICMP: needs protocol ICMP or ICMPv6"),
        (
            "{action: Allow, source: {nets: [10.0.0.0/8, 'fd00::/8']}}",
            "source.nets[1]: fd00::/8 is IPv6, but the rule's other networks are IPv4",
        ),
        (
            "{action: Allow, ipVersion: 6, destination: {notNets: [10.0.0.0/8]}}",
            "destination.notNets[0]: 10.0.0.0/8 is IPv4, but ipVersion is 6",
        ),
        (
            "{action: Allow, source: {notNets: [0.0.0.0/0]}}",
            "source.notNets[0]: 0.0.0.0/0 excludes everything",
        ),
        (
            "{action: Allow, source: {nets: [10.0.0.1, 10.0.0.1/32]}}",
            "source.nets[1]: 10.0.0.1/32 is listed twice",
        ),
        (
            "{action: Allow, source: {nets: [10.0.0.256]}}",
            "source.nets[0]: \"10.0.0.256\": not an address or network",
        ),
        ("{action: Allow, destination: {ports: [80]}}", "destination.ports: port numbers need a protocol"),
        (
            "{action: Allow, protocol: ICMP, destination: {notPorts: [http]}}",
            "destination.notPorts: ICMP has no ports",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: [65536]}}",
            "destination.ports[0]: 65536 is not a port",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['90:80']}}",
            "ports[0]: \"90:80\": a port range must begin with the smaller",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['a b']}}",
            "ports[0]: \"a b\": a port name has 1 to 128",
        ),
        (
            "{action: Allow, source: {selector: \"a = 'b'\"}}",
            "source.selector: \"a = 'b'\": column 3: a single = means nothing",
        ),
        (
            "{action: Allow, source: {selector: global()}}",
            "source.selector: global() can only be used in the namespaceSelector",
        ),
        (
            "{action: Allow, source: {namespaceSelector: global() || has(a)}}",
            "namespaceSelector: global() must stand alone",
        ),
        (
            "{action: Allow, destination: {services: {name: s}}}",
            "destination.services: allowed only in the source of an ingress",
        ),
        ("{action: Allow, source: {services: {}}}", "source.services.name: required, but missing"),
        (
            "{action: Allow, source: {services: {name: s}, nets: [10.0.0.0/8]}}",
            "source.services: can't be combined with nets",
        ),
        (
            "{action: Allow, source: {serviceAccounts: {names: [A_]}}}",
            "serviceAccounts.names[0]: \"A_\" is not the name of a service account",
        ),
        ("{action: Deny, http: {methods: [GET]}}", "http: allowed only in rules with action Allow"),
        ("{action: Allow, protocol: UDP, http: {methods: [GET]}}", "http: needs protocol TCP or none"),
        (
            "{action: Allow, http: {paths: [{exact: a, prefix: b}]}}",
            "http.paths[0]: exactly one of exact and prefix",
        ),
        (
            "{action: Allow, metadata: {annotations: {'a b': c}}}",
            "annotations.a b: \"a b\" is not a label name",
        ),
        ("{action: Allow, sources: {}}", "spec.ingress[0].sources: unknown field; did you mean source?"),
    ];
    for (rule, expected) in ingress {
        refused("NetworkPolicy", &format!("{{ingress: [{rule}]}}"), expected);
    }
    refused(
        "NetworkPolicy",
        "{egress: [{action: Allow, http: {methods: [GET]}}]}",
        "http: allowed only in ingress rules",
    );
    refused(
        "NetworkPolicy",
        "{egress: [{action: Allow, protocol: TCP, destination: {services: {name: s}, ports: [80]}}]}",
        "destination: services brings its own ports",
    );
    refused(
        "GlobalNetworkPolicy",
        "{ingress: [{action: Allow, source: {services: {name: s}}}]}",
        "services.namespace: required",
    );
    let many = vec!["{action: Allow}"; 1025].join(",");
    refused(
        "NetworkPolicy",
        &format!("{{ingress: [{many}]}}"),
        "spec.ingress: 1025 items, at most 1024 are allowed",
    );
    let ports = (1..=51).map(|p| p.to_string()).collect::<Vec<_>>().join(",");
    refused(
        "NetworkPolicy",
        &format!("{{ingress: [{{action: Allow, protocol: TCP, source: {{ports: [{ports}]}}}}]}}"),
        "ports: 51 items, at most 50",
    );
    let long = format!("a == '{}'", "x".repeat(1024));
    refused(
        "NetworkPolicy",
        &format!("{{selector: \"{long}\"}}"),
        "spec.selector: 1031 characters, at most 1024",
    );
    accepted(
        "NetworkPolicy",
        "{ingress: [{action: Allow, destination: {ports: [http]}, source: {namespaceSelector: global()}}]}",
    );
    accepted("NetworkPolicy", "{egress: [{action: Allow, destination: {services: {name: s}}}]}");
}

#[test]
fn policies() {
    for (spec, expected) in [
        ("{types: [Ingress, Ingress]}", "spec.types[1]: Ingress is listed twice"),
        ("{types: [Inbound]}", "\"Inbound\" is not one of Ingress, Egress"),
        ("{order: .nan}", "non-finite"),
        ("{order: first}", "spec.order: \"first\" found where a number is expected"),
        ("{tier: My.Tier}", "spec.tier: \"My.Tier\" is not the name of a tier"),
        ("{selector: global()}", "spec.selector: global() can only be used"),
        (
            "{serviceAccountSelector: 'has('}",
            "spec.serviceAccountSelector: \"has(\": column 5: has() needs a label name",
        ),
        ("{performanceHints: [Hurry]}", "is not one of AssumeNeededOnEveryNode"),
    ] {
        refused("NetworkPolicy", spec, expected);
    }
    for (spec, expected) in [
        (
            "{preDNAT: true, doNotTrack: true, applyOnForward: true}",
            "preDNAT and doNotTrack can't both be true",
        ),
        (
            "{preDNAT: true, applyOnForward: true, egress: [{action: Allow}], types: [Ingress]}",
            "a preDNAT policy can't have egress rules",
        ),
        ("{preDNAT: true, applyOnForward: true, types: [Egress]}", "a preDNAT policy can't have type Egress"),
        ("{doNotTrack: true}", "spec.applyOnForward: must be true if preDNAT or doNotTrack is true"),
        ("{namespaceSelector: global()}", "spec.namespaceSelector: global() can only be used"),
    ] {
        refused("GlobalNetworkPolicy", spec, expected);
        refused("StagedGlobalNetworkPolicy", spec, expected);
    }
    refused(
        "StagedNetworkPolicy",
        "{stagedAction: Delete, order: 1}",
        "Delete allows no other field beside it but tier",
    );
    refused(
        "StagedKubernetesNetworkPolicy",
        "{stagedAction: Delete, policyTypes: [Ingress]}",
        "Delete allows no other field",
    );
    accepted("StagedNetworkPolicy", "{stagedAction: Delete, tier: t}");

    let Resource::NetworkPolicy(policy) = accepted("NetworkPolicy", "{egress: [{action: Allow}]}") else {
        panic!()
    };
    assert_eq!(policy.spec.types, [PolicyType::Egress]);
    assert_eq!(policy.spec.tier.as_deref(), Some("default"));
    assert_eq!(policy.metadata.labels["projectcalico.org/tier"], "default");
}

#[test]
fn names_and_metadata() {
    let with_name = |kind: &str, name: &str| yaml::parse("f", &document(kind, name, "{}"));
    for name in ["a", "tier.a", "knp.default.a.b.c", "ossg.default.x"] {
        with_name("NetworkPolicy", name).unwrap();
    }
    for name in ["a.b.c", "A", "a_b", "-a", "a..b", "knp.other.a.b"] {
        assert!(with_name("NetworkPolicy", name).is_err(), "{name}");
    }
    assert!(with_name("GlobalNetworkPolicy", "knp.default.a").is_err());
    with_name("Tier", "a-1").unwrap();
    assert!(with_name("Tier", "a.b").is_err());
    assert!(with_name("Tier", &"a".repeat(64)).is_err());
    assert!(with_name("GlobalNetworkSet", &"a".repeat(254)).is_err());
    with_name("GlobalNetworkSet", "a.b.c.d").unwrap();
    with_name("BGPConfiguration", "node.n1").unwrap();
    assert!(with_name("BGPConfiguration", "other").is_err());
    assert!(with_name("ClusterInformation", "other").is_err());
    assert!(with_name("FelixConfiguration", "other").is_err());
    yaml::parse("f", &document("FelixConfiguration", "other", "{nodeSelector: has(a)}")).unwrap();

    let head = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n";
    let meta = |fields: &str| errors(&format!("{head}metadata: {fields}\n"));
    assert_eq!(
        meta("{name: a, namespace: b}"),
        ["f.yaml: document 1, line 3: metadata.namespace: GlobalNetworkSet has no namespace: remove it"]
    );
    assert_eq!(meta("{}"), ["f.yaml: document 1, line 3: metadata.name: required, but missing"]);
    assert!(
        meta("{name: a, labels: {a: 'b c'}}")[0].contains("metadata.labels.a: \"b c\" is not a label value")
    );
    assert!(meta("{name: a, labels: {a/b/c: d}}")[0].contains("is not a label name"));
    assert!(
        meta("{name: a, labels: {version: 1.0}}")[0]
            .contains("metadata.labels.version: 1 found where a string is expected: put it in quotes")
    );
    assert!(
        meta("{name: a, labels: {on: true}}")[0]
            .contains("true (a boolean) found where a string is expected: put it in quotes")
    );
    assert!(
        meta("{name: a, labels: {projectcalico.org/namespace: x}}")[0].contains("this label is reserved")
    );
    assert!(
        meta("{name: a, lables: {}}")[0].contains("metadata.lables: unknown field; did you mean labels?")
    );
    let big = "x".repeat(256 * 1024);
    assert!(meta(&format!("{{name: a, annotations: {{a: {big}}}}}"))[0].contains("all annotations together"));
    let duplicate = format!("{head}metadata: {{name: a}}\nspec: {{nets: [10.0.0.0/8, 10.0.0.0/8]}}\n");
    assert!(errors(&duplicate)[0].contains("spec.nets[1]: 10.0.0.0/8 is listed twice"));
}

#[test]
fn tiers() {
    let tier = |name: &str, spec: &str| yaml::parse("f", &document("Tier", name, spec));
    let text = |name: &str, spec: &str| tier(name, spec).unwrap_err()[0].to_string();
    assert!(
        text("default", "{defaultAction: Pass}").contains("the default tier must have default action Deny")
    );
    assert!(
        text("kube-admin", "{defaultAction: Deny}")
            .contains("the kube-admin tier must have default action Pass")
    );
    assert!(text("kube-baseline", "{order: 1}").contains("the kube-baseline tier must have order 10000000"));
    let Resource::Tier(built_in) = tier("kube-admin", "{}").unwrap().remove(0).value else { panic!() };
    assert_eq!(built_in.spec, TierSpec { order: Some(1000.0), default_action: Some(TierAction::Pass) });
    let Resource::Tier(own) = tier("own", "{}").unwrap().remove(0).value else { panic!() };
    assert_eq!(own.spec, TierSpec { order: None, default_action: Some(TierAction::Deny) });
}

#[test]
fn endpoints() {
    for (spec, expected) in [
        ("{interfaceName: eth0}", "spec.node: required, but missing"),
        ("{node: n}", "spec: at least one of interfaceName and expectedIPs is needed"),
        ("{node: n, interfaceName: averylonginterface}", "is not an interface name"),
        ("{node: n, expectedIPs: [1.2.3]}", "spec.expectedIPs[0]: \"1.2.3\": invalid IP address syntax"),
        (
            "{node: n, interfaceName: a, ports: [{name: p, port: 0, protocol: TCP}]}",
            "spec.ports[0].port: 0 is not a port here",
        ),
        (
            "{node: n, interfaceName: a, ports: [{name: p, port: 1, protocol: ICMP}]}",
            "spec.ports[0].protocol: ICMP has no ports",
        ),
        (
            "{node: n, interfaceName: a, ports: [{name: '80', port: 1, protocol: TCP}]}",
            "spec.ports[0].name: \"80\" is not a port name",
        ),
        ("{node: n, interfaceName: a, profiles: [p, p]}", "spec.profiles[1]: p is listed twice"),
    ] {
        refused("HostEndpoint", spec, expected);
    }
    accepted("HostEndpoint", "{node: n, interfaceName: '*'}");
    for (spec, expected) in [
        ("{interfaceName: a}", "spec.node: required, but missing"),
        ("{node: n}", "spec.interfaceName: \"\" is not an interface name"),
        (
            "{node: n, interfaceName: a, ipNetworks: [10.0.0.0/24]}",
            "spec.ipNetworks[0]: 10.0.0.0/24 must be a single address (/32)",
        ),
        (
            "{node: n, interfaceName: a, ipNATs: [{internalIP: 10.0.0.1, externalIP: 1.1.1.1}]}",
            "spec.ipNATs[0].internalIP: 10.0.0.1 is not one of ipNetworks",
        ),
        ("{node: n, interfaceName: a, mac: 'aa:bb'}", "spec.mac: \"aa:bb\": not a MAC address"),
        (
            "{node: n, interfaceName: a, ports: [{port: 1, protocol: TCP}]}",
            "spec.ports[0]: at least one of name and hostPort",
        ),
        ("{node: n, interfaceName: a, qosControls: {dscp: 64}}", "spec.qosControls.dscp: use 0 to 63"),
    ] {
        refused("WorkloadEndpoint", spec, expected);
    }
    for (spec, expected) in [
        ("{bgp: {}}", "spec.bgp: at least one of ipv4Address and ipv6Address is needed"),
        (
            "{bgp: {ipv4Address: 'fd00::1/64'}}",
            "spec.bgp.ipv4Address: \"fd00::1/64\": an IPv4 address is needed here",
        ),
        ("{bgp: {ipv4Address: 0.0.0.0/0}}", "spec.bgp.ipv4Address: 0.0.0.0 can't be the address of a node"),
        (
            "{bgp: {ipv4Address: 10.0.0.1/24, asNumber: 64.512}}",
            "spec.bgp.asNumber: 64.512: a dotted AS number must be in quotes",
        ),
        ("{bgp: {ipv4Address: 10.0.0.1/24, asNumber: 0}}", "spec.bgp.asNumber: AS 0 is reserved"),
        ("{orchRefs: [{nodeName: n}]}", "spec.orchRefs[0].orchestrator: required, but missing"),
    ] {
        refused("Node", spec, expected);
    }
    let Resource::Node(node) = accepted("Node", "{bgp: {ipv4Address: 10.0.0.1/24, asNumber: '64.512'}}")
    else {
        panic!()
    };
    assert_eq!(node.spec.bgp.unwrap().as_number.unwrap().0, 64 * 65536 + 512);
}
