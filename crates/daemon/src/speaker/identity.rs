//! Who the speaker is, and what it is started with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use margay_bgp::SpeakerConfig;
use margay_bgp::transport::ServiceConfig;

use super::SpeakerError;
use crate::topology::Topology;

/// What a speaker cannot change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) router_id: Ipv4Addr,
    pub(super) local_as: u32,
    pub(super) port: u16,
    pub(super) bind: Vec<IpAddr>,
    pub(super) cluster_id: Option<Ipv4Addr>,
}

/// What the topology makes of it.
pub(super) fn identity(name: &str, wanted: &Topology) -> Result<Identity, SpeakerError> {
    Ok(Identity {
        router_id: wanted.router_id.ok_or_else(|| SpeakerError::NoAddress(name.to_owned()))?,
        local_as: wanted.local_as,
        port: wanted.listen_port,
        bind: wanted.bind.clone(),
        cluster_id: wanted.cluster_id,
    })
}

/// Shortest and longest wait for more changes of a daemon that forwards.
const FORWARDER_BATCH: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Its service's configuration.
pub(super) fn service_config(identity: &Identity, restarting: bool, max_paths: usize) -> ServiceConfig {
    let mut speaker = SpeakerConfig::new(identity.router_id, identity.local_as);
    speaker.restarting = restarting;
    speaker.report_routes = max_paths > 0;
    speaker.track_next_hops = speaker.report_routes;
    if speaker.report_routes {
        // Packets wait for what is learned, and few peers for what is told.
        (speaker.egress.batch_min, speaker.egress.batch_max) = FORWARDER_BATCH;
    }
    speaker.multipath = max_paths.max(1);
    speaker.cluster_id = identity.cluster_id;
    let has_ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let wanted = if identity.bind.is_empty() { &any[..] } else { &identity.bind };
    let listen = wanted.iter().filter(|address| address.is_ipv4() || has_ipv6);
    let listen = listen.map(|address| SocketAddr::new(*address, identity.port)).collect();
    ServiceConfig { speaker, listen }
}
