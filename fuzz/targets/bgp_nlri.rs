//! Prefixes in all places where an UPDATE has them: family and place are chosen by the first two octets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::codec::nlri(data));
