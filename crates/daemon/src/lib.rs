//! What `margay-agent` and `margay-route-reflector` share around their cores: configuration, logging,
//! the control socket, health, systemd, and the BGP topology that follows from the datastore.

pub mod bgp;
pub mod config;
pub mod health;
pub mod instance;
pub mod limits;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod monitor;
pub mod ports;
pub mod process;
pub mod register;
pub mod secrets;
pub mod server;
pub mod speaker;
pub mod store;
pub mod topology;
pub mod upgrade;
mod wanted;
