//! Tunnel devices as the control API shows them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use margay_api::types::WireguardKey;
use margay_control::status::{Tunnel, TunnelPeer};
use margay_daemon::server::Failure;
use margay_daemon::topology::node_addresses;
use margay_netlink::wireguard::Wireguard;
use margay_routing::{Tunnels, WireguardDevice};

use super::{Answer, Node, reply};

impl Node {
    /// The devices with their other ends; WireGuard's as the kernel has them now.
    pub(super) fn tunnels(&self, answer: Answer<Vec<Tunnel>>) {
        let wanted = self.router.tunnels().clone();
        // Of two nodes with one address the first is named.
        let nodes = self.cluster.bgp.nodes.iter().rev();
        let names: BTreeMap<_, _> = nodes
            .flat_map(|(name, node)| node_addresses(node).map(move |address| (address, name.clone())))
            .collect();
        let vxlan = wanted.vxlan.values().map(|device| Tunnel {
            device: device.name.clone(),
            kind: "VXLAN".to_owned(),
            address: Some(device.address),
            mtu: device.mtu,
            peers: wanted
                .fdb
                .iter()
                .filter(|entry| entry.dev == device.name)
                .map(|entry| TunnelPeer {
                    node: names.get(&entry.destination).cloned(),
                    endpoint: Some(entry.destination.to_string()),
                    key: None,
                    last_handshake: None,
                    received: 0,
                    sent: 0,
                })
                .collect(),
        });
        let ipip = wanted.ipip.iter().map(|device| Tunnel {
            device: device.name.clone(),
            kind: "IPIP".to_owned(),
            address: device.address,
            mtu: device.mtu,
            peers: Vec::new(),
        });
        let plain: Vec<Tunnel> = vxlan.chain(ipip).collect();
        // The kernel is asked: not here.
        tokio::task::spawn_blocking(move || {
            reply(answer, encrypted(&wanted).map(|all| [all, plain].concat()))
        });
    }
}

fn encrypted(wanted: &Tunnels) -> Result<Vec<Tunnel>, Failure> {
    if wanted.wireguard.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: margay_netlink::Error| Failure::try_later(error.to_string());
    let mut kernel = Wireguard::open().map_err(failed)?;
    wanted.wireguard.values().map(|device| show(device, &mut kernel).map_err(failed)).collect()
}

fn show(wanted: &WireguardDevice, kernel: &mut Wireguard) -> Result<Tunnel, margay_netlink::Error> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let peers = kernel.device(&wanted.name)?.peers.into_iter().map(|(key, peer)| TunnelPeer {
        node: wanted.peers.get(&WireguardKey(key)).map(|wanted| wanted.node.clone()),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        key: Some(WireguardKey(key).to_string()),
        last_handshake: peer.last_handshake.map(|at| now.saturating_sub(at).as_secs()),
        received: peer.received,
        sent: peer.sent,
    });
    let mut peers: Vec<TunnelPeer> = peers.collect();
    peers.sort_by(|a, b| (&a.node, &a.key).cmp(&(&b.node, &b.key)));
    Ok(Tunnel {
        device: wanted.name.clone(),
        kind: "WireGuard".to_owned(),
        address: wanted.address,
        mtu: wanted.mtu,
        peers,
    })
}
