//! Settings of the policy engine and data plane (Calico's FelixConfiguration).
//!
//! Every field is optional; its documentation names Felix's own default in its configuration file's form.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    bgp_configuration::{LogSeverity, ProgramClusterRoutes, Toggle},
    felix_values::{
        AwsSrcDstCheck, BpfAttachType, BpfConnectTimeLoadBalancing, BpfConntrackLogLevel, BpfConntrackMode,
        BpfConntrackScaling, BpfEnforceRpf, BpfExternalServiceMode, BpfJitHardening, BpfLogLevel,
        BpfOverlayHostSourceIp, ChainInsertMode, EndpointToHostAction, FilterAllowAction, FilterDenyAction,
        FlowLogsPolicyEvaluation, FlowTableOffload, HealthTimeoutOverride, IptablesBackend, L2Reachability,
        NatOutgoingExclusions, NftablesMode, PrometheusClientAuth, ProtoPort, RouteSourceOfTruth,
        RouteTableRange, ServiceLoopPrevention, WorkloadSourceSpoofing,
    },
    workload_endpoint::Dscp,
};
use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::{self, Selector},
    types::{GoDuration, Port, net},
    validate,
};

/// Settings of the policy engine and data plane: `default`, `node.<name>`, or any name with `nodeSelector`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FelixConfigurationSpec {
    /// Nodes it applies to, for objects not called `default` or `node.<name>`.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// Feature detection/overrides: `featureDetectOverride`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_detect_override: Option<String>,
    /// Feature detection/overrides: `featureGates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_gates: Option<String>,
    /// Go runtime: `goGCThreshold`. Default `40`.
    #[serde(rename = "goGCThreshold", default, skip_serializing_if = "Option::is_none")]
    pub go_gc_threshold: Option<i64>,
    /// Go runtime: `goMaxProcs`. Default `-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_max_procs: Option<i64>,
    /// Go runtime: `goMemoryLimitMB`. Default `-1`.
    #[serde(rename = "goMemoryLimitMB", default, skip_serializing_if = "Option::is_none")]
    pub go_memory_limit_mb: Option<i64>,
    /// Health port and timeouts: `healthEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_enabled: Option<bool>,
    /// Health port and timeouts: `healthHost`. Default `localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_host: Option<String>,
    /// Health port and timeouts: `healthPort`. Default `9099`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_port: Option<u16>,
    /// Health port and timeouts: `healthTimeoutOverrides`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_timeout_overrides: Vec<HealthTimeoutOverride>,
    /// Logging: `logActionRateLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_action_rate_limit: Option<String>,
    /// Logging: `logActionRateLimitBurst`. Default `5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_action_rate_limit_burst: Option<u32>,
    /// Logging: `logDebugFilenameRegex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_debug_filename_regex: Option<String>,
    /// Logging: `logFilePath`. Default `/var/log/calico/felix.log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file_path: Option<String>,
    /// Logging: `logPrefix`. Default `calico-packet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_prefix: Option<String>,
    /// Logging: `logSeverityFile`. Default `INFO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_file: Option<LogSeverity>,
    /// Logging: `logSeverityScreen`. Default `INFO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<LogSeverity>,
    /// Logging: `logSeveritySys`. Default `INFO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_sys: Option<LogSeverity>,
    /// Prometheus metrics: `prometheusGoMetricsEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_go_metrics_enabled: Option<bool>,
    /// Prometheus metrics: `prometheusMetricsCAFile`.
    #[serde(rename = "prometheusMetricsCAFile", default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_ca_file: Option<String>,
    /// Prometheus metrics: `prometheusMetricsCertFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_cert_file: Option<String>,
    /// Prometheus metrics: `prometheusMetricsClientAuth`. Default `NoClientCert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_client_auth: Option<PrometheusClientAuth>,
    /// Prometheus metrics: `prometheusMetricsEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_enabled: Option<bool>,
    /// Prometheus metrics: `prometheusMetricsHost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_host: Option<String>,
    /// Prometheus metrics: `prometheusMetricsKeyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_key_file: Option<String>,
    /// Prometheus metrics: `prometheusMetricsPort`. Default `9091`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<u16>,
    /// Prometheus metrics: `prometheusProcessMetricsEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_process_metrics_enabled: Option<bool>,
    /// Prometheus metrics: `prometheusWireGuardMetricsEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_wire_guard_metrics_enabled: Option<bool>,
    /// Common: `allowIPIPPacketsFromWorkloads`. Default `false`.
    #[serde(rename = "allowIPIPPacketsFromWorkloads", default, skip_serializing_if = "Option::is_none")]
    pub allow_ipip_packets_from_workloads: Option<bool>,
    /// Common: `allowVXLANPacketsFromWorkloads`. Default `false`.
    #[serde(rename = "allowVXLANPacketsFromWorkloads", default, skip_serializing_if = "Option::is_none")]
    pub allow_vxlan_packets_from_workloads: Option<bool>,
    /// Common: `cgroupV2Path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_v2_path: Option<String>,
    /// Common: `chainInsertMode`. Default `insert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_insert_mode: Option<ChainInsertMode>,
    /// Common: `dataplaneDriver`. Default `calico-iptables-plugin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane_driver: Option<String>,
    /// Common: `dataplaneWatchdogTimeout`. Default `90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane_watchdog_timeout: Option<GoDuration>,
    /// Common: `defaultEndpointToHostAction`. Default `DROP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_to_host_action: Option<EndpointToHostAction>,
    /// Common: `deviceRouteProtocol`. Default `3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_route_protocol: Option<u32>,
    /// Common: `deviceRouteSourceAddress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_route_source_address: Option<Ipv4Addr>,
    /// Common: `deviceRouteSourceAddressIPv6`.
    #[serde(rename = "deviceRouteSourceAddressIPv6", default, skip_serializing_if = "Option::is_none")]
    pub device_route_source_address_ipv6: Option<Ipv6Addr>,
    /// Common: `disableConntrackInvalidCheck`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_conntrack_invalid_check: Option<bool>,
    /// Common: `endpointStatusPathPrefix`. Default `/var/run/calico`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_status_path_prefix: Option<String>,
    /// Common: `externalNodesList`.
    #[serde(default, deserialize_with = "net::nets_opt", skip_serializing_if = "Option::is_none")]
    pub external_nodes_list: Option<Vec<IpNet>>,
    /// Common: `failsafeInboundHostPorts`. Default `tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_inbound_host_ports: Option<Vec<ProtoPort>>,
    /// Common: `failsafeOutboundHostPorts`. Default `udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_outbound_host_ports: Option<Vec<ProtoPort>>,
    /// Common: `floatingIPs`. Default `Disabled`.
    #[serde(rename = "floatingIPs", default, skip_serializing_if = "Option::is_none")]
    pub floating_ips: Option<Toggle>,
    /// Common: `ipForwarding`. Default `Enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_forwarding: Option<Toggle>,
    /// Common: `ipv4ElevatedRoutePriority`. Default `512`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_elevated_route_priority: Option<u32>,
    /// Common: `ipv4NormalRoutePriority`. Default `1024`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Common: `ipv6ElevatedRoutePriority`. Default `512`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_elevated_route_priority: Option<u32>,
    /// Common: `ipv6NormalRoutePriority`. Default `1024`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
    /// Common: `interfaceExclude`. Default `kube-ipvs0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_exclude: Option<String>,
    /// Common: `interfacePrefix`. Default `cali`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_prefix: Option<String>,
    /// Common: `interfaceRefreshInterval`. Default `90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_refresh_interval: Option<GoDuration>,
    /// Common: `ipv6Support`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_support: Option<bool>,
    /// Common: `istioAmbientMode`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istio_ambient_mode: Option<Toggle>,
    /// Common: `istioDSCPMark`. Default `23`.
    #[serde(rename = "istioDSCPMark", default, skip_serializing_if = "Option::is_none")]
    pub istio_dscp_mark: Option<Dscp>,
    /// Common: `liveMigrationRouteConvergenceTime`. Default `30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_migration_route_convergence_time: Option<GoDuration>,
    /// Common: `localSubnetL2Reachability`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_subnet_l2_reachability: Option<L2Reachability>,
    /// Common: `localSubnetL2ReachabilityRefreshInterval`. Default `120`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_subnet_l2_reachability_refresh_interval: Option<GoDuration>,
    /// Common: `mtuIfacePattern`. Default `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_iface_pattern: Option<String>,
    /// Common: `natOutgoingAddress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_address: Option<Ipv4Addr>,
    /// Common: `natOutgoingExclusions`. Default `IPPoolsOnly`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_exclusions: Option<NatOutgoingExclusions>,
    /// Common: `natPortRange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_port_range: Option<Port>,
    /// Common: `nftablesFlowTableDataIfacePattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_flow_table_data_iface_pattern: Option<String>,
    /// Common: `nftablesFlowTableOffload`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_flow_table_offload: Option<FlowTableOffload>,
    /// Common: `nftablesMode`. Default `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mode: Option<NftablesMode>,
    /// Common: `netlinkTimeout`. Default `10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netlink_timeout: Option<GoDuration>,
    /// Common: `policySyncPathPrefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_sync_path_prefix: Option<String>,
    /// Common: `programClusterRoutes`. Default `EnabledIPIPOnly`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// Common: `removeExternalRoutes`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_external_routes: Option<bool>,
    /// Common: `requireMTUFile`. Default `false`.
    #[serde(rename = "requireMTUFile", default, skip_serializing_if = "Option::is_none")]
    pub require_mtu_file: Option<bool>,
    /// Common: `routeRefreshInterval`. Default `90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_refresh_interval: Option<GoDuration>,
    /// Common: `routeSource`. Default `CalicoIPAM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_source: Option<RouteSourceOfTruth>,
    /// Common: `routeSyncDisabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_sync_disabled: Option<bool>,
    /// Common: `routeTableRange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_table_range: Option<RouteTableRange>,
    /// Common: `routeTableRanges`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_table_ranges: Option<Vec<RouteTableRange>>,
    /// Common: `serviceLoopPrevention`. Default `Drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_loop_prevention: Option<ServiceLoopPrevention>,
    /// Common: `sidecarAccelerationEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar_acceleration_enabled: Option<bool>,
    /// Common: `useInternalDataplaneDriver`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_internal_dataplane_driver: Option<bool>,
    /// Common: `workloadSourceSpoofing`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_source_spoofing: Option<WorkloadSourceSpoofing>,
    /// iptables: `ipsetsRefreshInterval`. Default `90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipsets_refresh_interval: Option<GoDuration>,
    /// iptables: `iptablesBackend`. Default `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_backend: Option<IptablesBackend>,
    /// iptables: `iptablesFilterAllowAction`. Default `ACCEPT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_filter_allow_action: Option<FilterAllowAction>,
    /// iptables: `iptablesFilterDenyAction`. Default `DROP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_filter_deny_action: Option<FilterDenyAction>,
    /// iptables: `iptablesLockProbeInterval`. Default `50`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_lock_probe_interval: Option<GoDuration>,
    /// iptables: `iptablesMangleAllowAction`. Default `ACCEPT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_mangle_allow_action: Option<FilterAllowAction>,
    /// iptables: `iptablesMarkMask`. Default `0xffff0000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_mark_mask: Option<u32>,
    /// iptables: `iptablesNATOutgoingInterfaceFilter`.
    #[serde(rename = "iptablesNATOutgoingInterfaceFilter", default, skip_serializing_if = "Option::is_none")]
    pub iptables_nat_outgoing_interface_filter: Option<String>,
    /// iptables: `iptablesPostWriteCheckInterval`. Default `5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_post_write_check_interval: Option<GoDuration>,
    /// iptables: `iptablesRefreshInterval`. Default `180`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_refresh_interval: Option<GoDuration>,
    /// iptables: `kubeNodePortRanges`. Default `30000:32767`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_node_port_ranges: Option<Vec<Port>>,
    /// iptables: `maxIpsetSize`. Default `1048576`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ipset_size: Option<u32>,
    /// nftables: `nftablesFilterAllowAction`. Default `ACCEPT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_filter_allow_action: Option<FilterAllowAction>,
    /// nftables: `nftablesFilterDenyAction`. Default `DROP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_filter_deny_action: Option<FilterDenyAction>,
    /// nftables: `nftablesMangleAllowAction`. Default `ACCEPT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mangle_allow_action: Option<FilterAllowAction>,
    /// nftables: `nftablesMarkMask`. Default `0xffff0000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mark_mask: Option<u32>,
    /// nftables: `nftablesRefreshInterval`. Default `180`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_refresh_interval: Option<GoDuration>,
    /// eBPF: `bpfAttachType`. Default `Netkit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_attach_type: Option<BpfAttachType>,
    /// eBPF: `bpfCTLBLogFilter`.
    #[serde(rename = "bpfCTLBLogFilter", default, skip_serializing_if = "Option::is_none")]
    pub bpf_ctlb_log_filter: Option<String>,
    /// eBPF: `bpfConnectTimeLoadBalancing`. Default `TCP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_connect_time_load_balancing: Option<BpfConnectTimeLoadBalancing>,
    /// eBPF: `bpfConnectTimeLoadBalancingEnabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_connect_time_load_balancing_enabled: Option<bool>,
    /// eBPF: `bpfConntrackMode`. Default `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_conntrack_mode: Option<BpfConntrackMode>,
    /// eBPF: `bpfConntrackLogLevel`. Default `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_conntrack_log_level: Option<BpfConntrackLogLevel>,
    /// eBPF: `bpfConntrackTimeouts`. Default `CreationGracePeriod=10s,TCPSynSent=20s,TCPEstablished=1h,TCPFinsSeen=Auto,TCPResetSeen=40s,UDPTimeout=60s,GenericTimeout=10m,ICMPTimeout=5s`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bpf_conntrack_timeouts: BTreeMap<String, String>,
    /// eBPF: `bpfDSROptoutCIDRs`.
    #[serde(
        rename = "bpfDSROptoutCIDRs",
        default,
        deserialize_with = "net::nets_opt",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_dsr_optout_cidrs: Option<Vec<IpNet>>,
    /// eBPF: `bpfDataIfacePattern`. Default `^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_data_iface_pattern: Option<String>,
    /// eBPF: `bpfDisableGROForIfaces`.
    #[serde(rename = "bpfDisableGROForIfaces", default, skip_serializing_if = "Option::is_none")]
    pub bpf_disable_gro_for_ifaces: Option<String>,
    /// eBPF: `bpfDisableUnprivileged`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_disable_unprivileged: Option<bool>,
    /// eBPF: `bpfEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_enabled: Option<bool>,
    /// eBPF: `bpfEnforceRPF`. Default `Loose`.
    #[serde(rename = "bpfEnforceRPF", default, skip_serializing_if = "Option::is_none")]
    pub bpf_enforce_rpf: Option<BpfEnforceRpf>,
    /// eBPF: `bpfExcludeCIDRsFromNAT`.
    #[serde(
        rename = "bpfExcludeCIDRsFromNAT",
        default,
        deserialize_with = "net::nets_opt",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_exclude_cidrs_from_nat: Option<Vec<IpNet>>,
    /// eBPF: `bpfExportBufferSizeMB`. Default `1`.
    #[serde(rename = "bpfExportBufferSizeMB", default, skip_serializing_if = "Option::is_none")]
    pub bpf_export_buffer_size_mb: Option<u32>,
    /// eBPF: `bpfExtToServiceConnmark`. Default `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_ext_to_service_connmark: Option<i64>,
    /// eBPF: `bpfExternalServiceMode`. Default `tunnel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_external_service_mode: Option<BpfExternalServiceMode>,
    /// eBPF: `bpfForceTrackPacketsFromIfaces`. Default `docker+`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_force_track_packets_from_ifaces: Option<Vec<String>>,
    /// eBPF: `bpfHostConntrackBypass`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_host_conntrack_bypass: Option<bool>,
    /// eBPF: `bpfHostNetworkedNATWithoutCTLB`. Default `Enabled`.
    #[serde(rename = "bpfHostNetworkedNATWithoutCTLB", default, skip_serializing_if = "Option::is_none")]
    pub bpf_host_networked_nat_without_ctlb: Option<Toggle>,
    /// eBPF: `bpfIPFragTimeout`. Default `0`.
    #[serde(rename = "bpfIPFragTimeout", default, skip_serializing_if = "Option::is_none")]
    pub bpf_ip_frag_timeout: Option<GoDuration>,
    /// eBPF: `bpfIPFragmentReassemblyEnabled`. Default `true`.
    #[serde(rename = "bpfIPFragmentReassemblyEnabled", default, skip_serializing_if = "Option::is_none")]
    pub bpf_ip_fragment_reassembly_enabled: Option<bool>,
    /// eBPF: `bpfJITHardening`. Default `Auto`.
    #[serde(rename = "bpfJITHardening", default, skip_serializing_if = "Option::is_none")]
    pub bpf_jit_hardening: Option<BpfJitHardening>,
    /// eBPF: `bpfKubeProxyHealthzPort`. Default `10256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_kube_proxy_healthz_port: Option<u32>,
    /// eBPF: `bpfKubeProxyIptablesCleanupEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_kube_proxy_iptables_cleanup_enabled: Option<bool>,
    /// eBPF: `bpfKubeProxyMinSyncPeriod`. Default `1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_kube_proxy_min_sync_period: Option<GoDuration>,
    /// eBPF: `bpfL3IfacePattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_l3_iface_pattern: Option<String>,
    /// eBPF: `bpfLogFilters`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bpf_log_filters: BTreeMap<String, String>,
    /// eBPF: `bpfLogLevel`. Default `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_log_level: Option<BpfLogLevel>,
    /// eBPF: `bpfMaglevMaxEndpointsPerService`. Default `100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_maglev_max_endpoints_per_service: Option<u32>,
    /// eBPF: `bpfMaglevMaxServices`. Default `100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_maglev_max_services: Option<u32>,
    /// eBPF: `bpfMapSizeConntrack`. Default `512000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_conntrack: Option<u32>,
    /// eBPF: `bpfMapSizeConntrackCleanupQueue`. Default `100000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_conntrack_cleanup_queue: Option<u32>,
    /// eBPF: `bpfMapSizeConntrackScaling`. Default `DoubleIfFull`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_conntrack_scaling: Option<BpfConntrackScaling>,
    /// eBPF: `bpfMapSizeIPSets`. Default `1048576`.
    #[serde(rename = "bpfMapSizeIPSets", default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_ip_sets: Option<u32>,
    /// eBPF: `bpfMapSizeIfState`. Default `1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_if_state: Option<u32>,
    /// eBPF: `bpfMapSizeNATAffinity`. Default `65536`.
    #[serde(rename = "bpfMapSizeNATAffinity", default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_nat_affinity: Option<u32>,
    /// eBPF: `bpfMapSizeNATBackend`. Default `262144`.
    #[serde(rename = "bpfMapSizeNATBackend", default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_nat_backend: Option<u32>,
    /// eBPF: `bpfMapSizeNATFrontend`. Default `65536`.
    #[serde(rename = "bpfMapSizeNATFrontend", default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_nat_frontend: Option<u32>,
    /// eBPF: `bpfMapSizePerCpuConntrack`. Default `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_per_cpu_conntrack: Option<u32>,
    /// eBPF: `bpfMapSizeRoute`. Default `262144`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_route: Option<u32>,
    /// eBPF: `bpfOverlayHostSourceIP`. Default `TunnelAddress`.
    #[serde(rename = "bpfOverlayHostSourceIP", default, skip_serializing_if = "Option::is_none")]
    pub bpf_overlay_host_source_ip: Option<BpfOverlayHostSourceIp>,
    /// eBPF: `bpfPSNATPorts`. Default `20000:29999`.
    #[serde(rename = "bpfPSNATPorts", default, skip_serializing_if = "Option::is_none")]
    pub bpf_psnat_ports: Option<Port>,
    /// eBPF: `bpfPolicyDebugEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_policy_debug_enabled: Option<bool>,
    /// eBPF: `bpfProfiling`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_profiling: Option<Toggle>,
    /// eBPF: `bpfRedirectToPeer`. Default `Enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_redirect_to_peer: Option<Toggle>,
    /// Windows: `windowsManageFirewallRules`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows_manage_firewall_rules: Option<Toggle>,
    /// OpenStack support: `endpointReportingDelay`. Default `1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_reporting_delay: Option<GoDuration>,
    /// OpenStack support: `endpointReportingEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_reporting_enabled: Option<bool>,
    /// OpenStack support: `metadataAddr`. Default `127.0.0.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_addr: Option<String>,
    /// OpenStack support: `metadataPort`. Default `8775`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_port: Option<u16>,
    /// OpenStack support: `openstackRegion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack_region: Option<String>,
    /// OpenStack support: `reportingInterval`. Default `30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporting_interval: Option<GoDuration>,
    /// OpenStack support: `reportingTTL`. Default `90`.
    #[serde(rename = "reportingTTL", default, skip_serializing_if = "Option::is_none")]
    pub reporting_ttl: Option<GoDuration>,
    /// XDP acceleration for iptables dataplane: `genericXDPEnabled`. Default `false`.
    #[serde(rename = "genericXDPEnabled", default, skip_serializing_if = "Option::is_none")]
    pub generic_xdp_enabled: Option<bool>,
    /// XDP acceleration for iptables dataplane: `xdpEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp_enabled: Option<bool>,
    /// XDP acceleration for iptables dataplane: `xdpRefreshInterval`. Default `90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp_refresh_interval: Option<GoDuration>,
    /// VXLAN overlay: `vxlanEnabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_enabled: Option<bool>,
    /// VXLAN overlay: `vxlanMTU`. Default `0`.
    #[serde(rename = "vxlanMTU", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mtu: Option<u32>,
    /// VXLAN overlay: `vxlanMTUV6`. Default `0`.
    #[serde(rename = "vxlanMTUV6", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mtu_v6: Option<u32>,
    /// VXLAN overlay: `vxlanPort`. Default `4789`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_port: Option<u32>,
    /// VXLAN overlay: `vxlanVNI`. Default `4096`.
    #[serde(rename = "vxlanVNI", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_vni: Option<u32>,
    /// IP-in-IP: `ipipEnabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_enabled: Option<bool>,
    /// IP-in-IP: `ipipMTU`. Default `0`.
    #[serde(rename = "ipipMTU", default, skip_serializing_if = "Option::is_none")]
    pub ipip_mtu: Option<u32>,
    /// Wireguard: `wireguardEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_enabled: Option<bool>,
    /// Wireguard: `wireguardEnabledV6`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_enabled_v6: Option<bool>,
    /// Wireguard: `wireguardHostEncryptionEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_host_encryption_enabled: Option<bool>,
    /// Wireguard: `wireguardInterfaceName`. Default `wireguard.cali`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_interface_name: Option<String>,
    /// Wireguard: `wireguardInterfaceNameV6`. Default `wg-v6.cali`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_interface_name_v6: Option<String>,
    /// Wireguard: `wireguardListeningPort`. Default `51820`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_listening_port: Option<u32>,
    /// Wireguard: `wireguardListeningPortV6`. Default `51821`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_listening_port_v6: Option<u32>,
    /// Wireguard: `wireguardMTU`. Default `0`.
    #[serde(rename = "wireguardMTU", default, skip_serializing_if = "Option::is_none")]
    pub wireguard_mtu: Option<u32>,
    /// Wireguard: `wireguardMTUV6`. Default `0`.
    #[serde(rename = "wireguardMTUV6", default, skip_serializing_if = "Option::is_none")]
    pub wireguard_mtu_v6: Option<u32>,
    /// Wireguard: `wireguardKeepAlive`. Default `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_keep_alive: Option<GoDuration>,
    /// Wireguard: `wireguardRoutingRulePriority`. Default `99`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_routing_rule_priority: Option<u32>,
    /// Wireguard: `wireguardThreadingEnabled`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_threading_enabled: Option<bool>,
    /// file reports: `flowLogsCollectorDebugTrace`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_collector_debug_trace: Option<bool>,
    /// file reports: `flowLogsFlushInterval`. Default `300`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_flush_interval: Option<GoDuration>,
    /// file reports: `flowLogsGoldmaneServer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_goldmane_server: Option<String>,
    /// file reports: `flowLogsLocalReporter`. Default `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_local_reporter: Option<Toggle>,
    /// file reports: `flowLogsPolicyEvaluationMode`. Default `Continuous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_policy_evaluation_mode: Option<FlowLogsPolicyEvaluation>,
    /// AWS integration: `awsSrcDstCheck`. Default `DoNothing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_src_dst_check: Option<AwsSrcDstCheck>,
    /// Debug/test-only (generally unsupported): `debugDisableLogDropping`. Default `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_disable_log_dropping: Option<bool>,
    /// Debug/test-only (generally unsupported): `debugHost`. Default `localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_host: Option<String>,
    /// Debug/test-only (generally unsupported): `debugMemoryProfilePath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_memory_profile_path: Option<String>,
    /// Debug/test-only (generally unsupported): `debugPort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_port: Option<u16>,
    /// Debug/test-only (generally unsupported): `debugSimulateCalcGraphHangAfter`. Default `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_simulate_calc_graph_hang_after: Option<GoDuration>,
    /// Debug/test-only (generally unsupported): `debugSimulateDataplaneApplyDelay`. Default `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_simulate_dataplane_apply_delay: Option<GoDuration>,
    /// Debug/test-only (generally unsupported): `debugSimulateDataplaneHangAfter`. Default `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_simulate_dataplane_hang_after: Option<GoDuration>,
    /// Usage reporting: `usageReportingEnabled`. Default `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_reporting_enabled: Option<bool>,
    /// Usage reporting: `usageReportingInitialDelay`. Default `300`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_reporting_initial_delay: Option<GoDuration>,
    /// Usage reporting: `usageReportingInterval`. Default `86400`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_reporting_interval: Option<GoDuration>,
}

impl Spec for FelixConfigurationSpec {
    const KIND: Kind = Kind::FelixConfiguration;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::felix::check(object, problems);
    }
}
