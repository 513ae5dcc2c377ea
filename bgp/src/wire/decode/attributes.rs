//! Path attributes one by one, each in its own slice, so that a malformed one is recovered from (RFC 7606).

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use nom::{
    Parser,
    number::complete::{be_u8, be_u16},
};

use super::{Parsed, length_prefixed, nlri};
use crate::wire::{
    AfiSafi, Aggregator, AsPath, AttributeCode, AttributeFault, Community, ExtendedCommunity, FaultAction,
    FaultReason, LargeCommunity, List, Negotiated, NextHop, NlriVec, Notification, NotificationCode, Origin,
    Reach, ResetReason, SegmentKind, SessionReset, UnknownAttribute, Update, UpdateSubcode,
    attr::{
        AsPathBuilder,
        desc::{self, AttributeDesc, EXTENDED_LENGTH, OPTIONAL, TRANSITIVE},
    },
};

/// Faults that are kept for the log. More than these come only from nonsense, and their action is applied all the same.
const MAX_FAULTS: usize = 32;

/// An attribute as it is on the wire.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) flags: u8,
    pub(super) code: AttributeCode,
    pub(super) value: &'a [u8],
    /// Flags, code, length and value: what a NOTIFICATION quotes.
    pub(super) whole: &'a [u8],
    /// Octets from the beginning of the message.
    pub(super) position: usize,
}

/// What the attributes of one UPDATE say, before it is known what they belong to.
pub(super) struct Collector<'a> {
    negotiated: &'a Negotiated,
    seen: [u64; 4],
    /// What the attributes contribute: the set, `mp_reach` and `withdrawn`.
    pub(super) update: Update,
    pub(super) next_hop: Option<Ipv4Addr>,
    /// MP_REACH_NLRI announces something, be it in a family that is not negotiated.
    pub(super) mp_reaches: bool,
    /// Family of MP_UNREACH_NLRI when it has no prefixes: End-of-RIB if the UPDATE has nothing else.
    pub(super) mp_unreach_empty: Option<AfiSafi>,
    pub(super) as4_path: Option<AsPath>,
    pub(super) as4_aggregator: Option<Aggregator>,
    unknown: Vec<UnknownAttribute>,
    pub(super) faults: Vec<AttributeFault>,
    /// The first fault for which routes are to be withdrawn, and the attribute as a NOTIFICATION would quote it.
    pub(super) withdraw: Option<(AttributeFault, &'a [u8])>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(negotiated: &'a Negotiated) -> Self {
        Self {
            negotiated,
            seen: [0; 4],
            update: Update::default(),
            next_hop: None,
            mp_reaches: false,
            mp_unreach_empty: None,
            as4_path: None,
            as4_aggregator: None,
            unknown: Vec::new(),
            faults: Vec::new(),
            withdraw: None,
        }
    }

    /// Takes in all attributes of `field`, which begins `position` octets into the message.
    pub(super) fn collect(&mut self, field: &'a [u8], position: usize) -> Result<(), SessionReset> {
        let mut rest = field;
        while !rest.is_empty() {
            let position = position + field.len() - rest.len();
            let Some((raw, after)) = attribute(rest, position) else {
                return self.overrun(rest, position);
            };
            self.attribute(raw)?;
            rest = after;
        }
        if !self.unknown.is_empty() {
            self.unknown.sort_unstable();
            self.update.attributes.unknown = std::mem::take(&mut self.unknown).into();
        }
        Ok(())
    }

    /// Whether all of some attributes came; `mask` has a bit for each code, below 64.
    pub(super) fn has_all(&self, mask: u64) -> bool {
        self.seen[0] & mask == mask
    }

    pub(super) fn has(&self, code: AttributeCode) -> bool {
        self.seen[usize::from(code.0 >> 6)] & (1 << (code.0 & 63)) != 0
    }

    /// Whether there was any attribute but MP_UNREACH_NLRI.
    pub(super) fn has_other_than_mp_unreach(&self) -> bool {
        let mut seen = self.seen;
        let code = AttributeCode::MP_UNREACH_NLRI.0;
        seen[usize::from(code >> 6)] &= !(1 << (code & 63));
        seen != [0; 4]
    }

    fn mark(&mut self, code: AttributeCode) {
        self.seen[usize::from(code.0 >> 6)] |= 1 << (code.0 & 63);
    }

    /// Acts on a fault: notes it, or ends the session.
    pub(super) fn fault(
        &mut self,
        raw: &Raw<'a>,
        reason: FaultReason,
        action: FaultAction,
    ) -> Result<(), SessionReset> {
        if action == FaultAction::SessionReset {
            return Err(reset(raw.code, reason, raw.whole, raw.position));
        }
        let fault = AttributeFault { attribute: raw.code, reason, action, position: raw.position };
        if action == FaultAction::TreatAsWithdraw && self.withdraw.is_none() {
            self.withdraw = Some((fault, raw.whole));
        }
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
        Ok(())
    }

    /// The attribute in `rest` is cut off: what follows cannot be found any more (RFC 7606 section 4). The prefixes of
    /// an MP attribute cannot either, and without them nothing can be withdrawn (section 3 j).
    fn overrun(&mut self, rest: &'a [u8], position: usize) -> Result<(), SessionReset> {
        let code = AttributeCode(rest.get(1).copied().unwrap_or(0));
        let raw = Raw { flags: 0, code, value: &[], whole: rest, position };
        let action = match code {
            AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI => FaultAction::SessionReset,
            _ => FaultAction::TreatAsWithdraw,
        };
        self.mark(code);
        self.fault(&raw, FaultReason::Overrun, action)
    }

    fn attribute(&mut self, raw: Raw<'a>) -> Result<(), SessionReset> {
        let desc = desc::find(raw.code);
        if self.has(raw.code) {
            let action = desc.map_or(FaultAction::Discard, |desc| desc.duplicate);
            return self.fault(&raw, FaultReason::Duplicate, action);
        }
        self.mark(raw.code);
        match desc {
            Some(desc) => self.known(desc, raw),
            None => self.unknown(raw),
        }
    }

    fn unknown(&mut self, raw: Raw<'a>) -> Result<(), SessionReset> {
        if raw.flags & OPTIONAL == 0 {
            let code = NotificationCode::Update(UpdateSubcode::UnrecognizedWellKnownAttribute);
            return Err(SessionReset {
                notification: Notification::with_data(code, Bytes::copy_from_slice(raw.whole)),
                reason: ResetReason::Attribute(raw.code, FaultReason::Flags(raw.flags)),
                position: raw.position,
            });
        }
        if raw.flags & TRANSITIVE != 0 {
            self.unknown.push(UnknownAttribute { code: raw.code, value: List::from(raw.value) });
        }
        Ok(())
    }

    fn known(&mut self, desc: &AttributeDesc, raw: Raw<'a>) -> Result<(), SessionReset> {
        let four_octet_as = self.negotiated.four_octet_as;
        let only_for_two_octet_as =
            matches!(desc.code, AttributeCode::AS4_PATH | AttributeCode::AS4_AGGREGATOR);
        if !desc.allowed.get(self.negotiated.peer) || (only_for_two_octet_as && four_octet_as) {
            return self.fault(&raw, FaultReason::NotAllowed, FaultAction::Discard);
        }
        if raw.flags & (OPTIONAL | TRANSITIVE) != desc.flags {
            self.fault(&raw, FaultReason::Flags(raw.flags), desc.bad_flags)?;
            // The prefixes of an MP attribute are needed to withdraw them.
            if desc.malformed != FaultAction::SessionReset {
                return Ok(());
            }
        }
        if !desc.lengths(four_octet_as).allow(raw.value.len()) {
            let len = u16::try_from(raw.value.len()).unwrap_or(u16::MAX);
            return self.fault(&raw, FaultReason::Length(len), desc.malformed);
        }
        match self.value(&raw)? {
            Some(()) => Ok(()),
            None => self.fault(&raw, FaultReason::Value, desc.malformed),
        }
    }

    /// Takes in the value; none when it is malformed.
    fn value(&mut self, raw: &Raw<'a>) -> Result<Option<()>, SessionReset> {
        let value = raw.value;
        let set = &mut self.update.attributes;
        let parsed = match raw.code {
            AttributeCode::ORIGIN => {
                value.first().and_then(|octet| Origin::new(*octet)).map(|origin| set.origin = origin)
            }
            AttributeCode::AS_PATH => {
                as_path(value, self.negotiated.four_octet_as, false).map(|path| set.as_path = path)
            }
            AttributeCode::NEXT_HOP => {
                address(value).filter(is_host).map(|next_hop| self.next_hop = Some(next_hop))
            }
            AttributeCode::MULTI_EXIT_DISC => number(value).map(|med| set.med = Some(med)),
            AttributeCode::LOCAL_PREF => number(value).map(|preference| set.local_pref = Some(preference)),
            AttributeCode::ATOMIC_AGGREGATE => {
                set.atomic_aggregate = true;
                Some(())
            }
            AttributeCode::AGGREGATOR => {
                aggregator(value).map(|aggregator| set.aggregator = Some(aggregator))
            }
            AttributeCode::COMMUNITIES => {
                set.communities = chunks(value).map(|octets| Community(u32::from_be_bytes(octets))).collect();
                Some(())
            }
            AttributeCode::ORIGINATOR_ID => address(value).map(|id| set.originator_id = Some(id)),
            AttributeCode::CLUSTER_LIST => {
                set.cluster_list = chunks::<4>(value).map(Ipv4Addr::from).collect();
                Some(())
            }
            AttributeCode::EXTENDED_COMMUNITIES => {
                set.extended_communities = chunks(value).map(ExtendedCommunity).collect();
                Some(())
            }
            AttributeCode::AS4_PATH => as_path(value, true, true).map(|path| self.as4_path = Some(path)),
            AttributeCode::AS4_AGGREGATOR => {
                aggregator(value).map(|aggregator| self.as4_aggregator = Some(aggregator))
            }
            AttributeCode::LARGE_COMMUNITIES => {
                set.large_communities = chunks(value).map(large_community).collect();
                Some(())
            }
            AttributeCode::MP_REACH_NLRI => return self.mp_reach(raw),
            AttributeCode::MP_UNREACH_NLRI => return self.mp_unreach(raw),
            _ => Some(()),
        };
        Ok(parsed)
    }

    /// RFC 4760 section 3; none when the next hop's length is impossible or the prefixes are malformed.
    fn mp_reach(&mut self, raw: &Raw<'a>) -> Result<Option<()>, SessionReset> {
        let Ok((prefixes, (family, next_hop))) = mp_reach_head(raw.value) else { return Ok(None) };
        if !self.negotiated.families.has(family) {
            self.mp_reaches = !prefixes.is_empty();
            self.fault(raw, FaultReason::Family(family), FaultAction::Discard)?;
            return Ok(Some(()));
        }
        let ipv6 = family == AfiSafi::Ipv6Unicast;
        let Some(next_hop) = mp_next_hop(next_hop, ipv6, self.negotiated.extended_next_hop) else {
            return Ok(None);
        };
        let mut list = NlriVec::new();
        if nlri::parse(prefixes, ipv6, self.negotiated.receives_path_id(family), &mut list).is_err() {
            return Ok(None);
        }
        self.mp_reaches = !list.is_empty();
        let usable = match next_hop {
            NextHop::V4(address) => is_host(&address),
            NextHop::V6 { global, .. } => !global.is_unspecified() && !global.is_multicast(),
        };
        if !usable {
            self.fault(raw, FaultReason::Value, FaultAction::TreatAsWithdraw)?;
        }
        self.update.mp_reach = self.mp_reaches.then_some(Reach { next_hop, nlri: list });
        Ok(Some(()))
    }

    /// RFC 4760 section 4; none when the prefixes are malformed.
    fn mp_unreach(&mut self, raw: &Raw<'a>) -> Result<Option<()>, SessionReset> {
        let Ok((prefixes, family)) = family(raw.value) else { return Ok(None) };
        if !self.negotiated.families.has(family) {
            self.fault(raw, FaultReason::Family(family), FaultAction::Discard)?;
            return Ok(Some(()));
        }
        if prefixes.is_empty() {
            self.mp_unreach_empty = Some(family);
        }
        let path_ids = self.negotiated.receives_path_id(family);
        let ipv6 = family == AfiSafi::Ipv6Unicast;
        Ok(nlri::parse(prefixes, ipv6, path_ids, &mut self.update.withdrawn).ok())
    }
}

/// The header and bounded value of the first attribute in `input`, and the rest; none when it is cut off. Slice
/// patterns, not combinators: this runs for every attribute of every UPDATE.
fn attribute(input: &[u8], position: usize) -> Option<(Raw<'_>, &[u8])> {
    let (flags, code, len, rest) = match input {
        [flags, code, len, rest @ ..] if flags & EXTENDED_LENGTH == 0 => {
            (*flags, *code, usize::from(*len), rest)
        }
        [flags, code, high, low, rest @ ..] if flags & EXTENDED_LENGTH != 0 => {
            (*flags, *code, usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(len)?;
    let (whole, _) = input.split_at(input.len() - rest.len());
    Some((Raw { flags, code: AttributeCode(code), value, whole, position }, rest))
}

/// The NOTIFICATION for a fault that ends the session (RFC 4271 section 6.3).
pub(super) fn reset(code: AttributeCode, reason: FaultReason, whole: &[u8], position: usize) -> SessionReset {
    let mp = matches!(code, AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI);
    let (subcode, data) = match reason {
        FaultReason::Flags(_) => (UpdateSubcode::AttributeFlags, whole),
        FaultReason::Missing => (UpdateSubcode::MissingWellKnownAttribute, &[code.0][..]),
        FaultReason::Duplicate | FaultReason::Overrun => (UpdateSubcode::MalformedAttributeList, &[][..]),
        FaultReason::Length(_) if !mp => (UpdateSubcode::AttributeLength, whole),
        _ => match code {
            AttributeCode::ORIGIN => (UpdateSubcode::InvalidOrigin, whole),
            AttributeCode::AS_PATH => (UpdateSubcode::MalformedAsPath, &[][..]),
            AttributeCode::NEXT_HOP => (UpdateSubcode::InvalidNextHop, whole),
            _ => (UpdateSubcode::OptionalAttribute, whole),
        },
    };
    SessionReset {
        notification: Notification::with_data(
            NotificationCode::Update(subcode),
            Bytes::copy_from_slice(data),
        ),
        reason: ResetReason::Attribute(code, reason),
        position,
    }
}

/// None when a segment has an unknown kind, no AS, AS 0 (RFC 7607), or does not end where the value ends.
fn as_path(mut value: &[u8], four_octet: bool, skip_confederations: bool) -> Option<AsPath> {
    let mut path = AsPathBuilder::default();
    let width = if four_octet { 4 } else { 2 };
    while let [kind, count, rest @ ..] = value {
        let (asns, rest) = rest.split_at_checked(usize::from(*count) * width)?;
        value = rest;
        let kind = match kind {
            1 => SegmentKind::Set,
            2 => SegmentKind::Sequence,
            // RFC 6793 section 6: these segments are dropped from AS4_PATH.
            3 | 4 if skip_confederations => continue,
            _ => return None,
        };
        if *count == 0 {
            return None;
        }
        let asns = asns
            .chunks_exact(width)
            .map(|octets| octets.iter().fold(0, |number, octet| (number << 8) | u32::from(*octet)));
        if asns.clone().any(|asn| asn == 0) {
            return None;
        }
        path.push(kind, asns);
    }
    if value.is_empty() { Some(path.finish()) } else { None }
}

/// None when the AS is 0 (RFC 7607).
fn aggregator(value: &[u8]) -> Option<Aggregator> {
    let (asn, id) = value.split_at_checked(value.len().checked_sub(4)?)?;
    let asn = asn.iter().fold(0, |number, octet| (number << 8) | u32::from(*octet));
    if asn == 0 { None } else { Some(Aggregator { asn, id: address(id)? }) }
}

fn large_community(octets: [u8; 12]) -> LargeCommunity {
    let part = |at: usize| u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    LargeCommunity { global: part(0), local1: part(4), local2: part(8) }
}

/// The value as arrays of `N` octets. The table's lengths leave no remainder.
fn chunks<const N: usize>(value: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    let (chunks, _none) = value.as_chunks::<N>();
    chunks.iter().copied()
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    number(value).map(Ipv4Addr::from_bits)
}

/// Whether a host can have the address: 0.0.0.0, multicast and class E cannot be next hops (RFC 4271 section 6.3).
fn is_host(address: &Ipv4Addr) -> bool {
    !address.is_unspecified() && address.octets()[0] < 224
}

fn family(input: &[u8]) -> Parsed<'_, AfiSafi> {
    (be_u16, be_u8).map(|(afi, safi)| AfiSafi::new(afi, safi)).parse(input)
}

/// Family, octets of the next hop, and the rest: the prefixes.
fn mp_reach_head(value: &[u8]) -> Parsed<'_, (AfiSafi, &[u8])> {
    let (rest, (family, next_hop, _reserved)) = (family, length_prefixed, be_u8).parse(value)?;
    Ok((rest, (family, next_hop)))
}

/// RFC 4760 section 3, RFC 2545 section 3, RFC 8950 section 4; none for another length than these allow.
fn mp_next_hop(octets: &[u8], ipv6: bool, extended: bool) -> Option<NextHop> {
    match (octets.len(), ipv6) {
        (4, false) => address(octets).map(NextHop::V4),
        (16 | 32, false) if !extended => None,
        (16, _) => Some(NextHop::V6 { global: ipv6_address(octets)?, link_local: None }),
        (32, _) => {
            let (global, local) = octets.split_at(16);
            // Some senders fill the second address with anything when they have none.
            let link_local = ipv6_address(local).filter(Ipv6Addr::is_unicast_link_local);
            // Some senders without a global address say none.
            let global = ipv6_address(global)?;
            let global = link_local.filter(|_| global.is_unspecified()).unwrap_or(global);
            Some(NextHop::V6 { global, link_local })
        }
        _ => None,
    }
}

fn ipv6_address(octets: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(octets).ok().map(Ipv6Addr::from)
}
