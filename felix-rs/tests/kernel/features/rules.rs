//! Fields of a rule.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row {
        page: "networkpolicy#rule, action",
        says: "Allow and Deny: the first rule that matches decides",
        objects: "NetworkPolicy b/p {ingress: [{action: Deny, protocol: TCP, destination: {ports: [8080]}}, {action: Allow}]}",
        packets: "a>b: +tcp/80 -tcp/8080 +udp",
    },
    Row {
        page: "networkpolicy#rule, action",
        says: "Log takes no decision",
        objects: "NetworkPolicy b/p {ingress: [{action: Log}, {action: Allow, protocol: UDP}]}",
        packets: "a>b: -tcp/80 +udp",
    },
    Row {
        page: "networkpolicy#rule, action",
        says: "Pass skips what is left of the tier: the next tier decides, after the last one the profiles",
        objects: "Tier first {order: 10}
            NetworkPolicy b/first.pass {tier: first, order: 1, ingress: [{action: Pass, protocol: TCP}]}
            NetworkPolicy b/first.deny {tier: first, order: 2, ingress: [{action: Deny}]}
            NetworkPolicy c/first.pass {tier: first, order: 1, ingress: [{action: Pass}]}
            NetworkPolicy b/p {ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}",
        packets: "a>b: +tcp/80 -tcp/8080 -udp; a>c: +tcp/80 +udp",
    },
    Row {
        page: "networkpolicy#rule, protocol",
        says: "a protocol by its name",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: UDP}]}",
        packets: "a>b: -tcp/80 +udp -ping; a>b6: -tcp/80 +udp",
    },
    Row {
        page: "networkpolicy#rule, protocol",
        says: "a protocol by its number",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: 253}]}",
        packets: "a>b: -tcp/80 +ip/253 -ip/254",
    },
    Row {
        page: "networkpolicy#rule, notProtocol",
        says: "any protocol but one",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, notProtocol: TCP}]}",
        packets: "a>b: -tcp/80 +udp +ping +ip/253; a>b6: -tcp/80 +udp",
    },
    Row {
        page: "networkpolicy#rule, ipVersion",
        says: "one family only",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, ipVersion: 6}]}",
        packets: "a>b: -tcp/80; a>b6: +tcp/80 +ping",
    },
    Row {
        page: "networkpolicy#icmp, type",
        says: "ICMP of one type",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: ICMP, icmp: {type: 8}}]}",
        packets: "a>b: +ping -icmp/13 -tcp/80; a>b6: -ping",
    },
    Row {
        page: "networkpolicy#icmp, code",
        says: "ICMP of a type and a code",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: ICMP, icmp: {type: 8, code: 1}}, {action: Allow, protocol: ICMP, icmp: {type: 13, code: 0}}]}",
        packets: "a>b: -ping +icmp/13",
    },
    Row {
        page: "networkpolicy#rule, notICMP",
        says: "ICMP of every type but one",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: ICMP, notICMP: {type: 8}}]}",
        packets: "a>b: -ping +icmp/13 -tcp/80",
    },
    Row {
        page: "networkpolicy#icmp, type",
        says: "ICMPv6 has types of its own",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: ICMPv6, icmp: {type: 128, code: 0}}]}",
        packets: "a>b6: +ping -tcp/80; a>b: -ping",
    },
    Row {
        page: "networkpolicy#entityrule, nets",
        says: "any of the networks",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {nets: [10.0.0.2/32, 192.0.2.0/24]}}]}",
        packets: "a>b: +tcp/80; out>b: +tcp/80; c>b: -tcp/80; a>b6: -tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, notNets",
        says: "none of the networks",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {notNets: [10.0.0.2/32, 192.0.2.0/24]}}]}",
        packets: "a>b: -tcp/80; out>b: -tcp/80; c>b: +tcp/80",
    },
    Row {
        page: "networkpolicy#ports",
        says: "numbers and ranges",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: TCP, destination: {ports: [22, '8000:9000']}}]}",
        packets: "a>b: -tcp/80 +tcp/8080 -udp; a>b6: -tcp/80 +tcp/8080",
    },
    Row {
        page: "networkpolicy#entityrule, notPorts",
        says: "any other port",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: TCP, destination: {notPorts: [22, '8000:9000']}}]}",
        packets: "a>b: +tcp/80 -tcp/8080 -udp",
    },
    Row {
        page: "networkpolicy#entityrule, ports",
        says: "ports of the source",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: TCP, source: {ports: ['1024:65535']}}, {action: Allow, protocol: UDP, source: {ports: ['1:1023']}}]}",
        packets: "a>b: +tcp/80 -udp",
    },
    Row {
        page: "networkpolicy#ports",
        says: "a named port is another number, or protocol, for each destination",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', ingress: [{action: Allow, protocol: TCP, destination: {ports: [web]}}]}",
        packets: "a>b: +tcp/80 -tcp/8080; a>c: -tcp/80 +tcp/8080 -udp; a>c6: -tcp/80 +tcp/8080",
    },
    Row {
        page: "networkpolicy#entityrule, notPorts",
        says: "not the port of that name",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', ingress: [{action: Allow, protocol: TCP, destination: {notPorts: [web]}}]}",
        packets: "a>b: -tcp/80 +tcp/8080; a>c: +tcp/80 -tcp/8080",
    },
    Row {
        page: "networkpolicy#entityrule, selector",
        says: "endpoints of the policy's own namespace",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {selector: all()}}]}",
        packets: "a>b: -tcp/80; out>b: -tcp/80; node>b: +tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, namespaceSelector",
        says: "endpoints of the namespaces with these labels",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {namespaceSelector: team == 'red'}}]}",
        packets: "a>b: +tcp/80; c>b: -tcp/80; a>b6: +tcp/80; out>b: -tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, namespaceSelector",
        says: "selector and namespaceSelector both have to match",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {selector: role == 'client', namespaceSelector: env == 'dev'}}]}",
        packets: "a>b: +tcp/80; c>b: -tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, namespaceSelector",
        says: "all() is every namespace, and nothing outside of them",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {namespaceSelector: all()}}]}
            GlobalNetworkSet s {nets: [192.0.2.0/24]}",
        packets: "a>b: +tcp/80; c>b: +tcp/80; out>b: -tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, namespaceSelector",
        says: "global() is what has no namespace",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {selector: role == 'outer', namespaceSelector: global()}}]}
            GlobalNetworkSet s role=outer {nets: [192.0.2.0/24]}
            NetworkSet b/s role=outer {nets: [10.0.0.2/32]}",
        packets: "out>b: +tcp/80; a>b: -tcp/80; c>b: -tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, notSelector",
        says: "anything but what the selector selects",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', ingress: [{action: Allow, source: {notSelector: role == 'client'}}]}",
        packets: "a>b: -tcp/80; c>b: +tcp/80; out>b: +tcp/80; a>b6: -tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule, notSelector",
        says: "means the policy's own namespace unless a namespaceSelector says another",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {notSelector: role == 'client'}}]}
            NetworkPolicy c/p {ingress: [{action: Allow, source: {notSelector: role == 'client', namespaceSelector: all()}}]}",
        packets: "a>b: -tcp/80; c>b: -tcp/80; out>b: -tcp/80; a>c: -tcp/80; b>c: +tcp/80; out>c: -tcp/80",
    },
    Row {
        page: "networkpolicy#serviceaccountmatch, names",
        says: "service accounts of the policy's namespace by name",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {namespaceSelector: all(), serviceAccounts: {names: [client]}}}]}
            NetworkPolicy c/p {ingress: [{action: Allow, source: {namespaceSelector: all(), serviceAccounts: {names: [server]}}}]}",
        packets: "a>b: +tcp/80; c>b: +tcp/80; a>c: -tcp/80; b>c: +tcp/80",
    },
    Row {
        page: "networkpolicy#serviceaccountmatch, selector",
        says: "service accounts by label",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, source: {namespaceSelector: all(), serviceAccounts: {selector: trust == 'high'}}}]}",
        packets: "a>b: +tcp/80; c>b: -tcp/80",
    },
    Row {
        page: "networkpolicy#servicematch",
        says: "a service as destination: its addresses with its ports",
        objects: "NetworkPolicy a/p {types: [Egress], egress: [{action: Allow, destination: {services: {name: api, namespace: b}}}]}
            EndpointSlice b/api-1 kubernetes.io/service-name=api {addressType: IPv4, endpoints: [{addresses: [10.0.0.3]}], ports: [{port: 8080, protocol: TCP}]}",
        packets: "a>b: -tcp/80 +tcp/8080 -udp; a>c: -tcp/8080",
    },
    Row {
        page: "networkpolicy#servicematch",
        says: "a service as source: its addresses, whatever the port",
        objects: "NetworkPolicy c/p {ingress: [{action: Allow, source: {services: {name: api, namespace: b}}}]}
            EndpointSlice b/api-1 kubernetes.io/service-name=api {addressType: IPv4, endpoints: [{addresses: [10.0.0.3]}], ports: [{port: 8080, protocol: TCP}]}",
        packets: "b>c: +tcp/80 +udp +ping; a>c: -tcp/80",
    },
    Row {
        page: "networkset",
        says: "networks as a source, in rules of the same namespace",
        objects: "NetworkSet b/s role=friend {nets: [192.0.2.0/24, 10.0.0.4/32]}
            NetworkPolicy b/p {ingress: [{action: Allow, source: {selector: role == 'friend'}}]}
            NetworkPolicy a/p {ingress: [{action: Allow, source: {selector: role == 'friend'}}]}",
        packets: "out>b: +tcp/80; c>b: +tcp/80; a>b: -tcp/80; out>a: -tcp/80",
    },
    Row {
        page: "globalnetworkset",
        says: "networks as a destination, for the whole cluster",
        objects: "GlobalNetworkSet s role=outer {nets: [192.0.2.0/25]}
            GlobalNetworkPolicy p {selector: role == 'client', types: [Egress], egress: [{action: Deny, destination: {selector: role == 'outer'}}, {action: Allow}]}",
        packets: "a>out: -tcp/80; b>out: +tcp/80; a>b: +tcp/80",
    },
    Row {
        page: "networkpolicy#entityrule",
        says: "everything that is given has to match",
        objects: "NetworkPolicy b/p {ingress: [{action: Allow, protocol: TCP, source: {namespaceSelector: env == 'dev', nets: [10.0.0.0/30], notNets: [10.0.0.1/32]}, destination: {ports: [80]}}]}",
        packets: "a>b: +tcp/80 -tcp/8080 -udp; c>b: -tcp/80",
    },
];
