//! Taking a node over from Calico's Felix: what it left in the kernel is recognised by its names and removed once
//! our rules enforce.
//!
//! Felix's own marks (`felix/rules/rule_defs.go`, `felix/ipsets/ipset_defs.go`, `felix/nftables/table.go`): chains
//! `cali-…` in every table of both variants of iptables, rules with a comment `cali:…` elsewhere, ip sets `cali4…` and
//! `cali6…`, and nftables tables called `calico`. Pods, routes and addresses are not touched.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use margay_netlink::ipset::Ipset;

use super::iptables::programs::{Programs, Variant};
use super::{ApplyError, Report, programs};
use crate::rules::Family;

/// Felix's chains.
const CHAIN: &str = "cali-";
/// The comment on its rules in chains of others.
const COMMENT: &str = "cali:";
/// Its ip sets, those it swaps in (`t`) included.
const SETS: [&str; 4] = ["cali40", "cali60", "cali4t", "cali6t"];
/// Its nftables tables, in whatever family.
const TABLE: &str = "calico";

/// What Felix left on this node, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    /// Its rules are gone, or there were none.
    rules_gone: bool,
    /// Its sets that rules still refer to.
    busy: Option<BTreeSet<String>>,
}

impl Takeover {
    /// Removes what is left; to be called when our rules are in the kernel. Once everything is gone this does nothing.
    /// The tables of the variant that is `clean` need not be read: with thousands of rules that takes long.
    pub(super) fn finish(
        &mut self,
        folders: &[PathBuf],
        clean: Option<Variant>,
        report: &mut Report,
    ) -> Result<(), ApplyError> {
        let before = (report.chains_deleted, report.sets_destroyed);
        if !self.rules_gone {
            for variant in [Variant::Nft, Variant::Legacy].into_iter().filter(|v| Some(*v) != clean) {
                if let Ok(programs) = Programs::find(folders, Some(variant)) {
                    remove_chains(&programs, report)?;
                }
            }
            if let Ok(nft) = programs::find(folders, "nft", "nftables") {
                remove_tables(&nft, report)?;
            }
            self.rules_gone = true;
        }
        if self.busy.as_ref().is_none_or(|busy| !busy.is_empty()) {
            self.destroy_sets(report)?;
        }
        let chains = report.chains_deleted - before.0;
        let sets = report.sets_destroyed - before.1;
        if chains + sets > 0 {
            tracing::info!(
                chains,
                sets,
                "took this node over from Calico's Felix: its rules are removed, ours enforce"
            );
        }
        Ok(())
    }

    /// Whether nothing of Felix's is left.
    pub(super) fn is_over(&self) -> bool {
        self.rules_gone && matches!(&self.busy, Some(busy) if busy.is_empty())
    }

    /// A set that rules still refer to (the kernel lets go of a deleted rule's sets a moment later) is tried again
    /// with the next write.
    fn destroy_sets(&mut self, report: &mut Report) -> Result<(), ApplyError> {
        let mut connection = Ipset::open()?;
        let names = match self.busy.take() {
            Some(busy) => busy,
            None => {
                connection.headers()?.into_iter().map(|set| set.name).filter(|name| is_set(name)).collect()
            }
        };
        let mut busy = BTreeSet::new();
        for name in names {
            match connection.destroy(&name) {
                Ok(()) => report.sets_destroyed += 1,
                Err(error) if error.is_busy() => {
                    busy.insert(name);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.busy = Some(busy);
        Ok(())
    }
}

fn is_set(name: &str) -> bool {
    SETS.iter().any(|prefix| name.starts_with(prefix))
}

fn remove_chains(programs: &Programs, report: &mut Report) -> Result<(), ApplyError> {
    for family in Family::ALL {
        let text = match programs.save(family) {
            Ok(text) => text,
            // A family or variant the kernel has not holds no rules of Felix's either.
            Err(error) => {
                tracing::debug!(%error, "not looked for rules of Felix");
                continue;
            }
        };
        let removal = removal(&text);
        // Two transactions: iptables-nft can't delete a chain in the one that removes the last jump to it.
        for input in [removal.unhook, removal.delete].iter().filter(|input| !input.is_empty()) {
            programs.restore(family, input)?;
            report.restores += 1;
        }
        report.chains_deleted += removal.chains;
    }
    Ok(())
}

/// Whether tables that `iptables-save` describes may hold something of Felix's.
pub(super) fn may_hold(saved: &str) -> bool {
    saved.contains(CHAIN) || saved.contains(COMMENT)
}

/// See [`super::read_saved`].
pub(super) fn read_saved(text: &str) {
    drop(removal(text));
}

/// Input of `iptables-restore --noflush`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Removal {
    /// Takes Felix's rules out of chains of others, and empties its own.
    unhook: String,
    /// Deletes its chains.
    delete: String,
    chains: usize,
}

/// What has to be done to a table that `iptables-save -c` describes.
fn removal(saved: &str) -> Removal {
    let mut removal = Removal::default();
    let (mut flush, mut unhook, mut delete) = (String::new(), String::new(), String::new());
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':').and_then(|line| line.split(' ').next()) {
            if chain.starts_with(CHAIN) {
                let _infallible = writeln!(flush, ":{chain} - [0:0]");
                let _infallible = writeln!(delete, "-X {chain}");
                removal.chains += 1;
            }
        } else if line == "COMMIT" {
            for (input, lines) in [(&mut removal.unhook, flush + &unhook), (&mut removal.delete, delete)] {
                if !lines.is_empty() {
                    let _infallible = write!(input, "*{table}\n{lines}COMMIT\n");
                }
            }
            (flush, unhook, delete) = (String::new(), String::new(), String::new());
        } else if let Some(rule) = foreign_rule(line) {
            let _infallible = writeln!(unhook, "-D {rule}");
        }
    }
    removal
}

/// A rule of Felix's in a chain that is not: chain and rule, as `-D` takes it.
fn foreign_rule(line: &str) -> Option<&str> {
    let line = if line.starts_with('[') { line.split_once("] ")?.1 } else { line };
    let rule = line.strip_prefix("-A ")?;
    let mut words = rule.split(' ');
    if words.next()?.starts_with(CHAIN) {
        return None;
    }
    let mut before = "";
    words
        .any(|word| {
            let felix = match before {
                "--comment" => word.trim_start_matches('"').starts_with(COMMENT),
                "-j" | "-g" => word.starts_with(CHAIN),
                _ => false,
            };
            before = word;
            felix
        })
        .then_some(rule)
}

fn remove_tables(nft: &std::path::Path, report: &mut Report) -> Result<(), ApplyError> {
    let listed = match programs::run(nft, &["list", "tables"], "") {
        Ok(listed) => listed,
        // A kernel without nf_tables has no tables of Felix's either.
        Err(error) => {
            tracing::debug!(%error, "not looked for tables of Felix");
            return Ok(());
        }
    };
    let mut script = String::new();
    for line in listed.lines() {
        if let ["table", family, TABLE] = line.split_whitespace().collect::<Vec<_>>()[..] {
            let _infallible = writeln!(script, "delete table {family} {TABLE}");
            report.chains_deleted += 1;
        }
    }
    if !script.is_empty() {
        programs::run(nft, &["-f", "/dev/stdin"], &script)?;
        report.restores += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_emptied_and_unhooked_then_deleted() {
        let saved = "# Generated\n*filter\n:FORWARD ACCEPT [0:0]\n:cali-FORWARD - [0:0]\n:DOCKER - [0:0]\n\
            [1:2] -A FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD\n\
            [0:0] -A FORWARD -m comment --comment \"cali:S93hcgKJrXEqnTfs\" -m comment --comment \"Policy explicitly accepted packet.\" -j ACCEPT\n\
            [0:0] -A FORWARD -j DOCKER\n\
            [0:0] -A DOCKER -m comment --comment \"not cali: at all\" -j ACCEPT\n\
            [0:0] -A cali-FORWARD -j DROP\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
        let removal = removal(saved);
        assert_eq!(removal.chains, 1);
        assert_eq!(removal.delete, "*filter\n-X cali-FORWARD\nCOMMIT\n");
        assert_eq!(
            removal.unhook,
            "*filter\n:cali-FORWARD - [0:0]\n\
             -D FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD\n\
             -D FORWARD -m comment --comment \"cali:S93hcgKJrXEqnTfs\" -m comment --comment \"Policy explicitly accepted packet.\" -j ACCEPT\n\
             COMMIT\n"
        );
    }

    #[test]
    fn names_that_only_begin_alike_are_not_felixs() {
        assert!(is_set("cali40s:abc") && is_set("cali6t3"));
        assert!(!is_set("california") && !is_set("mgy40s-x"));
        assert_eq!(foreign_rule("-A FORWARD -j calico"), None);
        assert_eq!(foreign_rule("-A cali-INPUT -j cali-wl-to-host"), None);
        assert_eq!(foreign_rule("-A INPUT -g cali-INPUT"), Some("INPUT -g cali-INPUT"));
        assert_eq!(foreign_rule(":INPUT ACCEPT [0:0]"), None);
    }
}
