//! The tokio shell around the speaker: sockets, clock, channels. Holds no decisions.

mod handle;
mod service;

pub use handle::{BgpHandle, ServiceStopped, StopMode};
pub use service::{BgpService, ServiceConfig};
