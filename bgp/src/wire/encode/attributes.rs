//! The attribute set (RFC 4271 section 5, RFC 6793).

use std::net::Ipv4Addr;

use bytes::BufMut;

use super::saturated;
use crate::wire::{
    AS_TRANS, Aggregator, AsPath, AttributeCode, PathAttributes, UnknownAttribute,
    attr::desc::{self, EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE},
};

/// ASes that fit into one segment.
const MAX_SEGMENT: usize = 255;

/// Appends all attributes in ascending order of their codes. `next_hop` is that of classic IPv4 prefixes.
pub(super) fn put(set: &PathAttributes, next_hop: Option<Ipv4Addr>, four_octet_as: bool, out: &mut Vec<u8>) {
    let origin = AttributeCode::ORIGIN;
    out.extend_from_slice(&[flags(origin), origin.0, 1, set.origin as u8]);
    put_as_path(AttributeCode::AS_PATH, &set.as_path, four_octet_as, out);
    if let Some(next_hop) = next_hop {
        put_number(AttributeCode::NEXT_HOP, next_hop.to_bits(), out);
    }
    if let Some(med) = set.med {
        put_number(AttributeCode::MULTI_EXIT_DISC, med, out);
    }
    if let Some(preference) = set.local_pref {
        put_number(AttributeCode::LOCAL_PREF, preference, out);
    }
    if set.atomic_aggregate {
        header(AttributeCode::ATOMIC_AGGREGATE, 0, out);
    }
    if let Some(aggregator) = &set.aggregator {
        put_aggregator(AttributeCode::AGGREGATOR, aggregator, four_octet_as, out);
    }
    if !set.communities.is_empty() {
        header(AttributeCode::COMMUNITIES, 4 * set.communities.len(), out);
        set.communities.iter().for_each(|community| out.put_u32(community.0));
    }
    if let Some(originator) = set.originator_id {
        put_number(AttributeCode::ORIGINATOR_ID, originator.to_bits(), out);
    }
    if !set.cluster_list.is_empty() {
        header(AttributeCode::CLUSTER_LIST, 4 * set.cluster_list.len(), out);
        set.cluster_list.iter().for_each(|cluster| out.put_u32(cluster.to_bits()));
    }
    if !set.extended_communities.is_empty() {
        header(AttributeCode::EXTENDED_COMMUNITIES, 8 * set.extended_communities.len(), out);
        set.extended_communities.iter().for_each(|community| out.put_slice(&community.0));
    }
    if !four_octet_as {
        put_as4(set, out);
    }
    let (before, behind) = set
        .unknown
        .split_at(set.unknown.partition_point(|attribute| attribute.code < AttributeCode::LARGE_COMMUNITIES));
    before.iter().for_each(|attribute| put_unknown(attribute, out));
    if !set.large_communities.is_empty() {
        header(AttributeCode::LARGE_COMMUNITIES, 12 * set.large_communities.len(), out);
        for community in &set.large_communities {
            out.put_u32(community.global);
            out.put_u32(community.local1);
            out.put_u32(community.local2);
        }
    }
    behind.iter().for_each(|attribute| put_unknown(attribute, out));
}

/// What a speaker without four-octet AS numbers is to pass on for us (RFC 6793 section 4.2.2).
fn put_as4(set: &PathAttributes, out: &mut Vec<u8>) {
    if set.as_path.asns().any(|asn| asn > u32::from(u16::MAX)) {
        put_as_path(AttributeCode::AS4_PATH, &set.as_path, true, out);
    }
    if let Some(aggregator) = set.aggregator.as_ref().filter(|it| it.asn > u32::from(u16::MAX)) {
        put_aggregator(AttributeCode::AS4_AGGREGATOR, aggregator, true, out);
    }
}

fn header(code: AttributeCode, len: usize, out: &mut Vec<u8>) {
    header_with(flags(code), code, len, out);
}

fn flags(code: AttributeCode) -> u8 {
    desc::find(code).map_or(OPTIONAL, |desc| desc.flags)
}

fn header_with(flags: u8, code: AttributeCode, len: usize, out: &mut Vec<u8>) {
    match u8::try_from(len) {
        Ok(len) => {
            out.extend_from_slice(&[flags, code.0, len]);
        }
        Err(_) => {
            out.put_slice(&[flags | EXTENDED_LENGTH, code.0]);
            out.put_u16(saturated(len));
        }
    }
}

fn put_number(code: AttributeCode, number: u32, out: &mut Vec<u8>) {
    let [a, b, c, d] = number.to_be_bytes();
    out.extend_from_slice(&[flags(code), code.0, 4, a, b, c, d]);
}

fn put_unknown(attribute: &UnknownAttribute, out: &mut Vec<u8>) {
    header_with(OPTIONAL | TRANSITIVE | PARTIAL, attribute.code, attribute.value.len(), out);
    out.put_slice(&attribute.value);
}

fn put_as_path(code: AttributeCode, path: &AsPath, four_octet: bool, out: &mut Vec<u8>) {
    let width = if four_octet { 4 } else { 2 };
    let len = path
        .segments()
        .map(|segment| 2 * segment.asns.len().div_ceil(MAX_SEGMENT) + width * segment.asns.len())
        .sum();
    header(code, len, out);
    for segment in path.segments() {
        for asns in segment.asns.chunks(MAX_SEGMENT) {
            out.put_u8(segment.kind as u8);
            out.put_u8(u8::try_from(asns.len()).unwrap_or(u8::MAX));
            asns.iter().for_each(|asn| put_asn(*asn, four_octet, out));
        }
    }
}

fn put_aggregator(code: AttributeCode, aggregator: &Aggregator, four_octet: bool, out: &mut Vec<u8>) {
    header(code, if four_octet { 8 } else { 6 }, out);
    put_asn(aggregator.asn, four_octet, out);
    out.put_u32(aggregator.id.to_bits());
}

fn put_asn(asn: u32, four_octet: bool, out: &mut Vec<u8>) {
    if four_octet {
        out.put_u32(asn);
    } else {
        out.put_u16(u16::try_from(asn).unwrap_or(AS_TRANS));
    }
}
