//! The optional parameters of an OPEN behind a right beginning, in the short and the extended form (RFC 9072).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::codec::open(data));
