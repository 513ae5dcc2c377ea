//! Octets that no speaker would send.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

/// What a decoded UPDATE may hold: nothing grows faster than the octets it came from.
fn assert_bounded(decoded: &Decoded, octets: usize) {
    assert!(decoded.faults.len() <= 32);
    if let Message::Update(update) = &decoded.message {
        assert!(update.withdrawn.len() + update.announced().count() <= octets);
        let set = &update.attributes;
        assert!(set.as_path.asns().count() + set.communities.len() + set.cluster_list.len() <= octets);
        assert!(set.unknown.iter().map(|attribute| attribute.value.len()).sum::<usize>() <= octets);
    }
}

proptest! {
    /// Any body of any type: an answer, never a panic.
    #[test]
    fn garbage_never_panics(negotiated in negotiated(), kind in 1..6_u8, body in vec(any::<u8>(), 0..400)) {
        if let Ok(decoded) = decode_unframed(kind, &body, &negotiated) {
            assert_bounded(&decoded, body.len());
        }
    }

    /// Attributes that look like attributes, with anything in them.
    #[test]
    fn attribute_garbage_never_panics(
        negotiated in negotiated(),
        attributes in vec((any::<u8>(), 0..36_u8, vec(any::<u8>(), 0..40)), 0..8),
        nlri in vec(any::<u8>(), 0..12),
    ) {
        let attributes: Vec<u8> =
            attributes.iter().flat_map(|(flags, code, value)| raw_attribute(*flags, AttributeCode(*code), value)).collect();
        let bytes = raw_update(&[], &attributes, &nlri);
        if let Ok(decoded) = decode_bytes(&bytes, &negotiated) {
            assert_bounded(&decoded, bytes.len());
        }
    }

    /// A good message with some octets changed; whatever is accepted is canonical and can be sent on.
    #[test]
    fn mutations_never_panic(
        (negotiated, message) in any_message(),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let extended = Negotiated { extended_message: true, ..negotiated };
        let mut bytes = encoded(&message, &extended).to_vec();
        for (at, octet) in &changes {
            let at = at.index(bytes.len());
            if at >= HEADER_LEN {
                bytes[at] = *octet;
            }
        }
        if let Ok(Decoded { message: Message::Update(mut first), .. }) = decode_bytes(&bytes, &extended) {
            // What was announced by malformed attributes is behind what was withdrawn.
            first.withdrawn.sort_by_key(|nlri| std::cmp::Reverse(nlri.family()));
            let message = Message::Update(first);
            let mut again = bytes::BytesMut::new();
            match message.encode(&extended, &mut again) {
                Ok(()) => {
                    let second = decode_bytes(&again, &extended).expect("our own");
                    prop_assert_eq!(second.faults, []);
                    prop_assert_eq!(second.message, message);
                }
                Err(error) => prop_assert_eq!(error, EncodeError::Empty),
            }
        }
    }
}

fn decode_unframed(kind: u8, body: &[u8], negotiated: &Negotiated) -> Result<Decoded, SessionReset> {
    let bytes = message(kind, body);
    let mut framer = Framer::new();
    framer.set_max_len(MAX_EXTENDED_MESSAGE_LEN);
    let mut input = &bytes[..];
    let frame = framer.next_frame(&mut input)?;
    decode(frame.expect("whole"), negotiated)
}
