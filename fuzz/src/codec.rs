//! The wire codec: messages of every kind, right and wrong.

use bytes::BytesMut;
use margay_bgp::wire::{
    Decoded, FamilySet, Framer, HEADER_LEN, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, Negotiated,
    PeerKind, SessionReset, decode,
};

/// A session chosen by an octet, every bit one thing that may be negotiated.
#[must_use]
pub fn negotiated(bits: u8) -> Negotiated {
    let bit = |n: u8| bits & (1 << n) != 0;
    let add_path = FamilySet { ipv4: bit(4), ipv6: bit(5) };
    Negotiated {
        peer: if bit(0) { PeerKind::Internal } else { PeerKind::External },
        four_octet_as: bit(1),
        extended_message: bit(2),
        extended_next_hop: bit(3),
        families: FamilySet { ipv4: !bit(6), ipv6: !bit(7) },
        add_path_receive: add_path,
        add_path_send: add_path,
    }
}

/// A message of a type with a body, its header right.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(HEADER_LEN + body.len()).unwrap_or(u16::MAX);
    let mut out = vec![0xff; 16];
    out.extend(len.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
    out
}

/// Frames and decodes one message; `None` if the framer wants more octets.
pub fn decode_one(octets: &[u8], session: &Negotiated) -> Option<Result<Decoded, SessionReset>> {
    let mut framer = Framer::new();
    framer.set_max_len(session.max_message_len());
    let mut rest = octets;
    match framer.next_frame(&mut rest) {
        Ok(None) => None,
        Ok(Some(frame)) => Some(decode(frame, session)),
        Err(reset) => Some(Err(reset)),
    }
}

/// Decodes, and checks what must hold of every message: positions lie inside it, it can be shown, and what our encoder
/// makes of it decodes to the same.
pub fn check(octets: &[u8], session: &Negotiated) {
    match decode_one(octets, session) {
        None => {}
        Some(Err(reset)) => {
            assert!(reset.position <= octets.len());
            // The NOTIFICATION that answers can always be sent.
            encoded(&Message::Notification(reset.notification.clone()), session);
            assert!(!reset.to_string().is_empty());
        }
        Some(Ok(decoded)) => {
            assert!(decoded.faults.iter().all(|fault| fault.position <= octets.len()));
            assert!(!decoded.to_string().is_empty());
            if let Some(again) = encoded(&decoded.message, session) {
                let second = decode_one(&again, session).expect("whole").expect("our own message is valid");
                assert_eq!(second.faults, []);
                assert_eq!(normal(second.message), normal(decoded.message));
            }
        }
    }
}

/// The order of withdrawn prefixes of different families isn't kept by the wire.
fn normal(message: Message) -> Message {
    match message {
        Message::Update(mut update) => {
            update.withdrawn.sort_unstable();
            Message::Update(update)
        }
        other => other,
    }
}

/// The message as octets, if it fits.
fn encoded(message: &Message, session: &Negotiated) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    let result = message.encode(session, &mut out);
    if result.is_err() {
        assert!(out.is_empty(), "a failed encoding leaves nothing behind");
    }
    result.ok().map(|()| out)
}

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

/// A stream of octets cut into messages: the same messages and the same error, however the octets arrive.
pub fn framer(data: &[u8]) {
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
}

/// One message of any type: session, type, body.
pub fn any_message(data: &[u8]) {
    if let [bits, kind, body @ ..] = data {
        check(&message(*kind, body), &negotiated(*bits));
    }
}

/// The body of an UPDATE: session, withdrawn prefixes behind their length octet, attributes behind their two length
/// octets, announced prefixes. The lengths on the wire are always right: what they wrap is what is tested.
pub fn update(data: &[u8]) {
    let [bits, withdrawn, high, low, rest @ ..] = data else { return };
    let (withdrawn, rest) = rest.split_at(rest.len().min(usize::from(*withdrawn)));
    let (attributes, announced) =
        rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
    let mut body = Vec::new();
    for field in [withdrawn, attributes] {
        body.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(announced);
    check(&message(2, &body), &negotiated(*bits));
}

/// The optional parameters of an OPEN behind a right beginning, in the short and the extended form (RFC 9072).
pub fn open(data: &[u8]) {
    let [form, hold_high, hold_low, parameters @ ..] = data else { return };
    let mut body = vec![4, 0xfc, 0, *hold_high, *hold_low, 10, 0, 0, 1];
    match form % 3 {
        0 => body.push(u8::try_from(parameters.len()).unwrap_or(u8::MAX)),
        1 => {
            body.extend([255, 255]);
            body.extend(u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
        // The length is the input's.
        _ => {}
    }
    body.extend_from_slice(parameters);
    check(&message(1, &body), &negotiated(0));
}

/// ORIGIN, an empty AS_PATH, LOCAL_PREF.
const MANDATORY: [u8; 14] = [0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 192, 0, 2, 1];

fn attribute(code: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x90, code], &len[..], value].concat()
}

/// Prefixes in all places where an UPDATE has them: family and place are chosen by the first two octets.
pub fn nlri(data: &[u8]) {
    let [bits, place, prefixes @ ..] = data else { return };
    let next_hop = [[0x20, 1, 0x0d, 0xb8].as_slice(), &[0; 11], &[1]].concat();
    let (withdrawn, attributes, announced): (&[u8], Vec<u8>, &[u8]) = match place % 5 {
        0 => (prefixes, Vec::new(), &[]),
        1 => (&[], [&MANDATORY[..], &NEXT_HOP].concat(), prefixes),
        2 => {
            let value = [&[0, 2, 1, 16][..], &next_hop, &[0], prefixes].concat();
            (&[], [attribute(14, &value), MANDATORY.to_vec()].concat(), &[])
        }
        3 => (&[], attribute(15, &[&[0, 2, 1][..], prefixes].concat()), &[]),
        _ => {
            // IPv4 by way of IPv6 (RFC 8950).
            let value = [&[0, 1, 1, 16][..], &next_hop, &[0], prefixes].concat();
            (&[], [attribute(14, &value), MANDATORY.to_vec()].concat(), &[])
        }
    };
    let mut body = Vec::new();
    for field in [withdrawn, &attributes] {
        body.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(announced);
    check(&message(2, &body), &negotiated(*bits));
}
