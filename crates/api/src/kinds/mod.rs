//! The kinds' fields, one file per kind or close group. Field names in YAML are the camel-case form of Rust's.

mod bfd_configuration;
mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod cluster_information;
mod felix_configuration;
mod felix_values;
mod host_endpoint;
mod ip_pool;
mod ipam;
mod k8s_cluster_policy;
mod k8s_core;
mod k8s_discovery;
mod k8s_policy;
mod k8s_service;
mod node;
mod policy;
mod profile;
mod rule;
mod sets;
#[cfg(test)]
mod tests;
mod tier;
mod workload_endpoint;

pub use bfd_configuration::{BfdConfigurationSpec, BfdInterface, FailureDetectionMode};
pub use bgp_configuration::{
    BgpConfigurationSpec, BindMode, CidrBlock, LogSeverity, NamedCommunity, PrefixAdvertisement,
    ProgramClusterRoutes, Toggle,
};
pub use bgp_filter::{
    AddCommunity, BgpFilterRule, BgpFilterSpec, CommunityMatch, FilterAction, FilterOperation, MatchOperator,
    PeerType, PrefixLength, PrependAsPath, RouteSource, SetPriority,
};
pub use bgp_peer::{
    BgpPeerSpec, NextHopMode, RestartMode, ReversePeering, SecretKeyRef, SecretRef, SourceAddress,
};
pub use cluster_information::ClusterInformationSpec;
pub use felix_configuration::FelixConfigurationSpec;
pub use felix_values::*;
pub use host_endpoint::{EndpointPort, HostEndpointSpec};
pub use ip_pool::{
    AllowedUse, AssignmentMode, EncapMode, IpPoolSpec, IpReservationSpec, check_pool_update, disjoint_pools,
    overlapping_pool,
};
pub use ipam::{Affinity, AllocationAttribute, IpamBlockSpec, IpamConfigurationSpec};
pub use k8s_cluster_policy::{
    ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicySpec, ClusterPolicyAction, ClusterPolicyPeer,
    ClusterPolicyPort, ClusterPolicyPorts, ClusterPolicyProtocol, ClusterPolicySubject, ClusterPolicyTier,
    NamespacedPods,
};
pub use k8s_core::{
    Container, ContainerPort, NamespaceSpec, PodIp, PodPhase, PodSpec, PodStatus, ServiceAccountSpec,
};
pub use k8s_discovery::{
    EndpointConditions, EndpointPortSpec, EndpointSliceSpec, LABEL_SERVICE_NAME, ServiceEndpoint,
};
pub use k8s_policy::{
    IpBlock, KubernetesEgressRule, KubernetesIngressRule, KubernetesNetworkPolicySpec, KubernetesPolicyPeer,
    KubernetesPolicyPort,
};
pub use k8s_service::{
    ExternalTrafficPolicy, LoadBalancerIngress, LoadBalancerStatus, ServiceSpec, ServiceStatus, ServiceType,
};
pub use node::{NodeAddress, NodeBgp, NodeInterface, NodeSpec, NodeStatus, NodeWireguard, OrchRef};
pub use policy::{
    GlobalNetworkPolicySpec, NetworkPolicySpec, PerformanceHint, StagedAction, StagedGlobalNetworkPolicySpec,
    StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec,
};
pub use profile::ProfileSpec;
pub use rule::{
    Action, EntityRule, HttpMatch, HttpPath, IcmpMatch, IpVersion, PolicyType, Rule, RuleMetadata,
    ServiceAccountMatch, ServiceMatch,
};
pub use sets::{GlobalNetworkSetSpec, NetworkSetSpec};
pub use tier::{TierAction, TierSpec};
pub use workload_endpoint::{Dscp, IpNat, QosControls, WorkloadEndpointSpec, WorkloadPort};
