//! Kubernetes' Service, as far as its addresses are advertised: every other field is accepted and not kept.

use serde::{Deserialize, Serialize};

use crate::{Kind, Object, Spec, path::Problems, types::string_enum::string_enum};

string_enum! { exact
    /// How a service is reached.
    #[derive(Default)]
    pub enum ServiceType {
        /// By its cluster addresses.
        #[default]
        ClusterIp = "ClusterIP",
        /// By a port of every node, too.
        NodePort = "NodePort",
        /// By addresses of a load balancer, too.
        LoadBalancer = "LoadBalancer",
        /// It is a name for something outside.
        ExternalName = "ExternalName",
    }
}

string_enum! { exact
    /// Which endpoints serve what comes from outside.
    #[derive(Default)]
    pub enum ExternalTrafficPolicy {
        /// All.
        #[default]
        Cluster = "Cluster",
        /// Those of the node it comes to.
        Local = "Local",
    }
}

/// A service. Addresses are kept as text: one that is none is left out, not the service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// How it is reached; absent means `ClusterIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<ServiceType>,
    /// Its first cluster address; `None` for a headless service.
    #[serde(rename = "clusterIP", default, skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    /// All its cluster addresses.
    #[serde(rename = "clusterIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Addresses that somebody else routes to the nodes.
    #[serde(rename = "externalIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    /// Which endpoints serve what comes from outside; absent means `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
}

/// What was observed of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// What a load balancer gave a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStatus {
    /// Where it takes traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One place where a load balancer takes traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// Its address; absent if it has a name instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

impl Spec for ServiceSpec {
    const KIND: Kind = Kind::Service;
    type Status = ServiceStatus;
    fn check(_: &Object<Self>, _: &mut Problems) {}
}
