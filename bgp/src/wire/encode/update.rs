//! One UPDATE as one message.

use bytes::{BufMut, BytesMut};

use super::{Writer, attributes, nlri, patch_u16};
use crate::wire::{
    AfiSafi, AttributeCode, EncodeError, MessageType, Negotiated, NextHop, Nlri, Reach, Update,
    attr::desc::{EXTENDED_LENGTH, OPTIONAL},
};

/// Octets of the header of an MP attribute: flags, code, extended length.
pub(super) const MP_HEADER_LEN: usize = 4;

pub(super) fn encode(
    update: &Update,
    negotiated: &Negotiated,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    if !update.announces() && update.withdrawn.is_empty() && update.end_of_rib.is_none() {
        return Err(EncodeError::Empty);
    }
    let writer = Writer::begin(MessageType::Update, out);
    match body(update, negotiated, writer.out) {
        Ok(()) => writer.finish(negotiated.max_message_len()),
        Err(error) => writer.fail(error),
    }
}

fn body(update: &Update, negotiated: &Negotiated, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (withdrawn, mp_withdrawn): (Vec<&Nlri>, Vec<&Nlri>) =
        update.withdrawn.iter().partition(|nlri| nlri.family() == AfiSafi::Ipv4Unicast);
    let path_ids = negotiated.sends_path_id(AfiSafi::Ipv4Unicast);
    let start = out.len();
    out.put_u16(0);
    nlri::put_all(withdrawn, path_ids, out);
    patch_u16(out, start, out.len() - start - 2);

    let start = out.len();
    out.put_u16(0);
    let next_hop = match &update.reach {
        None => None,
        Some(Reach { next_hop: NextHop::V4(next_hop), nlri }) => {
            if nlri.iter().any(|nlri| nlri.family() != AfiSafi::Ipv4Unicast) {
                return Err(EncodeError::MixedFamilies);
            }
            Some(*next_hop)
        }
        Some(Reach { next_hop: NextHop::V6 { .. }, .. }) => {
            return Err(EncodeError::NextHopFamily(AfiSafi::Ipv4Unicast));
        }
    };
    if let Some(reach) = &update.mp_reach {
        put_mp_reach(reach, negotiated, out)?;
    }
    let unreach = match update.end_of_rib {
        Some(AfiSafi::Ipv4Unicast) => None,
        Some(family) => Some(family),
        None => mp_withdrawn.first().map(|nlri| nlri.family()),
    };
    if let Some(family) = unreach {
        let at = begin_mp_unreach(family, out);
        let path_ids = negotiated.sends_path_id(family);
        nlri::put_all(mp_withdrawn, path_ids, out);
        end_mp(at, out);
    }
    if update.announces() {
        // Room for those of a usual route at once.
        let mut attributes = Vec::with_capacity(128);
        attributes::put(&update.attributes, next_hop, negotiated.four_octet_as, &mut attributes);
        out.put_slice(&attributes);
    }
    patch_u16(out, start, out.len() - start - 2);
    nlri::put_all(update.reach.iter().flat_map(|reach| &reach.nlri), path_ids, out);
    Ok(())
}

fn put_mp_reach(reach: &Reach, negotiated: &Negotiated, out: &mut BytesMut) -> Result<(), EncodeError> {
    let Some(first) = reach.nlri.first() else { return Ok(()) };
    let family = first.family();
    check_mp_next_hop(family, &reach.next_hop, negotiated)?;
    if reach.nlri.iter().any(|nlri| nlri.family() != family) {
        return Err(EncodeError::MixedFamilies);
    }
    let at = begin_mp_reach(family, &reach.next_hop, out);
    let path_ids = negotiated.sends_path_id(family);
    nlri::put_all(&reach.nlri, path_ids, out);
    end_mp(at, out);
    Ok(())
}

/// Whether MP_REACH_NLRI of a family may have such a next hop (RFC 8950 for IPv4 via IPv6).
pub(super) fn check_mp_next_hop(
    family: AfiSafi,
    next_hop: &NextHop,
    negotiated: &Negotiated,
) -> Result<(), EncodeError> {
    let possible = match next_hop {
        NextHop::V4(_) => family == AfiSafi::Ipv4Unicast,
        NextHop::V6 { .. } => family != AfiSafi::Ipv4Unicast || negotiated.extended_next_hop,
    };
    if possible { Ok(()) } else { Err(EncodeError::NextHopFamily(family)) }
}

/// Appends MP_REACH_NLRI up to the prefixes; returns where its value begins.
pub(super) fn begin_mp_reach(family: AfiSafi, next_hop: &NextHop, out: &mut BytesMut) -> usize {
    out.put_slice(&[OPTIONAL | EXTENDED_LENGTH, AttributeCode::MP_REACH_NLRI.0, 0, 0]);
    let at = out.len();
    out.put_u16(family.afi());
    out.put_u8(family.safi());
    out.put_u8(nlri::next_hop_len(next_hop));
    nlri::put_next_hop(next_hop, out);
    out.put_u8(0);
    at
}

/// Appends MP_UNREACH_NLRI up to the prefixes; returns where its value begins.
pub(super) fn begin_mp_unreach(family: AfiSafi, out: &mut BytesMut) -> usize {
    out.put_slice(&[OPTIONAL | EXTENDED_LENGTH, AttributeCode::MP_UNREACH_NLRI.0, 0, 0]);
    let at = out.len();
    out.put_u16(family.afi());
    out.put_u8(family.safi());
    at
}

/// Fills in the length of an MP attribute whose value begins at `at`.
pub(super) fn end_mp(at: usize, out: &mut BytesMut) {
    patch_u16(out, at - 2, out.len() - at);
}
