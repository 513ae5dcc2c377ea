use super::tests::{accepted, document, refused};
use crate::{Resource, kinds::*, yaml};

#[test]
fn configuration() {
    for (spec, expected) in [
        ("{asNumber: 0}", "spec.asNumber: AS 0 is reserved"),
        ("{asNumber: 4294967296}", "spec.asNumber: 4294967296 is not an AS number"),
        ("{asNumber: '65536.1'}", "spec.asNumber: \"65536.1\": not an AS number"),
        ("{listenPort: 0}", "spec.listenPort: 0 is not a port here"),
        (
            "{ipv4NormalRoutePriority: 2147483647}",
            "spec.ipv4NormalRoutePriority: a priority is a number from 1 to 2147483646",
        ),
        (
            "{nodeToNodeMeshEnabled: false, nodeMeshMaxRestartTime: 1s}",
            "nodeMeshMaxRestartTime: can't be set when nodeToNodeMeshEnabled is false",
        ),
        (
            "{nodeToNodeMeshEnabled: false, nodeMeshPassword: {secretKeyRef: {key: a}}}",
            "nodeMeshPassword: can't be set when",
        ),
        ("{nodeMeshPassword: {}}", "spec.nodeMeshPassword.secretKeyRef: required, but missing"),
        (
            "{nodeMeshMaxRestartTime: 90}",
            "spec.nodeMeshMaxRestartTime: 90 found where a duration string such as 90s or 1m30s is expected",
        ),
        ("{nodeMeshMaxRestartTime: 90x}", "\"90x\": not a duration"),
        ("{serviceClusterIPs: [{}]}", "spec.serviceClusterIPs[0].cidr: required, but missing"),
        (
            "{serviceExternalIPs: [{cidr: 10.0.0.1/8}]}",
            "spec.serviceExternalIPs[0].cidr: host bits are set: use 10.0.0.0/8",
        ),
        ("{ignoredInterfaces: ['eth 0']}", "spec.ignoredInterfaces[0]: \"eth 0\" is not an interface name"),
        (
            "{communities: [{name: a, value: '1:2'}]}",
            "spec.communities: communities are defined, but not used",
        ),
        (
            "{communities: [{name: a, value: '1:65536'}]}",
            "spec.communities[0].value: \"1:65536\": not a community",
        ),
        (
            "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [b]}]}",
            "communities[0]: \"b\" is neither a community nor the name of one",
        ),
        ("{bindMode: All}", "spec.bindMode: \"All\" is not one of None, NodeIP"),
        ("{logSeverityScreen: loud}", "spec.logSeverityScreen: \"loud\" is not one of Trace, Debug, Info"),
    ] {
        refused("BGPConfiguration", spec, expected);
    }
    let node = |spec: &str| yaml::parse("f", &document("BGPConfiguration", "node.n", spec));
    for field in [
        "nodeToNodeMeshEnabled: true",
        "asNumber: 1",
        "serviceClusterIPs: [{cidr: 10.0.0.0/8}]",
        "nodeMeshMaxRestartTime: 1s",
    ] {
        let error = node(&format!("{{{field}}}")).unwrap_err()[0].to_string();
        assert!(error.contains("can only be set in the BGPConfiguration called default"), "{error}");
    }
    node("{listenPort: 1179}").unwrap();
    let Resource::BgpConfiguration(configuration) =
        accepted("BGPConfiguration", "{logSeverityScreen: debug}")
    else {
        panic!()
    };
    assert_eq!(configuration.spec.log_severity_screen, Some(LogSeverity::Debug));
    assert_eq!(configuration.spec.service_load_balancer_aggregation, Some(Toggle::Enabled));
}

#[test]
fn peers() {
    for (spec, expected) in [
        ("{}", "spec: one of peerIP, peerSelector and localWorkloadSelector is needed"),
        (
            "{peerIP: 10.0.0.1, asNumber: 1, node: a, nodeSelector: has(b)}",
            "node and nodeSelector can't both be set",
        ),
        ("{peerIP: 10.0.0.1, peerSelector: has(a)}", "peerIP and peerSelector can't both be set"),
        ("{asNumber: 1, peerSelector: has(a)}", "spec.asNumber: must be empty when peerSelector is set"),
        (
            "{peerIP: 10.0.0.1, asNumber: 1, localWorkloadSelector: has(a)}",
            "spec.peerIP: must be empty when localWorkloadSelector is set",
        ),
        (
            "{peerSelector: has(a), localWorkloadSelector: has(a)}",
            "spec.peerSelector: must be empty when localWorkloadSelector is set",
        ),
        ("{localWorkloadSelector: has(a)}", "spec.asNumber: required when localWorkloadSelector is set"),
        (
            "{peerSelector: has(a), reachableBy: 10.0.0.1}",
            "spec.reachableBy: must be empty when peerIP is empty",
        ),
        (
            "{peerIP: 10.0.0.1, asNumber: 1, reachableBy: 'fd00::1'}",
            "spec.reachableBy: must be of the same family as peerIP",
        ),
        (
            "{peerIP: 10.0.0.1, asNumber: 1, keepOriginalNextHop: true, nextHopMode: Self}",
            "keepOriginalNextHop and nextHopMode can't both be set",
        ),
        ("{peerIP: '10.0.0.1:0', asNumber: 1}", "spec.peerIP: \"10.0.0.1:0\": not a peer address"),
        ("{peerIP: peer.example, asNumber: 1}", "spec.peerIP: \"peer.example\": not a peer address"),
        (
            "{peerIP: 10.0.0.1, asNumber: 1, ttlSecurity: 256}",
            "spec.ttlSecurity: 256 is not a whole number from 0 to 255",
        ),
        ("{peerIP: 10.0.0.1, asNumber: 1, keepaliveTime: 500ns}", "spec.keepaliveTime: 1s to 21845s"),
        ("{peerIP: 10.0.0.1, asNumber: 1, keepaliveTime: 21846s}", "spec.keepaliveTime: 1s to 21845s"),
        ("{peerIP: 10.0.0.1, asNumber: 1, filters: [a, a]}", "spec.filters[1]: a is listed twice"),
        (
            "{peerIP: 10.0.0.1, asNumber: 1, password: {secretKeyRef: {name: a}}}",
            "spec.password.secretKeyRef.key: required, but missing",
        ),
        ("{peerIP: 10.0.0.1, asNumber: 1, nextHopMode: None}", "\"None\" is not one of Auto, Self, Keep"),
    ] {
        refused("BGPPeer", spec, expected);
    }
    for ip in ["10.0.0.1:1179", "'fd00::1'", "'[fd00::1]:1179'", "'[fd00::1]'"] {
        accepted("BGPPeer", &format!("{{peerIP: {ip}, asNumber: 1}}"));
    }
}

#[test]
fn filters() {
    for (rule, expected) in [
        ("{action: Maybe}", "\"Maybe\" is not one of Accept, Reject"),
        ("{action: Accept, cidr: 10.0.0.0/8}", "spec.exportV4[0]: cidr and matchOperator belong together"),
        ("{action: Accept, matchOperator: In}", "cidr and matchOperator belong together"),
        (
            "{action: Accept, cidr: 'fd00::/8', matchOperator: In}",
            "spec.exportV4[0].cidr: fd00::/8 is not IPv4",
        ),
        ("{action: Accept, prefixLength: {min: 8}}", "prefixLength: needs a cidr beside it"),
        (
            "{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 33}}",
            "prefixLength.max: a prefix length is a number from 0 to 32",
        ),
        (
            "{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 9, max: 8}}",
            "min 9 is greater than max 8",
        ),
        (
            "{action: Accept, interface: 'much-too-long-name'}",
            "interface: \"much-too-long-name\" is not an interface name",
        ),
        (
            "{action: Accept, communities: {values: []}}",
            "communities.values: exactly one community is needed",
        ),
        ("{action: Accept, communities: {values: ['1:2', '1:3']}}", "exactly one community is needed"),
        ("{action: Accept, priority: 0}", "priority: a priority is a number from 1"),
        (
            "{action: Reject, operations: [{setPriority: {value: 1}}]}",
            "operations: allowed only with action Accept",
        ),
        (
            "{action: Accept, operations: [{setPriority: {value: 0}}]}",
            "operations[0].setPriority.value: a priority is a number from 1",
        ),
        (
            "{action: Accept, operations: [{prependASPath: {prefix: []}}]}",
            "operations[0].prependASPath.prefix: 1 to 10 AS numbers",
        ),
        (
            "{action: Accept, operations: [{}]}",
            "operations[0]: exactly one of these keys is expected: addCommunity, prependASPath, setPriority",
        ),
        (
            "{action: Accept, operations: [{dropCommunity: {}}]}",
            "operations[0].dropCommunity: \"dropCommunity\" is not one of addCommunity",
        ),
    ] {
        refused("BGPFilter", &format!("{{exportV4: [{rule}]}}"), expected);
    }
    refused(
        "BGPFilter",
        "{importV6: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In}]}",
        "spec.importV6[0].cidr: 10.0.0.0/8 is not IPv6",
    );
}

#[test]
fn ipam() {
    refused("IPAMConfiguration", "{maxBlocksPerHost: 1000001}", "spec.maxBlocksPerHost: at most 1000000");
    refused("IPAMConfiguration", "{ipCooldownSeconds: 1201}", "spec.ipCooldownSeconds: at most 1200 seconds");
    for (spec, expected) in [
        ("{cidr: 10.0.0.1/30}", "spec.cidr: host bits are set"),
        ("{cidr: 10.0.0.0/8}", "spec.cidr: 10.0.0.0/8 is too large for a block"),
        ("{cidr: 10.0.0.0/30, affinity: node1}", "spec.affinity: \"node1\": not an affinity"),
        ("{cidr: 10.0.0.0/30, allocations: [null]}", "spec.allocations: 1 slots for 4 addresses"),
        (
            "{cidr: 10.0.0.0/30, allocations: [0, null, null, null]}",
            "spec.allocations[0]: there are no attributes at this index",
        ),
        ("{cidr: 10.0.0.0/30, unallocated: [4]}", "spec.unallocated[0]: the block has no such address"),
        (
            "{cidr: 10.0.0.0/31, allocations: [0, null], attributes: [{}], unallocated: [0, 1]}",
            "spec.unallocated[0]: this address is allocated, too",
        ),
    ] {
        refused("IPAMBlock", spec, expected);
    }
    refused(
        "IPReservation",
        "{reservedCIDRs: [10.0.0.0/8, 10.0.0.0/8]}",
        "spec.reservedCIDRs[1]: 10.0.0.0/8 is listed twice",
    );
}

#[test]
fn felix() {
    for (spec, expected) in [
        ("{iptablesMarkMask: 0x1}", "spec.iptablesMarkMask: at least two bits must be set"),
        (
            "{routeTableRange: {min: 1, max: 2}, routeTableRanges: [{min: 1, max: 2}]}",
            "routeTableRange and routeTableRanges can't both be set",
        ),
        ("{routeTableRange: {min: 1, max: 251}}", "min and max are from 1 to 250"),
        (
            "{routeTableRanges: [{min: 200, max: 300}]}",
            "spec.routeTableRanges[0]: min must be from 1 to max, and tables 253 to 255",
        ),
        (
            "{failsafeInboundHostPorts: [{protocol: ICMP, port: 1}]}",
            "spec.failsafeInboundHostPorts[0].protocol: use TCP, UDP or SCTP",
        ),
        (
            "{failsafeInboundHostPorts: [{protocol: UDP}]}",
            "spec.failsafeInboundHostPorts[0].port: required, but missing",
        ),
        ("{natPortRange: some}", "spec.natPortRange: a number or \"min:max\" is needed"),
        ("{kubeNodePortRanges: [1,2,3,4,5,6,7,8]}", "spec.kubeNodePortRanges: 8 items, at most 7"),
        ("{kubeNodePortRanges: [http]}", "spec.kubeNodePortRanges[0]: a number or"),
        ("{bpfMaglevMaxServices: 3001}", "spec.bpfMaglevMaxServices: a number from 1 to 3000"),
        ("{goGCThreshold: -2}", "spec.goGCThreshold: -1 is the smallest value"),
        ("{ipv6ElevatedRoutePriority: 0}", "spec.ipv6ElevatedRoutePriority: a priority is a number"),
        ("{logPrefix: 'a;b'}", "spec.logPrefix: letters, digits"),
        ("{logActionRateLimit: 0/second}", "spec.logActionRateLimit: a number from 1 to 9999 and a unit"),
        ("{featureDetectOverride: 'A=maybe'}", "spec.featureDetectOverride: name=true or name=false"),
        ("{featureGates: 'A'}", "spec.featureGates: name=value pairs"),
        (
            "{interfacePrefix: 'cali,much-too-long-prefix'}",
            "spec.interfacePrefix: \"much-too-long-prefix\" is not an interface name",
        ),
        ("{interfacePrefix: abcdefghijklmno}", "spec.interfacePrefix: \"abcdefghijklmno\" leaves no room"),
        (
            "{iptablesNATOutgoingInterfaceFilter: 'eth0,eth1'}",
            "spec.iptablesNATOutgoingInterfaceFilter: \"eth0,eth1\" is not the name of an interface",
        ),
        (
            "{iptablesNATOutgoingInterfaceFilter: enp94s0f0np0000+}",
            "spec.iptablesNATOutgoingInterfaceFilter: \"enp94s0f0np0000+\" is not the name",
        ),
        ("{wireguardInterfaceName: 'a b'}", "spec.wireguardInterfaceName: \"a b\" is not an interface name"),
        ("{chainInsertMode: Top}", "spec.chainInsertMode: \"Top\" is not one of Append, Insert"),
        ("{iptablesRefreshInterval: -5s}", "a duration must not be negative"),
        (
            "{deviceRouteSourceAddress: 'fd00::1'}",
            "spec.deviceRouteSourceAddress: \"fd00::1\": invalid IPv4 address syntax",
        ),
        ("{vxlanVni: 1}", "spec.vxlanVni: unknown field; did you mean vxlanVNI?"),
        ("{healthPort: 65536}", "spec.healthPort: 65536 is not a whole number from 0 to 65535"),
    ] {
        refused("FelixConfiguration", spec, expected);
    }
    let Resource::FelixConfiguration(felix) = accepted(
        "FelixConfiguration",
        "{defaultEndpointToHostAction: RETURN, failsafeOutboundHostPorts: [], iptablesBackend: nft}",
    ) else {
        panic!()
    };
    assert_eq!(felix.spec.default_endpoint_to_host_action, Some(EndpointToHostAction::Return));
    assert_eq!(felix.spec.failsafe_outbound_host_ports.as_deref(), Some(&[][..]));
    assert_eq!(felix.spec.failsafe_inbound_host_ports, None);
    assert_eq!(felix.spec.iptables_backend, Some(IptablesBackend::Nft));
}

#[test]
fn kubernetes_policies() {
    let parse = |spec: &str| {
        yaml::parse(
            "f",
            &format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, namespace: b}}\nspec: {spec}\n"
            ),
        )
    };
    for (spec, expected) in [
        ("{podSelecter: {}}", "spec.podSelecter: unknown field; did you mean podSelector?"),
        (
            "{ingress: [{ports: [{protocol: ICMP}]}]}",
            "spec.ingress[0].ports[0].protocol: use TCP, UDP or SCTP",
        ),
        ("{ingress: [{ports: [{port: 0}]}]}", "spec.ingress[0].ports[0].port: 0 is not a port here"),
        ("{ingress: [{ports: [{port: '1:2'}]}]}", "a range is written with port and endPort here"),
        ("{ingress: [{ports: [{port: http, endPort: 90}]}]}", "endPort: needs a port number beside it"),
        (
            "{ingress: [{ports: [{port: 91, endPort: 90}]}]}",
            "endPort: needs a port number beside it, not above endPort",
        ),
        (
            "{egress: [{to: [{}]}]}",
            "spec.egress[0].to[0]: a peer needs podSelector, namespaceSelector or ipBlock",
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "ipBlock: can't be combined with podSelector",
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "except[0]: 11.0.0.0/16 is not strictly inside 10.0.0.0/8",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "matchExpressions[0].values: In and NotIn need at least one value",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "Exists and DoesNotExist take no values",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Is}]}}",
            "\"Is\" is not one of In, NotIn, Exists, DoesNotExist",
        ),
        (
            "{podSelector: {matchLabels: {a: 'b c'}}}",
            "spec.podSelector.matchLabels.a: \"b c\" is not a label value",
        ),
        ("{policyTypes: [Ingress, Ingress]}", "spec.policyTypes[1]: Ingress is listed twice"),
    ] {
        let all: Vec<String> = parse(spec).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(all.iter().any(|e| e.contains(expected)), "wanted {expected:?} for {spec}, got {all:#?}");
    }
    // Kubernetes writes absent lists as null now and then.
    parse("{podSelector: {}, ingress: null, policyTypes: [Ingress]}").unwrap();
}

#[test]
fn bfd_configuration() {
    for (spec, expected) in [
        ("{interfaces: [{}]}", "spec.interfaces[0].matchPattern: \"\" is not an interface name"),
        ("{interfaces: [{matchPattern: 'e*0'}]}", "'*' stands for any characters at the end"),
        (
            "{interfaces: [{matchPattern: '*', minimumSendInterval: 0s}]}",
            "minimumSendInterval: an interval is a whole",
        ),
        ("{interfaces: [{matchPattern: '*', minimumRecvInterval: 1500us}]}", "whole number of milliseconds"),
        ("{interfaces: [{matchPattern: '*', idleSendInterval: 72m}]}", "1ms to 4294 s"),
        ("{interfaces: [{matchPattern: '*', multiplier: 0}]}", "multiplier: use 1 to 255"),
        ("{interfaces: [{matchPattern: '*', multiplier: 256}]}", "256"),
        (
            "{interfaces: [{matchPattern: '*', minimumSentInterval: 1s}]}",
            "spec.interfaces[0].minimumSentInterval: unknown field; did you mean minimumSendInterval?",
        ),
        ("{interface: []}", "spec.interface: unknown field; did you mean interfaces?"),
    ] {
        refused("BFDConfiguration", spec, expected);
    }
    accepted(
        "BFDConfiguration",
        "{interfaces: [{matchPattern: 'eth*'}, {matchPattern: '*'}, {matchPattern: bond0}]}",
    );
    refused(
        "BGPPeer",
        "{peerIP: 192.0.2.1, failureDetectionMode: Bfd}",
        "is not one of None, BFDIfDirectlyConnected, BFD, BFDStrict",
    );
}
