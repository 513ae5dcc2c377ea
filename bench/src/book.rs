//! Messages that were checked once: the same octets need not be decoded again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use anyhow::{Context, Result, bail};
use margay_bgp::wire::{Framer, Message, decode};

use crate::plan::{Plan, SESSION};

/// What a message says about one route; version 0 withdraws it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effect {
    pub(crate) route: u32,
    pub(crate) version: u8,
}

/// Multiplies and rotates, eight octets at a time. Whoever is measured does not attack the table.
#[derive(Default)]
struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        for byte in rest {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Book {
    known: HashMap<Box<[u8]>, (u32, u32), BuildHasherDefault<Fast>>,
    effects: Vec<Effect>,
}

impl Book {
    /// What an UPDATE says: where its effects are; none for End-of-RIB. `current` has the newest version of each route.
    ///
    /// # Errors
    /// It isn't what a reflector should have made of what the clients said.
    pub(crate) fn read(&mut self, message: &[u8], plan: &Plan, current: &[u8]) -> Result<Range<usize>> {
        let (start, end) = match self.known.get(message) {
            Some(place) => *place,
            None => {
                let start = self.effects.len();
                if let Err(error) = check(message, plan, current, &mut self.effects) {
                    self.effects.truncate(start);
                    return Err(error);
                }
                let place = (u32::try_from(start)?, u32::try_from(self.effects.len())?);
                self.known.insert(message.into(), place);
                place
            }
        };
        Ok(start as usize..end as usize)
    }

    pub(crate) fn effects(&self, range: Range<usize>) -> &[Effect] {
        self.effects.get(range).unwrap_or_default()
    }
}

fn check(mut octets: &[u8], plan: &Plan, current: &[u8], effects: &mut Vec<Effect>) -> Result<()> {
    let mut framer = Framer::new();
    let frame = framer.next_frame(&mut octets)?.context("an incomplete message")?;
    let decoded = decode(frame, &SESSION)?;
    if !decoded.faults.is_empty() {
        bail!("a malformed UPDATE: {}", decoded.faults.iter().map(ToString::to_string).collect::<String>());
    }
    let text = decoded.to_string();
    let Message::Update(update) = decoded.message else { bail!("not an UPDATE: {text}") };
    let route_of = |nlri: &margay_bgp::wire::Nlri| {
        plan.route(&nlri.prefix).with_context(|| format!("nobody announced {nlri}: {text}"))
    };
    for nlri in &update.withdrawn {
        effects.push(Effect { route: u32::try_from(route_of(nlri)?)?, version: 0 });
    }
    for (next_hop, nlri) in update.announced() {
        let route = route_of(nlri)?;
        let newest = current.get(route).copied().unwrap_or(0);
        let version = update.attributes.med.and_then(|med| u8::try_from(med).ok()).unwrap_or(0);
        if version == 0 || version > newest {
            bail!("nobody announced this version of {nlri}: {text}");
        }
        if next_hop.address() != Plan::address(plan.owner(route)) {
            bail!("another next hop than announced: {text}");
        }
        if update.attributes != plan.reflected(route, version) {
            bail!("other attributes than announced and RFC 4456 section 8 adds: {text}");
        }
        effects.push(Effect { route: u32::try_from(route)?, version });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use margay_bgp::wire::{NextHop, Nlri, PathAttributes, UpdateEncoder};

    const PLAN: Plan = Plan { clients: 4, prefixes: 2, per_set: 1 };

    fn read(attributes: &PathAttributes, route: usize, next_hop: usize) -> Result<Vec<(u32, u8)>> {
        let mut out = BytesMut::new();
        let next_hop = NextHop::V4(Plan::address(next_hop));
        let nlri = Nlri::new(PLAN.prefix(route).into());
        UpdateEncoder::new(SESSION).announce(attributes, &next_hop, [nlri], &mut out).unwrap();
        let mut book = Book::default();
        let range = book.read(&out, &PLAN, &[1, 1, 2, 1, 1, 1, 0, 1])?;
        assert_eq!(book.read(&out, &PLAN, &[]).unwrap(), range, "known by now");
        Ok(book.effects(range).iter().map(|effect| (effect.route, effect.version)).collect())
    }

    #[test]
    fn only_what_was_announced_is_right() {
        assert_eq!(read(&PLAN.reflected(2, 2), 2, 1).unwrap(), [(2, 2)]);
        assert_eq!(read(&PLAN.reflected(2, 1), 2, 1).unwrap(), [(2, 1)]);
        for (attributes, route, next_hop, wrong) in [
            (PLAN.reflected(2, 3), 2, 1, "version"),
            (PLAN.reflected(2, 2), 2, 0, "next hop"),
            (PLAN.attributes(2, 2), 2, 1, "attributes"),
            (PLAN.reflected(3, 1), 2, 1, "attributes"),
            (PLAN.reflected(2, 1), 8, 4, "nobody"),
            (PLAN.reflected(6, 1), 6, 3, "version"),
        ] {
            let error = read(&attributes, route, next_hop).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
