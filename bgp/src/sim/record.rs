//! Recordings: what speakers were given and a fingerprint of what they said, one line of JSON for each input. A
//! recording replays without the simulation it comes from, and must give the same lines again.

use super::NodeId;
use crate::config::SpeakerConfig;
use crate::handover::{Handover, RestoreError};
use crate::io::{Input, Output};
use crate::monitor::MonitorConfig;
use crate::speaker::Speaker;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};

/// One line.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// A speaker starts.
    Start { node: usize, at: Time, config: Box<SpeakerConfig> },
    /// A speaker takes the place of the one before.
    TakeOver { node: usize, at: Time, config: Box<SpeakerConfig>, state: Box<Handover> },
    /// It is given something.
    Input { node: usize, at: Time, input: Box<Input> },
    /// It has said so many things since its last line; the FNV-1a hash of them as JSON.
    Output { node: usize, count: u64, hash: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Said {
    count: u64,
    hash: u64,
}

impl Said {
    const NOTHING: Self = Self { count: 0, hash: 0xcbf2_9ce4_8422_2325 };

    fn add(&mut self, output: &Output) -> serde_json::Result<()> {
        self.count += 1;
        for octet in serde_json::to_vec(output)? {
            self.hash = (self.hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

/// Writes a recording of some nodes, or of all.
pub struct Recorder {
    out: Box<dyn Write>,
    nodes: Option<BTreeSet<NodeId>>,
    said: BTreeMap<NodeId, Said>,
    /// The first failure; nothing is written after it.
    error: Option<io::Error>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("nodes", &self.nodes)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder of these nodes; `None` records all.
    #[must_use]
    pub fn new(out: Box<dyn Write>, nodes: Option<BTreeSet<NodeId>>) -> Self {
        Self { out, nodes, said: BTreeMap::new(), error: None }
    }

    fn wants(&self, node: NodeId) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(&node))
    }

    fn line(&mut self, line: &Line) {
        if self.error.is_none() {
            let written = serde_json::to_writer(&mut self.out, line).map_err(io::Error::from);
            self.error = written.and_then(|()| self.out.write_all(b"\n")).err();
        }
    }

    pub(super) fn start(&mut self, node: NodeId, at: Time, config: &SpeakerConfig) {
        if self.wants(node) {
            self.line(&Line::Start { node: node.0, at, config: Box::new(config.clone()) });
        }
    }

    pub(super) fn take_over(&mut self, node: NodeId, at: Time, config: &SpeakerConfig, state: &Handover) {
        if self.wants(node) {
            let (config, state) = (Box::new(config.clone()), Box::new(state.clone()));
            self.line(&Line::TakeOver { node: node.0, at, config, state });
        }
    }

    pub(super) fn input(&mut self, node: NodeId, at: Time, input: &Input) {
        if self.wants(node) {
            self.settled(node);
            self.line(&Line::Input { node: node.0, at, input: Box::new(input.clone()) });
        }
    }

    pub(super) fn output(&mut self, node: NodeId, output: &Output) {
        if self.wants(node)
            && let Err(error) = self.said.entry(node).or_insert(Said::NOTHING).add(output)
        {
            self.error.get_or_insert(error.into());
        }
    }

    pub(super) fn settled(&mut self, node: NodeId) {
        if let Some(Said { count, hash }) = self.said.remove(&node) {
            self.line(&Line::Output { node: node.0, count, hash });
        }
    }
}

/// Why a recording doesn't replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("line {0} of the recording: {1}")]
    Unreadable(usize, #[source] io::Error),
    /// A line speaks of a node that has not started.
    #[error("line {0} of the recording speaks of node {1}, which has not started")]
    NotStarted(usize, usize),
    /// A line hands over what no speaker can take.
    #[error("line {0} of the recording: {1}")]
    Refused(usize, #[source] RestoreError),
    /// The speaker said something else.
    #[error("line {line}: node {node} was recorded to say {recorded}, now it says {now}")]
    Diverged {
        /// Line number, from 1.
        line: usize,
        /// Node number.
        node: usize,
        /// What the line says.
        recorded: String,
        /// What it is now.
        now: String,
    },
}

/// What a recording holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Speakers started.
    pub starts: usize,
    /// Inputs given.
    pub inputs: usize,
    /// Outputs compared.
    pub outputs: u64,
}

/// Gives new speakers what a recording says and compares what they say. `see` is shown every output, with the number of
/// its node and the time.
///
/// # Errors
/// The first line that cannot be read or is different now.
pub fn replay(
    recording: impl BufRead,
    mut see: impl FnMut(usize, Time, &Output),
) -> Result<Replayed, ReplayError> {
    let mut replayed = Replayed::default();
    let mut speakers: BTreeMap<usize, (Speaker, Time)> = BTreeMap::new();
    let mut said: BTreeMap<usize, Said> = BTreeMap::new();
    for (index, text) in recording.lines().enumerate() {
        let number = index + 1;
        let text = text.map_err(|error| ReplayError::Unreadable(number, error))?;
        let line = serde_json::from_str(&text).map_err(|e| ReplayError::Unreadable(number, e.into()))?;
        let node = match line {
            Line::Start { node, at, config } => {
                speakers.insert(node, (Speaker::new(*config, at), at));
                said.remove(&node);
                replayed.starts += 1;
                continue;
            }
            Line::TakeOver { node, at, config, state } => {
                let speaker = Speaker::restore(*config, MonitorConfig::default(), *state);
                let speaker = speaker.map_err(|error| ReplayError::Refused(number, error))?;
                speakers.insert(node, (speaker, at));
                said.remove(&node);
                node
            }
            Line::Input { node, at, input } => {
                let (speaker, now) = speakers.get_mut(&node).ok_or(ReplayError::NotStarted(number, node))?;
                *now = at;
                speaker.handle(at, *input);
                replayed.inputs += 1;
                node
            }
            Line::Output { node, count, hash } => {
                let now = said.remove(&node).unwrap_or(Said::NOTHING);
                if (now.count, now.hash) != (count, hash) {
                    let shown = |count: u64, hash: u64| format!("{count} things with hash {hash:016x}");
                    return Err(ReplayError::Diverged {
                        line: number,
                        node,
                        recorded: shown(count, hash),
                        now: shown(now.count, now.hash),
                    });
                }
                replayed.outputs += count;
                continue;
            }
        };
        let Some((speaker, now)) = speakers.get_mut(&node) else { continue };
        let said = said.entry(node).or_insert(Said::NOTHING);
        while let Some(output) = speaker.poll_output() {
            see(node, *now, &output);
            said.add(&output).map_err(|error| ReplayError::Unreadable(number, error.into()))?;
        }
    }
    Ok(replayed)
}
