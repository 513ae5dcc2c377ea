//! Host endpoints.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Object, Spec, path::Problems, types::Protocol, validate};

/// An interface of a machine itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostEndpointSpec {
    /// The machine; required.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Linux interface, or `*` for all of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Addresses that identify the interface when no name is given.
    #[serde(rename = "expectedIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub expected_ips: Vec<IpAddr>,
    /// Profiles that decide after the tiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Ports that rules can name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// A named port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointPort {
    /// What rules call it.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// 1 to 65535.
    pub port: u16,
}

impl Spec for HostEndpointSpec {
    const KIND: Kind = Kind::HostEndpoint;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::endpoints::check_host(object, problems);
    }
}
