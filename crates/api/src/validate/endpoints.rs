//! Host and workload endpoints.

use super::{common, metadata};
use crate::{
    HostEndpoint, WorkloadEndpoint,
    kinds::Dscp,
    path::{Problems, SPEC},
    types::{Port, Protocol},
};

/// Largest DSCP value (6 bits).
const MAX_DSCP: u8 = 63;
const DSCP_CLASSES: &[&str] = &[
    "CS0", "CS1", "CS2", "CS3", "CS4", "CS5", "CS6", "CS7", "AF11", "AF12", "AF13", "AF21", "AF22", "AF23",
    "AF31", "AF32", "AF33", "AF41", "AF42", "AF43", "EF", "DF",
];

pub(crate) fn check_host(endpoint: &HostEndpoint, problems: &mut Problems) {
    let spec = &endpoint.spec;
    let node = SPEC.field("node");
    if spec.node.is_empty() {
        problems.add(&node, "required, but missing");
    } else {
        metadata::check_node_name(&spec.node, &node, problems);
    }
    match spec.interface_name.as_deref() {
        None | Some("") => problems.require(
            !spec.expected_ips.is_empty(),
            &SPEC,
            "at least one of interfaceName and expectedIPs is needed",
        ),
        Some("*") => {}
        Some(name) => common::interface(name, false, &SPEC.field("interfaceName"), problems),
    }
    common::unique(&spec.expected_ips, &SPEC.field("expectedIPs"), problems);
    common::unique(&spec.profiles, &SPEC.field("profiles"), problems);
    let ports = SPEC.field("ports");
    for (index, port) in spec.ports.iter().enumerate() {
        let at = ports.index(index);
        check_port_name(&port.name, &at.field("name"), problems);
        common::not_zero(Some(port.port), &at.field("port"), problems);
        check_port_protocol(port.protocol, &at.field("protocol"), problems);
    }
}

pub(crate) fn check_workload(endpoint: &WorkloadEndpoint, problems: &mut Problems) {
    let spec = &endpoint.spec;
    problems.require(!spec.node.is_empty(), &SPEC.field("node"), "required, but missing");
    common::interface(&spec.interface_name, false, &SPEC.field("interfaceName"), problems);
    let networks = SPEC.field("ipNetworks");
    for (index, net) in spec.ip_networks.iter().enumerate() {
        let fine = net.prefix_len() == net.max_prefix_len();
        problems.require(
            fine,
            &networks.index(index),
            format!("{net} must be a single address (/{})", net.max_prefix_len()),
        );
    }
    let nats = SPEC.field("ipNATs");
    for (index, nat) in spec.ip_nats.iter().enumerate() {
        let at = nats.index(index);
        let own = spec.ip_networks.iter().any(|net| net.addr() == nat.internal_ip);
        problems.require(
            own,
            &at.field("internalIP"),
            format!("{} is not one of ipNetworks", nat.internal_ip),
        );
        let same = nat.internal_ip.is_ipv4() == nat.external_ip.is_ipv4();
        problems.require(same, &at.field("externalIP"), "must be of the same family as internalIP");
    }
    common::unique(&spec.profiles, &SPEC.field("profiles"), problems);
    let ports = SPEC.field("ports");
    for (index, port) in spec.ports.iter().enumerate() {
        let at = ports.index(index);
        if !port.name.is_empty() {
            check_port_name(&port.name, &at.field("name"), problems);
        }
        common::not_zero(Some(port.port), &at.field("port"), problems);
        check_port_protocol(port.protocol, &at.field("protocol"), problems);
        let named = !port.name.is_empty() || port.host_port.is_some();
        problems.require(named, &at, "at least one of name and hostPort is needed");
    }
    if let Some(dscp) = spec.qos_controls.as_ref().and_then(|qos| qos.dscp.as_ref()) {
        check_dscp(dscp, problems);
    }
}

fn check_dscp(dscp: &Dscp, problems: &mut Problems) {
    let fine = match dscp {
        Dscp::Number(number) => *number <= MAX_DSCP,
        Dscp::Class(class) => DSCP_CLASSES.contains(&class.as_str()),
    };
    let qos = SPEC.field("qosControls");
    problems.require(
        fine,
        &qos.field("dscp"),
        format!("use 0 to {MAX_DSCP} or one of {}", DSCP_CLASSES.join(", ")),
    );
}

fn check_port_name(name: &str, path: &crate::path::Path<'_>, problems: &mut Problems) {
    let fine = matches!(name.parse(), Ok(Port::Named(_)));
    problems.require(
        fine,
        path,
        format!("{name:?} is not a port name: letters, digits, '_', '.' or '-', not only digits"),
    );
}

fn check_port_protocol(protocol: Protocol, path: &crate::path::Path<'_>, problems: &mut Problems) {
    problems.require(protocol.has_ports(), path, format!("{protocol} has no ports: use TCP, UDP or SCTP"));
}
