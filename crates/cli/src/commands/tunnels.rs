//! `tunnels`.

use margay_control::status::{Tunnel, TunnelPeer};

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, dynamic_table, render};

#[derive(Debug, clap::Args)]
pub(crate) struct TunnelsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

impl TunnelsArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let tunnels: Vec<Tunnel> = daemon(global)?.get("/v1/tunnels")?;
        Ok(Report::text(render(self.output.output, &tunnels, |wide| show(&tunnels, wide))?))
    }
}

fn show(tunnels: &[Tunnel], wide: bool) -> String {
    if tunnels.is_empty() {
        return "No tunnels on this node.\n".to_owned();
    }
    let mut heads =
        vec!["DEVICE", "KIND", "ADDRESS", "MTU", "NODE", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"];
    if wide {
        heads.push("KEY");
    }
    let mut rows = Vec::new();
    for tunnel in tunnels {
        let address = tunnel.address.map(|net| net.addr().to_string()).unwrap_or_default();
        let device = [tunnel.device.clone(), tunnel.kind.clone(), address, tunnel.mtu.to_string()];
        let mut peers: Vec<Option<&TunnelPeer>> = tunnel.peers.iter().map(Some).collect();
        if peers.is_empty() {
            peers.push(None);
        }
        for peer in peers {
            let mut row = device.to_vec();
            row.extend(cells(peer));
            if wide {
                row.push(peer.and_then(|peer| peer.key.clone()).unwrap_or_default());
            }
            rows.push(row);
        }
    }
    dynamic_table(&heads, rows)
}

fn cells(peer: Option<&TunnelPeer>) -> [String; 5] {
    let Some(peer) = peer else { return Default::default() };
    let encrypted = |text: String| if peer.key.is_some() { text } else { String::new() };
    [
        peer.node.clone().unwrap_or_default(),
        peer.endpoint.clone().unwrap_or_default(),
        encrypted(peer.last_handshake.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds}s ago"))),
        encrypted(peer.received.to_string()),
        encrypted(peer.sent.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_end_has_a_line() {
        let peer = TunnelPeer {
            node: Some("node2".to_owned()),
            endpoint: Some("192.0.2.2:51820".to_owned()),
            key: Some("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=".to_owned()),
            last_handshake: Some(7),
            received: 100,
            sent: 200,
        };
        let silent = TunnelPeer { node: Some("node3".to_owned()), last_handshake: None, ..peer.clone() };
        let tunnel = Tunnel {
            device: "wireguard.mgy".to_owned(),
            kind: "WireGuard".to_owned(),
            address: "10.65.1.0/32".parse().ok(),
            mtu: 1440,
            peers: vec![peer, silent],
        };
        let text = show(&[tunnel], false);
        assert!(text.contains("node2") && text.contains("7s ago") && text.contains("none"), "{text}");
        assert!(!text.contains("AgIC") && show(&[], false).starts_with("No tunnels"), "{text}");
    }
}
