//! This node's own Node object.

use margay_api::kinds::{NodeBgp, NodeSpec};
use margay_api::{Metadata, Node as NodeResource};
use margay_daemon::register::merge;

use super::Node;
use crate::writer::Write;

impl Node {
    /// Makes sure there is a Node object that says what the configuration (or else the kernel) says.
    pub(super) async fn register(&mut self) {
        let stored = self.cluster.bgp.nodes.get(&self.config.node).map(Box::as_ref);
        let known = stored.and_then(|node| node.spec.bgp.as_ref());
        let known = known.is_some_and(|bgp| bgp.ipv4_address.is_some() || bgp.ipv6_address.is_some());
        let mut ipv4 = self.config.ipv4_address;
        if ipv4.is_none() && self.config.ipv6_address.is_none() && !known {
            ipv4 = self.forwarding.underlay().detect();
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
            self.cluster.bgp.put(&merged.into());
        }
    }
}
