//! The tokio shell around the speaker: sockets, clock, channels. Holds no decisions.

mod conn;
mod handle;
mod keys;
mod links;
mod outbox;
mod protect;
mod service;
mod socket;

pub use crate::io::StopMode;
pub use handle::{BgpHandle, ServiceStopped};
pub use service::{BgpService, ServiceConfig};
