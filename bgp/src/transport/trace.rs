//! What the speaker reports, as lines of the log.

use crate::io::Log;
use crate::status::{Event, PeerState};

pub(super) fn event(event: &Event) {
    match event {
        Event::PeerChanged { remote, state, reason } => {
            let important = *state == PeerState::Established || *state == PeerState::Idle;
            if important {
                tracing::info!(peer = %remote, %state, %reason, "BGP session");
            } else {
                tracing::debug!(peer = %remote, %state, %reason, "BGP session");
            }
        }
        Event::BfdChanged { remote, state, reason } => {
            tracing::info!(peer = %remote, %state, %reason, "BFD session")
        }
        Event::InSync => tracing::info!("BGP table is in sync"),
        Event::NextHops(uses) => tracing::debug!(count = uses.len(), "BGP next hops to watch"),
        Event::RouteChanges(changes) => tracing::debug!(count = changes.len(), "BGP routes changed"),
    }
}

pub(super) fn log(log: &Log) {
    match log {
        Log::Parked(remote) => {
            tracing::info!(%remote, "BGP connection from an address that is not configured (yet) waits");
        }
        Log::ParkedDropped(remote, why) => tracing::info!(%remote, why, "waiting BGP connection dropped"),
        Log::Refused(remote, why) => tracing::warn!(%remote, why, "BGP connection refused"),
        Log::Malformed(peer, what) => tracing::warn!(%peer, what, "malformed UPDATE"),
        Log::Unauthorised(peer, first, count) => {
            tracing::warn!(%peer, %first, count, "peer announces prefixes that are not its own: filtered");
        }
        Log::Unroutable(peer, first, count) => {
            tracing::warn!(%peer, %first, count, "peer announces prefixes that no route can lead to: ignored");
        }
        Log::UnknownRefresh(peer, subtype) => {
            tracing::warn!(%peer, subtype, "ROUTE-REFRESH of an unknown subtype: ignored");
        }
        Log::NearLimit(peer, held, limit) => {
            tracing::warn!(%peer, held, limit, "peer nears its prefix limit")
        }
        Log::OverLimit(peer, held, limit) => {
            tracing::error!(%peer, held, limit, "peer exceeds its prefix limit and is cut off")
        }
        Log::EarlyRefresh(peer) => tracing::warn!(%peer, "route refresh begins before End-of-RIB: ignored"),
        Log::RefreshUnfinished(peer) => {
            tracing::warn!(%peer, "route refresh was not finished in time: what was not repeated is removed");
        }
        Log::Churn(peer, changes) => {
            tracing::warn!(%peer, changes, "peer changes its routes over and over: so often within 10 s");
        }
        Log::Resync(peer) => tracing::warn!(%peer, "peer fell behind and is sent the whole table again"),
        Log::Complete(why) => tracing::info!(why, "table is complete: advertising begins"),
    }
}
