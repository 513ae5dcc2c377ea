//! Resource kinds of Margay: Calico's `projectcalico.org/v3` and the few Kubernetes kinds that policy and BGP need, as typed
//! structures with parsing, validation and defaults, and the selector language.
//!
//! No IO and no clock: text and values in, values and errors out.

pub mod convert;
pub mod effective;
#[cfg(test)]
mod effective_tests;
pub mod error;
mod json;
pub mod kinds;
mod meta;
mod path;
mod resource;
pub mod selector;
mod tree;
pub mod types;
mod validate;
pub mod yaml;
#[cfg(test)]
mod yaml_tests;

pub use error::ApiError;
pub use meta::{Metadata, NoStatus, Object, Spec};
pub use path::Problems;
pub use resource::*;
pub use selector::Selector;
