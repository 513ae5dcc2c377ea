//! The body of an UPDATE: session, withdrawn prefixes behind their length octet, attributes behind their two length
//! octets, announced prefixes. The lengths on the wire are always right: what they wrap is what is tested.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::codec::update(data));
