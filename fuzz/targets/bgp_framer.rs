//! A stream of octets cut into messages: the same messages and the same error, however the octets arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_bgp::wire::{Framer, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN};

/// The messages, and the error in words if there is one.
fn cut<'a>(chunks: impl Iterator<Item = &'a [u8]>, max_len: usize) -> (Vec<Vec<u8>>, Option<String>) {
    let mut framer = Framer::new();
    framer.set_max_len(max_len);
    let mut messages = Vec::new();
    for mut chunk in chunks {
        loop {
            match framer.next_frame(&mut chunk) {
                Ok(Some(frame)) => messages.push(frame.bytes().to_vec()),
                Ok(None) => break,
                Err(reset) => return (messages, Some(reset.to_string())),
            }
        }
        assert!(chunk.is_empty());
        assert!(framer.buffered() < max_len);
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let [flags, stream @ ..] = data else { return };
    let max_len = if flags & 0x80 == 0 { MAX_MESSAGE_LEN } else { MAX_EXTENDED_MESSAGE_LEN };
    // The marker is given: guessing 16 octets right is not what is tested.
    let mut octets = Vec::new();
    for part in stream.split(|octet| *octet == 0xfe) {
        octets.extend([0xff; 16]);
        octets.extend_from_slice(part);
    }
    let size = usize::from(flags & 0x7f) + 1;
    assert_eq!(cut(octets.chunks(size), max_len), cut(std::iter::once(&octets[..]), max_len));
});
