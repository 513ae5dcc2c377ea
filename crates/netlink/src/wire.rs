//! The few pieces of netlink's byte format needed below typed messages: requests, attributes, error answers
//! (`include/uapi/linux/netlink.h`).

use netlink_packet_core::Emitable;

/// Length of `struct nlmsghdr`.
pub const HEADER_LEN: usize = 16;
/// Length of `struct nlattr`.
pub const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Netlink messages and attributes are padded to this.
pub const ALIGNMENT: usize = 4;

/// One message to send, without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `nlmsg_type`.
    pub message_type: u16,
    /// `nlmsg_flags` beyond `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_DUMP`, which the socket sets.
    pub flags: u16,
    /// Family header and attributes.
    pub body: Vec<u8>,
}

impl Request {
    /// A request with a typed body.
    pub fn new(message_type: u16, flags: u16, body: &impl Emitable) -> Self {
        let mut bytes = vec![0; body.buffer_len()];
        body.emit(&mut bytes);
        Self { message_type, flags, body: bytes }
    }

    /// Appends the whole message, padded, to `buffer`.
    pub(crate) fn append_to(&self, buffer: &mut Vec<u8>, flags: u16, sequence: u32) {
        let length = u32::try_from(HEADER_LEN + self.body.len()).unwrap_or(u32::MAX);
        buffer.extend_from_slice(&length.to_ne_bytes());
        buffer.extend_from_slice(&self.message_type.to_ne_bytes());
        buffer.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&self.body);
        pad(buffer);
    }
}

/// Appends an attribute: header, value, padding. Values are far below the 64 KiB limit of `nla_len` in this crate; a
/// longer one is cut, and the kernel then refuses the message.
pub fn push_attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let room = usize::from(u16::MAX) - ATTRIBUTE_HEADER_LEN;
    let value = value.get(..room).unwrap_or(value);
    let length = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    pad(buffer);
}

fn pad(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
}

/// Walks attributes as (type without flag bits, value); stops at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<ATTRIBUTE_HEADER_LEN>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & netlink_packet_core::NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first `N` bytes of a slice from `offset`, for reading fixed fields.
pub fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

/// A received message, borrowed from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) message_type: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// `nlmsg_pid`: in an answer, who asked; in a notification, who made the change.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// Splits a datagram into its messages; stops at the first malformed header.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
        let message = Received {
            message_type: u16::from_ne_bytes(array(bytes, 4)?),
            flags: u16::from_ne_bytes(array(bytes, 6)?),
            sequence: u32::from_ne_bytes(array(bytes, 8)?),
            port: u32::from_ne_bytes(array(bytes, 12)?),
            payload: bytes.get(HEADER_LEN..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    })
}

const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Reads `struct nlmsgerr`: the errno (0 = acknowledged) and the extended acknowledgement's text.
pub(crate) fn error_answer<'a>(message: &Received<'a>) -> Option<(i32, Option<&'a str>)> {
    let code = i32::from_ne_bytes(array(message.payload, 0)?);
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return Some((-code, None));
    }
    // The answer quotes the request: only its header when capped, else all of it.
    let quoted = if message.flags & NLM_F_CAPPED != 0 {
        HEADER_LEN
    } else {
        usize::try_from(u32::from_ne_bytes(array(message.payload, 4)?)).ok()?.next_multiple_of(ALIGNMENT)
    };
    Some((-code, attribute_text(message.payload.get(4 + quoted..).unwrap_or_default())))
}

/// The status at the end of a dump: `NLMSG_DONE` carries an errno and, like an error, attributes.
pub(crate) fn done_answer<'a>(message: &Received<'a>) -> (i32, Option<&'a str>) {
    let code = array(message.payload, 0).map_or(0, i32::from_ne_bytes);
    (-code, attribute_text(message.payload.get(4..).unwrap_or_default()))
}

fn attribute_text(bytes: &[u8]) -> Option<&str> {
    let (_, text) = attributes(bytes).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    std::str::from_utf8(text).ok().map(|text| text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn request_is_framed_and_padded() {
        let mut bytes = Vec::new();
        Request { message_type: 24, flags: 1, body: vec![7; 5] }.append_to(&mut bytes, 4, 9);
        assert_eq!(bytes.len(), 24);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all, [Received { message_type: 24, flags: 5, sequence: 9, port: 0, payload: &[7; 5] }]);
    }

    #[test]
    fn error_text_is_found_after_a_quoted_request() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&20u32.to_ne_bytes());
        payload.extend_from_slice(&[0; 16]);
        push_attribute(&mut payload, NLMSGERR_ATTR_MSG, b"No way\0");
        let full =
            Received { message_type: 2, flags: NLM_F_ACK_TLVS, sequence: 1, port: 0, payload: &payload };
        assert_eq!(error_answer(&full), Some((17, Some("No way"))));
        payload.drain(20..24);
        let capped = Received {
            message_type: 2,
            flags: NLM_F_ACK_TLVS | NLM_F_CAPPED,
            sequence: 1,
            port: 0,
            payload: &payload,
        };
        assert_eq!(error_answer(&capped), Some((17, Some("No way"))));
    }

    proptest! {
        #[test]
        fn attributes_come_back(values in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..8)) {
            let mut bytes = Vec::new();
            for (kind, value) in &values {
                push_attribute(&mut bytes, *kind, value);
            }
            let read: Vec<(u16, Vec<u8>)> = attributes(&bytes).map(|(k, v)| (k, v.to_vec())).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                error_answer(&message);
                done_answer(&message);
                prop_assert!(attributes(message.payload).count() <= bytes.len());
            }
        }
    }
}
