//! `/metrics` in the Prometheus text format, made when asked for from what the daemon knows anyway.

use margay_bgp::PeerState;
use margay_bgp::bfd::State;
use margay_bgp::transport::BgpHandle;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::health::Health;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Component {
    component: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

/// The text.
pub async fn text(health: &Health, speaker: Option<BgpHandle>) -> String {
    let mut registry = Registry::with_prefix("margay");
    let ready = Family::<Component, Gauge>::default();
    let status = health.status();
    for part in &status.components {
        ready.get_or_create(&Component { component: part.name.clone() }).set(part.ready.into());
    }
    registry.register("component_ready", "1 if the component does its work", ready);
    let problems = Gauge::<i64>::default();
    problems.set(i64::try_from(status.problems.len()).unwrap_or(i64::MAX));
    registry.register(
        "problems",
        "Objects in quarantine and conditions to look at (margay status)",
        problems,
    );
    if let Some(speaker) = speaker {
        sessions(&mut registry, &speaker).await;
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# cannot encode: {error}\n"),
    }
}

async fn sessions(registry: &mut Registry, speaker: &BgpHandle) {
    let Ok(peers) = speaker.peers().await else { return };
    let up = Family::<Peer, Gauge>::default();
    let received = Family::<Peer, Gauge>::default();
    let stale = Family::<Peer, Gauge>::default();
    let advertised = Family::<Peer, Gauge>::default();
    let over_limit = Family::<Peer, Counter>::default();
    let bfd_up = Family::<Peer, Gauge>::default();
    let bfd_failures = Family::<Peer, Counter>::default();
    for peer in &peers {
        let label = Peer { peer: peer.remote.to_string() };
        let sum = |count: fn(&margay_bgp::FamilyStatus) -> u64| {
            i64::try_from(peer.families.iter().map(count).sum::<u64>()).unwrap_or(i64::MAX)
        };
        up.get_or_create(&label).set((peer.state == PeerState::Established).into());
        received.get_or_create(&label).set(sum(|family| family.received));
        stale.get_or_create(&label).set(sum(|family| family.stale));
        advertised.get_or_create(&label).set(sum(|family| family.advertised));
        over_limit.get_or_create(&label).inc_by(peer.messages.over_limit);
        if let Some(bfd) = &peer.bfd {
            bfd_up.get_or_create(&label).set((bfd.state == State::Up).into());
            bfd_failures.get_or_create(&label).inc_by(bfd.failures);
        }
    }
    registry.register("bgp_session_up", "1 if the session is established", up);
    registry.register("bgp_received_prefixes", "Paths held from the peer", received);
    registry.register("bgp_stale_prefixes", "Of these, kept over a graceful restart", stale);
    registry.register("bgp_advertised_prefixes", "Routes sent to the peer", advertised);
    let help = "Sessions ended because the peer exceeded its prefix limit";
    registry.register("bgp_prefix_limit_exceeded", help, over_limit);
    registry.register("bgp_bfd_up", "1 if the peer's BFD session is up", bfd_up);
    registry.register("bgp_bfd_failures", "BFD sessions that were up and failed", bfd_failures);
}
