//! Who an address belongs to.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

use serde::{Deserialize, Serialize};

/// Owner of one or more addresses: what is released together. Forms as in Calico: see the constructors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(String);

impl Handle {
    /// One interface of one container: `<network>.<containerID>.<ifname>`, with `%2E` for a dot within one of them.
    pub fn pod(network: &str, container_id: &str, interface: &str) -> Self {
        let parts = [network, container_id, interface];
        Self(parts.map(|part| part.replace('%', "%25").replace('.', "%2E")).join("."))
    }

    /// Network, container and interface of a handle that [`Handle::pod`] made.
    pub fn attachment(&self) -> Option<[String; 3]> {
        let parts: Vec<String> =
            self.0.split('.').map(|part| part.replace("%2E", ".").replace("%25", "%")).collect();
        parts.try_into().ok()
    }

    /// The VXLAN tunnel address of a node: `vxlan-tunnel-addr-<node>`.
    pub fn vxlan_tunnel(node: &str) -> Self {
        Self(format!("vxlan-tunnel-addr-{node}"))
    }

    /// The IPv6 VXLAN tunnel address of a node: `vxlan-v6-tunnel-addr-<node>`.
    pub fn vxlan_v6_tunnel(node: &str) -> Self {
        Self(format!("vxlan-v6-tunnel-addr-{node}"))
    }

    /// The IPIP tunnel address of a node: `ipip-tunnel-addr-<node>`.
    pub fn ipip_tunnel(node: &str) -> Self {
        Self(format!("ipip-tunnel-addr-{node}"))
    }

    /// The WireGuard tunnel address of a node: `wireguard-tunnel-addr-<node>`.
    pub fn wireguard_tunnel(node: &str) -> Self {
        Self(format!("wireguard-tunnel-addr-{node}"))
    }

    /// The IPv6 WireGuard tunnel address of a node: `wireguard-v6-tunnel-addr-<node>`.
    pub fn wireguard_v6_tunnel(node: &str) -> Self {
        Self(format!("wireguard-v6-tunnel-addr-{node}"))
    }

    /// An address that another node has: `lent.<address>`.
    pub fn lent(address: &IpNet) -> Self {
        Self(format!("lent.{}", address.addr()))
    }

    /// A handle read from a block or a request, taken as it is.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known about the owner, kept with the block for people and for garbage collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attributes {
    /// Pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Pod's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Node the address is used on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Interface inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What it is for when it is no pod: `vxlanTunnelAddress`, `ipipTunnelAddress`, [`LENT`](crate::LENT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Keys of `IPAMBlock.spec.attributes[].secondary` (Calico `libcalico-go/lib/ipam/ipam_types.go`; `ifname` is ours).
const KEYS: [&str; 5] = ["pod", "namespace", "node", "ifname", "type"];

impl Attributes {
    /// As the `secondary` map of an IPAMBlock.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        KEYS.into_iter()
            .zip([&self.pod, &self.namespace, &self.node, &self.interface, &self.kind])
            .filter_map(|(key, value)| value.clone().map(|v| (key.to_owned(), v)))
            .collect()
    }

    /// From the `secondary` map of an IPAMBlock; keys we don't know are dropped.
    pub fn from_map(map: &BTreeMap<String, String>) -> Self {
        let [pod, namespace, node, interface, kind] = KEYS.map(|key| map.get(key).cloned());
        Self { pod, namespace, node, interface, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_map() {
        let a = Attributes {
            pod: Some("web-0".into()),
            namespace: Some("shop".into()),
            node: Some("n1".into()),
            interface: Some("eth0".into()),
            kind: None,
        };
        assert_eq!(Attributes::from_map(&a.to_map()), a);
    }

    #[test]
    fn handles_have_the_known_forms() {
        assert_eq!(Handle::pod("margay", "abc", "eth0").as_str(), "margay.abc.eth0");
        assert_eq!(Handle::vxlan_tunnel("n1").as_str(), "vxlan-tunnel-addr-n1");
        for parts in [["pods", "x.y", "eth0"], ["pods.x", "y", "eth0"], ["a%2Eb", "%25", "e.%"]] {
            let [network, container, interface] = parts;
            let handle = Handle::pod(network, container, interface);
            assert_eq!(handle.attachment(), Some(parts.map(str::to_owned)), "{handle}");
        }
        assert_eq!(Handle::vxlan_tunnel("n1").attachment(), None);
    }
}
