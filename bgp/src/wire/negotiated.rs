//! What two OPENs agreed on, as far as the bytes of later messages depend on it.

use serde::{Deserialize, Serialize};

use super::{AfiSafi, FamilySet, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN};

/// Whether the peer is in our autonomous system. Decides which RFC 7606 column applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// iBGP.
    Internal,
    /// eBGP.
    External,
}

/// The context in which messages of one established session are decoded and encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Negotiated {
    /// iBGP or eBGP.
    pub peer: PeerKind,
    /// Both sides sent the four-octet AS capability (RFC 6793): AS_PATH and AGGREGATOR carry 4-octet numbers.
    pub four_octet_as: bool,
    /// Both sides sent the extended message capability (RFC 8654): UPDATE, NOTIFICATION and ROUTE-REFRESH up to 65535.
    pub extended_message: bool,
    /// IPv4 prefixes may have an IPv6 next hop (RFC 8950), in both directions.
    pub extended_next_hop: bool,
    /// Families that both sides announced (RFC 4760).
    pub families: FamilySet,
    /// Families in which the peer sends us path identifiers (RFC 7911).
    pub add_path_receive: FamilySet,
    /// Families in which we send path identifiers.
    pub add_path_send: FamilySet,
}

impl Negotiated {
    /// What a session between two speakers without any capability would have.
    pub const fn minimal(peer: PeerKind) -> Self {
        Self {
            peer,
            four_octet_as: false,
            extended_message: false,
            extended_next_hop: false,
            families: FamilySet { ipv4: true, ipv6: false },
            add_path_receive: FamilySet::NONE,
            add_path_send: FamilySet::NONE,
        }
    }

    /// The longest UPDATE, NOTIFICATION or ROUTE-REFRESH allowed in octets, header included.
    pub fn max_message_len(&self) -> usize {
        if self.extended_message { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN }
    }

    /// Whether NLRI of `family` that we receive carry a path identifier.
    pub fn receives_path_id(&self, family: AfiSafi) -> bool {
        self.add_path_receive.has(family)
    }

    /// Whether NLRI of `family` that we send carry a path identifier.
    pub fn sends_path_id(&self, family: AfiSafi) -> bool {
        self.add_path_send.has(family)
    }
}
