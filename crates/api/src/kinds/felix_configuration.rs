//! Settings of the policy engine and data plane (Calico's FelixConfiguration).
//!
//! Every field is optional. The text of a row is Felix's own default, in the form of its configuration file.

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

/// Left out of YAML when not given.
trait Unset {
    fn is_unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T> Unset for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Unset for BTreeMap<K, V> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

/// One row per setting: Rust's name, type, YAML's name, reader where it isn't the type's own, default.
macro_rules! settings {
    ($($section:literal { $( $name:ident: $type:ty = $yaml:literal $(read $with:literal)?, $default:literal; )* })*) => {
        /// Settings of the policy engine and data plane: `default`, `node.<name>`, or any name with `nodeSelector`.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct FelixConfigurationSpec {
            /// Nodes it applies to, for objects not called `default` or `node.<name>`.
            #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Unset::is_unset")]
            pub node_selector: Option<Selector>,
            $($(
                #[doc = concat!($section, ": `", $yaml, "`. Felix's default: `", $default, "`.")]
                #[serde(rename = $yaml, default, $(deserialize_with = $with,)? skip_serializing_if = "Unset::is_unset")]
                pub $name: $type,
            )*)*
        }

        impl FelixConfigurationSpec {
            /// Takes what is not given here from `other`.
            fn or(mut self, other: &Self) -> Self {
                $($(
                    if self.$name.is_unset() {
                        self.$name.clone_from(&other.$name);
                    }
                )*)*
                self
            }
        }
    };
}

impl FelixConfigurationSpec {
    /// What holds on a node with these labels: each setting from the first configuration that has it, `node.<name>`, then the first
    /// by name whose `nodeSelector` selects the node, then `default`.
    #[must_use]
    pub fn of_node(
        all: &BTreeMap<String, Self>,
        node: &str,
        labels: &(impl selector::Labels + ?Sized),
    ) -> Self {
        let own = all.get(&format!("node.{node}"));
        let selects =
            |spec: &&Self| spec.node_selector.as_ref().is_some_and(|selector| selector.matches(labels));
        let layers = own.into_iter().chain(all.values().find(selects)).chain(all.get("default"));
        layers.fold(Self::default(), Self::or)
    }
}

settings! {
    "Feature detection/overrides" {
        feature_detect_override: Option<String> = "featureDetectOverride", "";
        feature_gates: Option<String> = "featureGates", "";
    }
    "Go runtime" {
        go_gc_threshold: Option<i64> = "goGCThreshold", "40";
        go_max_procs: Option<i64> = "goMaxProcs", "-1";
        go_memory_limit_mb: Option<i64> = "goMemoryLimitMB", "-1";
    }
    "Health port and timeouts" {
        health_enabled: Option<bool> = "healthEnabled", "false";
        health_host: Option<String> = "healthHost", "localhost";
        health_port: Option<u16> = "healthPort", "9099";
        health_timeout_overrides: Vec<HealthTimeoutOverride> = "healthTimeoutOverrides", "";
    }
    "Logging" {
        log_action_rate_limit: Option<String> = "logActionRateLimit", "";
        log_action_rate_limit_burst: Option<u32> = "logActionRateLimitBurst", "5";
        log_debug_filename_regex: Option<String> = "logDebugFilenameRegex", "";
        log_file_path: Option<String> = "logFilePath", "/var/log/calico/felix.log";
        log_prefix: Option<String> = "logPrefix", "calico-packet";
        log_severity_file: Option<LogSeverity> = "logSeverityFile", "INFO";
        log_severity_screen: Option<LogSeverity> = "logSeverityScreen", "INFO";
        log_severity_sys: Option<LogSeverity> = "logSeveritySys", "INFO";
    }
    "Prometheus metrics" {
        prometheus_go_metrics_enabled: Option<bool> = "prometheusGoMetricsEnabled", "true";
        prometheus_metrics_ca_file: Option<String> = "prometheusMetricsCAFile", "";
        prometheus_metrics_cert_file: Option<String> = "prometheusMetricsCertFile", "";
        prometheus_metrics_client_auth: Option<PrometheusClientAuth> = "prometheusMetricsClientAuth", "NoClientCert";
        prometheus_metrics_enabled: Option<bool> = "prometheusMetricsEnabled", "false";
        prometheus_metrics_host: Option<String> = "prometheusMetricsHost", "";
        prometheus_metrics_key_file: Option<String> = "prometheusMetricsKeyFile", "";
        prometheus_metrics_port: Option<u16> = "prometheusMetricsPort", "9091";
        prometheus_process_metrics_enabled: Option<bool> = "prometheusProcessMetricsEnabled", "true";
        prometheus_wire_guard_metrics_enabled: Option<bool> = "prometheusWireGuardMetricsEnabled", "true";
    }
    "Common" {
        allow_ipip_packets_from_workloads: Option<bool> = "allowIPIPPacketsFromWorkloads", "false";
        allow_vxlan_packets_from_workloads: Option<bool> = "allowVXLANPacketsFromWorkloads", "false";
        cgroup_v2_path: Option<String> = "cgroupV2Path", "";
        chain_insert_mode: Option<ChainInsertMode> = "chainInsertMode", "insert";
        dataplane_driver: Option<String> = "dataplaneDriver", "calico-iptables-plugin";
        dataplane_watchdog_timeout: Option<GoDuration> = "dataplaneWatchdogTimeout", "90";
        default_endpoint_to_host_action: Option<EndpointToHostAction> = "defaultEndpointToHostAction", "DROP";
        device_route_protocol: Option<u32> = "deviceRouteProtocol", "3";
        device_route_source_address: Option<Ipv4Addr> = "deviceRouteSourceAddress", "";
        device_route_source_address_ipv6: Option<Ipv6Addr> = "deviceRouteSourceAddressIPv6", "";
        disable_conntrack_invalid_check: Option<bool> = "disableConntrackInvalidCheck", "false";
        endpoint_status_path_prefix: Option<String> = "endpointStatusPathPrefix", "/var/run/calico";
        external_nodes_list: Option<Vec<IpNet>> = "externalNodesList" read "net::nets_opt", "";
        failsafe_inbound_host_ports: Option<Vec<ProtoPort>> = "failsafeInboundHostPorts", "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667";
        failsafe_outbound_host_ports: Option<Vec<ProtoPort>> = "failsafeOutboundHostPorts", "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667";
        floating_ips: Option<Toggle> = "floatingIPs", "Disabled";
        ip_forwarding: Option<Toggle> = "ipForwarding", "Enabled";
        ipv4_elevated_route_priority: Option<u32> = "ipv4ElevatedRoutePriority", "512";
        ipv4_normal_route_priority: Option<u32> = "ipv4NormalRoutePriority", "1024";
        ipv6_elevated_route_priority: Option<u32> = "ipv6ElevatedRoutePriority", "512";
        ipv6_normal_route_priority: Option<u32> = "ipv6NormalRoutePriority", "1024";
        interface_exclude: Option<String> = "interfaceExclude", "kube-ipvs0";
        interface_prefix: Option<String> = "interfacePrefix", "cali";
        interface_refresh_interval: Option<GoDuration> = "interfaceRefreshInterval", "90";
        ipv6_support: Option<bool> = "ipv6Support", "true";
        istio_ambient_mode: Option<Toggle> = "istioAmbientMode", "Disabled";
        istio_dscp_mark: Option<Dscp> = "istioDSCPMark", "23";
        live_migration_route_convergence_time: Option<GoDuration> = "liveMigrationRouteConvergenceTime", "30";
        local_subnet_l2_reachability: Option<L2Reachability> = "localSubnetL2Reachability", "Disabled";
        local_subnet_l2_reachability_refresh_interval: Option<GoDuration> = "localSubnetL2ReachabilityRefreshInterval", "120";
        mtu_iface_pattern: Option<String> = "mtuIfacePattern", "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";
        nat_outgoing_address: Option<Ipv4Addr> = "natOutgoingAddress", "";
        nat_outgoing_exclusions: Option<NatOutgoingExclusions> = "natOutgoingExclusions", "IPPoolsOnly";
        nat_port_range: Option<Port> = "natPortRange", "";
        nftables_flow_table_data_iface_pattern: Option<String> = "nftablesFlowTableDataIfacePattern", "";
        nftables_flow_table_offload: Option<FlowTableOffload> = "nftablesFlowTableOffload", "Disabled";
        nftables_mode: Option<NftablesMode> = "nftablesMode", "Auto";
        netlink_timeout: Option<GoDuration> = "netlinkTimeout", "10";
        policy_sync_path_prefix: Option<String> = "policySyncPathPrefix", "";
        program_cluster_routes: Option<ProgramClusterRoutes> = "programClusterRoutes", "EnabledIPIPOnly";
        remove_external_routes: Option<bool> = "removeExternalRoutes", "true";
        require_mtu_file: Option<bool> = "requireMTUFile", "false";
        route_refresh_interval: Option<GoDuration> = "routeRefreshInterval", "90";
        route_source: Option<RouteSourceOfTruth> = "routeSource", "CalicoIPAM";
        route_sync_disabled: Option<bool> = "routeSyncDisabled", "false";
        route_table_range: Option<RouteTableRange> = "routeTableRange", "";
        route_table_ranges: Option<Vec<RouteTableRange>> = "routeTableRanges", "";
        service_loop_prevention: Option<ServiceLoopPrevention> = "serviceLoopPrevention", "Drop";
        sidecar_acceleration_enabled: Option<bool> = "sidecarAccelerationEnabled", "false";
        use_internal_dataplane_driver: Option<bool> = "useInternalDataplaneDriver", "true";
        workload_source_spoofing: Option<WorkloadSourceSpoofing> = "workloadSourceSpoofing", "Disabled";
    }
    "iptables" {
        ipsets_refresh_interval: Option<GoDuration> = "ipsetsRefreshInterval", "90";
        iptables_backend: Option<IptablesBackend> = "iptablesBackend", "auto";
        iptables_filter_allow_action: Option<FilterAllowAction> = "iptablesFilterAllowAction", "ACCEPT";
        iptables_filter_deny_action: Option<FilterDenyAction> = "iptablesFilterDenyAction", "DROP";
        iptables_lock_probe_interval: Option<GoDuration> = "iptablesLockProbeInterval", "50";
        iptables_mangle_allow_action: Option<FilterAllowAction> = "iptablesMangleAllowAction", "ACCEPT";
        iptables_mark_mask: Option<u32> = "iptablesMarkMask", "0xffff0000";
        iptables_nat_outgoing_interface_filter: Option<String> = "iptablesNATOutgoingInterfaceFilter", "";
        iptables_post_write_check_interval: Option<GoDuration> = "iptablesPostWriteCheckInterval", "5";
        iptables_refresh_interval: Option<GoDuration> = "iptablesRefreshInterval", "180";
        kube_node_port_ranges: Option<Vec<Port>> = "kubeNodePortRanges", "30000:32767";
        max_ipset_size: Option<u32> = "maxIpsetSize", "1048576";
    }
    "nftables" {
        nftables_filter_allow_action: Option<FilterAllowAction> = "nftablesFilterAllowAction", "ACCEPT";
        nftables_filter_deny_action: Option<FilterDenyAction> = "nftablesFilterDenyAction", "DROP";
        nftables_mangle_allow_action: Option<FilterAllowAction> = "nftablesMangleAllowAction", "ACCEPT";
        nftables_mark_mask: Option<u32> = "nftablesMarkMask", "0xffff0000";
        nftables_refresh_interval: Option<GoDuration> = "nftablesRefreshInterval", "180";
    }
    "eBPF" {
        bpf_attach_type: Option<BpfAttachType> = "bpfAttachType", "Netkit";
        bpf_ctlb_log_filter: Option<String> = "bpfCTLBLogFilter", "";
        bpf_connect_time_load_balancing: Option<BpfConnectTimeLoadBalancing> = "bpfConnectTimeLoadBalancing", "TCP";
        bpf_connect_time_load_balancing_enabled: Option<bool> = "bpfConnectTimeLoadBalancingEnabled", "";
        bpf_conntrack_mode: Option<BpfConntrackMode> = "bpfConntrackMode", "Auto";
        bpf_conntrack_log_level: Option<BpfConntrackLogLevel> = "bpfConntrackLogLevel", "off";
        bpf_conntrack_timeouts: BTreeMap<String, String> = "bpfConntrackTimeouts", "CreationGracePeriod=10s,TCPSynSent=20s,TCPEstablished=1h,TCPFinsSeen=Auto,TCPResetSeen=40s,UDPTimeout=60s,GenericTimeout=10m,ICMPTimeout=5s";
        bpf_dsr_optout_cidrs: Option<Vec<IpNet>> = "bpfDSROptoutCIDRs" read "net::nets_opt", "";
        bpf_data_iface_pattern: Option<String> = "bpfDataIfacePattern", "^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)";
        bpf_disable_gro_for_ifaces: Option<String> = "bpfDisableGROForIfaces", "";
        bpf_disable_unprivileged: Option<bool> = "bpfDisableUnprivileged", "true";
        bpf_enabled: Option<bool> = "bpfEnabled", "false";
        bpf_enforce_rpf: Option<BpfEnforceRpf> = "bpfEnforceRPF", "Loose";
        bpf_exclude_cidrs_from_nat: Option<Vec<IpNet>> = "bpfExcludeCIDRsFromNAT" read "net::nets_opt", "";
        bpf_export_buffer_size_mb: Option<u32> = "bpfExportBufferSizeMB", "1";
        bpf_ext_to_service_connmark: Option<i64> = "bpfExtToServiceConnmark", "0";
        bpf_external_service_mode: Option<BpfExternalServiceMode> = "bpfExternalServiceMode", "tunnel";
        bpf_force_track_packets_from_ifaces: Option<Vec<String>> = "bpfForceTrackPacketsFromIfaces", "docker+";
        bpf_host_conntrack_bypass: Option<bool> = "bpfHostConntrackBypass", "false";
        bpf_host_networked_nat_without_ctlb: Option<Toggle> = "bpfHostNetworkedNATWithoutCTLB", "Enabled";
        bpf_ip_frag_timeout: Option<GoDuration> = "bpfIPFragTimeout", "0";
        bpf_ip_fragment_reassembly_enabled: Option<bool> = "bpfIPFragmentReassemblyEnabled", "true";
        bpf_jit_hardening: Option<BpfJitHardening> = "bpfJITHardening", "Auto";
        bpf_kube_proxy_healthz_port: Option<u32> = "bpfKubeProxyHealthzPort", "10256";
        bpf_kube_proxy_iptables_cleanup_enabled: Option<bool> = "bpfKubeProxyIptablesCleanupEnabled", "true";
        bpf_kube_proxy_min_sync_period: Option<GoDuration> = "bpfKubeProxyMinSyncPeriod", "1";
        bpf_l3_iface_pattern: Option<String> = "bpfL3IfacePattern", "";
        bpf_log_filters: BTreeMap<String, String> = "bpfLogFilters", "";
        bpf_log_level: Option<BpfLogLevel> = "bpfLogLevel", "off";
        bpf_maglev_max_endpoints_per_service: Option<u32> = "bpfMaglevMaxEndpointsPerService", "100";
        bpf_maglev_max_services: Option<u32> = "bpfMaglevMaxServices", "100";
        bpf_map_size_conntrack: Option<u32> = "bpfMapSizeConntrack", "512000";
        bpf_map_size_conntrack_cleanup_queue: Option<u32> = "bpfMapSizeConntrackCleanupQueue", "100000";
        bpf_map_size_conntrack_scaling: Option<BpfConntrackScaling> = "bpfMapSizeConntrackScaling", "DoubleIfFull";
        bpf_map_size_ip_sets: Option<u32> = "bpfMapSizeIPSets", "1048576";
        bpf_map_size_if_state: Option<u32> = "bpfMapSizeIfState", "1000";
        bpf_map_size_nat_affinity: Option<u32> = "bpfMapSizeNATAffinity", "65536";
        bpf_map_size_nat_backend: Option<u32> = "bpfMapSizeNATBackend", "262144";
        bpf_map_size_nat_frontend: Option<u32> = "bpfMapSizeNATFrontend", "65536";
        bpf_map_size_per_cpu_conntrack: Option<u32> = "bpfMapSizePerCpuConntrack", "0";
        bpf_map_size_route: Option<u32> = "bpfMapSizeRoute", "262144";
        bpf_overlay_host_source_ip: Option<BpfOverlayHostSourceIp> = "bpfOverlayHostSourceIP", "TunnelAddress";
        bpf_psnat_ports: Option<Port> = "bpfPSNATPorts", "20000:29999";
        bpf_policy_debug_enabled: Option<bool> = "bpfPolicyDebugEnabled", "true";
        bpf_profiling: Option<Toggle> = "bpfProfiling", "Disabled";
        bpf_redirect_to_peer: Option<Toggle> = "bpfRedirectToPeer", "Enabled";
    }
    "Windows" {
        windows_manage_firewall_rules: Option<Toggle> = "windowsManageFirewallRules", "Disabled";
    }
    "OpenStack support" {
        endpoint_reporting_delay: Option<GoDuration> = "endpointReportingDelay", "1";
        endpoint_reporting_enabled: Option<bool> = "endpointReportingEnabled", "false";
        metadata_addr: Option<String> = "metadataAddr", "127.0.0.1";
        metadata_port: Option<u16> = "metadataPort", "8775";
        openstack_region: Option<String> = "openstackRegion", "";
        reporting_interval: Option<GoDuration> = "reportingInterval", "30";
        reporting_ttl: Option<GoDuration> = "reportingTTL", "90";
    }
    "XDP acceleration for iptables dataplane" {
        generic_xdp_enabled: Option<bool> = "genericXDPEnabled", "false";
        xdp_enabled: Option<bool> = "xdpEnabled", "true";
        xdp_refresh_interval: Option<GoDuration> = "xdpRefreshInterval", "90";
    }
    "VXLAN overlay" {
        vxlan_enabled: Option<bool> = "vxlanEnabled", "";
        vxlan_mtu: Option<u32> = "vxlanMTU", "0";
        vxlan_mtu_v6: Option<u32> = "vxlanMTUV6", "0";
        vxlan_port: Option<u32> = "vxlanPort", "4789";
        vxlan_vni: Option<u32> = "vxlanVNI", "4096";
    }
    "IP-in-IP" {
        ipip_enabled: Option<bool> = "ipipEnabled", "";
        ipip_mtu: Option<u32> = "ipipMTU", "0";
    }
    "Wireguard" {
        wireguard_enabled: Option<bool> = "wireguardEnabled", "false";
        wireguard_enabled_v6: Option<bool> = "wireguardEnabledV6", "false";
        wireguard_host_encryption_enabled: Option<bool> = "wireguardHostEncryptionEnabled", "false";
        wireguard_interface_name: Option<String> = "wireguardInterfaceName", "wireguard.cali";
        wireguard_interface_name_v6: Option<String> = "wireguardInterfaceNameV6", "wg-v6.cali";
        wireguard_listening_port: Option<u32> = "wireguardListeningPort", "51820";
        wireguard_listening_port_v6: Option<u32> = "wireguardListeningPortV6", "51821";
        wireguard_mtu: Option<u32> = "wireguardMTU", "0";
        wireguard_mtu_v6: Option<u32> = "wireguardMTUV6", "0";
        wireguard_keep_alive: Option<GoDuration> = "wireguardKeepAlive", "0";
        wireguard_routing_rule_priority: Option<u32> = "wireguardRoutingRulePriority", "99";
        wireguard_threading_enabled: Option<bool> = "wireguardThreadingEnabled", "false";
    }
    "file reports" {
        flow_logs_collector_debug_trace: Option<bool> = "flowLogsCollectorDebugTrace", "false";
        flow_logs_flush_interval: Option<GoDuration> = "flowLogsFlushInterval", "300";
        flow_logs_goldmane_server: Option<String> = "flowLogsGoldmaneServer", "";
        flow_logs_local_reporter: Option<Toggle> = "flowLogsLocalReporter", "Disabled";
        flow_logs_policy_evaluation_mode: Option<FlowLogsPolicyEvaluation> = "flowLogsPolicyEvaluationMode", "Continuous";
    }
    "AWS integration" {
        aws_src_dst_check: Option<AwsSrcDstCheck> = "awsSrcDstCheck", "DoNothing";
    }
    "Debug/test-only (generally unsupported)" {
        debug_disable_log_dropping: Option<bool> = "debugDisableLogDropping", "false";
        debug_host: Option<String> = "debugHost", "localhost";
        debug_memory_profile_path: Option<String> = "debugMemoryProfilePath", "";
        debug_port: Option<u16> = "debugPort", "";
        debug_simulate_calc_graph_hang_after: Option<GoDuration> = "debugSimulateCalcGraphHangAfter", "0";
        debug_simulate_dataplane_apply_delay: Option<GoDuration> = "debugSimulateDataplaneApplyDelay", "0";
        debug_simulate_dataplane_hang_after: Option<GoDuration> = "debugSimulateDataplaneHangAfter", "0";
    }
    "Usage reporting" {
        usage_reporting_enabled: Option<bool> = "usageReportingEnabled", "true";
        usage_reporting_initial_delay: Option<GoDuration> = "usageReportingInitialDelay", "300";
        usage_reporting_interval: Option<GoDuration> = "usageReportingInterval", "86400";
    }
}

impl Spec for FelixConfigurationSpec {
    const KIND: Kind = Kind::FelixConfiguration;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::felix::check(object, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_comes_from_the_first_configuration_that_has_it() {
        let spec = |json| serde_json::from_value::<FelixConfigurationSpec>(json).unwrap();
        let all = BTreeMap::from([
            (
                "default".to_owned(),
                spec(serde_json::json!({"logPrefix": "all", "vxlanVNI": 1, "ipipMTU": 1})),
            ),
            ("node.n1".to_owned(), spec(serde_json::json!({"logPrefix": "own"}))),
            (
                "selected".to_owned(),
                spec(serde_json::json!({"nodeSelector": "zone == 'a'", "logPrefix": "zone", "vxlanVNI": 2})),
            ),
            ("selected-too".to_owned(), spec(serde_json::json!({"nodeSelector": "all()", "ipipMTU": 2}))),
        ]);
        let of = |node: &str, zone: &str| {
            let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
            let spec = FelixConfigurationSpec::of_node(&all, node, &labels);
            (spec.log_prefix.unwrap(), spec.vxlan_vni.unwrap(), spec.ipip_mtu.unwrap())
        };
        assert_eq!(
            of("n1", "a"),
            ("own".to_owned(), 2, 1),
            "of those that select it only the first by name counts"
        );
        assert_eq!(of("n2", "b"), ("all".to_owned(), 1, 2));
    }
}
