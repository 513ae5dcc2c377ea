//! What runs on a node.

use super::thin::{Pieces, Thin};
use crate::io::{Input, Output};
use crate::speaker::Speaker;
use crate::time::Time;

#[derive(Debug)]
pub(super) enum Process {
    Full(Box<Speaker>),
    Thin(Box<Thin>),
}

impl Process {
    pub(super) fn handle(&mut self, now: Time, input: Input, pieces: &mut Pieces) {
        match self {
            Self::Full(speaker) => speaker.handle(now, input),
            Self::Thin(thin) => thin.handle(now, input, pieces),
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Full(speaker) => speaker.poll_output(),
            Self::Thin(thin) => thin.poll_output(),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        match self {
            Self::Full(speaker) => speaker.next_deadline(),
            Self::Thin(thin) => thin.next_deadline(),
        }
    }

    pub(super) fn speaker(&self) -> Option<&Speaker> {
        match self {
            Self::Full(speaker) => Some(speaker),
            Self::Thin(_) => None,
        }
    }

    pub(super) fn speaker_mut(&mut self) -> Option<&mut Speaker> {
        match self {
            Self::Full(speaker) => Some(speaker),
            Self::Thin(_) => None,
        }
    }

    pub(super) fn thin(&self) -> Option<&Thin> {
        match self {
            Self::Full(_) => None,
            Self::Thin(thin) => Some(thin),
        }
    }
}
