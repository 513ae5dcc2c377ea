//! Prefixes in all places where an UPDATE has them: family and place are chosen by the first two octets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::{check, message, negotiated};

/// ORIGIN, an empty AS_PATH, LOCAL_PREF.
const MANDATORY: [u8; 14] = [0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 192, 0, 2, 1];

fn attribute(code: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x90, code], &len[..], value].concat()
}

fuzz_target!(|data: &[u8]| {
    let [bits, place, prefixes @ ..] = data else { return };
    let next_hop = [[0x20, 1, 0x0d, 0xb8].as_slice(), &[0; 11], &[1]].concat();
    let (withdrawn, attributes, announced): (&[u8], Vec<u8>, &[u8]) = match place % 5 {
        0 => (prefixes, Vec::new(), &[]),
        1 => (&[], [&MANDATORY[..], &NEXT_HOP].concat(), prefixes),
        2 => {
            let value = [&[0, 2, 1, 16][..], &next_hop, &[0], prefixes].concat();
            (&[], [attribute(14, &value), MANDATORY.to_vec()].concat(), &[])
        }
        3 => (&[], attribute(15, &[&[0, 2, 1][..], prefixes].concat()), &[]),
        _ => {
            // IPv4 by way of IPv6 (RFC 8950).
            let value = [&[0, 1, 1, 16][..], &next_hop, &[0], prefixes].concat();
            (&[], [attribute(14, &value), MANDATORY.to_vec()].concat(), &[])
        }
    };
    let mut body = Vec::new();
    for field in [withdrawn, &attributes] {
        body.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(announced);
    check(&message(2, &body), &negotiated(*bits));
});
