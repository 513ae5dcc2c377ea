//! UPDATE as a whole (RFC 4271 section 4.3, RFC 7606 sections 3 to 5).

use super::{
    Parsed, as4,
    attributes::{self, Collector, Raw},
    nlri,
};
use crate::wire::{
    AfiSafi, AttributeCode, Decoded, FaultAction, FaultReason, Frame, HEADER_LEN, Message, Negotiated,
    NextHop, NlriVec, Notification, NotificationCode, PathAttributes, Reach, ResetReason, SessionReset,
    Update, UpdateSubcode, attr::desc,
};
use nom::{Parser, multi::length_data, number::complete::be_u16};

/// The faults' actions are applied in what is returned.
pub(super) fn decode(frame: Frame<'_>, negotiated: &Negotiated) -> Result<Decoded, SessionReset> {
    let Ok((classic, (withdrawn, attributes))) = fields(frame.body()) else {
        return Err(reset(UpdateSubcode::MalformedAttributeList, ResetReason::Truncated, HEADER_LEN));
    };
    if withdrawn.is_empty() && attributes.is_empty() && classic.is_empty() {
        let message = Message::Update(Update::end_of_rib(AfiSafi::Ipv4Unicast));
        return Ok(Decoded { message, faults: Vec::new() });
    }
    let attributes_at = HEADER_LEN + 4 + withdrawn.len();
    let mut collected = Collector::new(negotiated);
    collected.collect(attributes, attributes_at)?;

    let path_ids = negotiated.receives_path_id(AfiSafi::Ipv4Unicast);
    prefixes(withdrawn, HEADER_LEN + 2, path_ids, &mut collected.update.withdrawn)?;
    let mut reach = NlriVec::new();
    let end = attributes_at + attributes.len();
    prefixes(classic, end, path_ids, &mut reach)?;

    let announces = !reach.is_empty() || collected.mp_reaches;
    if announces {
        check_missing(&mut collected, !reach.is_empty(), end)?;
        as4::merge_as4(&mut collected);
    }
    if let Some((fault, whole)) = &collected.withdraw {
        // RFC 7606 section 5.2: without a prefix to withdraw, prefixes may have been lost with the fault.
        if !announces && collected.has_other_than_mp_unreach() {
            return Err(attributes::reset(fault.attribute, fault.reason, whole, fault.position));
        }
    }
    let has_classic = !reach.is_empty() || !withdrawn.is_empty();
    if has_classic && !negotiated.families.ipv4 {
        let raw = Raw { flags: 0, code: AttributeCode::NEXT_HOP, value: &[], whole: &[], position: end };
        collected.fault(&raw, FaultReason::Family(AfiSafi::Ipv4Unicast), FaultAction::Discard)?;
        reach.clear();
        collected.update.withdrawn.retain(|nlri| nlri.family() != AfiSafi::Ipv4Unicast);
    }
    let only_mp_unreach =
        withdrawn.is_empty() && classic.is_empty() && !collected.has_other_than_mp_unreach();
    let end_of_rib = if only_mp_unreach { collected.mp_unreach_empty } else { None };
    Ok(assemble(collected, reach, end_of_rib))
}

/// The classic prefixes, and in front of them the withdrawn prefixes and the attributes.
fn fields(body: &[u8]) -> Parsed<'_, (&[u8], &[u8])> {
    (length_data(be_u16), length_data(be_u16)).parse(body)
}

fn prefixes(field: &[u8], position: usize, path_ids: bool, out: &mut NlriVec) -> Result<(), SessionReset> {
    nlri::parse(field, false, path_ids, out)
        .map_err(|offset| reset(UpdateSubcode::InvalidNetworkField, ResetReason::Prefix, position + offset))
}

/// The codes of rows that can be missing, as [`Collector::has_all`] takes them, and NEXT_HOP among them.
const MANDATORY: u64 = {
    let mut mask = 0;
    let mut row = 0;
    while row < desc::ATTRIBUTES.len() {
        if desc::ATTRIBUTES[row].missing.is_some() {
            mask |= 1 << desc::ATTRIBUTES[row].code.0;
        }
        row += 1;
    }
    mask
};

fn check_missing(collected: &mut Collector<'_>, classic: bool, position: usize) -> Result<(), SessionReset> {
    if collected.has_all(MANDATORY) {
        return Ok(());
    }
    for desc in &desc::ATTRIBUTES {
        let Some(action) = desc.missing else { continue };
        let needed = classic || desc.code != AttributeCode::NEXT_HOP;
        if needed && !collected.has(desc.code) {
            let raw = Raw { flags: 0, code: desc.code, value: &[], whole: &[], position };
            collected.fault(&raw, FaultReason::Missing, action)?;
        }
    }
    Ok(())
}

fn assemble(collected: Collector<'_>, classic: NlriVec, end_of_rib: Option<AfiSafi>) -> Decoded {
    let Collector { mut update, next_hop, faults, withdraw, .. } = collected;
    if withdraw.is_some() {
        update.withdrawn.extend(update.mp_reach.take().into_iter().flat_map(|reach| reach.nlri));
        update.withdrawn.extend(classic);
    } else if let Some(next_hop) = next_hop
        && !classic.is_empty()
    {
        update.reach = Some(Reach { next_hop: NextHop::V4(next_hop), nlri: classic });
    }
    if !update.announces() {
        update.attributes = PathAttributes::default();
        if withdraw.is_none() {
            update.end_of_rib = end_of_rib;
        }
    }
    Decoded { message: Message::Update(update), faults }
}

fn reset(subcode: UpdateSubcode, reason: ResetReason, position: usize) -> SessionReset {
    let notification = Notification::new(NotificationCode::Update(subcode));
    SessionReset { notification, reason, position }
}
