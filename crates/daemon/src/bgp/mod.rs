//! The speaker as the control API shows it.

mod convert;
mod stream;

use std::net::IpAddr;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use ipnet::IpNet;
use margay_bgp::transport::{BgpHandle, ServiceStopped};
use margay_bgp::{Family, RouteQuery};
use margay_control::bgp::{Explanation, Peer};
use serde::Deserialize;
use tokio::sync::watch;

use crate::server::Failure;

/// Where the speaker is found once it runs.
pub type SpeakerSlot = watch::Receiver<Option<BgpHandle>>;

/// `/v1/bgp/…`, as `margay_control` lists them.
pub fn routes(speaker: SpeakerSlot) -> Router {
    Router::new()
        .route("/v1/bgp/peers", get(peers))
        .route("/v1/bgp/routes", get(list_routes))
        .route("/v1/bgp/explain", get(explain))
        .route("/v1/bgp/watch", get(watch_changes))
        .route("/v1/bgp/dump", get(dump))
        .with_state(speaker)
}

impl From<ServiceStopped> for Failure {
    fn from(stopped: ServiceStopped) -> Self {
        Self::try_later(stopped.to_string())
    }
}

fn running(slot: &SpeakerSlot) -> Result<BgpHandle, Failure> {
    let speaker = slot.borrow().clone();
    speaker.ok_or_else(|| Failure::try_later("BGP does not run: `margay status` says why"))
}

/// Which peers: all without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedPeers {
    address: Option<IpAddr>,
}

async fn peers(
    State(slot): State<SpeakerSlot>,
    Query(wanted): Query<WantedPeers>,
) -> Result<Json<Vec<Peer>>, Failure> {
    let peers = running(&slot)?.peers().await?;
    let asked = wanted.address.map(|address| address.to_canonical());
    let peers = peers.iter().filter(|peer| asked.is_none_or(|address| peer.remote == address));
    let peers: Vec<Peer> = peers.map(convert::peer).collect();
    match asked.filter(|_| peers.is_empty()) {
        Some(address) => Err(no_peer(address)),
        None => Ok(Json(peers)),
    }
}

fn no_peer(address: IpAddr) -> Failure {
    Failure::not_found(format!("{address} is no BGP peer of this node: `margay bgp peers` lists them"))
}

/// Which routes: all without parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WantedRoutes {
    prefix: Option<String>,
    exact: bool,
    family: Option<String>,
    peer: Option<IpAddr>,
    advertised: Option<IpAddr>,
    best: bool,
    filtered: bool,
    limit: usize,
}

impl WantedRoutes {
    fn query(self) -> Result<RouteQuery, Failure> {
        let (prefix, address) = match self.prefix.as_deref().map(prefix_or_address).transpose()? {
            Some(Ok(prefix)) => (Some(prefix), None),
            Some(Err(address)) => (None, Some(address)),
            None => (None, None),
        };
        let family = match self.family.as_deref() {
            None => None,
            Some("ipv4") => Some(Family::Ipv4),
            Some("ipv6") => Some(Family::Ipv6),
            Some(other) => {
                return Err(Failure::bad_request(format!("`{other}` is no family: ipv4 or ipv6")));
            }
        };
        Ok(RouteQuery {
            prefix,
            longer: prefix.is_some() && !self.exact,
            address,
            peer: self.peer,
            best: self.best,
            family,
            limit: self.limit,
            advertised: self.advertised,
            filtered: self.filtered,
        })
    }
}

/// What a person writes for routes: a prefix, or an address.
fn prefix_or_address(text: &str) -> Result<Result<IpNet, IpAddr>, Failure> {
    if let Ok(prefix) = text.parse::<IpNet>() {
        return Ok(Ok(prefix.trunc()));
    }
    let message = format!("`{text}` is no prefix: write 192.0.2.0/24, 2001:db8::/64, or an address");
    text.parse().map(Err).map_err(|_no_address| Failure::bad_request(message))
}

async fn list_routes(
    State(slot): State<SpeakerSlot>,
    Query(wanted): Query<WantedRoutes>,
) -> Result<Response, Failure> {
    let (speaker, query) = (running(&slot)?, wanted.query()?);
    if let Some(address) = query.peer.or(query.advertised).map(|address| address.to_canonical())
        && !speaker.peers().await?.iter().any(|peer| peer.remote == address)
    {
        return Err(no_peer(address));
    }
    Ok(Response::new(stream::array(speaker.route_pages(query))))
}

/// Which prefix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedPrefix {
    prefix: String,
}

async fn explain(
    State(slot): State<SpeakerSlot>,
    Query(wanted): Query<WantedPrefix>,
) -> Result<Json<Explanation>, Failure> {
    let speaker = running(&slot)?;
    let prefix = match prefix_or_address(&wanted.prefix)? {
        Ok(prefix) => prefix,
        Err(address) => {
            let query = RouteQuery { address: Some(address), ..RouteQuery::default() };
            let found = speaker.routes(query).await?.first().map(|route| route.prefix);
            found.ok_or_else(|| Failure::not_found(format!("no BGP route leads to {address}")))?
        }
    };
    Ok(Json(convert::explanation(speaker.explain(prefix).await?)))
}

async fn watch_changes(State(slot): State<SpeakerSlot>) -> Result<Response, Failure> {
    Ok(Response::new(stream::changes(running(&slot)?.watch().await?)))
}

async fn dump(State(slot): State<SpeakerSlot>) -> Result<Response<Body>, Failure> {
    Ok(Response::new(stream::dump(running(&slot)?)))
}
