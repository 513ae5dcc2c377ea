//! Kinds of policies, their order, and what is decided where no rule does.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row {
        page: "felixconfig, vxlanPort",
        says: "pods send no packets of the node's tunnels",
        objects: "FelixConfiguration default {vxlanEnabled: true, vxlanPort: 53}",
        packets: "a>b: -udp +tcp/80 -ip/4; out>a: +udp",
    },
    Row {
        page: "felixconfig, allowVXLANPacketsFromWorkloads",
        says: "unless they are allowed to",
        objects: "FelixConfiguration default {vxlanEnabled: true, vxlanPort: 53, allowVXLANPacketsFromWorkloads: true}",
        packets: "a>b: +udp -ip/4",
    },
    Row {
        page: "felixconfig, allowIPIPPacketsFromWorkloads",
        says: "the same with IPIP",
        objects: "FelixConfiguration default {allowIPIPPacketsFromWorkloads: true}",
        packets: "a>b: +ip/4",
    },
    Row {
        page: "networkpolicy#spec, types",
        says: "absent, without egress rules: Ingress",
        objects: "NetworkPolicy b/p {selector: all()}",
        packets: "a>b: -tcp/80 -udp -ping; a>b6: -tcp/80; b>a: +tcp/80; node>b: +tcp/80 +ping",
    },
    Row {
        page: "networkpolicy#spec, types",
        says: "absent, with egress rules only: Egress",
        objects: "NetworkPolicy b/p {egress: [{action: Deny, protocol: TCP}]}",
        packets: "a>b: +tcp/80; b>a: -tcp/80 -udp",
    },
    Row {
        page: "networkpolicy#spec, types",
        says: "rules of a direction that is not a type do nothing",
        objects: "NetworkPolicy b/p {types: [Ingress], ingress: [{action: Allow, protocol: UDP}], egress: [{action: Deny}]}",
        packets: "a>b: -tcp/80 +udp; b>a: +tcp/80",
    },
    Row {
        page: "networkpolicy#spec, order",
        says: "the lower one goes first, and none at all last",
        objects: "NetworkPolicy b/a-last {ingress: [{action: Deny}]}
            NetworkPolicy b/b-second {order: 20.5, ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}]}
            NetworkPolicy b/c-first {order: -1, ingress: [{action: Allow, protocol: TCP}]}",
        packets: "a>b: +tcp/80 +tcp/8080 -udp",
    },
    Row {
        page: "networkpolicy#spec, order",
        says: "of the same order by name",
        objects: "NetworkPolicy b/b {order: 1, ingress: [{action: Deny}]}
            NetworkPolicy b/a {order: 1, ingress: [{action: Allow, protocol: TCP}]}",
        packets: "a>b: +tcp/80 -udp",
    },
    Row {
        page: "networkpolicy#spec, selector",
        says: "endpoints of the namespace with these labels",
        objects: "NetworkPolicy b/p {selector: role == 'server', ingress: []}
            NetworkPolicy c/p {selector: role == 'client', ingress: []}",
        packets: "a>b: -tcp/80; a>c: +tcp/80",
    },
    Row {
        page: "networkpolicy#spec, serviceAccountSelector",
        says: "endpoints with a service account of these labels",
        objects: "NetworkPolicy b/p {serviceAccountSelector: trust == 'high', ingress: []}
            NetworkPolicy c/p {serviceAccountSelector: trust == 'high', ingress: []}",
        packets: "a>b: -tcp/80; a>c: +tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#spec, selector",
        says: "endpoints of all namespaces",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', ingress: [{action: Allow, protocol: UDP}]}",
        packets: "a>b: -tcp/80 +udp; a>c: -tcp/80 +udp; b>a: +tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#spec, namespaceSelector",
        says: "endpoints of the namespaces with these labels",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', namespaceSelector: env == 'dev', ingress: []}",
        packets: "a>b: +tcp/80; a>c: -tcp/80; b>a: +tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#entityrule, selector",
        says: "endpoints of all namespaces as peers, and global network sets",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', ingress: [{action: Allow, source: {selector: role == 'client' || role == 'outer'}}]}
            GlobalNetworkSet s role=outer {nets: [192.0.2.2/32]}",
        packets: "a>b: +tcp/80; c>b: -tcp/80; out>b: +tcp/80",
    },
    Row {
        page: "globalnetworkpolicy#spec, applyOnForward",
        says: "is for host endpoints: policies of pods need it not",
        objects: "GlobalNetworkPolicy p {selector: role == 'server', applyOnForward: true, ingress: [{action: Allow, protocol: UDP}]}",
        packets: "a>b: -tcp/80 +udp; b>a: +tcp/80",
    },
    Row {
        page: "tier#spec, order",
        says: "the tier with the lower order goes first",
        objects: "Tier late {order: 200}
            Tier early {order: 100}
            NetworkPolicy b/late.p {tier: late, ingress: [{action: Deny}]}
            NetworkPolicy b/early.p {tier: early, ingress: [{action: Allow, protocol: TCP}, {action: Pass, protocol: UDP}]}",
        packets: "a>b: +tcp/80 -udp -ping",
    },
    Row {
        page: "tier#spec, defaultAction",
        says: "Deny: a packet that the tier's policies select and none decides is dropped",
        objects: "Tier t {order: 100, defaultAction: Deny}
            NetworkPolicy b/t.p {tier: t, ingress: [{action: Allow, protocol: UDP}]}
            NetworkPolicy b/p {ingress: [{action: Allow}]}",
        packets: "a>b: -tcp/80 +udp; a>c: +tcp/80",
    },
    Row {
        page: "tier#spec, defaultAction",
        says: "Pass: it goes on to the next tier",
        objects: "Tier t {order: 100, defaultAction: Pass}
            NetworkPolicy b/t.p {tier: t, ingress: [{action: Deny, protocol: UDP}]}
            NetworkPolicy b/p {ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}",
        packets: "a>b: +tcp/80 -tcp/8080 -udp",
    },
    Row {
        page: "tier#how-policies-in-a-tier-are-processed",
        says: "a tier without a policy for the endpoint, or for the direction, has no default action",
        objects: "Tier t {order: 100}
            NetworkPolicy b/t.p {tier: t, types: [Egress], egress: [{action: Allow, protocol: UDP}]}",
        packets: "a>b: +tcp/80; b>a: -tcp/80 +udp; a>c: +tcp/80",
    },
    Row {
        page: "stagednetworkpolicy",
        says: "a staged policy decides nothing, also not the end of its tier",
        objects: "StagedNetworkPolicy b/p {ingress: [{action: Deny}]}
            StagedGlobalNetworkPolicy q {selector: all(), types: [Ingress, Egress]}
            StagedKubernetesNetworkPolicy c/r {podSelector: {}, policyTypes: [Ingress, Egress]}",
        packets: "a>b: +tcp/80 +udp; a>c: +tcp/80; c>a: +tcp/80",
    },
    Row {
        page: "stagednetworkpolicy",
        says: "beside a staged policy the enforced ones decide",
        objects: "StagedNetworkPolicy b/a {order: 1, ingress: [{action: Allow}]}
            NetworkPolicy b/p {order: 2, ingress: [{action: Allow, protocol: UDP}]}",
        packets: "a>b: -tcp/80 +udp",
    },
    Row {
        page: "profile",
        says: "rules of a profile decide where no policy does",
        objects: "Profile closed {ingress: [{action: Allow, protocol: UDP}, {action: Deny}], egress: [{action: Allow}]}
            WorkloadEndpoint b/b role=server {node: node, orchestrator: k8s, pod: b, endpoint: eth0, interfaceName: mgyb, ipNetworks: [10.0.0.3/32], profiles: [closed, kns.b]}",
        packets: "a>b: -tcp/80 +udp; b>a: +tcp/80",
    },
    Row {
        page: "profile#spec, labelsToApply",
        says: "endpoints inherit the labels",
        objects: "Profile guarded {labelsToApply: {guarded: 'yes'}}
            WorkloadEndpoint b/b role=server {node: node, orchestrator: k8s, pod: b, endpoint: eth0, interfaceName: mgyb, ipNetworks: [10.0.0.3/32], profiles: [kns.b, guarded]}
            GlobalNetworkPolicy p {selector: guarded == 'yes', ingress: [{action: Allow, protocol: UDP}]}",
        packets: "a>b: -tcp/80 +udp; a>c: +tcp/80",
    },
    Row {
        page: "felixconfig, defaultEndpointToHostAction",
        says: "Drop is what it is when it is not set",
        objects: "NetworkPolicy a/p {types: [Egress], egress: [{action: Allow}]}",
        packets: "a>node: -tcp/80 -ping; node>a: +tcp/80",
    },
    Row {
        page: "felixconfig, defaultEndpointToHostAction",
        says: "Accept lets a pod reach its node, after its egress policy",
        objects: "FelixConfiguration default {defaultEndpointToHostAction: Accept}
            NetworkPolicy a/p {types: [Egress], egress: [{action: Allow, protocol: TCP}]}",
        packets: "a>node: +tcp/80 -udp; b>node: +tcp/80 +udp",
    },
    Row {
        page: "felixconfig, defaultEndpointToHostAction",
        says: "Return leaves it to the node's own rules",
        objects: "FelixConfiguration default {defaultEndpointToHostAction: Return}
            NetworkPolicy a/p {types: [Egress], egress: [{action: Allow, protocol: TCP}]}",
        packets: "a>node: +tcp/80 -udp",
    },
    Row {
        page: "kubernetes.io/docs/reference/kubernetes-api NetworkPolicy, policyTypes",
        says: "absent: Ingress, and Egress where there are egress rules",
        objects: "KubernetesNetworkPolicy b/p {podSelector: {}}
            KubernetesNetworkPolicy c/p {podSelector: {}, egress: [{ports: [{protocol: TCP, port: 80}]}]}",
        packets: "a>b: -tcp/80; b>a: +tcp/8080; a>c: -tcp/80; c>a: +tcp/80 -tcp/8080",
    },
    Row {
        page: "kubernetes.io/docs/reference/kubernetes-api NetworkPolicy, ipBlock",
        says: "a network without some of it",
        objects: "KubernetesNetworkPolicy b/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/30]}}]}]}",
        packets: "a>b: -tcp/80; c>b: +tcp/80; out>b: +tcp/80; c>b6: -tcp/80",
    },
    Row {
        page: "kubernetes.io/docs/reference/kubernetes-api NetworkPolicy, endPort",
        says: "a range of ports",
        objects: "KubernetesNetworkPolicy b/p {podSelector: {}, ingress: [{ports: [{protocol: TCP, port: 8000, endPort: 8100}]}]}",
        packets: "a>b: -tcp/80 +tcp/8080 -udp",
    },
    Row {
        page: "kubernetes.io/docs/reference/kubernetes-api NetworkPolicy, port",
        says: "a name, found at each destination",
        objects: "KubernetesNetworkPolicy a/p {podSelector: {}, egress: [{ports: [{protocol: TCP, port: web}]}]}",
        packets: "a>b: +tcp/80 -tcp/8080; a>c: -tcp/80 +tcp/8080 -udp",
    },
    Row {
        page: "network-policy-api.sigs.k8s.io ClusterNetworkPolicy, tier",
        says: "Admin goes before every NetworkPolicy, Pass leaves it to them, Baseline comes behind",
        objects: "ClusterNetworkPolicy admin {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: b}}}, ingress: [{action: Pass, from: [{namespaces: {}}], protocols: [{udp: {}}]}, {action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}, {action: Accept, from: [{namespaces: {matchLabels: {team: red}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}
            ClusterNetworkPolicy base {tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: red}}}]}]}
            KubernetesNetworkPolicy b/p {podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 53}]}]}",
        packets: "a>b: +tcp/80 -tcp/8080 +udp; c>b: -tcp/80 +udp; a>c: -tcp/80 -udp; b>c: +tcp/80",
    },
    Row {
        page: "network-policy-api.sigs.k8s.io ClusterNetworkPolicy, egress peers",
        says: "nodes and networks",
        objects: "ClusterNetworkPolicy admin {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: client}}}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {role: control}}}], protocols: [{tcp: {}}]}, {action: Deny, to: [{networks: [10.0.0.4/32]}]}]}",
        packets: "a>out: -tcp/80 +udp; b>out: +tcp/80; a>c: -tcp/80; a>b: +tcp/80",
    },
    Row {
        page: "network-policy-api.sigs.k8s.io ClusterNetworkPolicy, protocols",
        says: "ports, ranges, and ports by name",
        objects: "ClusterNetworkPolicy admin {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: red}}}], protocols: [{destinationNamedPort: web}, {udp: {destinationPort: {range: {start: 50, end: 60}}}}]}]}",
        packets: "a>b: -tcp/80 +tcp/8080 -udp; a>c: +tcp/80 -tcp/8080; b>c: +tcp/8080",
    },
];
