//! From the rules a chain of ours has to those it has to have.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::render::hash::RuleHash;
use crate::render::iptables;
use crate::rules::{ChainName, Family, Rule};

/// A rule that is put in or taken out alone costs the program as much as this many of a chain that is written anew: it reads
/// the chain first.
const EDIT: usize = 3;

/// What a chain has to hold.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) rules: Arc<Vec<Rule>>,
    pub(super) hashes: Vec<RuleHash>,
    /// Marks that its rules return with.
    pub(super) marks: BTreeSet<u32>,
}

/// How a chain becomes what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is.
    Right,
    /// Behind `kept` rules some go and some come.
    Edit { kept: usize, gone: usize, come: usize },
    /// All rules are written.
    Anew,
}

impl Chain {
    pub(super) fn new(family: Family, name: &ChainName, rules: &Arc<Vec<Rule>>) -> Self {
        let hashes = iptables::hashes(family, &name.0, rules);
        Self { rules: Arc::clone(rules), hashes, marks: iptables::marks(rules) }
    }

    /// From what the kernel's chain holds, if it is there.
    pub(super) fn way(&self, there: Option<&Vec<Option<RuleHash>>>) -> Way {
        let Some(there) = there else { return Way::Anew };
        let same = |(there, own): &(&Option<RuleHash>, &RuleHash)| **there == Some(**own);
        let kept = there.iter().zip(&self.hashes).take_while(same).count();
        let (rest, own) = (there.iter().skip(kept), self.hashes.iter().skip(kept));
        let behind = rest.len().min(own.len());
        let behind = rest.clone().rev().zip(own.clone().rev()).take(behind).take_while(same).count();
        let (gone, come) = (rest.len() - behind, own.len() - behind);
        match gone + come {
            0 => Way::Right,
            edits if edits * EDIT <= self.hashes.len() => Way::Edit { kept, gone, come },
            _ => Way::Anew,
        }
    }

    /// Adds restore lines; the chain is there, and empty if it is written anew.
    pub(super) fn write(&self, lines: &mut String, family: Family, name: &ChainName, way: Way) {
        let rules = self.rules.iter().zip(&self.hashes);
        let text = |(rule, hash): (&Rule, &RuleHash)| iptables::rule(family, &name.0, rule, *hash);
        match way {
            Way::Right => {}
            Way::Edit { kept, gone, come } => {
                for _ in 0..gone {
                    let _infallible = writeln!(lines, "-D {name} {}", kept + 1);
                }
                for (number, rule) in (kept + 1..).zip(rules.skip(kept).take(come)) {
                    let _infallible = writeln!(lines, "-I {name} {number} {}", text(rule));
                }
            }
            Way::Anew => {
                for rule in rules {
                    let _infallible = writeln!(lines, "-A {name} {}", text(rule));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{Action, names};

    /// Rules that jump to chains of these numbers.
    fn rules(targets: &[u8]) -> Arc<Vec<Rule>> {
        let jump = |target: &u8| Rule::new([], Action::Jump(names::fixed(&target.to_string())));
        Arc::new(targets.iter().map(jump).collect())
    }

    /// A chain as `iptables` edits it.
    fn edited(mut chain: Vec<String>, lines: &str) -> Vec<String> {
        for line in lines.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["-D", _, number] => {
                    chain.remove(number.parse::<usize>().unwrap() - 1);
                }
                ["-I", _, number, rule] => {
                    chain.insert(number.parse::<usize>().unwrap() - 1, (*rule).to_owned());
                }
                ["-A", _, first, rest] => chain.push(format!("{first} {rest}")),
                _ => panic!("{line}"),
            }
        }
        chain
    }

    #[test]
    fn a_rule_that_comes_or_goes_is_all_that_is_written() {
        let name = names::fixed("chain");
        let wanted = |targets: &[u8]| Chain::new(Family::V4, &name, &rules(targets));
        let holds = |targets: &[u8]| wanted(targets).hashes.iter().copied().map(Some).collect::<Vec<_>>();
        let few = holds(&[1, 2, 3, 4]);
        assert_eq!(wanted(&[1, 2, 3, 4]).way(Some(&few)), Way::Right);
        assert_eq!(wanted(&[9, 1, 2, 3, 4]).way(Some(&few)), Way::Edit { kept: 0, gone: 0, come: 1 });
        assert_eq!(wanted(&[1, 2, 3, 4, 9]).way(Some(&few)), Way::Edit { kept: 4, gone: 0, come: 1 });
        assert_eq!(wanted(&[1, 2, 4]).way(Some(&few)), Way::Edit { kept: 2, gone: 1, come: 0 });
        assert_eq!(wanted(&[9, 8, 7, 4]).way(Some(&few)), Way::Anew);
        assert_eq!(wanted(&[1, 2, 3, 4]).way(None), Way::Anew);
    }

    proptest! {
        #[test]
        fn every_way_leads_to_what_is_wanted(
            before in proptest::collection::vec(0..4_u8, 0..12),
            after in proptest::collection::vec(0..4_u8, 0..12),
        ) {
            let name = names::fixed("chain");
            let (old, new) = (rules(&before), Chain::new(Family::V4, &name, &rules(&after)));
            let texts = |rules: &[Rule]| -> Vec<String> {
                iptables::chain(Family::V4, &name.0, rules).into_iter().map(|(_, text)| text).collect()
            };
            let there = Chain::new(Family::V4, &name, &old).hashes.into_iter().map(Some).collect();
            let way = new.way(Some(&there));
            let mut lines = String::new();
            new.write(&mut lines, Family::V4, &name, way);
            let start = if way == Way::Anew { Vec::new() } else { texts(&old) };
            prop_assert_eq!(edited(start, &lines), texts(&new.rules));
        }
    }
}
