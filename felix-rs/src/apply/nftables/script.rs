//! What `nft -f` is given.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::listing::ListedChain;
use super::{ELEMENTS, WantedChain, is_right};
use crate::apply::Report;
use crate::render::nftables::{self as render, BaseChain};
use crate::rules::{Family, Member};

/// Input of `nft -f` for the table of one family.
pub(super) struct Script {
    table: &'static str,
    pub(super) text: String,
    /// Lines that change something.
    pub(super) work: usize,
}

impl Script {
    pub(super) fn new(family: Family) -> Self {
        Self { table: render::table(family), text: String::new(), work: 0 }
    }

    pub(super) fn line(&mut self, verb: &str, rest: &str) {
        let _infallible = writeln!(self.text, "{verb} {} {rest}", self.table);
        self.work += usize::from(verb != "add table");
    }

    pub(super) fn elements(&mut self, verb: &str, set: &str, members: &BTreeSet<Member>) {
        let members: Vec<_> = members.iter().map(render::element).collect();
        for some in members.chunks(ELEMENTS) {
            self.line(verb, &format!("{set} {{ {} }}", some.join(", ")));
        }
    }
}

/// The chains that differ from what is there, with their rules.
pub(super) fn rules(
    script: &mut Script,
    family: Family,
    chains: &BTreeMap<String, WantedChain>,
    there: &BTreeMap<String, ListedChain>,
    report: &mut Report,
) {
    let changed: Vec<_> = chains.iter().filter(|(name, chain)| !is_right(chain, there.get(*name))).collect();
    for (name, chain) in &changed {
        let definition = chain.base.as_ref().map(BaseChain::definition).unwrap_or_default();
        script.line("add chain", &format!("{name} {definition}"));
    }
    for (name, chain) in &changed {
        script.line("flush chain", name);
        for (_, rule) in render::chain(family, chain.table, name, &chain.rules) {
            script.line("add rule", &format!("{name} {rule}"));
        }
    }
    report.chains_written += changed.len();
}
