//! One message of any type: session, type, body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::codec::any_message(data));
