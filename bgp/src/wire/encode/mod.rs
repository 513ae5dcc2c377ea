//! Messages to bytes. Whatever fails leaves the output as it was.

mod attributes;
mod nlri;
mod open;
mod packer;
mod update;

pub use packer::UpdateEncoder;

use bytes::{BufMut, BytesMut};

use super::{
    EncodeError, HEADER_LEN, MARKER_LEN, MAX_MESSAGE_LEN, Message, MessageType, Negotiated, Notification,
    PathAttributes, RefreshKind, RouteRefresh,
};

impl Message {
    /// Appends the message to `out`.
    ///
    /// # Errors
    /// An OPEN or UPDATE that doesn't fit into one message, or an UPDATE that has no form on the wire. `out` is unchanged
    /// then. Routes are better sent by [`UpdateEncoder`], which splits them over messages.
    pub fn encode(&self, negotiated: &Negotiated, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Open(open) => open::encode(open, out),
            Self::Update(update) => update::encode(update, negotiated, out),
            Self::Notification(notification) => {
                encode_notification(notification, negotiated, out);
                Ok(())
            }
            Self::Keepalive => Writer::begin(MessageType::Keepalive, out).finish(MAX_MESSAGE_LEN),
            Self::RouteRefresh(refresh) => encode_route_refresh(refresh, out),
        }
    }
}

impl PathAttributes {
    /// Appends all attributes as records of others carry them: with four-octet AS numbers, NEXT_HOP if it is IPv4.
    pub(crate) fn encode(&self, next_hop: Option<std::net::Ipv4Addr>, out: &mut Vec<u8>) {
        attributes::put(self, next_hop, true, out);
    }
}

/// Data that does not fit is cut: the peer is to learn the code in any case.
fn encode_notification(notification: &Notification, negotiated: &Negotiated, out: &mut BytesMut) {
    let room = negotiated.max_message_len() - HEADER_LEN - 2;
    let data = notification.data.get(..room).unwrap_or(&notification.data);
    let writer = Writer::begin(MessageType::Notification, out);
    writer.out.put_u8(notification.code.code());
    writer.out.put_u8(notification.code.subcode());
    writer.out.put_slice(data);
    writer.close();
}

fn encode_route_refresh(refresh: &RouteRefresh, out: &mut BytesMut) -> Result<(), EncodeError> {
    let writer = Writer::begin(MessageType::RouteRefresh, out);
    writer.out.put_u16(refresh.family.afi());
    writer.out.put_u8(match refresh.kind {
        RefreshKind::Request => 0,
        RefreshKind::BeginOfRefresh => 1,
        RefreshKind::EndOfRefresh => 2,
        RefreshKind::Other(subtype) => subtype,
    });
    writer.out.put_u8(refresh.family.safi());
    writer.finish(MAX_MESSAGE_LEN)
}

/// One message under construction at the end of a buffer.
struct Writer<'a> {
    out: &'a mut BytesMut,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Appends a header whose length is filled in at the end.
    fn begin(kind: MessageType, out: &'a mut BytesMut) -> Self {
        let start = out.len();
        let mut header = [0xff; HEADER_LEN];
        header[MARKER_LEN..].copy_from_slice(&[0, 0, kind as u8]);
        out.put_slice(&header);
        Self { out, start }
    }

    /// Octets so far.
    fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Fills in the length, which the caller knows to be within bounds.
    fn close(self) {
        let len = self.len();
        patch_u16(self.out, self.start + MARKER_LEN, len);
    }

    /// Fills in the length, or removes the message when it has more than `max` octets.
    fn finish(self, max: usize) -> Result<(), EncodeError> {
        let needed = self.len();
        if needed > max {
            return self.fail(EncodeError::MessageTooLong { needed, max });
        }
        self.close();
        Ok(())
    }

    /// Removes the message.
    fn fail(self, error: EncodeError) -> Result<(), EncodeError> {
        self.out.truncate(self.start);
        Err(error)
    }
}

/// Writes `value` over two octets at `at`. Every length on the wire is bounded by the message's own two octets.
fn patch_u16(out: &mut BytesMut, at: usize, value: usize) {
    if let Some(slot) = out.get_mut(at..at + 2) {
        slot.copy_from_slice(&saturated(value).to_be_bytes());
    }
}

/// A length as it goes into two octets. One that is too long belongs to a message that is too long, and is rejected.
fn saturated(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
