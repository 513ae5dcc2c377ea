//! A reflector with two clients. One behaves, the other says whatever the input says once its session is up: messages,
//! right or wrong, in pieces, with time passing, with connections coming and going. The first must not notice, what
//! the speaker says must be valid, and its memory must stay within bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| margay_fuzz::session::session(data));
