//! BFD's timers.

use std::time::Duration;

use super::common;
use crate::{
    BfdConfiguration,
    path::{Problems, SPEC},
};

/// Longest interval that a packet can tell (RFC 5880 section 4.1): 32 bits of microseconds.
const LONGEST: Duration = Duration::from_micros(u32::MAX as u64);

pub(crate) fn check(object: &BfdConfiguration, problems: &mut Problems) {
    let spec = &object.spec;
    common::selector(spec.node_selector.as_ref(), &SPEC.field("nodeSelector"), problems);
    let list = SPEC.field("interfaces");
    for (index, interface) in spec.interfaces.iter().enumerate() {
        let at = list.index(index);
        let pattern = at.field("matchPattern");
        common::interface(&interface.match_pattern, true, &pattern, problems);
        let stars = interface.match_pattern.trim_end_matches('*').contains('*');
        problems.require(!stars, &pattern, "'*' stands for any characters at the end of a name only");
        for (field, interval) in [
            ("minimumRecvInterval", interface.minimum_recv_interval),
            ("minimumSendInterval", interface.minimum_send_interval),
            ("idleSendInterval", interface.idle_send_interval),
        ] {
            let fine = interval.is_none_or(|interval| {
                let whole = interval.0.subsec_nanos() % 1_000_000 == 0;
                whole && !interval.0.is_zero() && interval.0 <= LONGEST
            });
            let message =
                format!("an interval is a whole number of milliseconds, 1ms to {} s", LONGEST.as_secs());
            problems.require(fine, &at.field(field), message);
        }
        problems.require(interface.multiplier != Some(0), &at.field("multiplier"), "use 1 to 255");
    }
}
