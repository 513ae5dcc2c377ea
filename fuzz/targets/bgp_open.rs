//! The optional parameters of an OPEN behind a right beginning, in the short and the extended form (RFC 9072).
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::{check, message, negotiated};

fuzz_target!(|data: &[u8]| {
    let [form, hold_high, hold_low, parameters @ ..] = data else { return };
    let mut body = vec![4, 0xfc, 0, *hold_high, *hold_low, 10, 0, 0, 1];
    match form % 3 {
        0 => body.push(u8::try_from(parameters.len()).unwrap_or(u8::MAX)),
        1 => {
            body.extend([255, 255]);
            body.extend(u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
        // The length is the input's.
        _ => {}
    }
    body.extend_from_slice(parameters);
    check(&message(1, &body), &negotiated(0));
});
