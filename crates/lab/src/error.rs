//! What can go wrong in a lab.

use std::path::PathBuf;

/// Result of a lab operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The topology file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The topology is no YAML.
    #[error("{file}: {reason}")]
    Yaml {
        /// The file.
        file: String,
        /// Where and why.
        reason: String,
    },
    /// A value of the topology is wrong, or asks for something namespaces can't be.
    #[error("{file}: {place}: {reason}")]
    Topology {
        /// The file.
        file: String,
        /// Path of the value: `topology.nodes.r1.image`.
        place: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// The kernel refused a step.
    #[error("{place}: {source}")]
    Kernel {
        /// The node or link.
        place: String,
        /// The refusal.
        source: margay_netlink::Error,
    },
    /// A command of `exec` could not be run or failed.
    #[error("node {node}: `{command}`: {reason}")]
    Exec {
        /// The node.
        node: String,
        /// The command as written.
        command: String,
        /// Exit status and what it printed.
        reason: String,
    },
    /// There is no such node.
    #[error("the lab has no node {0:?}")]
    NoNode(String),
    /// A supervised process could not be started, signalled or awaited.
    #[error("{what}: {source}")]
    Process {
        /// Process and operation.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A probe's socket failed for a reason other than the network it probes.
    #[error("{what}: {source}")]
    Probe {
        /// Socket and operation.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
}
