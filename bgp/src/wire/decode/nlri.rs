//! Prefixes (RFC 4271 section 4.3, RFC 4760 section 5, RFC 7911 section 3).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::{Nlri, NlriVec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Appends the prefixes that fill `field` to `out`.
///
/// # Errors
/// The offset in `field` of a prefix that is too long or cut off.
pub(super) fn parse(mut field: &[u8], ipv6: bool, path_ids: bool, out: &mut NlriVec) -> Result<(), usize> {
    let whole = field.len();
    out.reserve(count(field, path_ids));
    while !field.is_empty() {
        match one(field, ipv6, path_ids) {
            Some((nlri, rest)) => {
                out.push(nlri);
                field = rest;
            }
            None => return Err(whole - field.len()),
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
    let prefix = if ipv6 { ipv6_prefix(octets, *len) } else { ipv4_prefix(octets, *len) };
    Some((Nlri { prefix: prefix?, path_id }, rest))
}

/// None when `len` is above 32. Bits behind the prefix are not significant and are cleared.
fn ipv4_prefix(octets: &[u8], len: u8) -> Option<IpNet> {
    let mut address = [0; 4];
    address.get_mut(..octets.len())?.copy_from_slice(octets);
    let prefix = Ipv4Net::new(Ipv4Addr::from(address), len).ok()?;
    Some(IpNet::V4(prefix.trunc()))
}

/// None when `len` is above 128.
fn ipv6_prefix(octets: &[u8], len: u8) -> Option<IpNet> {
    let mut address = [0; 16];
    address.get_mut(..octets.len())?.copy_from_slice(octets);
    let prefix = Ipv6Net::new(Ipv6Addr::from(address), len).ok()?;
    Some(IpNet::V6(prefix.trunc()))
}
