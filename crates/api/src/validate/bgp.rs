//! BGP settings, peers and filters.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::{common, metadata};
use crate::{
    BgpConfiguration, BgpFilter, BgpPeer,
    kinds::{
        BgpConfigurationSpec, BgpFilterRule, CidrBlock, FilterAction, FilterOperation, LogSeverity, Toggle,
    },
    path::{METADATA, Path, Problems, SPEC},
    types::{AsNumber, CommunityRef},
};

/// RFC 4271 section 4.4: not more often than once a second; three of them fit the longest hold time, 65535 s.
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(21_845);
const MAX_COMMUNITIES: usize = 500;
const MAX_COMMUNITIES_PER_PREFIX: usize = 50;
const MAX_COMMUNITY_NAME: usize = 253;
const MAX_OPERATIONS: usize = 10;
const MAX_PREPENDS: usize = 10;

pub(crate) fn set_configuration_defaults(configuration: &mut BgpConfiguration) {
    // A node's own object overrides the cluster's: it must not override what its author didn't write.
    if configuration.metadata.name == "default" {
        configuration.spec.log_severity_screen.get_or_insert(LogSeverity::Info);
        configuration.spec.service_load_balancer_aggregation.get_or_insert(Toggle::Enabled);
    }
}

pub(crate) fn check_configuration(configuration: &BgpConfiguration, problems: &mut Problems) {
    let spec = &configuration.spec;
    let name = configuration.metadata.name.as_str();
    if metadata::node_of(name).is_some() {
        check_node_configuration(spec, problems);
    } else if name != "default" && !name.is_empty() {
        problems.add(
            &METADATA.field("name"),
            "a BGPConfiguration is called default, or node.<node> for one node",
        );
    }
    check_as_number(spec.as_number, &SPEC.field("asNumber"), problems);
    common::not_zero(spec.listen_port, &SPEC.field("listenPort"), problems);
    common::priority(spec.ipv4_normal_route_priority, &SPEC.field("ipv4NormalRoutePriority"), problems);
    common::priority(spec.ipv6_normal_route_priority, &SPEC.field("ipv6NormalRoutePriority"), problems);
    if spec.node_to_node_mesh_enabled == Some(false) {
        let why = "can't be set when nodeToNodeMeshEnabled is false";
        problems.require(spec.node_mesh_password.is_none(), &SPEC.field("nodeMeshPassword"), why);
        problems.require(
            spec.node_mesh_max_restart_time.is_none(),
            &SPEC.field("nodeMeshMaxRestartTime"),
            why,
        );
    }
    common::secret(spec.node_mesh_password.as_ref(), &SPEC.field("nodeMeshPassword"), problems);
    for (field, ranges) in [
        ("serviceClusterIPs", &spec.service_cluster_ips),
        ("serviceExternalIPs", &spec.service_external_ips),
        ("serviceLoadBalancerIPs", &spec.service_load_balancer_ips),
    ] {
        check_ranges(ranges, &SPEC.field(field), problems);
    }
    let ignored = SPEC.field("ignoredInterfaces");
    common::unique(&spec.ignored_interfaces, &ignored, problems);
    for (index, interface) in spec.ignored_interfaces.iter().enumerate() {
        common::interface(interface, true, &ignored.index(index), problems);
    }
    check_communities(spec, problems);
}

fn check_node_configuration(spec: &BgpConfigurationSpec, problems: &mut Problems) {
    for (field, given) in [
        ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled.is_some()),
        ("asNumber", spec.as_number.is_some()),
        ("serviceClusterIPs", !spec.service_cluster_ips.is_empty()),
        ("serviceExternalIPs", !spec.service_external_ips.is_empty()),
        ("serviceLoadBalancerIPs", !spec.service_load_balancer_ips.is_empty()),
        ("nodeMeshPassword", spec.node_mesh_password.is_some()),
        ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.is_some()),
        ("nodeMeshFailureDetectionMode", spec.node_mesh_failure_detection_mode.is_some()),
    ] {
        let hint = if field == "asNumber" { "; a node's AS is spec.bgp.asNumber of its Node" } else { "" };
        problems.require(
            !given,
            &SPEC.field(field),
            format!("can only be set in the BGPConfiguration called default{hint}"),
        );
    }
}

fn check_ranges(ranges: &[CidrBlock], path: &Path<'_>, problems: &mut Problems) {
    for (index, range) in ranges.iter().enumerate() {
        check_range(range.cidr, &path.index(index).field("cidr"), problems);
    }
}

fn check_range(cidr: Option<IpNet>, path: &Path<'_>, problems: &mut Problems) {
    match cidr {
        None => problems.add(path, "required, but missing"),
        Some(cidr) => {
            problems.require(cidr == cidr.trunc(), path, format!("host bits are set: use {}", cidr.trunc()));
        }
    }
}

fn check_communities(spec: &BgpConfigurationSpec, problems: &mut Problems) {
    let communities = SPEC.field("communities");
    common::at_most(&spec.communities, MAX_COMMUNITIES, &communities, problems);
    let advertisements = SPEC.field("prefixAdvertisements");
    common::at_most(&spec.prefix_advertisements, MAX_COMMUNITIES, &advertisements, problems);
    problems.require(
        spec.communities.is_empty() || !spec.prefix_advertisements.is_empty(),
        &communities,
        "communities are defined, but not used in prefixAdvertisements",
    );
    let mut names = BTreeSet::new();
    for (index, community) in spec.communities.iter().enumerate() {
        let at = communities.index(index);
        let name = at.field("name");
        let fine = !community.name.is_empty() && community.name.len() <= MAX_COMMUNITY_NAME;
        problems.require(fine, &name, format!("a name has 1 to {MAX_COMMUNITY_NAME} characters"));
        problems.require(
            !community.name.contains(':'),
            &name,
            "a name has no colon: it would read as a value",
        );
        problems.require(
            names.insert(&community.name),
            &name,
            format!("{:?} is defined twice", community.name),
        );
    }
    for (index, advertisement) in spec.prefix_advertisements.iter().enumerate() {
        let at = advertisements.index(index);
        check_range(advertisement.cidr, &at.field("cidr"), problems);
        let used = at.field("communities");
        common::at_most(&advertisement.communities, MAX_COMMUNITIES_PER_PREFIX, &used, problems);
        for (i, community) in advertisement.communities.iter().enumerate() {
            if let CommunityRef::Name(name) = community {
                problems.require(
                    names.contains(name),
                    &used.index(i),
                    format!("{name:?} is neither a community nor the name of one in communities"),
                );
            }
        }
    }
}

fn check_as_number(number: Option<AsNumber>, path: &Path<'_>, problems: &mut Problems) {
    problems.require(number != Some(AsNumber(0)), path, "AS 0 is reserved (RFC 7607)");
}

pub(crate) fn check_peer(peer: &BgpPeer, problems: &mut Problems) {
    let spec = &peer.spec;
    let (node, peer_ip) = (SPEC.field("node"), SPEC.field("peerIP"));
    let (peer_selector, workloads) = (SPEC.field("peerSelector"), SPEC.field("localWorkloadSelector"));
    let as_number = SPEC.field("asNumber");
    if let Some(name) = &spec.node {
        metadata::check_node_name(name, &node, problems);
        problems.require(spec.node_selector.is_none(), &node, "node and nodeSelector can't both be set");
    }
    common::selector(spec.node_selector.as_ref(), &SPEC.field("nodeSelector"), problems);
    common::selector(spec.peer_selector.as_ref(), &peer_selector, problems);
    common::selector(spec.local_workload_selector.as_ref(), &workloads, problems);
    let kinds =
        [spec.peer_ip.is_some(), spec.peer_selector.is_some(), spec.local_workload_selector.is_some()];
    problems.require(
        kinds.contains(&true),
        &SPEC,
        "one of peerIP, peerSelector and localWorkloadSelector is needed: who is the peer?",
    );
    if spec.peer_selector.is_some() {
        problems.require(spec.peer_ip.is_none(), &peer_ip, "peerIP and peerSelector can't both be set");
        problems.require(
            spec.as_number.is_none(),
            &as_number,
            "must be empty when peerSelector is set: the selected nodes know their AS",
        );
    }
    if spec.local_workload_selector.is_some() {
        problems.require(spec.peer_ip.is_none(), &peer_ip, "must be empty when localWorkloadSelector is set");
        problems.require(
            spec.peer_selector.is_none(),
            &peer_selector,
            "must be empty when localWorkloadSelector is set",
        );
        problems.require(spec.as_number.is_some(), &as_number, "required when localWorkloadSelector is set");
    }
    if let Some(peer) = &spec.peer_ip {
        let scoped =
            |ip: std::net::IpAddr| matches!(ip, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
        problems.require(
            peer.zone.is_some() || !scoped(peer.ip),
            &peer_ip,
            "a link-local address is one of an interface: write fe80::1%eth0",
        );
    }
    if let Some(gateway) = spec.reachable_by {
        let at = SPEC.field("reachableBy");
        match &spec.peer_ip {
            None => problems.add(&at, "must be empty when peerIP is empty"),
            Some(peer) => {
                problems.require(
                    peer.ip.is_ipv4() == gateway.is_ipv4(),
                    &at,
                    "must be of the same family as peerIP",
                );
            }
        }
    }
    problems.require(
        !(spec.keep_original_next_hop && spec.next_hop_mode.is_some()),
        &SPEC.field("keepOriginalNextHop"),
        "keepOriginalNextHop and nextHopMode can't both be set: use nextHopMode",
    );
    if let Some(time) = spec.keepalive_time.map(Duration::from) {
        problems.require(
            time.is_zero() || KEEPALIVE.contains(&time),
            &SPEC.field("keepaliveTime"),
            "1s to 21845s (a third of the longest hold time), or 0s for a third of the hold time",
        );
    }
    check_as_number(spec.as_number, &as_number, problems);
    check_as_number(spec.local_as_number, &SPEC.field("localASNumber"), problems);
    common::secret(spec.password.as_ref(), &SPEC.field("password"), problems);
    common::unique(&spec.filters, &SPEC.field("filters"), problems);
}

pub(crate) fn check_filter(filter: &BgpFilter, problems: &mut Problems) {
    let spec = &filter.spec;
    for (field, rules, v4) in [
        ("exportV4", &spec.export_v4, true),
        ("importV4", &spec.import_v4, true),
        ("exportV6", &spec.export_v6, false),
        ("importV6", &spec.import_v6, false),
    ] {
        let list = SPEC.field(field);
        for (index, rule) in rules.iter().enumerate() {
            check_filter_rule(rule, v4, &list.index(index), problems);
        }
    }
}

fn check_filter_rule(rule: &BgpFilterRule, v4: bool, path: &Path<'_>, problems: &mut Problems) {
    problems.require(
        rule.cidr.is_some() == rule.match_operator.is_some(),
        path,
        "cidr and matchOperator belong together: give both or neither",
    );
    if let Some(cidr) = rule.cidr {
        let at = path.field("cidr");
        let family = if v4 { "IPv4" } else { "IPv6" };
        problems.require(matches!(cidr, IpNet::V4(_)) == v4, &at, format!("{cidr} is not {family}"));
        problems.require(cidr == cidr.trunc(), &at, format!("host bits are set: use {}", cidr.trunc()));
    }
    if let Some(length) = rule.prefix_length {
        let at = path.field("prefixLength");
        let longest = if v4 { 32 } else { 128 };
        problems.require(rule.cidr.is_some(), &at, "needs a cidr beside it");
        for (name, value) in [("min", length.min), ("max", length.max)] {
            let fine = value.is_none_or(|value| value <= longest);
            problems.require(
                fine,
                &at.field(name),
                format!("a prefix length is a number from 0 to {longest}"),
            );
        }
        let (min, max) = (length.min.unwrap_or(0), length.max.unwrap_or(longest));
        problems.require(min <= max, &at, format!("min {min} is greater than max {max}"));
    }
    if let Some(interface) = &rule.interface {
        common::interface(interface, true, &path.field("interface"), problems);
    }
    if let Some(communities) = &rule.communities {
        let values = path.field("communities");
        problems.require(
            communities.values.len() == 1,
            &values.field("values"),
            "exactly one community is needed",
        );
    }
    common::priority(rule.priority, &path.field("priority"), problems);
    let operations = path.field("operations");
    common::at_most(&rule.operations, MAX_OPERATIONS, &operations, problems);
    problems.require(
        rule.operations.is_empty() || rule.action == FilterAction::Accept,
        &operations,
        "allowed only with action Accept",
    );
    for (index, operation) in rule.operations.iter().enumerate() {
        let at = operations.index(index);
        match operation {
            FilterOperation::AddCommunity(_) => {}
            FilterOperation::PrependAsPath(prepend) => {
                let fine = (1..=MAX_PREPENDS).contains(&prepend.prefix.len());
                let at = at.field("prependASPath");
                for number in &prepend.prefix {
                    check_as_number(Some(*number), &at.field("prefix"), problems);
                }
                problems.require(
                    fine,
                    &at.field("prefix"),
                    format!("1 to {MAX_PREPENDS} AS numbers are needed"),
                );
            }
            FilterOperation::SetPriority(priority) => {
                let at = at.field("setPriority");
                common::priority(Some(priority.value), &at.field("value"), problems);
            }
        }
    }
}
