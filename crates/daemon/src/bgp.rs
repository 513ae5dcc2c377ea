//! The speaker as the control API shows it.

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use ipnet::IpNet;
use margay_bgp::transport::{BgpHandle, ServiceStopped};
use margay_bgp::{PeerKind, PeerStatus, RouteInfo, RouteQuery, RouteSource};
use margay_control::bgp::{Peer, Route};
use serde::Deserialize;
use tokio::sync::watch;

use crate::server::Failure;

/// Where the speaker is found once it runs.
pub type SpeakerSlot = watch::Receiver<Option<BgpHandle>>;

/// `/v1/bgp/peers` and `/v1/bgp/routes`.
pub fn routes(speaker: SpeakerSlot) -> Router {
    Router::new()
        .route("/v1/bgp/peers", get(peers))
        .route("/v1/bgp/routes", get(list_routes))
        .with_state(speaker)
}

impl From<ServiceStopped> for Failure {
    fn from(stopped: ServiceStopped) -> Self {
        Self::try_later(stopped.to_string())
    }
}

fn running(slot: &SpeakerSlot) -> Result<BgpHandle, Failure> {
    let speaker = slot.borrow().clone();
    speaker.ok_or_else(|| {
        Failure::try_later("BGP has not been started yet: see `margay status` for what it waits for")
    })
}

async fn peers(State(slot): State<SpeakerSlot>) -> Result<Json<Vec<Peer>>, Failure> {
    Ok(Json(running(&slot)?.peers().await?.iter().map(peer).collect()))
}

/// Which routes: all without parameters.
#[derive(Debug, Deserialize)]
struct Wanted {
    prefix: Option<String>,
}

async fn list_routes(
    State(slot): State<SpeakerSlot>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Route>>, Failure> {
    let mut query = RouteQuery::default();
    if let Some(text) = wanted.prefix {
        if let Ok(prefix) = text.parse::<IpNet>() {
            query.prefix = Some(prefix);
            query.longer = true;
        } else if let Ok(address) = text.parse() {
            query.address = Some(address);
        } else {
            let message = format!("`{text}` is no prefix: write 192.0.2.0/24, 2001:db8::/64, or an address");
            return Err(Failure::bad_request(message));
        }
    }
    Ok(Json(running(&slot)?.routes(query).await?.into_iter().map(route).collect()))
}

fn peer(status: &PeerStatus) -> Peer {
    let sum = |count: fn(&margay_bgp::FamilyStatus) -> u64| status.families.iter().map(count).sum();
    let kind = match status.kind {
        PeerKind::Internal => "iBGP",
        PeerKind::InternalClient => "iBGP client",
        PeerKind::External => "eBGP",
    };
    let mut capabilities = Vec::new();
    if let Some(agreed) = &status.negotiated {
        capabilities.extend(agreed.families.iter().map(ToString::to_string));
        capabilities.push(format!("hold {} s", agreed.hold_secs));
        let flags = [
            (agreed.four_octet_as, "4-octet AS"),
            (agreed.route_refresh, "route refresh"),
            (agreed.enhanced_refresh, "enhanced refresh"),
            (agreed.extended_message, "extended messages"),
            (agreed.extended_next_hop, "IPv6 next hops for IPv4"),
            (agreed.add_path_receive, "add-path receive"),
            (agreed.graceful_restart_secs.is_some(), "graceful restart"),
            (agreed.notification_gr, "notification GR"),
            (agreed.long_lived_gr, "long-lived GR"),
        ];
        capabilities.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    }
    Peer {
        address: status.remote,
        name: status.description.clone(),
        kind: kind.to_owned(),
        remote_as: status.remote_as,
        state: status.state.to_string(),
        since_seconds: status.since_secs.unwrap_or_default(),
        received: sum(|family| family.received),
        stale: sum(|family| family.stale),
        advertised: sum(|family| family.advertised),
        bfd: status.bfd.map(|bfd| bfd.to_string()),
        last_error: status.last_error.clone(),
        capabilities,
    }
}

fn route(info: RouteInfo) -> Route {
    Route {
        prefix: info.prefix,
        next_hop: info.next_hop,
        from: match info.source {
            RouteSource::Local => None,
            RouteSource::Peer(address) => Some(address),
        },
        best: info.best,
        stale: info.stale || info.long_lived_stale,
        reason: info.reason,
        local_pref: info.local_pref,
        as_path: info.as_path,
        originator_id: info.originator_id.map(|id| id.to_string()),
        cluster_list: info.cluster_list.iter().map(ToString::to_string).collect(),
        communities: info.communities,
        age_seconds: info.age_secs,
    }
}
