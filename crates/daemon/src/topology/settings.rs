//! BGPConfiguration: the cluster's `default`, overridden per node by `node.<name>`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{BgpConfigurationSpec, BindMode, LogSeverity, SecretRef};
use margay_api::types::{Community as ApiCommunity, CommunityRef};
use margay_api::{Key, Kind};
use margay_bgp::wire::{Community, LargeCommunity};
use margay_control::status::Problem;

use super::{Cluster, problem};
use crate::secrets::SecretName;

/// Communities that own prefixes inside `cidr` are advertised with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// Prefixes inside it.
    pub cidr: IpNet,
    /// Standard ones (RFC 1997).
    pub communities: Vec<Community>,
    /// Large ones (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
}

/// A BGPConfiguration for this node that cannot be read, and of which nothing was known before: passwords, the AS and what is
/// switched off would be missing.
pub fn unknown_configuration<'k>(
    node: &str,
    cluster: &Cluster,
    unreadable: impl IntoIterator<Item = &'k Key>,
) -> Option<&'k Key> {
    let own = format!("node.{node}");
    unreadable.into_iter().find(|key| {
        key.kind == Kind::BgpConfiguration
            && (key.name == "default" || key.name == own)
            && !cluster.configurations.contains_key(&key.name)
    })
}

/// The settings of one node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings<'a> {
    default: Option<&'a BgpConfigurationSpec>,
    own: Option<&'a BgpConfigurationSpec>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(node: &str, cluster: &'a Cluster) -> Self {
        let spec = |name: &str| cluster.configurations.get(name).map(|object| &object.spec);
        Self { default: spec("default"), own: spec(&format!("node.{node}")) }
    }

    /// The node's value, else the cluster's.
    fn pick<T>(self, field: impl Fn(&'a BgpConfigurationSpec) -> Option<T>) -> Option<T> {
        self.own.and_then(&field).or_else(|| self.default.and_then(&field))
    }

    pub(super) fn listen_port(self) -> u16 {
        self.pick(|spec| spec.listen_port).unwrap_or(margay_bgp::BGP_PORT)
    }

    pub(super) fn binds_to_node(self) -> bool {
        self.pick(|spec| spec.bind_mode) == Some(BindMode::NodeIp)
    }

    /// The address that workloads peer with (`localWorkloadPeeringIPV4`, `localWorkloadPeeringIPV6`).
    pub(super) fn workload_peering(self, v4: bool) -> Option<IpAddr> {
        if v4 {
            self.pick(|spec| spec.local_workload_peering_ipv4).map(IpAddr::V4)
        } else {
            self.pick(|spec| spec.local_workload_peering_ipv6).map(IpAddr::V6)
        }
    }

    /// Settings of the sessions that nodes have by themselves. The cluster's only.
    pub(super) fn mesh(self) -> Option<&'a BgpConfigurationSpec> {
        self.default
    }

    /// `prefixAdvertisements`, names resolved. A node's own list replaces the cluster's.
    pub(super) fn advertisements(self, problems: &mut Vec<Problem>) -> Vec<Advertisement> {
        let listed = self.pick(|spec| Some(&spec.prefix_advertisements).filter(|list| !list.is_empty()));
        let mut out = Vec::new();
        for entry in listed.into_iter().flatten() {
            let Some(cidr) = entry.cidr else { continue };
            let mut advertisement =
                Advertisement { cidr, communities: Vec::new(), large_communities: Vec::new() };
            for reference in &entry.communities {
                match self.community(reference) {
                    Some(ApiCommunity::Standard(high, low)) => {
                        advertisement.communities.push(Community(u32::from(high) << 16 | u32::from(low)));
                    }
                    Some(ApiCommunity::Large(global, local1, local2)) => {
                        advertisement.large_communities.push(LargeCommunity { global, local1, local2 });
                    }
                    None => problems.push(problem(
                        "BGPConfiguration".to_owned(),
                        format!(
                            "prefixAdvertisements of {cidr} names the community `{reference}`, which \
                             spec.communities does not define: {cidr} is advertised without it"
                        ),
                    )),
                }
            }
            out.push(advertisement);
        }
        out
    }

    fn community(self, reference: &CommunityRef) -> Option<ApiCommunity> {
        match reference {
            CommunityRef::Value(value) => Some(*value),
            CommunityRef::Name(name) => self.pick(|spec| {
                spec.communities.iter().find(|named| named.name == *name).map(|named| named.value)
            }),
        }
    }

    /// Fields that are set and have no effect here.
    pub(super) fn without_effect(self, node: &str, problems: &mut Vec<Problem>) {
        for (name, spec) in [("default".to_owned(), self.default), (format!("node.{node}"), self.own)] {
            let Some(spec) = spec else { continue };
            let set = [
                (
                    spec.log_severity_screen.is_some_and(|level| level != LogSeverity::default()),
                    "logSeverityScreen",
                    "the level of the log is `logLevel` of the daemon's own configuration",
                ),
                (
                    name != "default"
                        && (spec.program_cluster_routes.is_some()
                            || spec.ipv4_normal_route_priority.is_some()
                            || spec.ipv6_normal_route_priority.is_some()
                            || !spec.ignored_interfaces.is_empty()),
                    "programClusterRoutes, ipv4NormalRoutePriority, ipv6NormalRoutePriority and ignoredInterfaces",
                    "those of BGPConfiguration(default) count on every node, as with Calico",
                ),
            ];
            for (_, field, why) in set.iter().filter(|(is_set, ..)| *is_set) {
                let message = format!("spec.{field} has no effect: {why}");
                problems.push(problem(format!("BGPConfiguration({name})"), message));
            }
        }
    }
}

/// The secrets that passwords of sessions are in.
#[must_use]
pub fn secrets(cluster: &Cluster) -> BTreeSet<SecretName> {
    let mesh = cluster.configurations.values().filter_map(|conf| conf.spec.node_mesh_password.as_ref());
    let ranges = cluster.ranges().iter().map(|range| &range.peer);
    let peers = cluster.peers.values().chain(ranges).filter_map(|peer| peer.spec.password.as_ref());
    mesh.chain(peers).filter_map(secret_name).collect()
}

/// What a reference names.
pub(super) fn secret_name(reference: &SecretRef) -> Option<SecretName> {
    let selected = reference.secret_key_ref.as_ref()?;
    Some(SecretName { name: selected.name.clone(), key: selected.key.clone() })
}
