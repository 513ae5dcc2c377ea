//! Who reaches whom: every pair of pods, by every protocol.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use margay_lab::probe::{Outcome, Protocol, Responder, reach};
use margay_netlink::Netns;

use crate::pods::{PORT, Pod};

/// The protocols probed, with the letter that stands for each in the table.
pub const PROTOCOLS: [(Protocol, char); 3] =
    [(Protocol::Tcp(PORT), 'T'), (Protocol::Udp(PORT), 'U'), (Protocol::Icmp, 'I')];

/// How long an answer may take; a dropped packet takes this long.
const TIMEOUT: Duration = Duration::from_millis(600);

/// A place probes are sent from.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its namespace.
    pub netns: &'a Netns,
}

/// A place probes are sent to.
#[derive(Debug, Clone, Copy)]
pub struct To<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its address.
    pub address: IpAddr,
    /// What answers there.
    pub responder: &'a Responder,
}

/// One probe and what became of it.
#[derive(Debug)]
pub struct Probe {
    /// Name of the source.
    pub from: String,
    /// Name of the destination.
    pub to: String,
    /// The protocol.
    pub protocol: Protocol,
    /// What became of it.
    pub outcome: Outcome,
}

/// Sends every probe at once, a thread per pair.
pub fn probe_all(pairs: &[(From<'_>, To<'_>)]) -> Result<Vec<Probe>> {
    let batches: Vec<Result<Vec<Probe>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .iter()
            .map(|(from, to)| {
                scope.spawn(move || {
                    PROTOCOLS
                        .iter()
                        .map(|(protocol, _)| {
                            let outcome =
                                reach(from.netns, to.address, *protocol, Some(to.responder), TIMEOUT)?;
                            let (from, to) = (from.name.to_owned(), to.name.to_owned());
                            Ok(Probe { from, to, protocol: *protocol, outcome })
                        })
                        .collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut probes = Vec::new();
    for batch in batches {
        probes.extend(batch?);
    }
    Ok(probes)
}

/// Which protocols get from each pod to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    names: Vec<String>,
    cells: BTreeMap<(String, String), String>,
}

impl Matrix {
    /// Measures it.
    pub fn measure(pods: &[Pod]) -> Result<Self> {
        let names: Vec<String> = pods.iter().map(Pod::full_name).collect();
        let mut pairs = Vec::new();
        for (from, from_name) in pods.iter().zip(&names) {
            for (to, to_name) in pods.iter().zip(&names) {
                if from_name != to_name {
                    pairs.push((
                        From { name: from_name, netns: &from.netns },
                        To { name: to_name, address: to.address, responder: &to.responder },
                    ));
                }
            }
        }
        let mut cells: BTreeMap<(String, String), String> = BTreeMap::new();
        for probe in probe_all(&pairs)? {
            let letter = letter(probe.protocol);
            let cell = cells.entry((probe.from, probe.to)).or_default();
            cell.push(if probe.outcome.is_reached() { letter } else { '·' });
        }
        Ok(Self { names, cells })
    }

    /// What it should be.
    pub fn expected(pods: &[Pod], allowed: impl Fn(&Pod, &Pod, Protocol) -> bool) -> Self {
        let mut cells = BTreeMap::new();
        for from in pods {
            for to in pods {
                if from.full_name() != to.full_name() {
                    let cell = PROTOCOLS
                        .iter()
                        .map(|(protocol, letter)| if allowed(from, to, *protocol) { *letter } else { '·' });
                    cells.insert((from.full_name(), to.full_name()), cell.collect());
                }
            }
        }
        Self { names: pods.iter().map(Pod::full_name).collect(), cells }
    }

    /// Pairs in which two matrices differ, in words.
    #[must_use]
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let pairs = expected.cells.iter().filter(|(pair, cell)| self.cells.get(*pair) != Some(*cell));
        pairs
            .map(|((from, to), cell)| {
                let seen = self.cells.get(&(from.clone(), to.clone())).map_or("nothing", String::as_str);
                format!("{from} -> {to}: {seen} instead of {cell}")
            })
            .collect()
    }

    /// Probes in all.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.cells.len() * PROTOCOLS.len()
    }

    /// Probes that were answered.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.cells.values().map(|cell| cell.chars().filter(|letter| *letter != '·').count()).sum()
    }

    /// As a table: rows are sources, columns destinations.
    #[must_use]
    pub fn table(&self, title: &str) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        let short = |name: &String| name.rsplit('/').next().unwrap_or(name).to_owned();
        table.set_header(std::iter::once(title.to_owned()).chain(self.names.iter().map(short)));
        for from in &self.names {
            let cells = self.names.iter().map(|to| {
                self.cells.get(&(from.clone(), to.clone())).cloned().unwrap_or_else(|| "-".to_owned())
            });
            table.add_row(std::iter::once(from.clone()).chain(cells));
        }
        format!("{table}\n T = TCP, U = UDP, I = ICMP, · = no answer")
    }
}

fn letter(protocol: Protocol) -> char {
    PROTOCOLS.iter().find(|(known, _)| *known == protocol).map_or('?', |(_, letter)| *letter)
}
