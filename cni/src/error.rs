//! Errors as the CNI specification wants them.

use serde::Serialize;

use crate::version::Version;

/// Error codes: 1 to 99 are the specification's (SPEC.md "Error", `pkg/types/types.go`), from 100 on ours.
pub mod code {
    /// The configuration's `cniVersion` is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration has a value that isn't supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or doesn't exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The configuration is no JSON.
    pub const DECODE: u32 = 6;
    /// The configuration is JSON but wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// `CNI_NETNS` is no network namespace.
    pub const INVALID_NETNS: u32 = 8;
    /// A passing condition: the runtime should try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would not work.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The interface `CNI_IFNAME` exists in the namespace already.
    pub const INTERFACE_EXISTS: u32 = 100;
    /// The kernel refused a step of the wiring.
    pub const KERNEL: u32 = 101;
    /// CHECK: something is not as it should be.
    pub const CHECK_FAILED: u32 = 102;
    /// The interface that another plugin made is of a kind whose packets pass no rule.
    pub const NOT_POLICED: u32 = 105;
}

/// What went wrong, for the runtime (`code`), for a person (`message`: what to do) and for the log (`details`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// See [`code`].
    pub code: u32,
    /// One sentence that says what to do.
    pub message: String,
    /// Where and why exactly; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// Adds details.
    #[must_use]
    pub fn with_details(mut self, details: impl ToString) -> Self {
        self.details = details.to_string();
        self
    }

    /// The error object for standard output.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Object<'a> {
            cni_version: Version,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let object =
            Object { cni_version: version, code: self.code, msg: &self.message, details: &self.details };
        serde_json::to_string(&object).unwrap_or_default()
    }
}
