//! How a node gets its tunnel addresses: it gives itself one address of its own blocks per tunnel and says so in its Node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use margay_api::types::WireguardKey;
use margay_api::{IpPool, Node};

use crate::desired::Encapsulation;
use crate::input::Family;
use crate::mac::vtep_mac;
use crate::read;
use crate::settings::{Settings, WireguardSettings};

/// The tunnels that the pools and settings ask for: the node needs one address for each (for pods of its own, or to answer others').
pub fn tunnels_needed(settings: &Settings, pools: &[&IpPool]) -> BTreeSet<(Encapsulation, Family)> {
    let of_pools =
        pools.iter().map(|pool| read::pool(pool)).map(|pool| (pool.encapsulation, Family::of(&pool.cidr)));
    let carried = |(encapsulation, _): &(Encapsulation, Family)| {
        *encapsulation != Encapsulation::None
            && settings.backend.carries(*encapsulation)
            && settings.allows(*encapsulation)
    };
    let wireguard = settings.wireguard.families.keys().map(|family| (Encapsulation::Wireguard, *family));
    of_pools.filter(carried).chain(settings.forced()).chain(wireguard).collect()
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
        (Encapsulation::Wireguard, IpAddr::V4(address)) => {
            spec.wireguard.get_or_insert_default().interface_ipv4_address = Some(address);
        }
        (Encapsulation::Wireguard, IpAddr::V6(address)) => {
            spec.wireguard.get_or_insert_default().interface_ipv6_address = Some(address);
        }
        (Encapsulation::Ipip, IpAddr::V6(_)) | (Encapsulation::None, _) => {}
    }
    (changed != *node).then_some(changed)
}

/// The node without an address for a tunnel, to be written to the datastore; absent when it has none.
///
/// A MAC address stays: it is derived from the node's name.
pub fn without_tunnel_address(node: &Node, encapsulation: Encapsulation, family: Family) -> Option<Node> {
    let mut changed = node.clone();
    let spec = &mut changed.spec;
    match (encapsulation, family) {
        (Encapsulation::Vxlan, Family::V4) => spec.ipv4_vxlan_tunnel_addr = None,
        (Encapsulation::Vxlan, Family::V6) => spec.ipv6_vxlan_tunnel_addr = None,
        (Encapsulation::Ipip, Family::V4) => {
            spec.bgp.iter_mut().for_each(|bgp| bgp.ipv4_ipip_tunnel_addr = None);
        }
        (Encapsulation::Wireguard, Family::V4) => {
            spec.wireguard.iter_mut().for_each(|wireguard| wireguard.interface_ipv4_address = None);
        }
        (Encapsulation::Wireguard, Family::V6) => {
            spec.wireguard.iter_mut().for_each(|wireguard| wireguard.interface_ipv6_address = None);
        }
        (Encapsulation::Ipip, Family::V6) | (Encapsulation::None, _) => {}
    }
    (changed != *node).then_some(changed)
}

/// The node with these public keys of its WireGuard devices, to be written to the datastore; absent when it says so already.
///
/// A family that is on keeps its key until there is another. One that is off gets an empty one if it had one, as Calico writes it.
pub fn with_wireguard_keys(
    node: &Node,
    settings: &WireguardSettings,
    keys: &BTreeMap<Family, WireguardKey>,
) -> Option<Node> {
    let mut changed = node.clone();
    let status = &mut changed.status;
    let both =
        [(Family::V4, &mut status.wireguard_public_key), (Family::V6, &mut status.wireguard_public_key_v6)];
    for (family, stored) in both {
        match (settings.families.contains_key(&family), keys.get(&family)) {
            (true, Some(key)) => *stored = Some(key.to_string()),
            (true, None) => {}
            (false, _) => stored.iter_mut().for_each(String::clear),
        }
    }
    (changed != *node).then_some(changed)
}

#[cfg(test)]
mod tests {
    use margay_api::Metadata;
    use margay_api::kinds::NodeSpec;

    use super::*;
    use crate::settings::WireguardFamily;

    #[test]
    fn every_tunnel_address_can_be_given_up() {
        let node = Node::new(
            Metadata::named("n1"),
            NodeSpec {
                bgp: Some(Default::default()),
                wireguard: Some(Default::default()),
                ..Default::default()
            },
        );
        let tunnels = [
            (Encapsulation::Vxlan, "10.65.1.0"),
            (Encapsulation::Vxlan, "fd65::1"),
            (Encapsulation::Ipip, "10.65.1.1"),
            (Encapsulation::Wireguard, "10.65.1.2"),
            (Encapsulation::Wireguard, "fd65::2"),
        ];
        for (encapsulation, address) in tunnels {
            let address: IpAddr = address.parse().unwrap();
            let family = Family::of_addr(&address);
            assert_eq!(without_tunnel_address(&node, encapsulation, family), None);
            let told = with_tunnel_address(&node, encapsulation, address).unwrap();
            let mut untold = without_tunnel_address(&told, encapsulation, family).unwrap();
            let macs = &mut untold.spec;
            (macs.vxlan_tunnel_mac_addr, macs.vxlan_tunnel_mac_addr_v6) = (None, None);
            assert_eq!(untold, node, "{encapsulation:?} {family:?}");
        }
    }

    #[test]
    fn a_node_learns_its_tunnel_address_once() {
        let node = Node::new(Metadata::named("n1"), NodeSpec::default());
        let address = "10.65.1.0".parse().unwrap();
        let changed = with_tunnel_address(&node, Encapsulation::Vxlan, address).unwrap();
        assert_eq!(changed.spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4), Some(address));
        assert_eq!(changed.spec.vxlan_tunnel_mac_addr, Some(vtep_mac("n1", Family::V4)));
        assert_eq!(with_tunnel_address(&changed, Encapsulation::Vxlan, address), None);
    }

    #[test]
    fn keys_stay_until_others_come_or_they_are_not_wanted() {
        let node = Node::new(Metadata::named("n1"), NodeSpec::default());
        let mut settings = WireguardSettings::default();
        let none = BTreeMap::new();
        assert_eq!(with_wireguard_keys(&node, &settings, &none), None);
        let device = WireguardFamily { device: "wireguard.mgy".to_owned(), port: 51820, mtu: None };
        settings.families.insert(Family::V4, device);
        let key = WireguardKey([7; 32]);
        let keyed = with_wireguard_keys(&node, &settings, &BTreeMap::from([(Family::V4, key)])).unwrap();
        assert_eq!(keyed.status.wireguard_public_key, Some(key.to_string()));
        assert_eq!(
            with_wireguard_keys(&keyed, &settings, &none),
            None,
            "after a restart, before the device is seen"
        );
        let off = with_wireguard_keys(&keyed, &WireguardSettings::default(), &none).unwrap();
        assert_eq!(off.status.wireguard_public_key.as_deref(), Some(""));
    }
}
