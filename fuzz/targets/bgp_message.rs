//! One message of any type: session, type, body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::{check, message, negotiated};

fuzz_target!(|data: &[u8]| {
    if let [bits, kind, body @ ..] = data {
        check(&message(*kind, body), &negotiated(*bits));
    }
});
