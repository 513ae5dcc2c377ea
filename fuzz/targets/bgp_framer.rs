//! A stream of octets cut into messages: the same messages and the same error, however the octets arrive.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::codec::framer(data));
