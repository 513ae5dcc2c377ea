//! UPDATE (RFC 4271 section 4.3, RFC 4760) in a form that does not depend on where on the wire a prefix was.

use serde::Serialize;
use smallvec::SmallVec;

use super::{AfiSafi, NextHop, Nlri, PathAttributes};

/// Prefixes of one message. In a cluster nearly every message has exactly one: no allocation for it.
pub type NlriVec = SmallVec<[Nlri; 1]>;

/// Prefixes of one family that are announced with one next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Next hop, from NEXT_HOP or from MP_REACH_NLRI.
    pub next_hop: NextHop,
    /// The prefixes, all of one family; never empty when decoded.
    #[serde(serialize_with = "serialize_prefixes")]
    pub nlri: NlriVec,
}

/// An UPDATE message. Apply `withdrawn` first, then `announced` (RFC 4271 section 4.3: a prefix in both is announced).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Prefixes no longer reachable, of any family: first those of MP_UNREACH_NLRI, then the classic ones.
    #[serde(serialize_with = "serialize_prefixes", skip_serializing_if = "SmallVec::is_empty")]
    pub withdrawn: NlriVec,
    /// What is announced through MP_REACH_NLRI: IPv6, or IPv4 with an IPv6 next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mp_reach: Option<Reach>,
    /// IPv4 prefixes announced in the classic fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// Attributes of everything announced; the default when nothing is.
    pub attributes: PathAttributes,
    /// This is the End-of-RIB marker of a family (RFC 4724 section 2), and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_rib: Option<AfiSafi>,
}

fn serialize_prefixes<S: serde::Serializer>(nlri: &NlriVec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(nlri)
}

impl Update {
    /// The End-of-RIB marker of a family.
    pub fn end_of_rib(family: AfiSafi) -> Self {
        Self { end_of_rib: Some(family), ..Self::default() }
    }

    /// Everything that is announced.
    pub fn announced(&self) -> impl Iterator<Item = (&NextHop, &Nlri)> {
        self.mp_reach
            .iter()
            .chain(&self.reach)
            .flat_map(|reach| reach.nlri.iter().map(move |nlri| (&reach.next_hop, nlri)))
    }

    /// Whether anything is announced.
    pub fn announces(&self) -> bool {
        self.mp_reach.is_some() || self.reach.is_some()
    }
}
