//! BFD packets: the codec, and a session that gets one after the other as time passes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::bfd::packet(data));
