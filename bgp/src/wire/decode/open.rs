//! OPEN, its optional parameters (RFC 4271 section 4.2, RFC 9072) and capabilities (RFC 5492).

use std::net::Ipv4Addr;

use bytes::Bytes;
use nom::{
    Parser,
    bytes::complete::take,
    multi::length_data,
    number::complete::{be_u8, be_u16, be_u24, be_u32},
    sequence::preceded,
};

use super::{Parsed, length_prefixed};
use crate::wire::{
    AddPathFamily, AddPathMode, AfiSafi, Capability, GracefulRestart, GracefulRestartFamily, HEADER_LEN,
    LongLivedFamily, Notification, NotificationCode, Open, OpenSubcode, ResetReason, SessionReset,
};

/// The only version there is.
const VERSION: u8 = 4;
/// Type of the optional parameter that holds capabilities.
const PARAMETER_CAPABILITIES: u8 = 2;
/// Type (and length) that announces extended optional parameters (RFC 9072).
const PARAMETER_EXTENDED: u8 = 255;

/// The checks follow the order of RFC 4271 section 6.2.
pub(super) fn decode(body: &[u8]) -> Result<Open, SessionReset> {
    let (parameters, fixed) =
        fixed_part(body).map_err(|_short| malformed(ResetReason::Truncated, body.len()))?;
    if fixed.version != VERSION {
        let data = u16::from(VERSION).to_be_bytes().to_vec();
        return Err(SessionReset {
            notification: Notification::with_data(
                NotificationCode::Open(OpenSubcode::UnsupportedVersion),
                data,
            ),
            reason: ResetReason::Version(fixed.version),
            position: HEADER_LEN,
        });
    }
    if fixed.bgp_id.is_unspecified() {
        return Err(reset(OpenSubcode::BadBgpIdentifier, ResetReason::BgpIdentifier, 5));
    }
    if matches!(fixed.hold_time, 1 | 2) {
        return Err(reset(OpenSubcode::UnacceptableHoldTime, ResetReason::HoldTime(fixed.hold_time), 3));
    }
    let capabilities = optional_parameters(parameters, body.len())?;
    let open = Open { capabilities, ..fixed };
    if open.my_as == 0 || open.asn() == 0 {
        return Err(reset(OpenSubcode::BadPeerAs, ResetReason::As, 1));
    }
    Ok(open)
}

fn fixed_part(body: &[u8]) -> Parsed<'_, Open> {
    let (rest, (version, my_as, hold_time, bgp_id)) = (be_u8, be_u16, be_u16, be_u32).parse(body)?;
    let bgp_id = Ipv4Addr::from_bits(bgp_id);
    Ok((rest, Open { version, my_as, hold_time, bgp_id, capabilities: Vec::new() }))
}

fn optional_parameters(input: &[u8], body_len: usize) -> Result<Vec<Capability>, SessionReset> {
    let at = |rest: &[u8]| body_len - rest.len();
    let truncated = |rest: &[u8]| malformed(ResetReason::Truncated, at(rest));
    // RFC 9072 section 2: a first parameter of type 255 announces the longer form whatever the first length says.
    let extended = matches!(input, [len, PARAMETER_EXTENDED, ..] if *len != 0);
    let field = if extended {
        preceded(take::<_, _, ()>(2_usize), length_data(be_u16)).parse(input)
    } else {
        length_prefixed(input)
    };
    let (rest, mut parameters) = field.map_err(|_short| truncated(input))?;
    if !rest.is_empty() {
        return Err(truncated(rest));
    }
    let mut capabilities = Vec::new();
    while !parameters.is_empty() {
        let position = at(parameters);
        let parameter = if extended {
            (be_u8::<_, ()>, length_data(be_u16)).parse(parameters)
        } else {
            (be_u8, length_prefixed).parse(parameters)
        };
        let (rest, (kind, value)) =
            parameter.map_err(|_short| malformed(ResetReason::Truncated, position))?;
        if kind != PARAMETER_CAPABILITIES {
            let reason = ResetReason::OptionalParameter(kind);
            return Err(reset(OpenSubcode::UnsupportedOptionalParameter, reason, position));
        }
        parse_capabilities(value, position, &mut capabilities)?;
        parameters = rest;
    }
    Ok(capabilities)
}

fn parse_capabilities(
    mut input: &[u8],
    position: usize,
    out: &mut Vec<Capability>,
) -> Result<(), SessionReset> {
    while !input.is_empty() {
        let (rest, (code, value)) = (be_u8, length_prefixed)
            .parse(input)
            .map_err(|_short: nom::Err<()>| malformed(ResetReason::Truncated, position))?;
        match capability(code, value) {
            Ok(([], capability)) => {
                // RFC 5492 section 4: an instance that says the same again adds nothing.
                if !out.contains(&capability) {
                    out.push(capability);
                }
            }
            // Who misspells an optional capability does without it; who misspells these two cannot be understood.
            _ if !matches!(code, 1 | 65) => {
                out.push(Capability::Unknown { code, value: Bytes::copy_from_slice(value) });
            }
            _ => return Err(malformed(ResetReason::Capability(code), position)),
        }
        input = rest;
    }
    Ok(())
}

fn capability(code: u8, value: &[u8]) -> Parsed<'_, Capability> {
    match code {
        1 => {
            let (rest, (afi, _reserved, safi)) = (be_u16, be_u8, be_u8).parse(value)?;
            Ok((rest, Capability::MultiProtocol(AfiSafi::new(afi, safi))))
        }
        2 => Ok((value, Capability::RouteRefresh)),
        5 => list(value, |input| {
            let (rest, (afi, safi, next_hop_afi)) = (be_u16, be_u16, be_u16).parse(input)?;
            // Two octets for the SAFI, whose values have one.
            let family = u8::try_from(safi).ok().map(|safi| (AfiSafi::new(afi, safi), next_hop_afi));
            Ok((rest, family))
        })
        .map(|(rest, entries)| (rest, Capability::ExtendedNextHop(entries))),
        6 => Ok((value, Capability::ExtendedMessage)),
        64 => graceful_restart(value),
        65 => be_u32(value).map(|(rest, asn)| (rest, Capability::FourOctetAs(asn))),
        69 => list(value, |input| {
            let (rest, (family, mode)) = (family, be_u8).parse(input)?;
            // RFC 7911 section 4: an entry with another value is ignored.
            let mode = match mode {
                1 => AddPathMode::Receive,
                2 => AddPathMode::Send,
                3 => AddPathMode::Both,
                _ => return Ok((rest, None)),
            };
            Ok((rest, Some(AddPathFamily { family, mode })))
        })
        .map(|(rest, entries)| (rest, Capability::AddPath(entries))),
        70 => Ok((value, Capability::EnhancedRouteRefresh)),
        71 => list(value, |input| {
            let (rest, (family, flags, stale_time)) = (family, be_u8, be_u24).parse(input)?;
            Ok((rest, Some(LongLivedFamily { family, forwarding: flags & 0x80 != 0, stale_time })))
        })
        .map(|(rest, entries)| (rest, Capability::LongLivedGracefulRestart(entries))),
        73 => {
            let (rest, host) = length_prefixed(value)?;
            // Some senders leave the domain out altogether.
            let (rest, domain) = if rest.is_empty() { (rest, &rest[..0]) } else { length_prefixed(rest)? };
            Ok((rest, Capability::Fqdn { host: name(host), domain: name(domain) }))
        }
        _ => Ok((&[], Capability::Unknown { code, value: Bytes::copy_from_slice(value) })),
    }
}

fn graceful_restart(value: &[u8]) -> Parsed<'_, Capability> {
    let (rest, head) = be_u16(value)?;
    let (rest, families) = list(rest, |input| {
        let (rest, (family, flags)) = (family, be_u8).parse(input)?;
        Ok((rest, Some(GracefulRestartFamily { family, forwarding: flags & 0x80 != 0 })))
    })?;
    let restart = GracefulRestart {
        restarted: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        time: head & 0x0fff,
        families,
    };
    Ok((rest, Capability::GracefulRestart(restart)))
}

fn family(input: &[u8]) -> Parsed<'_, AfiSafi> {
    (be_u16, be_u8).map(|(afi, safi)| AfiSafi::new(afi, safi)).parse(input)
}

/// Entries that fill `input`; those for which `entry` gives none are left out.
fn list<'a, T>(mut input: &'a [u8], entry: impl Fn(&'a [u8]) -> Parsed<'a, Option<T>>) -> Parsed<'a, Vec<T>> {
    let mut entries = Vec::new();
    while !input.is_empty() {
        let (rest, one) = entry(input)?;
        entries.extend(one);
        input = rest;
    }
    Ok((input, entries))
}

/// For people only: what is not UTF-8 and control characters are replaced.
fn name(bytes: &[u8]) -> String {
    let replace = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(bytes).chars().map(replace).collect()
}

fn malformed(reason: ResetReason, offset: usize) -> SessionReset {
    reset(OpenSubcode::Unspecific, reason, offset)
}

fn reset(subcode: OpenSubcode, reason: ResetReason, offset: usize) -> SessionReset {
    SessionReset {
        notification: Notification::new(NotificationCode::Open(subcode)),
        reason,
        position: HEADER_LEN + offset,
    }
}
