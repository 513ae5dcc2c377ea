//! How many prefixes a session accepts: what is refused by policy counts too, so this bounds what a peer can make us keep.

use std::collections::BTreeSet;

use ipnet::IpNet;
use margay_api::Metadata;
use margay_bgp::MaxPrefix;

/// Annotation of a BGPPeer: the prefixes, per family, that each of its sessions with something that is no node accepts.
const ANNOTATION: &str = "margay.io/max-prefixes";

/// Of a router or a foreign reflector that no annotation says more of, and of a node beside its own where filters let
/// it tell what it learned. A table of the internet is more than that, and nothing for the kernel of a node unless somebody
/// wants it there.
pub(super) const ROUTER: u32 = 100_000;

/// Of a workload: anybody who may start one decides what it announces.
pub(super) const WORKLOAD: u32 = 1000;

/// What a node with so many blocks may announce: its blocks, single addresses in them, blocks that it has claimed
/// and the datastore has not told yet, so many `single` addresses beside them; and addresses of services, as far as there are so many in
/// their ranges.
pub(super) fn of_node(blocks: usize, single: usize, services: &BTreeSet<IpNet>) -> MaxPrefix {
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(256);
    let hosts = |range: &IpNet| 1 << (range.max_prefix_len() - range.prefix_len()).min(16);
    let services = services.iter().map(hosts).fold(0, u32::saturating_add);
    let single = u32::try_from(single).unwrap_or(u32::MAX);
    MaxPrefix::new(blocks.saturating_add(1024).saturating_add(single).saturating_add(services))
}

/// What others than nodes may announce: what their BGPPeer says, or so many.
pub(super) fn of_other(peer: &Metadata, otherwise: u32) -> Result<MaxPrefix, String> {
    let Some(text) = peer.annotations.get(ANNOTATION) else { return Ok(MaxPrefix::new(otherwise)) };
    match text.parse() {
        Ok(limit @ 1..) => Ok(MaxPrefix::new(limit)),
        _ => Err(format!(
            "annotation {ANNOTATION} must be a number from 1 to {}, not {text:?}: the limit is {otherwise}",
            u32::MAX
        )),
    }
}
