//! Bytes to messages.

mod as4;
mod attributes;
mod nlri;
mod open;
mod update;

use bytes::Bytes;
use nom::{Parser, number::complete::be_u8};

use super::{
    AfiSafi, Decoded, Frame, HEADER_LEN, HeaderSubcode, Message, MessageType, Negotiated, Notification,
    NotificationCode, RefreshKind, RefreshSubcode, ResetReason, RouteRefresh, SessionReset,
};

/// A parser's result: the rest and the value. Its only error is that the input is too short.
type Parsed<'a, T> = nom::IResult<&'a [u8], T, ()>;

/// Decodes one message.
///
/// # Errors
/// What ends the session, with the NOTIFICATION to send. A peer's malformed NOTIFICATION cannot be answered by one
/// (RFC 4271 section 6.4), so it decodes always.
pub fn decode(frame: Frame<'_>, negotiated: &Negotiated) -> Result<Decoded, SessionReset> {
    let message = match frame.kind() {
        MessageType::Update => return update::decode(frame, negotiated),
        MessageType::Open => Message::Open(open::decode(frame.body())?),
        MessageType::Notification => Message::Notification(notification(frame)?),
        MessageType::Keepalive => Message::Keepalive,
        MessageType::RouteRefresh => Message::RouteRefresh(route_refresh(frame)?),
    };
    Ok(Decoded { message, faults: Vec::new() })
}

fn notification(frame: Frame<'_>) -> Result<Notification, SessionReset> {
    let [code, subcode, data @ ..] = frame.body() else { return Err(bad_length(frame)) };
    Ok(Notification { code: NotificationCode::new(*code, *subcode), data: Bytes::copy_from_slice(data) })
}

fn route_refresh(frame: Frame<'_>) -> Result<RouteRefresh, SessionReset> {
    let [afi_high, afi_low, subtype, safi, rest @ ..] = frame.body() else { return Err(bad_length(frame)) };
    let kind = match subtype {
        0 => RefreshKind::Request,
        1 => RefreshKind::BeginOfRefresh,
        2 => RefreshKind::EndOfRefresh,
        other => RefreshKind::Other(*other),
    };
    // Longer is an outbound route filter (RFC 5291) in a request, and wrong in the others (RFC 7313 section 5).
    if matches!(kind, RefreshKind::BeginOfRefresh | RefreshKind::EndOfRefresh) && !rest.is_empty() {
        let code = NotificationCode::RouteRefresh(RefreshSubcode::InvalidMessageLength);
        return Err(SessionReset {
            notification: Notification::with_data(code, Bytes::copy_from_slice(frame.bytes())),
            reason: ResetReason::MessageLength(message_len(frame)),
            position: HEADER_LEN,
        });
    }
    Ok(RouteRefresh { family: AfiSafi::new(u16::from_be_bytes([*afi_high, *afi_low]), *safi), kind })
}

/// The framer has checked this already; whoever builds frames otherwise gets the same answer.
fn bad_length(frame: Frame<'_>) -> SessionReset {
    let len = message_len(frame);
    let code = NotificationCode::Header(HeaderSubcode::BadMessageLength);
    SessionReset {
        notification: Notification::with_data(code, len.to_be_bytes().to_vec()),
        reason: ResetReason::MessageLength(len),
        position: HEADER_LEN,
    }
}

fn message_len(frame: Frame<'_>) -> u16 {
    u16::try_from(frame.bytes().len()).unwrap_or(u16::MAX)
}

/// A value behind a length octet.
fn length_prefixed(input: &[u8]) -> Parsed<'_, &[u8]> {
    nom::multi::length_data(be_u8).parse(input)
}

#[cfg(test)]
mod tests;
