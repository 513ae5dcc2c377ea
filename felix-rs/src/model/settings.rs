//! Settings of a node: what shapes its fixed rules, and how rules are written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::{LocalEndpoint, PortRange};

/// `defaultEndpointToHostAction` of FelixConfiguration: pod to its own node, after egress policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Default)]
pub enum EndpointToHostAction {
    /// Drop (Calico's built-in default).
    #[default]
    Drop,
    /// Accept.
    Accept,
    /// Go on with the node's own INPUT rules.
    Return,
}

/// A failsafe port of the node: always reachable whatever host endpoint policy says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FailsafePort {
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
    /// Only for this peer network, if given.
    pub net: Option<IpNet>,
}

/// How natOutgoing rewrites a packet: `nat…` fields of FelixConfiguration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SourceNat {
    /// `natOutgoingAddress`: the new source of IPv4 packets; absent: the address of the interface they leave by.
    pub address: Option<Ipv4Addr>,
    /// `natPortRange`: source ports of TCP, UDP and SCTP; absent: any.
    pub ports: Option<PortRange>,
    /// `natOutgoingExclusions: IPPoolsAndHostIPs`: packets to nodes keep their source too.
    pub spares_nodes: bool,
    /// `iptablesNATOutgoingInterfaceFilter`: only packets that leave by this interface (`eth+`: whose name begins so).
    pub interface: Option<Arc<str>>,
}

/// Names of the interfaces that our CNI plugin makes begin so.
const OWN_PREFIX: &str = "mgy";
/// IANA's port of VXLAN.
pub(crate) const VXLAN_PORT: u16 = 4789;

/// Settings of the node that shape its fixed rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSettings {
    /// What names of workload interfaces begin with; never empty.
    pub workload_prefixes: Vec<Arc<str>>,
    /// Interfaces of local workload endpoints whose names begin with none of them.
    pub workload_interfaces: BTreeSet<Arc<str>>,
    /// Addresses of the node's interfaces, as far as host endpoints are found by them.
    pub host_addresses: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// Pod to its own node.
    pub endpoint_to_host: EndpointToHostAction,
    /// Inbound failsafe ports.
    pub failsafe_inbound: Vec<FailsafePort>,
    /// Outbound failsafe ports.
    pub failsafe_outbound: Vec<FailsafePort>,
    /// UDP port of the VXLAN device when the node uses VXLAN.
    pub vxlan_port: Option<u16>,
    /// UDP ports of the WireGuard devices of a node that encrypts.
    pub wireguard_ports: BTreeSet<u16>,
    /// The node uses IPIP.
    pub ipip: bool,
    /// Addresses of all nodes of the cluster: the only ones tunnel packets are accepted from.
    pub node_addresses: BTreeSet<IpAddr>,
    /// `externalNodesList` of FelixConfiguration: tunnel packets are accepted from these networks, too.
    pub external_nodes: BTreeSet<IpNet>,
    /// Those of this node; empty when the calculation is for the whole cluster.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Networks of pools with natOutgoing.
    pub nat_outgoing: BTreeSet<IpNet>,
    /// How it is done.
    pub source_nat: SourceNat,
    /// Networks of all pools: destinations that are never masqueraded.
    pub pools: BTreeSet<IpNet>,
    /// Ranges of services that BGP advertises, unless `serviceLoopPrevention` is `Disabled`: what is still on its way to
    /// them when it is forwarded belongs to no service, and would come back.
    pub service_ranges: BTreeSet<IpNet>,
    /// `serviceLoopPrevention: Reject`: its sender is told.
    pub service_loop_rejects: bool,
    /// `allowVXLANPacketsFromWorkloads`.
    pub pods_send_vxlan: bool,
    /// `allowIPIPPacketsFromWorkloads`.
    pub pods_send_ipip: bool,
    /// kube-proxy uses IPVS: packets to services reach pods as if the node sent them.
    pub ipvs: bool,
    /// `disableConntrackInvalidCheck` of FelixConfiguration.
    pub allow_invalid: bool,
    /// `flowLogsLocalReporter` of FelixConfiguration: packets that policy drops are told to the agent.
    pub flow_log: bool,
    /// `logPrefix` of FelixConfiguration for rules with action Log.
    pub log_prefix: Arc<str>,
    /// Enforce IPv6 too.
    pub ipv6: bool,
    /// What writes the rules: `nftablesMode` and `iptablesBackend` of FelixConfiguration.
    pub backend: BackendChoice,
    /// How rules are written by iptables.
    pub iptables: WriterSettings,
    /// How rules are written by nftables.
    pub nftables: WriterSettings,
}

/// How one kind of backend writes rules: fields of FelixConfiguration that there are once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WriterSettings {
    /// `iptablesMarkMask`, `nftablesMarkMask`: bits of the packet mark that nobody else uses.
    pub mark_mask: u32,
    /// `iptablesFilterDenyAction`, `nftablesFilterDenyAction`: the sender of what policy denies is told.
    pub rejects: bool,
    /// `chainInsertMode: Append`: what others have in the kernel's chains goes before. Where nobody else can be, nothing.
    pub appends: bool,
}

impl Default for WriterSettings {
    /// Calico's.
    fn default() -> Self {
        Self { mark_mask: 0xffff_0000, rejects: false, appends: false }
    }
}

/// What names of workload interfaces begin with: `mgy`, and what FelixConfiguration's `interfacePrefix` (a list with commas)
/// says of other plugins.
pub fn workload_prefixes(interface_prefix: Option<&str>) -> Vec<Arc<str>> {
    let others = interface_prefix.unwrap_or_default().split(',').map(str::trim);
    let mut all = vec![OWN_PREFIX];
    for prefix in others.filter(|prefix| !prefix.is_empty()) {
        if !all.iter().any(|known| prefix.starts_with(known)) {
            all.push(prefix);
        }
    }
    all.into_iter().map(Into::into).collect()
}

/// What writes rules and sets into the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum BackendChoice {
    /// iptables of the variant that is in use on the machine; nftables where iptables is not installed.
    #[default]
    Auto,
    /// `iptables-nft` and ip sets.
    IptablesNft,
    /// `iptables-legacy` and ip sets.
    IptablesLegacy,
    /// `nft`: a table of our own for each family, with sets and maps.
    Nftables,
}

impl NodeSettings {
    /// The address is a node's of the cluster, or of one that is counted among them.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address) || self.external_nodes.iter().any(|net| net.contains(&address))
    }

    /// The interface is a pod's.
    #[must_use]
    pub fn is_workload(&self, interface: &str) -> bool {
        self.workload_prefixes.iter().any(|prefix| interface.starts_with(&**prefix))
            || self.workload_interfaces.contains(interface)
    }

    /// The node's interfaces whose host endpoint this may be: the one it names, or those that have one of its addresses. Of several
    /// host endpoints the first by name is an interface's (Calico's `resolveHostEndpoints`).
    pub fn interfaces_of<'a>(&'a self, host: &'a LocalEndpoint) -> impl Iterator<Item = &'a Arc<str>> {
        let found = self.host_addresses.iter().filter(|(_, own)| !own.is_disjoint(&host.addresses));
        let found = found.map(|(name, _)| name).filter(|_| host.interface.is_empty());
        let named = Some(&host.interface).filter(|name| !matches!(&***name, "" | "*"));
        named.into_iter().chain(found).filter(|name| !self.is_workload(name))
    }

    /// UDP port of VXLAN, also where the node itself uses none: pods may not send there unless they are allowed to.
    #[must_use]
    pub fn vxlan_port_or_default(&self) -> u16 {
        self.vxlan_port.unwrap_or(VXLAN_PORT)
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            workload_prefixes: workload_prefixes(None),
            workload_interfaces: BTreeSet::new(),
            host_addresses: BTreeMap::new(),
            endpoint_to_host: EndpointToHostAction::Drop,
            failsafe_inbound: Vec::new(),
            failsafe_outbound: Vec::new(),
            vxlan_port: None,
            wireguard_ports: BTreeSet::new(),
            ipip: false,
            node_addresses: BTreeSet::new(),
            external_nodes: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            nat_outgoing: BTreeSet::new(),
            source_nat: SourceNat::default(),
            pools: BTreeSet::new(),
            service_ranges: BTreeSet::new(),
            service_loop_rejects: false,
            pods_send_vxlan: false,
            pods_send_ipip: false,
            ipvs: false,
            allow_invalid: false,
            flow_log: false,
            log_prefix: "margay-packet".into(),
            ipv6: true,
            backend: BackendChoice::Auto,
            iptables: WriterSettings::default(),
            nftables: WriterSettings::default(),
        }
    }
}
