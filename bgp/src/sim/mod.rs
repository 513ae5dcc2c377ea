//! Whole clusters of speakers in one process, on a virtual clock and a virtual network. Everything follows from the
//! seed: a run that fails is run again by its seed.

mod cluster;
mod net;
mod process;
mod record;
mod thin;

pub use cluster::{Cluster, SIM_AS, Shape};
pub use net::{NetConfig, NodeId, Sim};
pub use record::{Recorder, ReplayError, Replayed, replay};

#[cfg(test)]
mod tests;
