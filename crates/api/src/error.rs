//! What can be wrong with a resource, said so that a person can fix it.

use std::fmt;

/// A single value that doesn't parse; the place is added by whoever knows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

impl ValueError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    pub(crate) fn not_one_of(text: &str, allowed: &[&str]) -> Self {
        Self(format!("{text:?} is not one of {}", allowed.join(", ")))
    }
}

/// One broken rule: where (a field path such as `spec.ingress[0].action`) and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Field path from the object's root; empty for the object as a whole.
    pub path: String,
    /// What is wrong, with what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Everything wrong with one resource. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.0))]
pub struct Invalid(pub Vec<Problem>);

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why a document isn't a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// `apiVersion`/`kind` are missing or not known here.
    #[error("{0}")]
    Kind(Problem),
    /// A field is unknown, missing, or holds a wrong value.
    #[error("{0}")]
    Field(Problem),
}

impl ApiError {
    /// Where and what.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Kind(problem) | Self::Field(problem) => problem,
        }
    }
}
