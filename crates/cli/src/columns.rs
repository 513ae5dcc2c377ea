//! Columns of `margay get`, per kind: what calicoctl shows, as paths into the object.

use margay_api::{Kind, Resource};
use serde_json::Value;

/// A column: head, path into the object, shown only with `-o wide`.
type Column = (&'static str, &'static str, bool);

const NARROW: bool = false;
const WIDE: bool = true;

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::IpPool => &[
            ("CIDR", "spec.cidr", NARROW),
            ("BLOCK", "spec.blockSize", NARROW),
            ("NAT", "spec.natOutgoing", NARROW),
            ("IPIPMODE", "spec.ipipMode", NARROW),
            ("VXLANMODE", "spec.vxlanMode", NARROW),
            ("DISABLED", "spec.disabled", NARROW),
            ("DISABLEBGPEXPORT", "spec.disableBGPExport", WIDE),
            ("SELECTOR", "spec.nodeSelector", NARROW),
            ("NAMESPACESELECTOR", "spec.namespaceSelector", WIDE),
            ("USES", "spec.allowedUses", WIDE),
        ],
        Kind::Node => &[
            ("ASN", "spec.bgp.asNumber", NARROW),
            ("IPV4", "spec.bgp.ipv4Address", NARROW),
            ("IPV6", "spec.bgp.ipv6Address", NARROW),
            ("REFLECTOR", "spec.bgp.routeReflectorClusterID", NARROW),
            ("VXLAN", "spec.ipv4VXLANTunnelAddr", WIDE),
            ("VXLANMAC", "spec.vxlanTunnelMACAddr", WIDE),
        ],
        Kind::BgpPeer => &[
            ("PEERIP", "spec.peerIP", NARROW),
            ("NODE", "spec.node", NARROW),
            ("ASN", "spec.asNumber", NARROW),
            ("NODESELECTOR", "spec.nodeSelector", WIDE),
            ("PEERSELECTOR", "spec.peerSelector", WIDE),
            ("FAILUREDETECTION", "spec.failureDetectionMode", WIDE),
            ("FILTERS", "spec.filters", WIDE),
        ],
        Kind::BgpConfiguration => &[
            ("LOGSEVERITY", "spec.logSeverityScreen", NARROW),
            ("MESHENABLED", "spec.nodeToNodeMeshEnabled", NARROW),
            ("ASNUMBER", "spec.asNumber", NARROW),
        ],
        Kind::BfdConfiguration => {
            &[("NODESELECTOR", "spec.nodeSelector", NARROW), ("INTERFACES", "spec.interfaces", WIDE)]
        }
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => &[
            ("TIER", "spec.tier", NARROW),
            ("ORDER", "spec.order", NARROW),
            ("SELECTOR", "spec.selector", NARROW),
            ("TYPES", "spec.types", WIDE),
        ],
        Kind::KubernetesNetworkPolicy | Kind::StagedKubernetesNetworkPolicy => {
            &[("POD-SELECTOR", "spec.podSelector.matchLabels", NARROW), ("TYPES", "spec.policyTypes", WIDE)]
        }
        Kind::ClusterNetworkPolicy => &[("TIER", "spec.tier", NARROW), ("PRIORITY", "spec.priority", NARROW)],
        Kind::Tier => &[("ORDER", "spec.order", NARROW), ("DEFAULTACTION", "spec.defaultAction", NARROW)],
        Kind::NetworkSet | Kind::GlobalNetworkSet => &[("NETS", "spec.nets", NARROW)],
        Kind::HostEndpoint => &[
            ("NODE", "spec.node", NARROW),
            ("INTERFACE", "spec.interfaceName", NARROW),
            ("IPS", "spec.expectedIPs", NARROW),
            ("PROFILES", "spec.profiles", WIDE),
        ],
        Kind::WorkloadEndpoint => &[
            ("WORKLOAD", "spec.pod", NARROW),
            ("NODE", "spec.node", NARROW),
            ("NETWORKS", "spec.ipNetworks", NARROW),
            ("INTERFACE", "spec.interfaceName", NARROW),
            ("PROFILES", "spec.profiles", WIDE),
        ],
        Kind::IpamBlock => &[("CIDR", "spec.cidr", NARROW), ("AFFINITY", "spec.affinity", NARROW)],
        Kind::IpReservation => &[("CIDRS", "spec.reservedCIDRs", NARROW)],
        Kind::IpamConfiguration => &[
            ("STRICTAFFINITY", "spec.strictAffinity", NARROW),
            ("MAXBLOCKS", "spec.maxBlocksPerHost", NARROW),
            ("COOLDOWN", "spec.ipCooldownSeconds", NARROW),
        ],
        Kind::Pod => &[
            ("NODE", "spec.nodeName", NARROW),
            ("IP", "status.podIP", NARROW),
            ("LABELS", "metadata.labels", WIDE),
        ],
        Kind::Service => &[
            ("TYPE", "spec.type", NARROW),
            ("CLUSTERIP", "spec.clusterIP", NARROW),
            ("EXTERNALIPS", "spec.externalIPs", WIDE),
        ],
        Kind::Namespace => &[("LABELS", "metadata.labels", NARROW)],
        _ => &[],
    }
}

/// Heads of the table.
pub(crate) fn heads(kind: Kind, wide: bool) -> Vec<&'static str> {
    let names = if kind.namespaced() { ["NAMESPACE", "NAME"].as_slice() } else { ["NAME"].as_slice() };
    let more = columns(kind).iter().filter(|(_, _, only_wide)| wide || !only_wide).map(|(head, _, _)| *head);
    names.iter().copied().chain(more).collect()
}

/// One line of the table.
pub(crate) fn row(resource: &Resource, wide: bool) -> Vec<String> {
    let (metadata, json) = (resource.metadata(), resource.to_json());
    let mut cells = Vec::new();
    if resource.kind().namespaced() {
        cells.push(metadata.namespace.clone().unwrap_or_default());
    }
    cells.push(metadata.name.clone());
    for (_, path, _) in columns(resource.kind()).iter().filter(|(_, _, only_wide)| wide || !only_wide) {
        let value = path.split('.').try_fold(&json, |value, field| value.get(field));
        cells.push(text(value));
    }
    cells
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| text(Some(item))).collect::<Vec<_>>().join(","),
        Some(Value::Object(map)) if map.is_empty() => "-".to_owned(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", text(Some(value))))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}
