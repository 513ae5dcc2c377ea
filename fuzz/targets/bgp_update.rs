//! The body of an UPDATE: session, withdrawn prefixes behind their length octet, attributes behind their two length
//! octets, announced prefixes. The lengths on the wire are always right: what they wrap is what is tested.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::{check, message, negotiated};

fuzz_target!(|data: &[u8]| {
    let [bits, withdrawn, high, low, rest @ ..] = data else { return };
    let (withdrawn, rest) = rest.split_at(rest.len().min(usize::from(*withdrawn)));
    let (attributes, announced) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
    let mut body = Vec::new();
    for field in [withdrawn, attributes] {
        body.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(announced);
    check(&message(2, &body), &negotiated(*bits));
});
