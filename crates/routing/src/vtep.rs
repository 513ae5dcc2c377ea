//! How a node gets its tunnel addresses: it gives itself one address of its own blocks per tunnel and says so in its Node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use margay_api::{IpPool, Node};

use crate::desired::Encapsulation;
use crate::input::{Backend, Family};
use crate::mac::vtep_mac;
use crate::read;

/// The tunnels that the pools ask for: the node needs one address for each (for pods of its own, or to answer others').
pub fn tunnels_needed(backend: Backend, pools: &[&IpPool]) -> BTreeSet<(Encapsulation, Family)> {
    pools
        .iter()
        .map(|pool| read::pool(pool))
        .map(|pool| (pool.encapsulation, Family::of(&pool.cidr)))
        .filter(|(encapsulation, _)| *encapsulation != Encapsulation::None && backend.carries(*encapsulation))
        .collect()
}

/// The node with `address` as its tunnel address, to be written to the datastore; absent when it says so already.
///
/// A MAC address that is set stays: peers have it in their tables.
pub fn with_tunnel_address(node: &Node, encapsulation: Encapsulation, address: IpAddr) -> Option<Node> {
    let mut changed = node.clone();
    let name = &node.metadata.name;
    let spec = &mut changed.spec;
    match (encapsulation, address) {
        (Encapsulation::Vxlan, IpAddr::V4(address)) => {
            spec.ipv4_vxlan_tunnel_addr = Some(address);
            spec.vxlan_tunnel_mac_addr.get_or_insert_with(|| vtep_mac(name, Family::V4));
        }
        (Encapsulation::Vxlan, IpAddr::V6(address)) => {
            spec.ipv6_vxlan_tunnel_addr = Some(address);
            spec.vxlan_tunnel_mac_addr_v6.get_or_insert_with(|| vtep_mac(name, Family::V6));
        }
        (Encapsulation::Ipip, IpAddr::V4(address)) => {
            spec.bgp.get_or_insert_default().ipv4_ipip_tunnel_addr = Some(address);
        }
        (Encapsulation::Ipip, IpAddr::V6(_)) | (Encapsulation::None, _) => {}
    }
    (changed != *node).then_some(changed)
}

#[cfg(test)]
mod tests {
    use margay_api::Metadata;
    use margay_api::kinds::NodeSpec;

    use super::*;

    #[test]
    fn a_node_learns_its_tunnel_address_once() {
        let node = Node::new(Metadata::named("n1"), NodeSpec::default());
        let address = "10.65.1.0".parse().unwrap();
        let changed = with_tunnel_address(&node, Encapsulation::Vxlan, address).unwrap();
        assert_eq!(changed.spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4), Some(address));
        assert_eq!(changed.spec.vxlan_tunnel_mac_addr, Some(vtep_mac("n1", Family::V4)));
        assert_eq!(with_tunnel_address(&changed, Encapsulation::Vxlan, address), None);
    }
}
