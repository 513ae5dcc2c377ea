//! What `nft -f` is given.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{ELEMENTS, WantedChain};
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

/// Writes chains as they are wanted.
pub(super) fn rules<'a>(
    script: &mut Script,
    family: Family,
    chains: impl Iterator<Item = (&'a String, &'a WantedChain)>,
    report: &mut Report,
) {
    let chains: Vec<_> = chains.collect();
    for (name, chain) in &chains {
        let definition = chain.base.as_ref().map(BaseChain::definition).unwrap_or_default();
        script.line("add chain", &format!("{name} {definition}"));
    }
    for (name, chain) in &chains {
        script.line("flush chain", name);
        for (_, rule) in render::chain(family, chain.table, name, &chain.rules) {
            script.line("add rule", &format!("{name} {rule}"));
        }
    }
    report.chains_written += chains.len();
}
