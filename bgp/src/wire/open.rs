//! OPEN (RFC 4271 section 4.2).

use std::net::Ipv4Addr;

use serde::Serialize;

use super::Capability;

/// Stands for a four-octet AS number in a two-octet field (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23456;

/// An OPEN message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Open {
    /// Protocol version, 4.
    pub version: u8,
    /// The two-octet field; [`Open::asn`] is the sender's AS.
    pub my_as: u16,
    /// Proposed hold time in seconds: 0 (no keepalives) or at least 3.
    pub hold_time: u16,
    /// BGP identifier, not zero.
    pub bgp_id: Ipv4Addr,
    /// Capabilities in the order sent.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// An OPEN of version 4. The two-octet field is derived from `asn`; the caller lists
    /// [`Capability::FourOctetAs`] itself.
    pub fn new(asn: u32, hold_time: u16, bgp_id: Ipv4Addr, capabilities: Vec<Capability>) -> Self {
        Self { version: 4, my_as: u16::try_from(asn).unwrap_or(AS_TRANS), hold_time, bgp_id, capabilities }
    }

    /// The sender's AS: from the four-octet AS capability, else from the two-octet field.
    pub fn asn(&self) -> u32 {
        self.capabilities
            .iter()
            .find_map(|capability| match capability {
                Capability::FourOctetAs(asn) => Some(*asn),
                _ => None,
            })
            .unwrap_or(u32::from(self.my_as))
    }
}
