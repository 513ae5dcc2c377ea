//! From resources to what routing needs of them.

use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{Affinity, AllowedUse, EncapMode};
use margay_api::{IpPool, IpamBlock, Node};

use crate::context::{Peer, Pool, Vtep};
use crate::desired::Encapsulation;
use crate::input::Family;
use crate::mac::{is_station, vtep_mac};

/// A pool. One with both encapsulations (validation refuses it, the store may hold it) counts as VXLAN.
pub(crate) fn pool(pool: &IpPool) -> Pool {
    let spec = &pool.spec;
    let (encapsulation, mode) = match (spec.vxlan_mode(), spec.ipip_mode()) {
        (EncapMode::Never, EncapMode::Never) => (Encapsulation::None, EncapMode::Never),
        (EncapMode::Never, mode) => (Encapsulation::Ipip, mode),
        (mode, _) => (Encapsulation::Vxlan, mode),
    };
    Pool {
        name: pool.metadata.name.clone(),
        cidr: spec.cidr.trunc(),
        encapsulation,
        cross_subnet: mode == EncapMode::CrossSubnet,
        nat_outgoing: spec.nat_outgoing,
        for_pods: spec.allows(AllowedUse::Workload),
    }
}

/// A node, and what is wrong with it.
pub(crate) fn node(node: &Node) -> (Peer, Vec<String>) {
    let spec = &node.spec;
    let mut peer = Peer::default();
    let mut complaints = Vec::new();
    if let Some(bgp) = &spec.bgp {
        let addresses = [bgp.ipv4_address.map(IpNet::V4), bgp.ipv6_address.map(IpNet::V6)];
        for address in addresses.into_iter().flatten() {
            if usable(address.addr()) {
                peer.addresses.insert(Family::of(&address), address);
            } else {
                complaints.push(format!("{} can't be a node's address: correct spec.bgp", address.addr()));
            }
        }
        peer.ipip = bgp.ipv4_ipip_tunnel_addr;
    }
    let tunnels = [
        (Family::V4, spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4), spec.vxlan_tunnel_mac_addr),
        (Family::V6, spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6), spec.vxlan_tunnel_mac_addr_v6),
    ];
    for (family, address, mac) in tunnels {
        let Some(address) = address else { continue };
        let mac = mac.unwrap_or_else(|| vtep_mac(&node.metadata.name, family));
        if usable(address) && is_station(mac) {
            peer.vteps.insert(family, Vtep { address, mac });
        } else {
            complaints
                .push(format!("{address} with MAC {mac} can't be a VXLAN tunnel end: correct the spec"));
        }
    }
    if let Some(wireguard) = &spec.wireguard {
        let addresses = [
            (Family::V4, wireguard.interface_ipv4_address.map(IpAddr::V4)),
            (Family::V6, wireguard.interface_ipv6_address.map(IpAddr::V6)),
        ];
        peer.wireguard_addresses.extend(addresses.into_iter().filter_map(|(family, ip)| Some((family, ip?))));
    }
    let keys =
        [(Family::V4, &node.status.wireguard_public_key), (Family::V6, &node.status.wireguard_public_key_v6)];
    for (family, key) in keys {
        // Calico writes an empty one when there is none any more.
        let Some(key) = key.as_deref().filter(|key| !key.is_empty()) else { continue };
        match key.parse() {
            Ok(key) => drop(peer.wireguard.insert(family, key)),
            Err(error) => complaints.push(format!("{family} WireGuard key in status: {error}")),
        }
    }
    (peer, complaints)
}

fn usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// A block and its node; absent when it is being removed.
pub(crate) fn block(block: &IpamBlock) -> Option<(IpNet, Option<String>)> {
    if block.spec.deleted {
        return None;
    }
    let owner = match &block.spec.affinity {
        Some(Affinity::Host(node)) => Some(node.clone()),
        Some(Affinity::Virtual(_)) | None => None,
    };
    Some((block.spec.cidr.trunc(), owner))
}
