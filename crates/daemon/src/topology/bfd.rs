//! BFD: which sessions are watched, and how fast (`failureDetectionMode`, BFDConfiguration).

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use margay_api::Node;
use margay_api::kinds::{BfdInterface, FailureDetectionMode};
use margay_bgp::bfd::SessionConfig;
use margay_bgp::{BfdConfig, PeerConfig};

use super::{Cluster, matches};

/// What Calico's documentation states for fields that are absent.
const RECEIVE: Duration = Duration::from_millis(10);
const SEND: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(60);
const MULTIPLIER: u8 = 5;

/// Settings of a session of `me`, if it is to be watched. `direct` is false for a peer behind a gateway.
pub(super) fn watch(
    cluster: &Cluster,
    me: &Node,
    config: &PeerConfig,
    mode: Option<FailureDetectionMode>,
    direct: bool,
) -> Option<BfdConfig> {
    let direct = direct && subnets(me).any(|subnet| subnet.contains(&config.remote));
    let mode = mode.unwrap_or_default();
    match mode {
        FailureDetectionMode::None => return None,
        FailureDetectionMode::BfdIfDirectlyConnected if !direct => return None,
        _ => {}
    }
    let session = SessionConfig { multihop: !direct, ..timers(cluster, me, config.local) };
    Some(BfdConfig { session, strict: mode == FailureDetectionMode::BfdStrict })
}

/// The first BFDConfiguration, by name, that is for the node and the interface with this address.
fn timers(cluster: &Cluster, me: &Node, local: Option<IpAddr>) -> SessionConfig {
    let holder = |local: IpAddr| me.spec.interfaces.iter().find(|link| link.addresses.contains(&local));
    let interface = local.and_then(holder).map(|link| link.name.as_str());
    let mut candidates = cluster
        .bfd
        .values()
        .filter(|object| object.spec.node_selector.as_ref().is_none_or(|selector| matches(selector, me)))
        .flat_map(|object| &object.spec.interfaces);
    candidates.find(|candidate| candidate.matches(interface)).map_or_else(SessionConfig::default, session)
}

fn session(interface: &BfdInterface) -> SessionConfig {
    SessionConfig {
        min_tx: interface.minimum_send_interval.map_or(SEND, Into::into),
        min_rx: interface.minimum_recv_interval.map_or(RECEIVE, Into::into),
        idle_tx: interface.idle_send_interval.map_or(IDLE, Into::into),
        multiplier: interface.multiplier.unwrap_or(MULTIPLIER),
        ..SessionConfig::default()
    }
}

fn subnets(node: &Node) -> impl Iterator<Item = IpNet> {
    let bgp = node.spec.bgp.as_ref();
    let v4 = bgp.and_then(|bgp| bgp.ipv4_address).map(IpNet::V4);
    v4.into_iter().chain(bgp.and_then(|bgp| bgp.ipv6_address).map(IpNet::V6))
}
