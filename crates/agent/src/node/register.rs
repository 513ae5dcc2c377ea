//! This node's own Node object.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use margay_api::kinds::{NodeBgp, NodeSpec};
use margay_api::{Metadata, Node as NodeResource};
use margay_daemon::register::merge;

use super::Node;
use crate::writer::Write;

/// Interfaces whose addresses are never a node's: loopback, pods, tunnels, bridges of container runtimes.
const NOT_UPLINKS: [&str; 8] = ["lo", "mgy", "cali", "vxlan", "tunl", "docker", "cni", "veth"];

impl Node {
    /// Makes sure there is a Node object that says what the configuration (or else the kernel) says.
    pub(super) async fn register(&mut self) {
        let stored = self.cluster.bgp.nodes.get(&self.config.node);
        let known = stored.and_then(|node| node.spec.bgp.as_ref());
        let known = known.is_some_and(|bgp| bgp.ipv4_address.is_some() || bgp.ipv6_address.is_some());
        let mut ipv4 = self.config.ipv4_address;
        if ipv4.is_none() && self.config.ipv6_address.is_none() && !known {
            ipv4 = self.underlay.detect();
            if let Some(address) = ipv4 {
                tracing::info!(%address, "using the address of the interface with the default route, or the first");
            }
        }
        let bgp =
            NodeBgp { ipv4_address: ipv4, ipv6_address: self.config.ipv6_address, ..NodeBgp::default() };
        let addressed = bgp.ipv4_address.is_some() || bgp.ipv6_address.is_some();
        let own = NodeResource::new(
            Metadata::named(self.config.node.clone()),
            NodeSpec { bgp: addressed.then_some(bgp), ..NodeSpec::default() },
        );
        let mut merged = stored.cloned().unwrap_or_else(|| own.clone());
        merge(&mut merged, &own);
        if stored != Some(&merged) {
            self.writer.push(self.own_key(), Write::OwnNode(Box::new(own)));
            self.cluster.bgp.nodes.insert(self.config.node.clone(), merged);
        }
    }
}

/// The address of the interface that has the default route, else of the first that can be an uplink.
pub(super) fn detect(addresses: &[(String, IpNet)], default_dev: Option<&str>) -> Option<Ipv4Net> {
    let mut candidates = addresses.iter().filter_map(|(name, net)| match net {
        IpNet::V4(net)
            if !NOT_UPLINKS.iter().any(|prefix| name.starts_with(prefix))
                && !net.addr().is_link_local()
                && !net.addr().is_loopback() =>
        {
            Some((name.as_str(), *net))
        }
        _ => None,
    });
    let first = candidates.clone().next();
    candidates.find(|(name, _)| Some(*name) == default_dev).or(first).map(|(_, net)| net)
}

/// The IPv4 default route.
pub(super) fn is_default(prefix: &IpNet) -> bool {
    prefix.prefix_len() == 0 && matches!(prefix.addr(), IpAddr::V4(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_with_the_default_route_wins() {
        let addresses: Vec<(String, IpNet)> = [
            ("lo", "127.0.0.1/8"),
            ("docker0", "172.17.0.1/16"),
            ("eth0", "192.0.2.7/24"),
            ("eth1", "198.51.100.7/24"),
            ("eth1", "2001:db8::7/64"),
        ]
        .map(|(name, net)| (name.to_owned(), net.parse().unwrap()))
        .to_vec();
        assert_eq!(detect(&addresses, Some("eth1")), Some("198.51.100.7/24".parse().unwrap()));
        assert_eq!(detect(&addresses, None), Some("192.0.2.7/24".parse().unwrap()));
        assert_eq!(detect(&addresses[..2], Some("docker0")), None);
    }
}
