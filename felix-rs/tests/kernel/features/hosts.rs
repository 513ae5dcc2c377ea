//! Host endpoints: the modes of their policies, and failsafe ports.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row {
        page: "hostendpoint",
        says: "without a policy or a profile nothing reaches the node or leaves it, failsafe ports excepted; pods are not concerned",
        objects: "HostEndpoint h {node: node, interfaceName: uplink0}",
        packets: "out>node: -tcp/80 -udp -ping; node>out: -tcp/80 +udp; out>a: +tcp/80; a>out: +tcp/80; node>a: +tcp/80; out>node: +tcp/3000",
    },
    Row {
        page: "hostendpoint#spec, profiles",
        says: "projectcalico-default-allow allows what no policy decides",
        objects: "HostEndpoint h {node: node, interfaceName: uplink0, profiles: [projectcalico-default-allow]}",
        packets: "out>node: +tcp/80 +udp +ping; node>out: +tcp/80",
    },
    Row {
        page: "hostendpoint#spec, node",
        says: "host endpoints of other nodes do nothing here",
        objects: "HostEndpoint h {node: far, interfaceName: uplink0}",
        packets: "out>node: +tcp/80; node>out: +tcp/80",
    },
    Row {
        page: "hostendpoint#spec, interfaceName",
        says: "* is every interface, but those of pods",
        objects: "HostEndpoint h {node: node, interfaceName: '*'}
            FelixConfiguration default {defaultEndpointToHostAction: Accept}",
        packets: "out>node: -tcp/80; node>out: -tcp/80; a>node: +tcp/80; node>a: +tcp/80; a>out: +tcp/80",
    },
    Row {
        page: "hostendpoint#spec, expectedIPs",
        says: "without an interface it is found by its address",
        objects: "HostEndpoint h {node: node, expectedIPs: [192.0.2.1]}",
        packets: "out>node: -tcp/80; node>out: -tcp/80",
    },
    Row {
        page: "hostendpoint#spec, expectedIPs",
        says: "what passes through its interface has other addresses",
        objects: "HostEndpoint h role=edge {node: node, expectedIPs: [192.0.2.1]}
            GlobalNetworkPolicy p {selector: role == 'edge', applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}], egress: [{action: Deny, protocol: TCP, destination: {ports: [8080]}}, {action: Allow}]}",
        packets: "out>a: -tcp/80 +tcp/8080; a>out: +tcp/80 -tcp/8080; out>node: -tcp/80 +tcp/8080; a>b: +tcp/80 +tcp/8080",
    },
    Row {
        page: "network-policy/hosts/host-forwarded-traffic, and felix/rules/dispatch.go",
        says: "* counts the pods' interfaces in for what passes through, also between two of them",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: '*', profiles: [projectcalico-default-allow]}
            GlobalNetworkPolicy p {selector: role == 'edge', applyOnForward: true, types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}]}",
        packets: "a>b: -tcp/80 +tcp/8080; a>out: -tcp/80 +tcp/8080; out>a: -tcp/80 +udp; node>a: +tcp/80",
    },
    Row {
        page: "network-policy/hosts/kubernetes-nodes, preDNAT",
        says: "* counts the pods' interfaces in before destinations are rewritten",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: '*', profiles: [projectcalico-default-allow]}
            GlobalNetworkPolicy p {selector: role == 'edge', preDNAT: true, applyOnForward: true, ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}]}",
        packets: "a>b: -tcp/80 +tcp/8080; out>a: -tcp/80 +tcp/8080; node>a: +tcp/80",
    },
    Row {
        page: "globalnetworkpolicy, and network-policy/hosts/protect-hosts",
        says: "a normal policy decides what ends or begins at the node, nothing that passes through",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0}
            GlobalNetworkPolicy p {selector: role == 'edge', types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}], egress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}}]}",
        packets: "out>node: +tcp/80 -tcp/8080 -ping; node>out: -tcp/80 +tcp/8080; out>a: +tcp/8080; a>out: +tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#spec, namespaceSelector",
        says: "a policy for namespaces is not for host endpoints",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0, profiles: [projectcalico-default-allow]}
            GlobalNetworkPolicy p {selector: all(), namespaceSelector: all(), ingress: [{action: Deny}]}",
        packets: "out>node: +tcp/80; out>a: -tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#entityrule, selector",
        says: "host endpoints as peers, by their expectedIPs",
        objects: "HostEndpoint h role=edge {node: far, expectedIPs: [192.0.2.2]}
            NetworkPolicy b/p {ingress: [{action: Allow, source: {selector: role == 'edge', namespaceSelector: global()}}]}",
        packets: "out>b: +tcp/80; a>b: -tcp/80",
    },
    Row {
        page: "felixconfig, failsafeInboundHostPorts",
        says: "these stay reachable instead of the usual ones",
        objects: "HostEndpoint h {node: node, interfaceName: uplink0}
            FelixConfiguration default {failsafeInboundHostPorts: [{protocol: tcp, port: 8080}], failsafeOutboundHostPorts: [{protocol: tcp, port: 80}]}",
        packets: "out>node: -tcp/80 +tcp/8080; node>out: +tcp/80 -tcp/8080 -udp",
    },
    Row {
        page: "felixconfig, failsafeInboundHostPorts",
        says: "for peers of a network only; an empty list is none",
        objects: "HostEndpoint h {node: node, interfaceName: uplink0}
            FelixConfiguration default {failsafeInboundHostPorts: [{protocol: tcp, port: 8080, net: 192.0.2.0/24}, {protocol: tcp, port: 80, net: 198.51.100.0/24}], failsafeOutboundHostPorts: []}",
        packets: "out>node: -tcp/80 +tcp/8080; node>out: -tcp/80 -udp",
    },
    Row {
        page: "network-policy/hosts/protect-hosts#avoid-accidentally-cutting-all-host-connectivity",
        says: "failsafe ports go before policies that deny",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0}
            GlobalNetworkPolicy p {selector: role == 'edge', types: [Ingress, Egress], ingress: [{action: Deny}], egress: [{action: Deny}]}
            GlobalNetworkPolicy q {selector: role == 'edge', preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}
            GlobalNetworkPolicy r {selector: role == 'edge', doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Deny}], egress: [{action: Deny}]}
            FelixConfiguration default {failsafeInboundHostPorts: [{protocol: tcp, port: 8080}], failsafeOutboundHostPorts: [{protocol: udp, port: 53}]}",
        packets: "out>node: -tcp/80 +tcp/8080; node>out: +udp -tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#spec, applyOnForward",
        says: "decides also what passes through, in both directions, and what ends at the node",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0}
            GlobalNetworkPolicy p {selector: role == 'edge', applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}], egress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}}]}",
        packets: "out>a: +tcp/80 -tcp/8080 -ping; a>out: -tcp/80 +tcp/8080; out>node: +tcp/80 -tcp/8080; a>b: +udp",
    },
    Row {
        page: "network-policy/hosts/host-forwarded-traffic",
        says: "a direction without policies for forwarded packets lets them pass",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0}
            GlobalNetworkPolicy p {selector: role == 'edge', applyOnForward: true, types: [Egress], egress: [{action: Deny, protocol: TCP}, {action: Allow}]}",
        packets: "out>a: +tcp/80; a>out: -tcp/80 +udp",
    },
    Row {
        page: "globalnetworkpolicy#spec, preDNAT",
        says: "decides before destinations are rewritten, whatever the destination is",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0, profiles: [projectcalico-default-allow]}
            GlobalNetworkPolicy p {selector: role == 'edge', preDNAT: true, applyOnForward: true, ingress: [{action: Deny, protocol: TCP, destination: {ports: [3000]}}]}",
        packets: "out>node: -tcp/3000 +tcp/80; out>a: +tcp/80",
    },
    Row {
        page: "network-policy/hosts/kubernetes-nodes, preDNAT",
        says: "without a policy that decides the packet goes on to the other policies",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0}
            GlobalNetworkPolicy p {selector: role == 'edge', preDNAT: true, applyOnForward: true, ingress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}}, {action: Pass}]}",
        packets: "out>node: +tcp/8080 -tcp/80 +tcp/3000",
    },
    Row {
        page: "globalnetworkpolicy#spec, doNotTrack",
        says: "decides before connection tracking: answers need a rule of their own",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0, profiles: [projectcalico-default-allow]}
            GlobalNetworkPolicy in {selector: role == 'edge', doNotTrack: true, applyOnForward: true, types: [Ingress], ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}, {action: Allow, protocol: TCP, destination: {ports: [8080]}}, {action: Pass}]}
            GlobalNetworkPolicy out {selector: role == 'edge', doNotTrack: true, applyOnForward: true, types: [Egress], egress: [{action: Allow, protocol: UDP, source: {ports: [53]}}, {action: Deny, protocol: TCP, source: {ports: [8080]}}, {action: Pass}]}",
        packets: "out>node: +udp +tcp/80 -tcp/8080",
    },
    Row {
        page: "globalnetworkpolicy#spec, doNotTrack",
        says: "its allowed packets meet no other policy",
        objects: "HostEndpoint h role=edge {node: node, interfaceName: uplink0}
            GlobalNetworkPolicy p {selector: role == 'edge', doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}], egress: [{action: Allow, protocol: TCP, source: {ports: [80]}}]}",
        packets: "out>node: +tcp/80 -tcp/8080",
    },
];
