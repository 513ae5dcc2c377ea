//! Addresses of the node's tunnel devices: one of its own blocks for each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use margay_api::{IpPool, Node as NodeResource};
use margay_ipam::{
    AssignError, Attributes, Family, Handle, PoolQuery, Purpose, RangeSet, Request as AddressRequest,
    eligible_pools,
};
use margay_netlink::Netlink;
use margay_routing::{Encapsulation, tunnels_needed, with_tunnel_address, without_tunnel_address};

use super::Node;
use super::claims::Wanted;
use crate::addresses::{AddressError, now};
use crate::writer::Write;

/// Every device that has an address.
const TUNNELS: [(Encapsulation, Family); 5] = [
    (Encapsulation::Vxlan, Family::V4),
    (Encapsulation::Vxlan, Family::V6),
    (Encapsulation::Ipip, Family::V4),
    (Encapsulation::Wireguard, Family::V4),
    (Encapsulation::Wireguard, Family::V6),
];

/// Longest wait for tunnel devices before the cluster is told of them.
const DEVICE_TIME: Duration = Duration::from_secs(10);

impl Node {
    /// The node's tunnel devices take addresses of its own blocks.
    pub(super) fn update_tunnel_addresses(&mut self) {
        let pools: Vec<IpPool> = self.cluster.bgp.pools_in_force().into_iter().cloned().collect();
        let pools: Vec<&IpPool> = pools.iter().collect();
        let needed = tunnels_needed(self.router.settings(), &pools);
        for (encapsulation, family) in TUNNELS {
            if needed.contains(&(encapsulation, of_routing(family)))
                && let Some(address) = self.tunnel_address(&pools, encapsulation, family)
                && let Some(node) = self.cluster.bgp.nodes.get(&self.config.node)
                && let Some(changed) = with_tunnel_address(node, encapsulation, address)
            {
                self.write_own_node(changed);
            }
        }
    }

    /// Addresses of tunnels that nothing needs any more are free once no device has them.
    pub(super) fn collect_tunnel_addresses(&mut self) {
        let pools = self.cluster.bgp.pools_in_force();
        let needed = tunnels_needed(self.router.settings(), &pools);
        let mut in_use = None;
        for (encapsulation, family) in TUNNELS {
            if needed.contains(&(encapsulation, of_routing(family))) {
                continue;
            }
            let own = self.cluster.bgp.nodes.get(&self.config.node);
            let told = own.and_then(|own| without_tunnel_address(own, encapsulation, of_routing(family)));
            let handle = owner(&self.config.node, encapsulation, family).map(|(handle, _)| handle);
            let owned = handle.as_ref().and_then(|handle| self.addresses.allocator().owned(handle));
            let addresses = owned.map(|owned| owned.addresses.clone()).unwrap_or_default();
            if told.is_none() && addresses.is_empty() {
                continue;
            }
            let Some(in_use) = in_use.get_or_insert_with(addresses_in_use) else { return };
            if addresses.iter().any(|address| in_use.contains(address)) {
                continue;
            }
            tracing::info!(?addresses, "nothing needs {encapsulation:?} any more: its address is free");
            if let Some(changed) = told {
                self.write_own_node(changed);
            }
            handle.iter().for_each(|handle| drop(self.addresses.release(handle)));
            self.mirror_blocks(&addresses);
        }
    }

    /// Uses the node's own object at once, and writes it once its tunnels are there: when others hear of them, they send.
    pub(super) fn write_own_node(&mut self, node: NodeResource) {
        self.cluster.bgp.nodes.insert(self.config.node.clone(), Box::new(node.clone()));
        self.cluster_changed();
        let generation = self.update_routes();
        let (mut reached, writer, key) = (self.forwarding.reached(), self.writer.clone(), self.own_key());
        let write = tokio::spawn(async move {
            let made = reached.wait_for(|reached| reached.has(generation, &[]));
            // A kernel that refuses is said to be so elsewhere.
            let _late = tokio::time::timeout(DEVICE_TIME, made).await;
            writer.push(key, Write::OwnNode(Box::new(node)));
        });
        // What waits is an older state of the whole object: written later, it would take back what this one says.
        if let Some(older) = self.own_write.replace(write.abort_handle()) {
            older.abort();
        }
    }

    fn tunnel_address(
        &mut self,
        pools: &[&IpPool],
        encapsulation: Encapsulation,
        family: Family,
    ) -> Option<IpAddr> {
        let labels = self.own_labels();
        let query = PoolQuery { node: &labels, purpose: Purpose::Tunnel, requested: &[] };
        let eligible = eligible_pools(pools, &query).ok()?;
        let cidrs = eligible.cidrs();
        let reserved = self.cluster.reserved();
        let (handle, kind) = owner(&self.config.node, encapsulation, family)?;
        let request = AddressRequest {
            handle,
            attributes: Attributes {
                node: Some(self.config.node.clone()),
                kind: Some(kind.to_owned()),
                ..Attributes::default()
            },
            families: &[family],
            addresses: &[],
            pools: &cidrs,
            reserved: &RangeSet::new(&reserved),
            now: now(),
            cooldown: 0,
        };
        match self.addresses.assign(&request) {
            Ok(addresses) => addresses.first().copied(),
            Err(error) => {
                tracing::debug!("no tunnel address yet: {error}");
                if let AddressError::Assign(AssignError::NeedBlock { pools, .. }) = error {
                    self.claim(Wanted { family, pools, containing: None });
                }
                None
            }
        }
    }
}

/// Handle and kind of a device's address.
fn owner(node: &str, encapsulation: Encapsulation, family: Family) -> Option<(Handle, &'static str)> {
    Some(match (encapsulation, family) {
        (Encapsulation::Vxlan, Family::V4) => (Handle::vxlan_tunnel(node), "vxlanTunnelAddress"),
        (Encapsulation::Vxlan, Family::V6) => (Handle::vxlan_v6_tunnel(node), "vxlanV6TunnelAddress"),
        (Encapsulation::Ipip, Family::V4) => (Handle::ipip_tunnel(node), "ipipTunnelAddress"),
        (Encapsulation::Wireguard, Family::V4) => (Handle::wireguard_tunnel(node), "wireguardTunnelAddress"),
        (Encapsulation::Wireguard, Family::V6) => {
            (Handle::wireguard_v6_tunnel(node), "wireguardV6TunnelAddress")
        }
        (Encapsulation::Ipip, Family::V6) | (Encapsulation::None, _) => return None,
    })
}

const fn of_routing(family: Family) -> margay_routing::Family {
    match family {
        Family::V4 => margay_routing::Family::V4,
        Family::V6 => margay_routing::Family::V6,
    }
}

/// Those of all interfaces; absent when the kernel does not say.
fn addresses_in_use() -> Option<BTreeSet<IpAddr>> {
    let all = Netlink::open().and_then(|mut netlink| netlink.addresses(None));
    let all = all.map_err(|error| tracing::warn!("looking for tunnels' addresses: {error}")).ok()?;
    Some(all.into_iter().map(|address| address.net.addr()).collect())
}
