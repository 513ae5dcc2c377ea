//! EndpointSlice of `discovery.k8s.io/v1`: which addresses and ports stand behind a service. As with Kubernetes' core
//! kinds, fields without a meaning here are accepted and not kept.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Object, Spec, path::Problems, types::Protocol};

/// Label of a slice with the name of its service.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints with equal ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSliceSpec {
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// The endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ServiceEndpoint>,
    /// Their ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPortSpec>,
}

/// One endpoint of a service, ready or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEndpoint {
    /// Its addresses; names, if the slice's type is `FQDN`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Whether it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<EndpointConditions>,
}

impl ServiceEndpoint {
    /// New connections may go to it; so it is where nothing is said.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    }
}

/// State of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConditions {
    /// New connections may go to it; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// One port of all endpoints of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPortSpec {
    /// Absent: not restricted; policy matches no port then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// TCP when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

impl Spec for EndpointSliceSpec {
    const KIND: Kind = Kind::EndpointSlice;
    const FLAT: bool = true;
    type Status = NoStatus;
    fn check(_: &Object<Self>, _: &mut Problems) {}
}
