//! Settings of the policy engine and data plane.

use super::{common, metadata};
use crate::{
    FelixConfiguration,
    kinds::{ProtoPort, RouteTableRange},
    path::{METADATA, Path, Problems, SPEC},
    types::{Port, Protocol},
};

const MAX_NODE_PORT_RANGES: usize = 7;
/// Tables 253 to 255 are the kernel's; Calico keeps clear of 251 and 252 too.
const MAX_OLD_TABLE: u32 = 250;
const MAX_MAGLEV: u32 = 3000;

pub(crate) fn check(configuration: &FelixConfiguration, problems: &mut Problems) {
    let spec = &configuration.spec;
    let name = configuration.metadata.name.as_str();
    let well_known = name == "default" || metadata::node_of(name).is_some();
    problems.require(
        name.is_empty() || well_known || spec.node_selector.is_some(),
        &METADATA.field("name"),
        "a FelixConfiguration is called default, or node.<node>, or has a nodeSelector",
    );
    common::selector(spec.node_selector.as_ref(), &SPEC.field("nodeSelector"), problems);
    for (field, priority) in [
        ("ipv4ElevatedRoutePriority", spec.ipv4_elevated_route_priority),
        ("ipv4NormalRoutePriority", spec.ipv4_normal_route_priority),
        ("ipv6ElevatedRoutePriority", spec.ipv6_elevated_route_priority),
        ("ipv6NormalRoutePriority", spec.ipv6_normal_route_priority),
    ] {
        common::priority(priority, &SPEC.field(field), problems);
    }
    for (field, mask) in
        [("iptablesMarkMask", spec.iptables_mark_mask), ("nftablesMarkMask", spec.nftables_mark_mask)]
    {
        let fine = mask.is_none_or(|mask| mask.count_ones() >= 2);
        problems.require(fine, &SPEC.field(field), "at least two bits must be set");
    }
    check_tables(spec.route_table_range, spec.route_table_ranges.as_deref(), problems);
    check_failsafe(
        spec.failsafe_inbound_host_ports.as_deref(),
        &SPEC.field("failsafeInboundHostPorts"),
        problems,
    );
    check_failsafe(
        spec.failsafe_outbound_host_ports.as_deref(),
        &SPEC.field("failsafeOutboundHostPorts"),
        problems,
    );
    for (field, port) in [("natPortRange", &spec.nat_port_range), ("bpfPSNATPorts", &spec.bpf_psnat_ports)] {
        let fine = !matches!(port, Some(Port::Named(_)));
        problems.require(fine, &SPEC.field(field), "a number or \"min:max\" is needed");
    }
    if let Some(ranges) = &spec.kube_node_port_ranges {
        let at = SPEC.field("kubeNodePortRanges");
        common::at_most(ranges, MAX_NODE_PORT_RANGES, &at, problems);
        for (index, port) in ranges.iter().enumerate() {
            problems.require(port.bounds().is_some(), &at.index(index), "a number or \"min:max\" is needed");
        }
    }
    for (field, value) in [
        ("bpfMaglevMaxServices", spec.bpf_maglev_max_services),
        ("bpfMaglevMaxEndpointsPerService", spec.bpf_maglev_max_endpoints_per_service),
    ] {
        let fine = value.is_none_or(|value| (1..=MAX_MAGLEV).contains(&value));
        problems.require(fine, &SPEC.field(field), format!("a number from 1 to {MAX_MAGLEV} is needed"));
    }
    for (field, value) in [
        ("goGCThreshold", spec.go_gc_threshold),
        ("goMaxProcs", spec.go_max_procs),
        ("goMemoryLimitMB", spec.go_memory_limit_mb),
    ] {
        problems.require(
            value.is_none_or(|value| value >= -1),
            &SPEC.field(field),
            "-1 is the smallest value",
        );
    }
    check_texts(configuration, problems);
}

fn check_tables(old: Option<RouteTableRange>, new: Option<&[RouteTableRange]>, problems: &mut Problems) {
    let at = SPEC.field("routeTableRange");
    problems.require(
        old.is_none() || new.is_none(),
        &at,
        "routeTableRange and routeTableRanges can't both be set: use routeTableRanges",
    );
    if let Some(range) = old {
        let fine = range.min >= 1 && range.min <= range.max && range.max <= MAX_OLD_TABLE;
        problems.require(fine, &at, format!("min and max are from 1 to {MAX_OLD_TABLE}, min not above max"));
    }
    let list = SPEC.field("routeTableRanges");
    for (index, range) in new.unwrap_or_default().iter().enumerate() {
        let kernels = range.min <= 255 && range.max >= 253;
        let fine = range.min >= 1 && range.min <= range.max && !kernels;
        problems.require(
            fine,
            &list.index(index),
            "min must be from 1 to max, and tables 253 to 255 are the kernel's own",
        );
    }
}

fn check_failsafe(ports: Option<&[ProtoPort]>, path: &Path<'_>, problems: &mut Problems) {
    for (index, port) in ports.unwrap_or_default().iter().enumerate() {
        let at = path.index(index);
        let fine = port.protocol.is_none_or(Protocol::has_ports);
        problems.require(fine, &at.field("protocol"), "use TCP, UDP or SCTP");
    }
}

fn check_texts(configuration: &FelixConfiguration, problems: &mut Problems) {
    let spec = &configuration.spec;
    let prefix_byte = |b: u8| b.is_ascii_alphanumeric() || b"%: /_-".contains(&b);
    let fine = spec.log_prefix.as_ref().is_none_or(|prefix| prefix.bytes().all(prefix_byte));
    problems.require(
        fine,
        &SPEC.field("logPrefix"),
        "letters, digits, '%', ':', '/', '_', '-' and spaces are allowed",
    );
    let fine = spec.log_action_rate_limit.as_ref().is_none_or(|limit| is_rate(limit));
    problems.require(
        fine,
        &SPEC.field("logActionRateLimit"),
        "a number from 1 to 9999 and a unit are needed: 10/second, 100/minute, hour or day",
    );
    let fine = spec.feature_detect_override.as_ref().is_none_or(|list| {
        pairs(list).all(|(name, value)| is_word(name) && matches!(value, Some("true" | "false")))
    });
    problems.require(
        fine,
        &SPEC.field("featureDetectOverride"),
        "name=true or name=false, separated by commas, is needed",
    );
    let fine = spec.feature_gates.as_ref().is_none_or(|list| {
        pairs(list).all(|(name, value)| is_word(name) && value.is_some_and(|v| !v.is_empty()))
    });
    problems.require(fine, &SPEC.field("featureGates"), "name=value pairs, separated by commas, are needed");
    if let Some(prefixes) = &spec.interface_prefix {
        let at = SPEC.field("interfacePrefix");
        for prefix in prefixes.split(',') {
            common::interface(prefix, false, &at, problems);
            // Rules write `prefix+`, which has to be a name as well.
            let fine = prefix.len() < common::MAX_INTERFACE_NAME;
            problems.require(fine, &at, format!("{prefix:?} leaves no room for the rest of a name"));
        }
    }
    if let Some(filter) =
        spec.iptables_nat_outgoing_interface_filter.as_deref().filter(|text| !text.is_empty())
    {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:+-".contains(&b);
        let fine = filter.len() <= common::MAX_INTERFACE_NAME && filter.bytes().all(allowed);
        problems.require(
            fine,
            &SPEC.field("iptablesNATOutgoingInterfaceFilter"),
            format!("{filter:?} is not the name of an interface, nor the beginning of some followed by '+'"),
        );
    }
    for (field, name) in [
        ("wireguardInterfaceName", &spec.wireguard_interface_name),
        ("wireguardInterfaceNameV6", &spec.wireguard_interface_name_v6),
    ] {
        if let Some(name) = name {
            common::interface(name, false, &SPEC.field(field), problems);
        }
    }
}

fn is_rate(text: &str) -> bool {
    let Some((number, unit)) = text.split_once('/') else { return false };
    let digits = !number.is_empty() && number.len() <= 4 && number.bytes().all(|b| b.is_ascii_digit());
    digits && !number.starts_with('0') && matches!(unit, "second" | "minute" | "hour" | "day")
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value))))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}
