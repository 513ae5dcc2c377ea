//! Workload endpoints.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    types::{MacAddr, Protocol, net},
    validate,
};

/// One interface of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEndpointSpec {
    /// `k8s` or `cni`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<String>,
    /// The workload's name, for orchestrators other than Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Where it runs; required.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The runtime's id of the sandbox.
    #[serde(rename = "containerID", default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The interface's name inside the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The pod's service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Its addresses, each a single host.
    #[serde(
        rename = "ipNetworks",
        default,
        deserialize_with = "net::nets",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ip_networks: Vec<IpNet>,
    /// Floating addresses.
    #[serde(rename = "ipNATs", default, skip_serializing_if = "Vec::is_empty")]
    pub ip_nats: Vec<IpNat>,
    /// Gateway in the pod.
    #[serde(rename = "ipv4Gateway", default, skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// Gateway in the pod.
    #[serde(rename = "ipv6Gateway", default, skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Profiles that decide after the tiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Host side of the veth; required.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// Of the pod's side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Ports that rules can name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadPort>,
    /// Foreign sources it may send from.
    #[serde(default, deserialize_with = "net::nets", skip_serializing_if = "Vec::is_empty")]
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// Limits.
    #[serde(rename = "qosControls", default, skip_serializing_if = "Option::is_none")]
    pub qos_controls: Option<QosControls>,
}

/// One floating address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpNat {
    /// One of `ipNetworks`.
    #[serde(rename = "internalIP")]
    pub internal_ip: IpAddr,
    /// Where the world sees it.
    #[serde(rename = "externalIP")]
    pub external_ip: IpAddr,
}

/// A port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    /// What rules call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Inside the pod.
    pub port: u16,
    /// On the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// On which of the node's addresses.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// Limits of an endpoint; from the pod's point of view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QosControls {
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bandwidth: Option<u64>,
    /// Bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<u64>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_peakrate: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_minburst: Option<u64>,
    /// Packets per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_packet_rate: Option<u64>,
    /// Packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_packet_burst: Option<u64>,
    /// Connections at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_max_connections: Option<u64>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bandwidth: Option<u64>,
    /// Bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<u64>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_peakrate: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_minburst: Option<u64>,
    /// Packets per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_packet_rate: Option<u64>,
    /// Packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_packet_burst: Option<u64>,
    /// Connections at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_max_connections: Option<u64>,
    /// DSCP of packets that leave the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
}

/// A DSCP value: 0 to 63, or a class name such as `EF` or `AF23`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dscp {
    /// The number.
    Number(u8),
    /// The class.
    Class(String),
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u8(*number),
            Self::Class(class) => serializer.serialize_str(class),
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl de::Visitor<'_> for Value {
            type Value = Dscp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a DSCP value: 0 to 63 or a class such as EF")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Dscp, E> {
                u8::try_from(value)
                    .map(Dscp::Number)
                    .map_err(|_cause| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dscp, E> {
                Ok(text.parse().map_or_else(|_| Dscp::Class(text.to_owned()), Dscp::Number))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

impl Spec for WorkloadEndpointSpec {
    const KIND: Kind = Kind::WorkloadEndpoint;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::endpoints::check_workload(object, problems);
    }
}
