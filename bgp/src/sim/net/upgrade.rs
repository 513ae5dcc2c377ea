//! One process takes the place of another on a node: an upgrade in place.

use super::link::Item;
use super::{NodeId, Process, Sim};
use crate::config::SpeakerConfig;
use crate::handover::{Handover, RestoreError};
use crate::io::ConnId;
use crate::monitor::MonitorConfig;
use crate::speaker::Speaker;
use std::collections::{BTreeMap, BTreeSet};

impl Sim {
    /// A new speaker takes over a node's sessions. Connections that are none yet are lost.
    ///
    /// # Errors
    /// It is no successor of the one that runs.
    pub fn upgrade(&mut self, node: NodeId, config: SpeakerConfig) -> Result<(), RestoreError> {
        let unsent = self.take_unsent(node);
        let Some(place) = self.nodes.get_mut(node.0) else { return Ok(()) };
        let Some(before) = place.process.as_mut().and_then(Process::speaker_mut) else { return Ok(()) };
        let state = before.hand_over(unsent);
        let mut last_words = Vec::new();
        while let Some(output) = before.poll_output() {
            last_words.push(output);
        }
        let kept: BTreeSet<ConnId> = state.connections().collect();
        let lost: Vec<ConnId> = place.conns.keys().filter(|conn| !kept.contains(conn)).copied().collect();
        for output in last_words {
            self.output(node, output);
        }
        for conn in lost {
            self.close(node, conn);
        }
        let state = through_json(&state)?;
        let now = self.local_time(node);
        if let Some(recorder) = &mut self.recorder {
            recorder.take_over(node, now, &config, &state);
        }
        let speaker = Speaker::restore(config, MonitorConfig::default(), state)?;
        if let Some(place) = self.nodes.get_mut(node.0) {
            place.process = Some(Process::Full(Box::new(speaker)));
            place.wake = None;
        }
        self.settle(node);
        Ok(())
    }

    /// What the network has not taken of what a node's speaker wrote.
    fn take_unsent(&mut self, node: NodeId) -> BTreeMap<ConnId, Vec<u8>> {
        let mut unsent: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
        let Some(place) = self.nodes.get(node.0) else { return unsent };
        for (conn, (link, end)) in &place.conns {
            let Some(link) = self.links.get_mut(*link) else { continue };
            for item in link.pipes[*end].waiting.drain(..) {
                if let Item::Data(data) = item {
                    unsent.entry(*conn).or_default().extend_from_slice(&data);
                }
            }
        }
        unsent
    }
}

/// As it comes to another process.
fn through_json(state: &Handover) -> Result<Handover, RestoreError> {
    let text = serde_json::to_vec(state).map_err(|error| RestoreError::State(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| RestoreError::State(error.to_string()))
}
