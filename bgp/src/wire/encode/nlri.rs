//! Prefixes (RFC 4271 section 4.3, RFC 4760 section 5, RFC 7911 section 3) and next hops.

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;

use crate::wire::{NextHop, Nlri};

/// Octets of the longest prefix: path identifier, length, 16 octets of address.
pub(super) const MAX_NLRI_LEN: usize = 4 + 1 + 16;

/// Octets of a prefix on the wire.
pub(super) fn len(nlri: &Nlri, path_id: bool) -> usize {
    (if path_id { 4 } else { 0 }) + 1 + usize::from(nlri.prefix.prefix_len().div_ceil(8))
}

/// Appends a prefix, with its path identifier (0 when it has none) if the session carries them.
pub(super) fn put(nlri: &Nlri, path_id: bool, out: &mut BytesMut) {
    let mut octets = [0; MAX_NLRI_LEN];
    let len = write(nlri, path_id, &mut octets);
    out.put_slice(&octets[..len]);
}

/// Appends several, many at once: an append to the output costs more than all the rest.
pub(super) fn put_all<'a>(all: impl IntoIterator<Item = &'a Nlri>, path_id: bool, out: &mut BytesMut) {
    let (mut octets, mut used) = ([0; 32 * MAX_NLRI_LEN], 0);
    for nlri in all {
        if octets.len() - used < MAX_NLRI_LEN {
            out.put_slice(&octets[..used]);
            used = 0;
        }
        used += write(nlri, path_id, &mut octets[used..used + MAX_NLRI_LEN]);
    }
    out.put_slice(&octets[..used]);
}

/// Writes a prefix to where it is to be, room for the longest; what comes behind it means nothing. Returns how many
/// octets it is. Made elsewhere and copied, the copy would wait for these small stores.
fn write(nlri: &Nlri, path_id: bool, out: &mut [u8]) -> usize {
    let at = if path_id {
        out[..4].copy_from_slice(&nlri.path_id.unwrap_or(0).to_be_bytes());
        4
    } else {
        0
    };
    out[at] = nlri.prefix.prefix_len();
    match nlri.prefix {
        IpNet::V4(prefix) => out[at + 1..at + 5].copy_from_slice(&prefix.network().octets()),
        IpNet::V6(prefix) => out[at + 1..at + 17].copy_from_slice(&prefix.network().octets()),
    }
    len(nlri, path_id)
}

/// Octets of a next hop in MP_REACH_NLRI.
pub(super) fn next_hop_len(next_hop: &NextHop) -> u8 {
    match next_hop {
        NextHop::V4(_) => 4,
        NextHop::V6 { link_local: None, .. } => 16,
        NextHop::V6 { link_local: Some(_), .. } => 32,
    }
}

/// Appends a next hop as MP_REACH_NLRI has it.
pub(super) fn put_next_hop(next_hop: &NextHop, out: &mut BytesMut) {
    match next_hop {
        NextHop::V4(address) => out.put_slice(&address.octets()),
        NextHop::V6 { global, link_local } => {
            out.put_slice(&global.octets());
            if let Some(link_local) = link_local {
                out.put_slice(&link_local.octets());
            }
        }
    }
}
