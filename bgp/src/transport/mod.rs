//! The tokio shell around the speaker: sockets, clock, channels. Holds no decisions.

mod auth;
mod bfd;
mod changes;
mod commands;
mod conn;
mod handle;
mod handover;
mod keys;
mod links;
mod outbox;
mod outputs;
mod pages;
mod protect;
mod service;
mod socket;
mod sockopt;
mod stations;
mod trace;

pub use crate::io::StopMode;
pub use bfd::BfdHandover;
pub use changes::Change;
pub use handle::{BgpHandle, ServiceStopped};
pub use handover::{Frozen, Sockets, TakeOverError};
pub use pages::RoutePages;
pub use service::{BgpService, ServiceConfig};
pub use stations::Monitoring;
