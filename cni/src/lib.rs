//! The CNI plugin: types of every version of the specification, the veth wiring, and the verbs.
//!
//! The shim `margay-cni` is this library and nothing else: blocking, without a runtime, executed once per pod and verb.
//! What takes decisions (addresses, names, policy) is the agent on the other side of a Unix socket; see
//! [`margay_control::cni`] for that conversation.

mod chained;
pub mod config;
pub mod delegate;
pub mod environment;
pub mod error;
pub mod install;
pub mod plugin;
pub mod result;
pub mod spool;
pub mod version;
pub mod wiring;

pub use error::CniError;
pub use plugin::{report, run};
pub use spool::Spool;

#[cfg(test)]
mod tests;
