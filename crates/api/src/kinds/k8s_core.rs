//! Kubernetes' own objects, as far as policy needs them: every other field is accepted and not kept.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    types::{self, Protocol, string_enum::string_enum},
};

/// A namespace; only its labels matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSpec {}

/// A service account; only its labels matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSpec {}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it runs; absent until scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its service account; absent means `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// It uses the node's network: no endpoint of its own.
    #[serde(default, skip_serializing_if = "types::is_false")]
    pub host_network: bool,
    /// Its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// Containers that run before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
}

/// One container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The container's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its declared ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// `Always` on an init container makes it a sidecar, which stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
}

/// A declared port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// What policies call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In the pod.
    #[serde(default)]
    pub container_port: u16,
    /// TCP when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// On the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// On which of the node's addresses; may be empty.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
}

string_enum! { exact
    /// Where a pod is in its life.
    pub enum PodPhase {
        /// Not all containers run yet.
        Pending = "Pending",
        /// It runs.
        Running = "Running",
        /// It ended well; its address is free.
        Succeeded = "Succeeded",
        /// It ended badly; its address is free.
        Failed = "Failed",
        /// Its node can't be asked.
        Unknown = "Unknown",
    }
}

/// What was observed of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Where it is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PodPhase>,
    /// Its first address.
    #[serde(rename = "podIP", default, skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<IpAddr>,
    /// All its addresses.
    #[serde(rename = "podIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
}

/// One address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIp {
    /// The address.
    pub ip: IpAddr,
}

impl Spec for NamespaceSpec {
    const KIND: Kind = Kind::Namespace;
    type Status = NoStatus;
    fn check(_: &Object<Self>, _: &mut Problems) {}
}

impl Spec for ServiceAccountSpec {
    const KIND: Kind = Kind::ServiceAccount;
    type Status = NoStatus;
    fn check(_: &Object<Self>, _: &mut Problems) {}
}

impl Spec for PodSpec {
    const KIND: Kind = Kind::Pod;
    type Status = PodStatus;
    fn check(_: &Object<Self>, _: &mut Problems) {}
}
