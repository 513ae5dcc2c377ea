//! BGP settings.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{FailureDetectionMode, bgp_peer::SecretRef};
use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    types::{AsNumber, Community, CommunityRef, GoDuration, net, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// Where the speaker listens.
    pub enum BindMode {
        /// On all addresses.
        None = "None",
        /// On the node's own address only.
        NodeIp = "NodeIP",
    }
}

string_enum! { exact
    /// Which routes to other nodes' blocks are written.
    pub enum ProgramClusterRoutes {
        /// All.
        Enabled = "Enabled",
        /// None.
        Disabled = "Disabled",
        /// Only of IPIP pools.
        EnabledIpipOnly = "EnabledIPIPOnly",
        /// Only of pools without encapsulation.
        EnabledNoEncapOnly = "EnabledNoEncapOnly",
    }
}

string_enum! { exact
    /// A setting that Calico spells `Enabled` or `Disabled`.
    pub enum Toggle {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }
}

string_enum! { any_case
    /// Log levels of the daemons.
    #[derive(Default)]
    pub enum LogSeverity {
        /// Everything.
        Trace = "Trace",
        /// For developers.
        Debug = "Debug",
        /// Normal operation.
        #[default]
        Info = "Info",
        /// Something to look at.
        Warning = "Warning",
        /// Something failed.
        Error = "Error",
        /// The daemon stopped.
        Fatal = "Fatal",
    }
}

/// BGP settings: `default` for the cluster, `node.<name>` for one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpConfigurationSpec {
    /// Log level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<LogSeverity>,
    /// Whether nodes peer with each other; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The nodes' AS; absent means 64512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Ranges from which load-balancer addresses are advertised.
    #[serde(rename = "serviceLoadBalancerIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub service_load_balancer_ips: Vec<CidrBlock>,
    /// Ranges from which external addresses are advertised.
    #[serde(rename = "serviceExternalIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub service_external_ips: Vec<CidrBlock>,
    /// Service ranges to advertise.
    #[serde(rename = "serviceClusterIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub service_cluster_ips: Vec<CidrBlock>,
    /// `Disabled` advertises each load-balancer address alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<Toggle>,
    /// Names for communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<NamedCommunity>,
    /// Communities to attach to prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// TCP port; absent means 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// TCP-MD5 password of mesh sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<SecretRef>,
    /// Graceful-restart time of mesh sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<GoDuration>,
    /// How the loss of a node or reflector is found before the hold timer expires, in sessions that nodes have by
    /// themselves; absent means `None`. Margay's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_failure_detection_mode: Option<FailureDetectionMode>,
    /// Where to listen; absent means everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<BindMode>,
    /// Interfaces (may hold `*`) whose routes are not learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_interfaces: Vec<String>,
    /// Metric of IPv4 routes to other nodes, and in LOCAL_PREF of own ones; absent means the kernel's own, and 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Metric of IPv6 routes to other nodes, and in LOCAL_PREF of own ones; absent means 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
    /// Address that local workloads peer with.
    #[serde(rename = "localWorkloadPeeringIPV4", default, skip_serializing_if = "Option::is_none")]
    pub local_workload_peering_ipv4: Option<Ipv4Addr>,
    /// Address that local workloads peer with.
    #[serde(rename = "localWorkloadPeeringIPV6", default, skip_serializing_if = "Option::is_none")]
    pub local_workload_peering_ipv6: Option<Ipv6Addr>,
    /// Which routes the BGP side writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
}

/// A range of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CidrBlock {
    /// The range.
    #[serde(default, deserialize_with = "net::cidr_opt", skip_serializing_if = "Option::is_none")]
    pub cidr: Option<IpNet>,
}

/// A name for a community.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedCommunity {
    /// Used in `prefixAdvertisements`.
    pub name: String,
    /// The community.
    pub value: Community,
}

/// Communities of the routes of one prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixAdvertisement {
    /// Inside a pool or service range.
    #[serde(default, deserialize_with = "net::cidr_opt", skip_serializing_if = "Option::is_none")]
    pub cidr: Option<IpNet>,
    /// Attached to its routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<CommunityRef>,
}

impl Spec for BgpConfigurationSpec {
    const KIND: Kind = Kind::BgpConfiguration;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::bgp::set_configuration_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::bgp::check_configuration(object, problems);
    }
}
