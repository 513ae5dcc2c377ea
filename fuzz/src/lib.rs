//! What the targets share.

use bytes::BytesMut;
use margay_bgp::wire::{Decoded, FamilySet, Framer, HEADER_LEN, Message, Negotiated, PeerKind, SessionReset, decode};

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
