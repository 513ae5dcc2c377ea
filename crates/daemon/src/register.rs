//! A daemon's own Node object.

use margay_api::{Key, Kind, Node, Resource};
use margay_datastore::{Error, Store};

use crate::topology::copy_pod_addresses;

/// Whose word it is: agent and reflector of a machine may share a Node object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// Addresses of tunnels and of pods are its alone: those it does not have are gone.
    Agent,
    /// Knows nothing but its BGP identity.
    Reflector,
}

/// Puts what a daemon says of its own node into the stored Node of that name, or makes it. What others wrote there stays.
///
/// # Errors
/// The datastore's; a retryable one also when somebody made the object at the same moment.
pub async fn register(store: &Store, own: &Node, daemon: Daemon) -> Result<(), Error> {
    let key = Key::cluster(Kind::Node, own.metadata.name.as_str());
    let outcome = store
        .update_with(&key, |stored| {
            if let Resource::Node(node) = stored {
                merge(node, own, daemon);
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

fn merge(stored: &mut Node, own: &Node, daemon: Daemon) {
    if let Some(own_bgp) = &own.spec.bgp {
        let bgp = stored.spec.bgp.get_or_insert_default();
        bgp.ipv4_address = own_bgp.ipv4_address.or(bgp.ipv4_address);
        bgp.ipv6_address = own_bgp.ipv6_address.or(bgp.ipv6_address);
        bgp.route_reflector_cluster_id =
            own_bgp.route_reflector_cluster_id.or(bgp.route_reflector_cluster_id);
    }
    if daemon == Daemon::Agent {
        merge_agent(stored, own);
    }
}

/// What agents alone know.
fn merge_agent(stored: &mut Node, own: &Node) {
    copy_pod_addresses(stored, own);
    if let Some(own_bgp) = &own.spec.bgp {
        stored.spec.bgp.get_or_insert_default().ipv4_ipip_tunnel_addr = own_bgp.ipv4_ipip_tunnel_addr;
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

#[cfg(test)]
mod tests {
    use margay_api::kinds::NodeSpec;
    use margay_api::{Metadata, yaml};

    use super::*;

    fn node(text: &str) -> Node {
        let text = format!("apiVersion: projectcalico.org/v3\nkind: Node\n{text}");
        match yaml::parse("node.yaml", &text).unwrap().remove(0).value {
            Resource::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reflector_leaves_what_an_agent_says_of_their_node() {
        let agents = node(
            "metadata: {name: n1, annotations: {margay.io/pod-addresses: 10.65.250.7}}
spec:
  bgp: {ipv4Address: 192.0.2.1/24, ipv4IPIPTunnelAddr: 10.65.1.1}
  ipv4VXLANTunnelAddr: 10.65.1.2
  ipv6VXLANTunnelAddr: 'fd65::2'
  wireguard: {interfaceIPv4Address: 10.65.1.3}
",
        );
        let reflects = node(
            "metadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24, routeReflectorClusterID: 192.0.2.1}}",
        );
        let mut both = agents.clone();
        merge(&mut both, &reflects, Daemon::Reflector);
        let mut wanted = agents.clone();
        wanted.spec.bgp.as_mut().unwrap().route_reflector_cluster_id = Some([192, 0, 2, 1].into());
        assert_eq!(both, wanted);
        // The agent takes back what it does not have any more, and that alone.
        let bare = NodeSpec { bgp: agents.spec.bgp, ..NodeSpec::default() };
        let mut bare = Node::new(Metadata::named("n1"), bare);
        bare.spec.bgp.as_mut().unwrap().ipv4_ipip_tunnel_addr = None;
        merge(&mut both, &bare, Daemon::Agent);
        assert_eq!(both, reflects);
    }
}
