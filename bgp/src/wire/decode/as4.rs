//! Four-octet AS numbers that came through a two-octet session (RFC 6793 section 4.2.3).

use super::attributes::Collector;
use crate::wire::{AS_TRANS, AsPath, SegmentKind, attr::AsPathBuilder};

/// Merges AS4_PATH and AS4_AGGREGATOR into what AS_PATH and AGGREGATOR say.
pub(super) fn merge_as4(collected: &mut Collector<'_>) {
    let as4_path = collected.as4_path.take();
    let as4_aggregator = collected.as4_aggregator.take();
    let set = &mut collected.update.attributes;
    if let Some(aggregator) = &set.aggregator {
        if aggregator.asn == u32::from(AS_TRANS) {
            set.aggregator = Some(as4_aggregator.unwrap_or(*aggregator));
        } else if as4_aggregator.is_some() {
            // A speaker without four-octet AS numbers aggregated after them: both are of the past.
            return;
        }
    }
    if let Some(path) = as4_path {
        set.as_path = merged(&set.as_path, &path);
    }
}

/// `newer` behind as many leading ASes of `path` as it lacks; `path` when `newer` is the longer one.
fn merged(path: &AsPath, newer: &AsPath) -> AsPath {
    let Some(mut lacking) = path.length().checked_sub(newer.length()) else { return path.clone() };
    let mut builder = AsPathBuilder::default();
    for segment in path.segments() {
        if lacking == 0 {
            break;
        }
        match segment.kind {
            SegmentKind::Set => {
                builder.push(segment.kind, segment.asns.iter().copied());
                lacking -= 1;
            }
            SegmentKind::Sequence => {
                let taken = lacking.min(segment.asns.len());
                builder.push(segment.kind, segment.asns[..taken].iter().copied());
                lacking -= taken;
            }
        }
    }
    for segment in newer.segments() {
        builder.push(segment.kind, segment.asns.iter().copied());
    }
    builder.finish()
}
