//! OPEN with its capabilities (RFC 4271 section 4.2, RFC 5492, RFC 9072).

use bytes::{BufMut, BytesMut};

use super::{Writer, saturated};
use crate::wire::{AfiSafi, Capability, EncodeError, MAX_MESSAGE_LEN, MessageType, Open};

/// Type of the optional parameter that holds capabilities.
const PARAMETER_CAPABILITIES: u8 = 2;
/// What both names of the FQDN capability have together: its 255 octets hold two lengths as well.
const MAX_NAMES: usize = 253;
/// Type and length that announce extended optional parameters.
const EXTENDED: u8 = 255;

pub(super) fn encode(open: &Open, out: &mut BytesMut) -> Result<(), EncodeError> {
    let mut capabilities = BytesMut::with_capacity(64);
    for capability in &open.capabilities {
        put(capability, &mut capabilities)?;
    }
    let writer = Writer::begin(MessageType::Open, out);
    writer.out.put_u8(open.version);
    writer.out.put_u16(open.my_as);
    writer.out.put_u16(open.hold_time);
    writer.out.put_u32(open.bgp_id.to_bits());
    // All capabilities in one parameter, which every peer understands; 255 as a length would mean the extended form.
    match u8::try_from(capabilities.len()) {
        Ok(0) => writer.out.put_u8(0),
        Ok(len @ ..253) => writer.out.put_slice(&[len + 2, PARAMETER_CAPABILITIES, len]),
        _ => {
            let len = saturated(capabilities.len());
            writer.out.put_slice(&[EXTENDED, EXTENDED]);
            writer.out.put_u16(len.saturating_add(3));
            writer.out.put_u8(PARAMETER_CAPABILITIES);
            writer.out.put_u16(len);
        }
    }
    writer.out.put_slice(&capabilities);
    writer.finish(MAX_MESSAGE_LEN)
}

/// Appends a capability; one whose value has more than 255 octets has no form on the wire.
fn put(capability: &Capability, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_slice(&[capability.code(), 0]);
    put_value(capability, out);
    let needed = out.len() - start - 2;
    let Ok(len) = u8::try_from(needed) else {
        return Err(EncodeError::CapabilityTooLong { code: capability.code(), needed });
    };
    if let Some(slot) = out.get_mut(start + 1) {
        *slot = len;
    }
    Ok(())
}

fn put_value(capability: &Capability, out: &mut BytesMut) {
    match capability {
        Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {}
        Capability::MultiProtocol(family) => {
            out.put_u16(family.afi());
            out.put_u8(0);
            out.put_u8(family.safi());
        }
        Capability::ExtendedNextHop(entries) => {
            for (family, next_hop_afi) in entries {
                out.put_u16(family.afi());
                out.put_u16(u16::from(family.safi()));
                out.put_u16(*next_hop_afi);
            }
        }
        Capability::GracefulRestart(restart) => {
            let restarted = if restart.restarted { 0x8000 } else { 0 };
            let notification = if restart.notification { 0x4000 } else { 0 };
            out.put_u16(restarted | notification | restart.time.min(0x0fff));
            for entry in &restart.families {
                put_family(entry.family, out);
                out.put_u8(forwarding(entry.forwarding));
            }
        }
        Capability::FourOctetAs(asn) => out.put_u32(*asn),
        Capability::AddPath(entries) => {
            for entry in entries {
                put_family(entry.family, out);
                out.put_u8(entry.mode as u8);
            }
        }
        Capability::LongLivedGracefulRestart(entries) => {
            for entry in entries {
                put_family(entry.family, out);
                out.put_u8(forwarding(entry.forwarding));
                out.put_uint(u64::from(entry.stale_time.min(0x00ff_ffff)), 3);
            }
        }
        Capability::Fqdn { host, domain } => {
            let room = put_name(host, MAX_NAMES, out);
            put_name(domain, room, out);
        }
        Capability::Unknown { value, .. } => out.put_slice(value),
    }
}

fn put_family(family: AfiSafi, out: &mut BytesMut) {
    out.put_u16(family.afi());
    out.put_u8(family.safi());
}

fn forwarding(kept: bool) -> u8 {
    if kept { 0x80 } else { 0 }
}

/// Appends as much of a name as `room` allows, and returns what room is left.
fn put_name(name: &str, room: usize, out: &mut BytesMut) -> usize {
    let mut end = name.len().min(room);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(u8::try_from(end).unwrap_or(0));
    out.put_slice(&name.as_bytes()[..end]);
    room - end
}
