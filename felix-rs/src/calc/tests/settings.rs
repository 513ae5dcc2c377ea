//! Settings of a node: what FelixConfiguration and the node itself say.

use margay_api::{Key, Kind};

use super::{Cluster, PODS, address};
use crate::calc::{Calculator, Scope};
use crate::model::{EnforcedState, PortRange, SourceNat};

#[test]
fn the_kernel_decides_about_ipv6_and_external_nodes_may_be_networks() {
    let felix = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\n\
                 spec: {ipv6Support: true, externalNodesList: [192.0.2.0/24]}\n";
    for without in [false, true] {
        let calculator = Calculator::new("n1");
        let calculator = if without { calculator.without_ipv6() } else { calculator };
        let mut n1 = Cluster { calculator, state: EnforcedState::default() };
        n1.apply(felix);
        assert_eq!(n1.state.settings.ipv6, !without);
        assert!(n1.state.settings.is_node("192.0.2.7".parse().unwrap()));
        assert!(!n1.state.settings.is_node("192.0.3.7".parse().unwrap()));
    }
}

/// An interface that no prefix covers is a pod's all the same if an endpoint says so.
#[test]
fn interfaces_without_a_prefix_are_known_by_name() {
    let mut n1 = Cluster::new(Scope::Node("n1".to_owned()));
    n1.apply(PODS);
    assert!(n1.state.settings.workload_interfaces.is_empty());
    let tap = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: vm, namespace: shop, labels: {app: db}}
spec: {node: n1, orchestrator: libvirt, workload: vm, endpoint: eth0, interfaceName: tap0, ipNetworks: [10.0.0.4/32], profiles: [kns.shop]}
";
    n1.apply(tap);
    assert_eq!(n1.state.settings.workload_interfaces, ["tap0".into()].into());
    let prefix = |prefix: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{interfacePrefix: {prefix}}}\n"
        )
    };
    n1.apply(&prefix("tap"));
    assert!(n1.state.settings.workload_interfaces.is_empty());
    n1.apply(&prefix("veth"));
    assert_eq!(n1.state.settings.workload_interfaces, ["tap0".into()].into());
    n1.delete(&Key::namespaced(Kind::WorkloadEndpoint, "shop", "vm"));
    assert!(n1.state.settings.workload_interfaces.is_empty());
}

/// Of a configuration that can't be read as a whole, what closes interfaces is kept.
#[test]
fn an_unreadable_configuration_keeps_workload_prefixes() {
    let mut cluster = Cluster::new(Scope::Node("n1".to_owned()));
    let key = Key::cluster(Kind::FelixConfiguration, "default");
    let raw = serde_json::json!({"spec": {"interfacePrefix": "veth", "ofTomorrow": 1}});
    cluster.calculator.update_unreadable(&key, "spec.ofTomorrow: unknown", Some(&raw));
    cluster.flush();
    let prefixes: Vec<&str> = cluster.state.settings.workload_prefixes.iter().map(AsRef::as_ref).collect();
    assert_eq!(prefixes, ["mgy", "veth"]);
}

#[test]
fn how_nat_outgoing_is_done_is_asked_of_felix_configuration() {
    let mut cluster = Cluster::of(PODS);
    assert_eq!(cluster.state.settings.source_nat, SourceNat::default());
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec:
  natOutgoingAddress: 192.0.2.77
  natOutgoingExclusions: IPPoolsAndHostIPs
  natPortRange: '32768:40000'
  iptablesNATOutgoingInterfaceFilter: eth+
",
    );
    let expected = SourceNat {
        address: Some([192, 0, 2, 77].into()),
        ports: Some(PortRange { first: 32_768, last: 40_000 }),
        spares_nodes: true,
        interface: Some("eth+".into()),
    };
    assert_eq!(cluster.state.settings.source_nat, expected);
}

#[test]
fn ranges_of_services_do_not_loop_unless_allowed_to() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  serviceClusterIPs: [{cidr: 10.96.0.0/16}]
  serviceExternalIPs: [{cidr: 192.0.2.0/24}]
  serviceLoadBalancerIPs: [{cidr: 'fd96::/112'}]
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n1}
spec: {listenPort: 1790}
",
    );
    let ranges = ["10.96.0.0/16", "192.0.2.0/24", "fd96::/112"].map(|range| range.parse().unwrap());
    let of = |cluster: &Cluster| {
        let settings = &cluster.state.settings;
        (settings.service_ranges.clone(), settings.service_loop_rejects)
    };
    assert_eq!(of(&cluster), (ranges.into(), false));
    for (value, expected) in [("Reject", (ranges.into(), true)), ("Disabled", ([].into(), false))] {
        cluster.apply(&format!(
            "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {{serviceLoopPrevention: {value}}}
"
        ));
        assert_eq!(of(&cluster), expected, "{value}");
    }
}

#[test]
fn wireguard_is_let_in_where_it_is_on() {
    let mut cluster = Cluster::of(PODS);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {wireguardEnabled: true, wireguardListeningPort: 51900, wireguardListeningPortV6: 51901}
",
    );
    assert_eq!(cluster.state.settings.wireguard_ports, [51_900].into());
}

/// What a node's own interfaces say: whose address a host endpoint expects, and who else works here.
#[test]
fn interfaces_of_the_node_are_reckoned_with() {
    let mut cluster = Cluster::new(Scope::Node("n1".to_owned()));
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h}
spec: {node: n1, expectedIPs: [192.0.2.1, 198.51.100.1]}
",
    );
    let told = |cluster: &mut Cluster, names: &[(&str, &str)]| {
        let interfaces = names.iter().map(|(name, own)| ((*name).into(), [address(own)].into())).collect();
        cluster.calculator.set_interfaces(interfaces);
        cluster.flush();
        let found: Vec<String> =
            cluster.state.settings.host_addresses.keys().map(ToString::to_string).collect();
        let problems: Vec<String> = cluster.calculator.problems().into_iter().map(|p| p.reason).collect();
        (found.join(" "), cluster.state.settings.is_workload("calia"), problems.join("\n"))
    };
    let uplinks = [("eth0", "192.0.2.1"), ("eth1", "198.51.100.1"), ("eth2", "203.0.113.1")];
    assert_eq!(told(&mut cluster, &uplinks), ("eth0 eth1".to_owned(), false, String::new()));
    let (found, calicos, problems) = told(&mut cluster, &[("eth5", "192.0.2.1"), ("cali1", "169.254.1.1")]);
    assert_eq!(
        (found.as_str(), calicos),
        ("eth5", true),
        "while Calico's pods are here nothing of theirs is open"
    );
    assert!(problems.contains("interfacePrefix"), "{problems}");
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {interfacePrefix: tap, bpfEnabled: true}
",
    );
    let (_, calicos, problems) = told(&mut cluster, &[("cali1", "169.254.1.1"), ("kube-ipvs0", "10.96.0.1")]);
    assert!(!calicos, "somebody has said whose interfaces are pods'");
    assert!(problems.contains("IPVS") && problems.contains("spec.bpfEnabled has no effect"), "{problems}");
    assert!(cluster.state.settings.ipvs);
    cluster.apply(
        "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
",
    );
    assert_eq!(told(&mut cluster, &uplinks).0, "", "nobody asks for addresses any more");
}

/// `workloadSourceSpoofing` decides whether `allowSpoofedSourcePrefixes` count, whenever it changes.
#[test]
fn workloads_spoof_only_where_they_may() {
    let mut cluster = Cluster::of(
        "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: vm, namespace: shop}
spec: {node: n1, orchestrator: vms, workload: vm, endpoint: eth0, interfaceName: tap0, ipNetworks: [10.0.0.9/32], allowSpoofedSourcePrefixes: [10.9.0.0/16]}
",
    );
    let sources = |cluster: &Cluster| -> usize {
        cluster.state.endpoints.values().map(|endpoint| endpoint.allowed_sources.len()).sum()
    };
    assert_eq!(sources(&cluster), 0, "Calico's default is Disabled");
    for (spoofing, allowed) in [("Any", 1), ("Disabled", 0), ("Any", 1)] {
        cluster.apply(&format!(
            "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {{workloadSourceSpoofing: {spoofing}}}
"
        ));
        assert_eq!(sources(&cluster), allowed, "{spoofing}");
    }
}
