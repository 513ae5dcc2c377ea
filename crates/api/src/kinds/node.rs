//! Nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Object, Spec,
    path::Problems,
    types::{AsNumber, MacAddr, net},
    validate,
};

/// A machine of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Absent: no BGP on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgp>,
    /// Address of the IPv4 VXLAN device.
    #[serde(rename = "ipv4VXLANTunnelAddr", default, skip_serializing_if = "Option::is_none")]
    pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr>,
    /// MAC address of the IPv4 VXLAN device.
    #[serde(rename = "vxlanTunnelMACAddr", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_tunnel_mac_addr: Option<MacAddr>,
    /// Address of the IPv6 VXLAN device.
    #[serde(rename = "ipv6VXLANTunnelAddr", default, skip_serializing_if = "Option::is_none")]
    pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr>,
    /// MAC address of the IPv6 VXLAN device.
    #[serde(rename = "vxlanTunnelMACAddrV6", default, skip_serializing_if = "Option::is_none")]
    pub vxlan_tunnel_mac_addr_v6: Option<MacAddr>,
    /// What orchestrators call this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orch_refs: Vec<OrchRef>,
    /// WireGuard devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<NodeWireguard>,
    /// All known addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// Interfaces and their addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<NodeInterface>,
}

/// A node's BGP identity. Addresses keep their mask: it says what is in the same subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeBgp {
    /// Absent: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// The node's IPv4 address with mask.
    #[serde(default, deserialize_with = "net::address_v4", skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Ipv4Net>,
    /// The node's IPv6 address with mask.
    #[serde(default, deserialize_with = "net::address_v6", skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Ipv6Net>,
    /// Address of the IPIP device.
    #[serde(rename = "ipv4IPIPTunnelAddr", default, skip_serializing_if = "Option::is_none")]
    pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr>,
    /// Given: the node is a route reflector (RFC 4456) and leaves the mesh.
    #[serde(rename = "routeReflectorClusterID", default, skip_serializing_if = "Option::is_none")]
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
}

/// An orchestrator's name for a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrchRef {
    /// The name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// `k8s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
}

/// Addresses of WireGuard devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeWireguard {
    /// Of the IPv4 device.
    #[serde(rename = "interfaceIPv4Address", default, skip_serializing_if = "Option::is_none")]
    pub interface_ipv4_address: Option<Ipv4Addr>,
    /// Of the IPv6 device.
    #[serde(rename = "interfaceIPv6Address", default, skip_serializing_if = "Option::is_none")]
    pub interface_ipv6_address: Option<Ipv6Addr>,
}

/// One address of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeAddress {
    /// With mask where known.
    #[serde(deserialize_with = "net::address")]
    pub address: IpNet,
    /// `CalicoNodeIP`, `InternalIP` or `ExternalIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// One interface of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeInterface {
    /// Linux name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// What a node reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_public_key: Option<String>,
    /// Base64.
    #[serde(rename = "wireguardPublicKeyV6", default, skip_serializing_if = "Option::is_none")]
    pub wireguard_public_key_v6: Option<String>,
    /// Kubernetes' pod ranges of the node.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}

impl Spec for NodeSpec {
    const KIND: Kind = Kind::Node;
    type Status = NodeStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::node::check(object, problems);
    }
}
