//! Versions of the CNI specification.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::{CniError, code};

/// A released version of the specification. libcni compares these as strings, so every one is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0: GC, STATUS
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads a `cniVersion`. An absent or empty one means 0.1.0, as in libcni.
    ///
    /// # Errors
    /// Code 1 for a version that isn't in [`ALL`](Self::ALL).
    pub fn parse(text: Option<&str>) -> Result<Self, CniError> {
        let text = match text {
            None | Some("") => return Ok(Self::V0_1_0),
            Some(text) => text,
        };
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!("cniVersion {text:?} is not supported: set it to one of {all}"),
            )
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The answer to VERSION.
pub fn version_answer() -> String {
    serde_json::json!({ "cniVersion": Version::NEWEST, "supportedVersions": Version::ALL }).to_string()
}
