//! Cuts a byte stream into messages (RFC 4271 sections 4.1 and 6.1) with memory bounded by one message.

use bytes::Bytes;

use super::{
    HEADER_LEN, HeaderSubcode, MARKER_LEN, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, MessageType,
    Notification, NotificationCode, ResetReason, SessionReset,
};

/// One whole message, its header checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    kind: MessageType,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Type of the message.
    pub fn kind(&self) -> MessageType {
        self.kind
    }

    /// The message, header included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The message without its header.
    pub(super) fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or(&[])
    }
}

/// Cuts arbitrary chunks of a byte stream into [`Frame`]s. Only an incomplete message is kept between calls; a
/// message that lies whole in a chunk is never copied.
#[derive(Debug)]
pub struct Framer {
    /// The beginning of a message whose rest has not come yet.
    partial: Vec<u8>,
    /// `partial` holds a message that was handed out and is to be forgotten.
    delivered: bool,
    max_len: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// A framer at the beginning of a stream, for messages up to 4096 octets.
    pub fn new() -> Self {
        Self { partial: Vec::new(), delivered: false, max_len: MAX_MESSAGE_LEN }
    }

    /// Sets the longest message to accept, [`Negotiated::max_message_len`](super::Negotiated::max_message_len). OPEN
    /// and KEEPALIVE stay limited to 4096 (RFC 8654 section 4).
    pub fn set_max_len(&mut self, max_len: usize) {
        self.max_len = max_len.clamp(MAX_MESSAGE_LEN, MAX_EXTENDED_MESSAGE_LEN);
    }

    /// Octets kept for the next call.
    pub fn buffered(&self) -> usize {
        self.partial().len()
    }

    /// The beginning of a message whose rest has not come yet.
    pub fn partial(&self) -> &[u8] {
        if self.delivered { &[] } else { &self.partial }
    }

    /// Takes the next message off the front of `input`; call until it returns none, which it does with `input` empty.
    ///
    /// # Errors
    /// A header that ends the session. The stream has no message boundaries after it: call no more.
    pub fn next_frame<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'a>>, SessionReset> {
        if std::mem::take(&mut self.delivered) {
            // Freed, not cleared: idle sessions are many and hold no buffer.
            self.partial = Vec::new();
        }
        if self.partial.is_empty()
            && let Some(header) = input.first_chunk::<HEADER_LEN>()
        {
            let (kind, len) = check_header(header, self.max_len)?;
            if let Some((bytes, rest)) = input.split_at_checked(len) {
                *input = rest;
                return Ok(Some(Frame { kind, bytes }));
            }
        }
        self.fill(HEADER_LEN, input);
        let Some(header) = self.partial.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (kind, len) = check_header(header, self.max_len)?;
        self.fill(len, input);
        if self.partial.len() < len {
            return Ok(None);
        }
        self.delivered = true;
        Ok(Some(Frame { kind, bytes: &self.partial }))
    }

    /// Moves octets from `input` until `partial` has `len` or `input` none.
    fn fill(&mut self, len: usize, input: &mut &[u8]) {
        let missing = len.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}

/// Least and most octets of a message of a type on a session with messages up to `max_len`.
fn length_range(kind: MessageType, max_len: usize) -> (usize, usize) {
    match kind {
        MessageType::Open => (29, MAX_MESSAGE_LEN),
        MessageType::Update => (23, max_len),
        MessageType::Notification => (21, max_len),
        MessageType::Keepalive => (HEADER_LEN, HEADER_LEN),
        MessageType::RouteRefresh => (23, max_len),
    }
}

fn check_header(header: &[u8; HEADER_LEN], max_len: usize) -> Result<(MessageType, usize), SessionReset> {
    let [marker @ .., len_high, len_low, kind] = header;
    if marker != &[0xff; MARKER_LEN] {
        return Err(reset(HeaderSubcode::ConnectionNotSynchronized, &[], ResetReason::Marker, 0));
    }
    let wire_len = u16::from_be_bytes([*len_high, *len_low]);
    let len = usize::from(wire_len);
    let bad_length = || {
        let data = [*len_high, *len_low];
        reset(HeaderSubcode::BadMessageLength, &data, ResetReason::MessageLength(wire_len), MARKER_LEN)
    };
    if len < HEADER_LEN || len > max_len {
        return Err(bad_length());
    }
    let Some(message_type) = MessageType::new(*kind) else {
        let reason = ResetReason::MessageType(*kind);
        return Err(reset(HeaderSubcode::BadMessageType, &[*kind], reason, MARKER_LEN + 2));
    };
    let (least, most) = length_range(message_type, max_len);
    if len < least || len > most { Err(bad_length()) } else { Ok((message_type, len)) }
}

fn reset(subcode: HeaderSubcode, data: &[u8], reason: ResetReason, position: usize) -> SessionReset {
    let notification =
        Notification::with_data(NotificationCode::Header(subcode), Bytes::copy_from_slice(data));
    SessionReset { notification, reason, position }
}

#[cfg(test)]
mod tests;
