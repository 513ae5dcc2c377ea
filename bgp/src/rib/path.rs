//! One path and where it came from.

use super::intern::AttrId;
use crate::config::PeerKind;
use crate::status::RouteSource;
use crate::wire::{Community, PathAttributes};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Number of a source of routes: 0 is this speaker, others are peers. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceId(pub(crate) u32);

impl SourceId {
    /// This speaker.
    pub(crate) const LOCAL: Self = Self(0);
}

/// What decisions need to know about a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceInfo {
    pub(crate) source: RouteSource,
    /// `None` is this speaker.
    pub(crate) kind: Option<PeerKind>,
    /// BGP identifier of the last session.
    pub(crate) id: Ipv4Addr,
    /// Others reach it by us ([`PeerConfig::on_host`](crate::PeerConfig::on_host)).
    pub(crate) on_host: bool,
}

impl SourceInfo {
    pub(crate) fn external(&self) -> bool {
        self.kind == Some(PeerKind::External)
    }

    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self.source {
            RouteSource::Local => None,
            RouteSource::Peer(address) => Some(address),
        }
    }
}

/// Why a received path is not eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum FilterReason {
    /// Import policy.
    Policy,
    /// Outside what the peer may announce.
    Unauthorised,
    /// The peer is external and nobody gave a policy (RFC 8212).
    NoPolicy,
    /// AS_PATH doesn't begin with the peer's AS.
    FirstAs,
    /// Our AS is in AS_PATH.
    AsLoop,
    /// We are its ORIGINATOR_ID.
    OriginatorLoop,
    /// Our cluster is in its CLUSTER_LIST.
    ClusterLoop,
    /// NEXT_HOP is one of our own addresses, or none.
    NextHop,
}

impl FilterReason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Policy => "filtered by import policy",
            Self::Unauthorised => "filtered: the peer is not authorised to announce this prefix",
            Self::NoPolicy => "filtered: an external peer needs an import policy (RFC 8212)",
            Self::FirstAs => "filtered: AS_PATH does not begin with the peer's AS",
            Self::AsLoop => "filtered: our AS is in AS_PATH",
            Self::OriginatorLoop => "filtered: we are its ORIGINATOR_ID",
            Self::ClusterLoop => "filtered: our cluster is in its CLUSTER_LIST",
            Self::NextHop => "filtered: its NEXT_HOP cannot be used",
        }
    }
}

/// One path to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) source: SourceId,
    /// RFC 7911; 0 without.
    pub(crate) path_id: u32,
    pub(crate) attrs: AttrId,
    /// Whole seconds of virtual time at the last change.
    pub(crate) changed: u32,
    pub(crate) filtered: Option<FilterReason>,
    /// Its next hop cannot be reached: not used here, only passed on where next hops are kept. Set by settling.
    pub(crate) unreachable: bool,
    /// Kept over a restart of its source, not confirmed since.
    pub(crate) stale: bool,
    /// Stale beyond the restart time.
    pub(crate) long_lived: bool,
    /// Not confirmed since BoRR (RFC 7313).
    pub(crate) unrefreshed: bool,
}

impl Path {
    /// Whether it is the last resort: stale beyond the restart time here, or where it comes from (RFC 9494 section 4.3).
    pub(crate) fn is_last_resort(&self, attributes: &PathAttributes) -> bool {
        self.long_lived || attributes.communities.has(&Community::LLGR_STALE)
    }
}

/// Paths of one source and family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) received: u32,
    pub(crate) filtered: u32,
    pub(crate) stale: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, path: &Path) {
        self.received += 1;
        self.filtered += u32::from(path.filtered.is_some());
        self.stale += u32::from(path.stale);
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.received = self.received.saturating_sub(1);
        self.filtered = self.filtered.saturating_sub(u32::from(path.filtered.is_some()));
        self.stale = self.stale.saturating_sub(u32::from(path.stale));
    }
}
