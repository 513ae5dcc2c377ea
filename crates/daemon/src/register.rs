//! A daemon's own Node object.

use margay_api::{Key, Kind, Node, Resource};
use margay_datastore::{Error, Store};

/// Puts what `own` says into the stored Node of that name, or makes it. What others wrote there stays.
///
/// # Errors
/// The datastore's; a retryable one also when somebody made the object at the same moment.
pub async fn register(store: &Store, own: &Node) -> Result<(), Error> {
    let key = Key::cluster(Kind::Node, own.metadata.name.as_str());
    let outcome = store
        .update_with(&key, |stored| {
            if let Resource::Node(node) = stored {
                merge(node, own);
            }
        })
        .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(Error::NotFound { .. }) => match store.create(own.clone().into()).await {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { key }) => Err(Error::Unavailable(format!("{key} appeared just now"))),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Puts what a daemon knows of its own node into the object. Addresses of tunnels are its alone: those it does not have are gone.
pub fn merge(stored: &mut Node, own: &Node) {
    if let Some(own_bgp) = &own.spec.bgp {
        let bgp = stored.spec.bgp.get_or_insert_default();
        bgp.ipv4_address = own_bgp.ipv4_address.or(bgp.ipv4_address);
        bgp.ipv6_address = own_bgp.ipv6_address.or(bgp.ipv6_address);
        bgp.ipv4_ipip_tunnel_addr = own_bgp.ipv4_ipip_tunnel_addr;
        bgp.route_reflector_cluster_id =
            own_bgp.route_reflector_cluster_id.or(bgp.route_reflector_cluster_id);
    }
    let status = &mut stored.status;
    let keep = |own: &Option<String>, stored: &mut Option<String>| *stored = own.clone().or(stored.take());
    keep(&own.status.wireguard_public_key, &mut status.wireguard_public_key);
    keep(&own.status.wireguard_public_key_v6, &mut status.wireguard_public_key_v6);
    let (stored, own) = (&mut stored.spec, &own.spec);
    stored.wireguard.clone_from(&own.wireguard);
    stored.ipv4_vxlan_tunnel_addr = own.ipv4_vxlan_tunnel_addr;
    stored.ipv6_vxlan_tunnel_addr = own.ipv6_vxlan_tunnel_addr;
    stored.vxlan_tunnel_mac_addr = own.vxlan_tunnel_mac_addr.or(stored.vxlan_tunnel_mac_addr);
    stored.vxlan_tunnel_mac_addr_v6 = own.vxlan_tunnel_mac_addr_v6.or(stored.vxlan_tunnel_mac_addr_v6);
}
