//! ROUTE-REFRESH (RFC 2918) and its subtypes (RFC 7313).

use std::fmt;

use serde::Serialize;

use super::AfiSafi;

/// What a ROUTE-REFRESH message says. The third octet of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshKind {
    /// 0: send me your routes again (RFC 2918).
    Request,
    /// 1: a re-advertisement of the whole Adj-RIB-Out begins (BoRR).
    BeginOfRefresh,
    /// 2: it ends; routes not seen since the beginning are stale (EoRR).
    EndOfRefresh,
    /// A subtype to be ignored.
    Other(u8),
}

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RouteRefresh {
    /// The family it is about.
    pub family: AfiSafi,
    /// Request, begin or end.
    pub kind: RefreshKind,
}

impl fmt::Display for RouteRefresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RefreshKind::Request => write!(f, "ROUTE-REFRESH {}", self.family),
            RefreshKind::BeginOfRefresh => write!(f, "ROUTE-REFRESH begin {}", self.family),
            RefreshKind::EndOfRefresh => write!(f, "ROUTE-REFRESH end {}", self.family),
            RefreshKind::Other(subtype) => write!(f, "ROUTE-REFRESH subtype {subtype} {}", self.family),
        }
    }
}
