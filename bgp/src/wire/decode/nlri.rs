//! Prefixes (RFC 4271 section 4.3, RFC 4760 section 5, RFC 7911 section 3).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::{Nlri, NlriVec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Appends the prefixes that fill `field` to `out`.
///
/// # Errors
/// The offset in `field` of a prefix that is too long or cut off.
pub(super) fn parse(field: &[u8], ipv6: bool, path_ids: bool, out: &mut NlriVec) -> Result<(), usize> {
    out.reserve(count(field, path_ids));
    let mut rest = field;
    while !rest.is_empty() {
        match one(rest, ipv6, path_ids) {
            Some((nlri, behind)) => {
                out.push(nlri);
                rest = behind;
            }
            None => return Err(field.len() - rest.len()),
        }
    }
    Ok(())
}

/// How many prefixes `field` has, if it is in order.
fn count(mut field: &[u8], path_ids: bool) -> usize {
    let before = if path_ids { 4 } else { 0 };
    let mut count = 0;
    while let Some(len) = field.get(before) {
        count += 1;
        field = field.get(before + 1 + usize::from(len.div_ceil(8))..).unwrap_or_default();
    }
    count
}

/// The first prefix of `input` and the rest; none when it is malformed.
fn one(input: &[u8], ipv6: bool, path_ids: bool) -> Option<(Nlri, &[u8])> {
    let (path_id, input) = if path_ids {
        let (id, input) = input.split_first_chunk()?;
        (Some(u32::from_be_bytes(*id)), input)
    } else {
        (None, input)
    };
    let (len, input) = input.split_first()?;
    let (octets, rest) = input.split_at_checked(usize::from(len.div_ceil(8)))?;
    let prefix = if ipv6 { ipv6_prefix(octets, input, *len) } else { ipv4_prefix(octets, input, *len) };
    Some((Nlri { prefix: prefix?, path_id }, rest))
}

/// None when `len` is above 32. Bits behind the prefix are not significant and are cleared.
fn ipv4_prefix(octets: &[u8], input: &[u8], len: u8) -> Option<IpNet> {
    let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
    let address = u32::from_be_bytes(filled(octets, input)?) & !host;
    Some(IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(address), len).ok()?))
}

/// None when `len` is above 128.
fn ipv6_prefix(octets: &[u8], input: &[u8], len: u8) -> Option<IpNet> {
    let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
    let address = u128::from_be_bytes(filled(octets, input)?) & !host;
    Some(IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(address), len).ok()?))
}

/// The octets of a prefix, filled up to those of an address: with whatever follows where there is enough, because that is
/// one load and no copy of a length that differs each time.
fn filled<const N: usize>(octets: &[u8], input: &[u8]) -> Option<[u8; N]> {
    if let Some(whole) = input.first_chunk() {
        return Some(*whole);
    }
    let mut address = [0; N];
    address.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(address)
}
