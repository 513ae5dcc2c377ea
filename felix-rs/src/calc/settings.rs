//! Settings of the node's fixed rules: from FelixConfiguration, BGPConfiguration, pools and nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use margay_api::kinds::{
    AllowedUse, ChainInsertMode, EncapMode, EndpointToHostAction as ToHost, FelixConfigurationSpec,
    FilterAllowAction, FilterDenyAction, IpPoolSpec, IptablesBackend, NatOutgoingExclusions, NftablesMode,
    ProtoPort, ServiceLoopPrevention, Toggle, WorkloadSourceSpoofing, disjoint_pools,
};
use margay_api::types::{Port, Protocol};
use margay_api::{BgpConfiguration, FelixConfiguration, IpPool, Node};

use super::catalog::labels_of;
use super::facts::{Facts, LabelMap};
use super::{Interfaces, Problem, Scope};
use crate::model::{
    BackendChoice, EndpointToHostAction, FailsafePort, NodeSettings, PortRange, SourceNat, VXLAN_PORT,
    WriterSettings, workload_prefixes,
};
use crate::verdict::{TCP, UDP};

/// `nftablesMode: Enabled` wins over `iptablesBackend`. `Auto` is iptables, as long as it is installed.
fn backend(mode: Option<NftablesMode>, iptables: Option<IptablesBackend>) -> BackendChoice {
    match (mode, iptables) {
        (Some(NftablesMode::Enabled), _) => BackendChoice::Nftables,
        (_, Some(IptablesBackend::Legacy)) => BackendChoice::IptablesLegacy,
        (_, Some(IptablesBackend::Nft)) => BackendChoice::IptablesNft,
        _ => BackendChoice::Auto,
    }
}

/// How names of the interfaces of Calico's CNI plugin begin (`felix/config/config_params.go`, InterfacePrefix).
const CALICO_PREFIX: &str = "cali";
/// Where kube-proxy in IPVS mode keeps the addresses of services.
const IPVS_INTERFACE: &str = "kube-ipvs0";

/// `felix/config/config_params.go`, FailsafeInboundHostPorts.
const FAILSAFE_INBOUND: [(u8, u16); 9] = [
    (TCP, 22),
    (UDP, 68),
    (TCP, 179),
    (TCP, 2379),
    (TCP, 2380),
    (TCP, 5473),
    (TCP, 6443),
    (TCP, 6666),
    (TCP, 6667),
];
/// `felix/config/config_params.go`, FailsafeOutboundHostPorts.
const FAILSAFE_OUTBOUND: [(u8, u16); 9] = [
    (UDP, 53),
    (UDP, 67),
    (TCP, 179),
    (TCP, 2379),
    (TCP, 2380),
    (TCP, 5473),
    (TCP, 6443),
    (TCP, 6666),
    (TCP, 6667),
];

/// The objects that settings come from, reduced to what counts.
#[derive(Debug, Default)]
pub(super) struct SettingsSource {
    felix: BTreeMap<String, FelixConfigurationSpec>,
    pools: BTreeMap<String, IpPool>,
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Of BGPConfiguration `default`.
    service_ranges: BTreeSet<IpNet>,
    node_labels: Arc<LabelMap>,
    kernel_lacks_ipv6: bool,
}

impl SettingsSource {
    pub(super) fn lack_ipv6(&mut self) {
        self.kernel_lacks_ipv6 = true;
    }

    pub(super) fn put_felix(&mut self, name: &str, object: Option<&FelixConfiguration>) {
        match object {
            Some(object) => self.felix.insert(name.to_owned(), object.spec.clone()),
            None => self.felix.remove(name),
        };
    }

    pub(super) fn put_pool(&mut self, name: &str, object: Option<&IpPool>) {
        match object {
            Some(object) => self.pools.insert(name.to_owned(), object.clone()),
            None => self.pools.remove(name),
        };
    }

    /// Those of single nodes cannot say anything of services.
    pub(super) fn put_bgp(&mut self, name: &str, object: Option<&BgpConfiguration>) {
        if name == "default" {
            let ranges = object.into_iter().flat_map(|object| {
                let spec = &object.spec;
                [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips]
            });
            self.service_ranges = ranges.flatten().filter_map(|block| Some(block.cidr?.trunc())).collect();
        }
    }

    pub(super) fn put_node(&mut self, name: &str, object: Option<&Node>, scope: &Scope) {
        if matches!(scope, Scope::Node(node) if node == name) {
            self.node_labels =
                object.map(|node| Arc::new(labels_of(&node.metadata.labels))).unwrap_or_default();
        }
        match object {
            Some(node) => self.nodes.insert(name.to_owned(), node_addresses(node)),
            None => self.nodes.remove(name),
        };
    }

    fn felix(&self, scope: &Scope) -> FelixConfigurationSpec {
        let facts = Facts { own: Arc::clone(&self.node_labels), inherited: Vec::new() };
        match scope {
            Scope::Node(node) => FelixConfigurationSpec::of_node(&self.felix, node, &facts),
            Scope::All => self.felix.get("default").cloned().unwrap_or_default(),
        }
    }

    /// Whether workload endpoints may name sources besides their addresses (`workloadSourceSpoofing`).
    pub(super) fn let_spoof(&self, scope: &Scope) -> bool {
        self.felix(scope).workload_source_spoofing == Some(WorkloadSourceSpoofing::Any)
    }

    /// Of the node, or what holds where no node is named.
    pub(super) fn settings(&self, scope: &Scope, interfaces: &Interfaces) -> NodeSettings {
        let mut felix = self.felix(scope);
        if is_calicos(&felix, interfaces) {
            felix.interface_prefix = Some(CALICO_PREFIX.to_owned());
        }
        let mut settings = self.merge(&felix);
        if let Scope::Node(node) = scope {
            settings.own_addresses = self.nodes.get(node).cloned().unwrap_or_default();
        }
        settings.ipvs = interfaces.contains_key(IPVS_INTERFACE);
        settings
    }

    /// Fields that are set and have no effect here, and what runs beside us that policy does not reckon with.
    pub(super) fn problems(&self, scope: &Scope, interfaces: &Interfaces) -> Vec<Problem> {
        let mut all = Vec::new();
        for (name, felix) in &self.felix {
            let object = margay_api::Key::cluster(margay_api::Kind::FelixConfiguration, name).to_string();
            let idle = without_effect(felix);
            all.extend(idle.into_iter().map(|(field, why)| Problem {
                object: object.clone(),
                reason: format!("spec.{field} has no effect: {why}"),
            }));
        }
        let Scope::Node(node) = scope else { return all };
        let mut tell =
            |reason: &str| all.push(Problem { object: format!("Node({node})"), reason: reason.to_owned() });
        if is_calicos(&self.felix(scope), interfaces) {
            tell(
                "interfaces of Calico's CNI plugin (cali…) are here: those that belong to no WorkloadEndpoint are closed; \
                 set interfacePrefix of the FelixConfiguration to \"cali\" to say that they are pods', or to \"\" if they are not",
            );
        }
        if interfaces.contains_key(IPVS_INTERFACE) {
            tell(
                "kube-proxy runs in IPVS mode (kube-ipvs0 is here): egress policy of pods sees the addresses of services instead \
                 of those behind them, and defaultEndpointToHostAction holds for services; run kube-proxy with mode iptables \
                 or nftables",
            );
        }
        all
    }

    fn merge(&self, felix: &FelixConfigurationSpec) -> NodeSettings {
        let workload_prefixes = workload_prefixes(felix.interface_prefix.as_deref());
        let mut settings = NodeSettings { workload_prefixes, ..NodeSettings::default() };
        if let Some(prefix) = felix.log_prefix.as_deref() {
            settings.log_prefix = prefix.into();
        }
        if let Some(action) = felix.default_endpoint_to_host_action {
            settings.endpoint_to_host = match action {
                ToHost::Accept => EndpointToHostAction::Accept,
                ToHost::Drop => EndpointToHostAction::Drop,
                ToHost::Return => EndpointToHostAction::Return,
            };
        }
        settings.allow_invalid = felix.disable_conntrack_invalid_check.unwrap_or(false);
        settings.flow_log = felix.flow_logs_local_reporter == Some(Toggle::Enabled);
        settings.backend = backend(felix.nftables_mode, felix.iptables_backend);
        let writer = |mask: Option<u32>, deny, mode| {
            let default = WriterSettings::default();
            WriterSettings {
                mark_mask: mask.unwrap_or(default.mark_mask),
                rejects: deny == Some(FilterDenyAction::Reject),
                appends: mode == Some(ChainInsertMode::Append),
            }
        };
        let insert = felix.chain_insert_mode;
        settings.iptables = writer(felix.iptables_mark_mask, felix.iptables_filter_deny_action, insert);
        settings.nftables = writer(felix.nftables_mark_mask, felix.nftables_filter_deny_action, None);
        settings.pods_send_vxlan = felix.allow_vxlan_packets_from_workloads.unwrap_or(false);
        settings.pods_send_ipip = felix.allow_ipip_packets_from_workloads.unwrap_or(false);
        settings.ipv6 = felix.ipv6_support.unwrap_or(true) && !self.kernel_lacks_ipv6;
        settings.failsafe_inbound = failsafe(felix.failsafe_inbound_host_ports.as_ref(), &FAILSAFE_INBOUND);
        settings.failsafe_outbound =
            failsafe(felix.failsafe_outbound_host_ports.as_ref(), &FAILSAFE_OUTBOUND);

        let on = |mode: Option<EncapMode>| mode.is_some_and(|mode| mode != EncapMode::Never);
        let (in_force, _) = disjoint_pools(self.pools.values());
        let any =
            |mode: fn(&IpPoolSpec) -> Option<EncapMode>| in_force.iter().any(|pool| on(mode(&pool.spec)));
        settings.ipip = felix.ipip_enabled.unwrap_or_else(|| any(|pool| pool.ipip_mode));
        let vxlan = felix.vxlan_enabled.unwrap_or_else(|| any(|pool| pool.vxlan_mode));
        let port = felix.vxlan_port.and_then(|port| u16::try_from(port).ok());
        settings.vxlan_port = vxlan.then(|| port.unwrap_or(VXLAN_PORT));
        settings.wireguard_ports = wireguard_ports(felix);
        settings.node_addresses = self.nodes.values().flatten().copied().collect();
        settings.external_nodes = felix.external_nodes_list.iter().flatten().map(IpNet::trunc).collect();
        let loops = felix.service_loop_prevention.unwrap_or(ServiceLoopPrevention::Drop);
        if loops != ServiceLoopPrevention::Disabled {
            settings.service_ranges.clone_from(&self.service_ranges);
            settings.service_loop_rejects = loops == ServiceLoopPrevention::Reject;
        }
        settings.source_nat = source_nat(felix);
        // Pools for load balancers only hold no pods and are no reason to leave a packet's source alone.
        let for_pods = |pool: &&IpPoolSpec| {
            pool.allowed_uses.is_empty()
                || pool.allowed_uses.iter().any(|used| *used != AllowedUse::LoadBalancer)
        };
        for pool in in_force.iter().map(|pool| &pool.spec).filter(for_pods) {
            settings.pools.insert(pool.cidr.trunc());
            if pool.nat_outgoing {
                settings.nat_outgoing.insert(pool.cidr.trunc());
            }
        }
        settings
    }
}

/// Pods of Calico's CNI plugin run on the node, and nobody has said so: until they are gone their interfaces are taken for what they
/// are, so that none is open because nothing is known of it.
fn is_calicos(felix: &FelixConfigurationSpec, interfaces: &Interfaces) -> bool {
    felix.interface_prefix.is_none() && interfaces.keys().any(|name| name.starts_with(CALICO_PREFIX))
}

/// Fields that say how policy is enforced, and that nothing here looks at: with why.
fn without_effect(felix: &FelixConfigurationSpec) -> Vec<(&'static str, &'static str)> {
    let returns = |action: Option<FilterAllowAction>| action == Some(FilterAllowAction::Return);
    let accepted = "what policy allows is accepted, rules of others behind ours do not see it";
    let logged = "rules with action Log log every packet";
    let fields = [
        (felix.bpf_enabled == Some(true), "bpfEnabled", "policy is enforced by iptables or nftables"),
        (returns(felix.iptables_filter_allow_action), "iptablesFilterAllowAction", accepted),
        (returns(felix.iptables_mangle_allow_action), "iptablesMangleAllowAction", accepted),
        (returns(felix.nftables_filter_allow_action), "nftablesFilterAllowAction", accepted),
        (returns(felix.nftables_mangle_allow_action), "nftablesMangleAllowAction", accepted),
        (felix.log_action_rate_limit.is_some(), "logActionRateLimit", logged),
        (felix.log_action_rate_limit_burst.is_some(), "logActionRateLimitBurst", logged),
        (felix.policy_sync_path_prefix.is_some(), "policySyncPathPrefix", "HTTP rules are not enforced"),
        (
            felix.istio_ambient_mode == Some(Toggle::Enabled),
            "istioAmbientMode",
            "packets to ztunnel are not told apart",
        ),
        (
            felix.floating_ips == Some(Toggle::Enabled),
            "floatingIPs",
            "pods have no addresses besides their own",
        ),
    ];
    fields.into_iter().filter(|(set, ..)| *set).map(|(_, field, why)| (field, why)).collect()
}

fn wireguard_ports(felix: &FelixConfigurationSpec) -> BTreeSet<u16> {
    let v4 = (felix.wireguard_enabled, felix.wireguard_listening_port.unwrap_or(51_820));
    let v6 = (felix.wireguard_enabled_v6, felix.wireguard_listening_port_v6.unwrap_or(51_821));
    let on = [v4, v6].into_iter().filter(|(on, _)| *on == Some(true));
    on.filter_map(|(_, port)| u16::try_from(port).ok()).collect()
}

fn source_nat(felix: &FelixConfigurationSpec) -> SourceNat {
    let exclusions = felix.nat_outgoing_exclusions;
    let ports = felix.nat_port_range.as_ref().and_then(Port::bounds);
    let filter = felix.iptables_nat_outgoing_interface_filter.as_deref();
    SourceNat {
        address: felix.nat_outgoing_address,
        // Felix's 0: any port.
        ports: ports.filter(|ports| *ports != (0, 0)).map(|(first, last)| PortRange { first, last }),
        spares_nodes: exclusions == Some(NatOutgoingExclusions::IpPoolsAndHostIps),
        interface: filter.filter(|name| !name.is_empty()).map(Into::into),
    }
}

fn failsafe(given: Option<&Vec<ProtoPort>>, default: &[(u8, u16)]) -> Vec<FailsafePort> {
    match given {
        Some(ports) => ports
            .iter()
            .map(|port| FailsafePort {
                protocol: port.protocol.map_or(TCP, Protocol::number),
                port: port.port,
                net: port.net,
            })
            .collect(),
        None => default.iter().map(|&(protocol, port)| FailsafePort { protocol, port, net: None }).collect(),
    }
}

/// Addresses packets of a node can come from.
/// All addresses of a node.
#[must_use]
pub fn node_addresses(node: &Node) -> BTreeSet<IpAddr> {
    let bgp = node.spec.bgp.iter();
    let v4 = bgp.clone().filter_map(|bgp| bgp.ipv4_address).map(|net| IpAddr::V4(net.addr()));
    let v6 = bgp.filter_map(|bgp| bgp.ipv6_address).map(|net| IpAddr::V6(net.addr()));
    v4.chain(v6).chain(node.spec.addresses.iter().map(|address| address.address.addr())).collect()
}
