//! What the kernel has of ours, as `nft` lists it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::listing::{self, ListedChain, Listing};
use crate::apply::sets::Found;
use crate::apply::{ApplyError, programs};
use crate::render::nftables as render;
use crate::rules::Family;

/// What the kernel has: chains of our table of each family that has one, and sets.
#[derive(Debug)]
pub(in crate::apply) struct Reading {
    pub(super) chains: BTreeMap<Family, BTreeMap<String, ListedChain>>,
    pub(super) sets: BTreeMap<String, Found>,
}

/// Whether there is a table of ours.
pub(super) fn has_table(nft: &Path, family: Family) -> Result<bool, ApplyError> {
    let text = programs::run(nft, &["list", "tables"], "")?;
    let wanted = format!("table {}", render::table(family));
    Ok(text.lines().any(|line| line.trim() == wanted))
}

pub(super) fn listing(nft: &Path, family: Family, elements: bool) -> Result<Option<Listing>, ApplyError> {
    if !has_table(nft, family)? {
        return Ok(None);
    }
    let terse = if elements { &[][..] } else { &["--terse"] };
    let (kind, name) = render::table(family).split_once(' ').unwrap_or_default();
    let arguments = [&["--json", "--numeric"], terse, &["list", "table", kind, name]].concat();
    let text = programs::run(nft, &arguments, "")?;
    let unreadable = |error| ApplyError::Unreadable { program: nft.to_owned(), reason: format!("{error}") };
    listing::parse(family, &text).map(Some).map_err(unreadable)
}

pub(super) fn read(nft: &Path) -> Result<Reading, ApplyError> {
    let mut reading = Reading { chains: BTreeMap::new(), sets: BTreeMap::new() };
    for family in Family::ALL {
        let Some(listing) = listing(nft, family, true)? else { continue };
        reading.chains.insert(family, listing.chains);
        for (name, set) in listing.sets {
            let (kind, members) = match set.members {
                Some(members) => (set.kind, members),
                None => (None, BTreeSet::new()),
            };
            reading.sets.insert(name, Found { kind, members, max: u32::MAX });
        }
    }
    Ok(reading)
}
