//! Routes into as few UPDATEs as possible: what egress writes into its log.

use bytes::{BufMut, BytesMut};

use super::{
    Writer, attributes,
    nlri::{self, MAX_NLRI_LEN},
    patch_u16,
    update::{MP_HEADER_LEN, begin_mp_reach, begin_mp_unreach, check_mp_next_hop, end_mp},
};
use crate::wire::{
    AfiSafi, EncodeError, HEADER_LEN, MARKER_LEN, MessageType, Negotiated, NextHop, Nlri, PathAttributes,
};

/// Encodes withdrawals and announcements for sessions that negotiated the same, many prefixes per message. No message
/// is longer than negotiated. Keeps its scratch memory: one message costs no allocation but what `out` grows by.
#[derive(Debug)]
pub struct UpdateEncoder {
    negotiated: Negotiated,
    /// The encoded attributes of the current announcement.
    attributes: Vec<u8>,
}

/// The message being filled with prefixes.
#[derive(Clone, Copy)]
struct Filling {
    family: AfiSafi,
    /// Where the message begins in the output.
    start: usize,
    /// Where the value of the MP attribute begins, if the prefixes are in one.
    mp: Option<usize>,
}

impl UpdateEncoder {
    /// An encoder for sessions that negotiated this.
    pub fn new(negotiated: Negotiated) -> Self {
        Self { negotiated, attributes: Vec::new() }
    }

    /// What the sessions negotiated.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Appends UPDATEs that withdraw the prefixes, and returns how many. A change of family begins a new message:
    /// give prefixes sorted by family.
    pub fn withdraw(&self, prefixes: impl IntoIterator<Item = Nlri>, out: &mut BytesMut) -> usize {
        let mut messages = 0;
        let mut open: Option<Filling> = None;
        for nlri in prefixes {
            let family = nlri.family();
            let path_id = self.negotiated.sends_path_id(family);
            let len = nlri::len(&nlri, path_id);
            // The classic form ends with the length of no attributes.
            let tail = if family == AfiSafi::Ipv4Unicast { 2 } else { 0 };
            let fits = |open: &Filling| {
                open.family == family
                    && out.len() - open.start + len + tail <= self.negotiated.max_message_len()
            };
            if !open.as_ref().is_some_and(fits) {
                if let Some(full) = open.take() {
                    close_withdraw(full, out);
                }
                open = Some(begin_withdraw(family, out));
                messages += 1;
            }
            nlri::put(&nlri, path_id, out);
        }
        if let Some(last) = open {
            close_withdraw(last, out);
        }
        messages
    }

    /// Appends UPDATEs that announce the prefixes with these attributes, and returns how many. IPv4 prefixes with an
    /// IPv4 next hop go in the classic form, everything else in MP_REACH_NLRI. A change of family begins a new message.
    ///
    /// # Errors
    /// The attributes leave no room for a prefix ([`EncodeError::AttributesTooLong`]), or the next hop cannot be that of a
    /// prefix. `out` is unchanged then, and the peers are to see the prefixes withdrawn.
    pub fn announce(
        &mut self,
        attributes: &PathAttributes,
        next_hop: &NextHop,
        prefixes: impl IntoIterator<Item = Nlri>,
        out: &mut BytesMut,
    ) -> Result<usize, EncodeError> {
        let classic = match next_hop {
            NextHop::V4(address) => Some(*address),
            NextHop::V6 { .. } => None,
        };
        self.attributes.clear();
        attributes::put(attributes, classic, self.negotiated.four_octet_as, &mut self.attributes);
        self.check_room(next_hop)?;
        let beginning = out.len();
        let mut messages = 0;
        let mut open: Option<Filling> = None;
        for nlri in prefixes {
            let family = nlri.family();
            let path_id = self.negotiated.sends_path_id(family);
            let len = nlri::len(&nlri, path_id);
            // The MP form ends with the other attributes.
            let tail = if classic.is_some() { 0 } else { self.attributes.len() };
            let fits = |open: &Filling| {
                open.family == family
                    && out.len() - open.start + len + tail <= self.negotiated.max_message_len()
            };
            if !open.as_ref().is_some_and(fits) {
                if let Some(full) = open.take() {
                    self.close_announce(full, out);
                }
                let checked = match classic {
                    Some(_) if family != AfiSafi::Ipv4Unicast => Err(EncodeError::NextHopFamily(family)),
                    Some(_) => Ok(()),
                    None => check_mp_next_hop(family, next_hop, &self.negotiated),
                };
                if let Err(error) = checked {
                    out.truncate(beginning);
                    return Err(error);
                }
                open = Some(self.begin_announce(family, next_hop, out));
                messages += 1;
            }
            nlri::put(&nlri, path_id, out);
        }
        if let Some(last) = open {
            self.close_announce(last, out);
        }
        Ok(messages)
    }

    /// Appends the End-of-RIB marker of a family (RFC 4724 section 2).
    pub fn end_of_rib(&self, family: AfiSafi, out: &mut BytesMut) {
        match family {
            AfiSafi::Ipv4Unicast => {
                let writer = Writer::begin(MessageType::Update, out);
                writer.out.put_u32(0);
                writer.close();
            }
            _ => {
                let open = begin_withdraw(family, out);
                close_withdraw(open, out);
            }
        }
    }

    /// Whether the longest prefix fits beside the attributes.
    fn check_room(&self, next_hop: &NextHop) -> Result<(), EncodeError> {
        let mp = match next_hop {
            NextHop::V4(_) => 0,
            NextHop::V6 { .. } => MP_HEADER_LEN + 5 + usize::from(nlri::next_hop_len(next_hop)),
        };
        let needed = HEADER_LEN + 4 + self.attributes.len() + mp + MAX_NLRI_LEN;
        let max = self.negotiated.max_message_len();
        if needed > max { Err(EncodeError::AttributesTooLong { needed, max }) } else { Ok(()) }
    }

    fn begin_announce(&self, family: AfiSafi, next_hop: &NextHop, out: &mut BytesMut) -> Filling {
        let Writer { out, start } = Writer::begin(MessageType::Update, out);
        out.put_u32(0);
        let mp = match next_hop {
            NextHop::V4(_) => {
                patch_u16(out, start + HEADER_LEN + 2, self.attributes.len());
                out.put_slice(&self.attributes);
                None
            }
            NextHop::V6 { .. } => Some(begin_mp_reach(family, next_hop, out)),
        };
        Filling { family, start, mp }
    }

    fn close_announce(&self, open: Filling, out: &mut BytesMut) {
        if let Some(at) = open.mp {
            end_mp(at, out);
            out.put_slice(&self.attributes);
            patch_u16(out, open.start + HEADER_LEN + 2, out.len() - open.start - HEADER_LEN - 4);
        }
        patch_u16(out, open.start + MARKER_LEN, out.len() - open.start);
    }
}

fn begin_withdraw(family: AfiSafi, out: &mut BytesMut) -> Filling {
    let Writer { out, start } = Writer::begin(MessageType::Update, out);
    out.put_u16(0);
    let mp = match family {
        AfiSafi::Ipv4Unicast => None,
        _ => {
            out.put_u16(0);
            Some(begin_mp_unreach(family, out))
        }
    };
    Filling { family, start, mp }
}

fn close_withdraw(open: Filling, out: &mut BytesMut) {
    let Filling { start, mp, .. } = open;
    match mp {
        None => {
            patch_u16(out, start + HEADER_LEN, out.len() - start - HEADER_LEN - 2);
            out.put_u16(0);
        }
        Some(at) => {
            end_mp(at, out);
            patch_u16(out, start + HEADER_LEN + 2, out.len() - start - HEADER_LEN - 4);
        }
    }
    patch_u16(out, start + MARKER_LEN, out.len() - start);
}
