//! A lab: a containerlab topology built from network namespaces, processes in it, and probes through it.
//!
//! Nothing has a name outside this process: namespaces are held by descriptors, processes by their supervisor. Dropping
//! the [`Lab`] is the whole cleanup, also on a panic.

mod build;
pub mod error;
pub mod probe;
pub mod process;
pub mod topology;

#[cfg(test)]
mod kernel_tests;

pub use build::{Lab, LabNode};
pub use error::{Error, Result};
pub use process::Process;
pub use topology::Topology;
