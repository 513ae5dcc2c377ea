//! `/metrics` in the Prometheus text format, made when asked for from what the daemon knows anyway.

use margay_bgp::bfd::State;
use margay_bgp::transport::BgpHandle;
use margay_bgp::{FamilyStatus, MessageCounters, MessageTypes, PeerState, PeerStatus, Totals};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::health::Health;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Component {
    component: String,
}

/// Values by labels, in the order in which they were added.
#[derive(Debug)]
struct Values<L> {
    counts: bool,
    values: Vec<(L, u64)>,
}

impl<L: EncodeLabelSet + std::fmt::Debug> EncodeMetric for Values<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, value) in &self.values {
            let encoder = encoder.encode_family(labels)?;
            if self.counts {
                ConstCounter::new(*value).encode(encoder)?;
            } else {
                ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(encoder)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        if self.counts { MetricType::Counter } else { MetricType::Gauge }
    }
}

/// The text. Without `per_peer` the peers are only summed up.
pub async fn text(health: &Health, speaker: Option<BgpHandle>, per_peer: bool) -> String {
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
    if let Some(speaker) = speaker
        && let (Ok(peers), Ok(totals)) = (speaker.peers().await, speaker.totals().await)
    {
        tables(&mut registry, &peers, &totals);
        groups(&mut registry, &totals);
        stations(&mut registry, &totals);
        if per_peer {
            sessions(&mut registry, &peers);
            families(&mut registry, &peers);
        }
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# cannot encode: {error}\n"),
    }
}

fn tables(registry: &mut Registry, peers: &[PeerStatus], totals: &Totals) {
    let up = peers.iter().filter(|peer| peer.state == PeerState::Established).count();
    let values = [
        ("bgp_peers", "Configured BGP peers", peers.len() as u64),
        ("bgp_peers_established", "Of these, with a session", up as u64),
        (
            "bgp_pending_connections",
            "Connections from addresses that are not configured (yet)",
            totals.pending,
        ),
        ("bgp_rib_prefixes", "Prefixes in the table", totals.prefixes),
        ("bgp_rib_paths", "Paths in the table, filtered ones included", totals.paths),
        ("bgp_rib_attribute_sets", "Distinct sets of attributes in the table", totals.attribute_sets),
        ("bgp_groups", "Update groups: their members are sent the same octets", totals.groups.len() as u64),
    ];
    for (name, help, value) in values {
        registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }
}

/// One number of a status.
type Reading<T> = fn(&T) -> u64;

fn groups(registry: &mut Registry, totals: &Totals) {
    let values: [(_, _, _, Reading<margay_bgp::GroupStatus>); 4] = [
        ("bgp_group_members", "Peers in the update group", false, |group| group.members),
        ("bgp_group_log_bytes", "Octets of changes held for members that lag", false, |group| {
            group.log_bytes
        }),
        ("bgp_group_messages", "UPDATEs with changes, each for all members", true, |group| group.messages),
        ("bgp_group_advertised_prefixes", "Prefixes advertised to the group", false, |group| {
            group.advertised
        }),
    ];
    for (name, help, counts, value) in values {
        let values = totals.groups.iter().map(|group| ([("group", group.id.to_string())], value(group)));
        registry.register(name, help, Values { counts, values: values.collect() });
    }
}

fn stations(registry: &mut Registry, totals: &Totals) {
    if totals.stations.is_empty() {
        return;
    }
    let values: [(_, _, _, Reading<margay_bgp::StationStatus>); 4] = [
        ("bgp_bmp_station_up", "1 if the BMP station is connected", false, |it| it.up.into()),
        ("bgp_bmp_station_synchronised", "1 if it has been told the table", false, |it| {
            it.synchronised.into()
        }),
        ("bgp_bmp_station_pending_bytes", "Octets it has not taken yet", false, |it| it.pending_bytes),
        ("bgp_bmp_station_cuts", "How often it was cut off because it did not read", true, |it| it.cuts),
    ];
    for (name, help, counts, value) in values {
        let stations = totals.stations.iter().enumerate();
        let values = stations.map(|(number, it)| ([("station", number.to_string())], value(it)));
        registry.register(name, help, Values { counts, values: values.collect() });
    }
}

/// Seconds since an established session came up, or since the last one was lost.
fn since(peer: &PeerStatus) -> u64 {
    peer.since_secs.unwrap_or_default()
}

fn sessions(registry: &mut Registry, peers: &[PeerStatus]) {
    type Value = fn(&PeerStatus) -> u64;
    let values: [(_, _, _, Value); 6] = [
        ("bgp_peer_up", "1 if the session is established", false, |it| {
            (it.state == PeerState::Established).into()
        }),
        (
            "bgp_peer_state",
            "RFC 4271 state: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established",
            false,
            |it| it.state as u64 + 1,
        ),
        ("bgp_peer_since_seconds", "Seconds since the session came up, or was lost", false, since),
        ("bgp_peer_established", "How often the session came up", true, |it| it.established_count),
        ("bgp_peer_lag_bytes", "Octets of changes that the peer has not taken yet", false, |it| it.lag_bytes),
        ("bgp_peer_resyncs", "How often the peer fell behind and was sent everything again", true, |it| {
            it.resyncs
        }),
    ];
    for (name, help, counts, value) in values {
        let values = peers.iter().map(|peer| ([("peer", peer.remote.to_string())], value(peer)));
        registry.register(name, help, Values { counts, values: values.collect() });
    }
    messages(registry, peers);
    let counters: [(_, _, Reading<MessageCounters>); 6] = [
        ("bgp_peer_bytes_received", "Octets received", |it| it.bytes_in),
        ("bgp_peer_bytes_sent", "Octets sent", |it| it.bytes_out),
        ("bgp_peer_unauthorised_prefixes", "Prefixes refused because the peer may not announce them", |it| {
            it.unauthorised
        }),
        (
            "bgp_peer_unroutable_prefixes",
            "Prefixes ignored because no unicast route can lead to them",
            |it| it.unroutable,
        ),
        ("bgp_peer_limit_exceeded", "Sessions ended because the peer exceeded its prefix limit", |it| {
            it.over_limit
        }),
        (
            "bgp_peer_treated_as_withdraw",
            "UPDATEs with errors that counted as withdrawals (RFC 7606)",
            |it| it.treated_as_withdraw,
        ),
    ];
    for (name, help, value) in counters {
        let values = peers.iter().map(|peer| ([("peer", peer.remote.to_string())], value(&peer.messages)));
        registry.register(name, help, Values { counts: true, values: values.collect() });
    }
    let bfd =
        || peers.iter().filter_map(|peer| Some(([("peer", peer.remote.to_string())], peer.bfd.as_ref()?)));
    let up = bfd().map(|(peer, bfd)| (peer, (bfd.state == State::Up).into()));
    let help = "1 if the peer's BFD session is up";
    registry.register("bgp_peer_bfd_up", help, Values { counts: false, values: up.collect() });
    let failures = bfd().map(|(peer, bfd)| (peer, bfd.failures));
    let help = "BFD sessions that were up and failed";
    registry.register("bgp_peer_bfd_failures", help, Values { counts: true, values: failures.collect() });
    let errors = peers.iter().filter_map(|peer| {
        let error = peer.last_error.clone()?;
        Some((
            [("peer", peer.remote.to_string()), ("error", error)],
            peer.last_error_secs.unwrap_or_default(),
        ))
    });
    let help = "Seconds since the last error of the session, by what it was";
    registry.register(
        "bgp_peer_last_error_seconds",
        help,
        Values { counts: false, values: errors.collect() },
    );
}

/// By type. UPDATEs are sent to groups: see `bgp_group_messages`.
fn messages(registry: &mut Registry, peers: &[PeerStatus]) {
    let types: [(_, Reading<MessageTypes>); 5] = [
        ("open", |it| it.open),
        ("update", |it| it.update),
        ("notification", |it| it.notification),
        ("keepalive", |it| it.keepalive),
        ("route-refresh", |it| it.route_refresh),
    ];
    type Direction = fn(&MessageCounters) -> &MessageTypes;
    let directions: [(_, _, Direction); 2] = [
        ("bgp_peer_messages_received", "Messages received", |it| &it.received),
        ("bgp_peer_messages_sent", "Messages sent, but for those that the group is sent", |it| &it.sent),
    ];
    for (name, help, direction) in directions {
        let values = peers.iter().flat_map(|peer| {
            let labels = |name: &str| [("peer", peer.remote.to_string()), ("type", name.to_owned())];
            types.map(|(name, value)| (labels(name), value(direction(&peer.messages))))
        });
        registry.register(name, help, Values { counts: true, values: values.collect() });
    }
}

fn families(registry: &mut Registry, peers: &[PeerStatus]) {
    let values: [(_, _, Reading<FamilyStatus>); 4] = [
        ("bgp_peer_received_prefixes", "Paths held from the peer, filtered ones included", |it| it.received),
        ("bgp_peer_accepted_prefixes", "Of these, not filtered", |it| {
            it.received.saturating_sub(it.filtered)
        }),
        ("bgp_peer_stale_prefixes", "Of these, kept over a graceful restart", |it| it.stale),
        ("bgp_peer_advertised_prefixes", "Prefixes advertised to the peer", |it| it.advertised),
    ];
    for (name, help, value) in values {
        let values = peers.iter().flat_map(|peer| {
            peer.families.iter().map(move |family| {
                ([("peer", peer.remote.to_string()), ("family", family.family.to_string())], value(family))
            })
        });
        registry.register(name, help, Values { counts: false, values: values.collect() });
    }
}
