use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::wire::{
    PeerKind,
    testing::{any_message, encoded, message},
};

fn first(framer: &mut Framer, bytes: &[u8]) -> Result<Option<Vec<u8>>, SessionReset> {
    let mut input = bytes;
    framer.next_frame(&mut input).map(|frame| frame.map(|frame| frame.bytes().to_vec()))
}

fn refused(bytes: &[u8]) -> (HeaderSubcode, Vec<u8>) {
    let reset = first(&mut Framer::new(), bytes).expect_err("refused");
    match reset.notification.code {
        NotificationCode::Header(subcode) => (subcode, reset.notification.data.to_vec()),
        other => panic!("{other}"),
    }
}

#[test]
fn refuses_a_marker_that_is_not_all_ones() {
    for at in 0..MARKER_LEN {
        let mut bytes = message(4, &[]);
        bytes[at] = 0xfe;
        assert_eq!(refused(&bytes), (HeaderSubcode::ConnectionNotSynchronized, vec![]));
    }
}

#[test]
fn refuses_lengths_that_a_type_cannot_have() {
    // (type, octets) just outside of what RFC 4271 section 6.1 allows.
    for (kind, len) in
        [(1, 28), (1, 4097), (2, 22), (2, 4097), (3, 20), (3, 4097), (4, 18), (4, 20), (5, 22), (5, 4097)]
    {
        let mut bytes = message(kind, &[]);
        bytes[16..18].copy_from_slice(&u16::to_be_bytes(len));
        assert_eq!(refused(&bytes), (HeaderSubcode::BadMessageLength, len.to_be_bytes().to_vec()), "{kind}");
    }
}

#[test]
fn refuses_unknown_types_and_quotes_them() {
    for kind in [0, 6, 255] {
        assert_eq!(refused(&message(kind, &[])), (HeaderSubcode::BadMessageType, vec![kind]));
    }
}

#[test]
fn extended_messages_need_negotiation_and_never_concern_open() {
    let long = vec![0; 60_000];
    assert_eq!(refused(&message(2, &long)).0, HeaderSubcode::BadMessageLength);
    let mut framer = Framer::new();
    framer.set_max_len(MAX_EXTENDED_MESSAGE_LEN);
    assert_eq!(first(&mut framer, &message(2, &long)), Ok(Some(message(2, &long))));
    let reset = first(&mut framer, &message(1, &long)).expect_err("OPEN is limited");
    assert_eq!(reset.notification.code, NotificationCode::Header(HeaderSubcode::BadMessageLength));
}

#[test]
fn a_bad_header_is_refused_before_its_body_comes() {
    let mut bytes = message(2, &[]);
    bytes[16..18].copy_from_slice(&5000_u16.to_be_bytes());
    bytes.truncate(HEADER_LEN);
    assert_eq!(refused(&bytes).0, HeaderSubcode::BadMessageLength);
}

#[test]
fn an_idle_framer_keeps_no_memory() {
    let mut framer = Framer::new();
    let bytes = message(2, &[0; 4]);
    let (head, tail) = bytes.split_at(20);
    assert_eq!(first(&mut framer, head), Ok(None));
    assert_eq!(framer.buffered(), 20);
    assert_eq!(first(&mut framer, tail), Ok(Some(bytes.clone())));
    assert_eq!(first(&mut framer, &[]), Ok(None));
    assert_eq!(framer.partial.capacity(), 0);
}

proptest! {
    /// However the stream is cut, the same messages come out, and never more than one message is kept.
    #[test]
    fn cuts_do_not_matter(list in vec(any_message(), 1..6), cuts in vec(any::<Index>(), 0..20)) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (negotiated, message) in &list {
            let extended = super::super::Negotiated { extended_message: true, ..*negotiated };
            let bytes = encoded(message, &extended);
            stream.extend_from_slice(&bytes);
            expected.push(bytes.to_vec());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut framer = Framer::new();
        framer.set_max_len(MAX_EXTENDED_MESSAGE_LEN);
        let mut got = Vec::new();
        let mut from = 0;
        for to in cuts {
            let mut chunk = &stream[from..to];
            while let Some(frame) = framer.next_frame(&mut chunk).expect("good headers") {
                got.push(frame.bytes().to_vec());
            }
            prop_assert!(chunk.is_empty());
            prop_assert!(framer.buffered() < MAX_EXTENDED_MESSAGE_LEN);
            from = to;
        }
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..200), marker in any::<bool>()) {
        let mut stream = if marker { vec![0xff; MARKER_LEN] } else { vec![] };
        stream.extend(bytes);
        let mut input = &stream[..];
        let mut framer = Framer::new();
        while let Ok(Some(frame)) = framer.next_frame(&mut input) {
            let negotiated = super::super::Negotiated::minimal(PeerKind::Internal);
            let _result = super::super::decode(frame, &negotiated);
        }
    }
}
