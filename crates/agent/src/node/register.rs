//! This node's own Node object.

use margay_api::kinds::NodeSpec;
use margay_api::{Metadata, Node as NodeResource};

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
        let new = || NodeResource::new(Metadata::named(self.config.node.clone()), NodeSpec::default());
        let mut own = stored.cloned().unwrap_or_else(new);
        if ipv4.is_some() || self.config.ipv6_address.is_some() {
            let bgp = own.spec.bgp.get_or_insert_default();
            bgp.ipv4_address = ipv4.or(bgp.ipv4_address);
            bgp.ipv6_address = self.config.ipv6_address.or(bgp.ipv6_address);
        }
        if stored != Some(&own) {
            self.writer.push(self.own_key(), Write::OwnNode(Box::new(own.clone())));
            self.cluster.bgp.put(&own.into());
        }
    }
}
