//! Collecting [`Problem`]s with field paths that cost nothing until something is wrong.

use std::fmt;

use crate::error::{Invalid, Problem};

/// A field path on the stack: `spec.ingress[0].action`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
    /// A map's key, which may hold dots.
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(crate) const fn root(name: &'a str) -> Self {
        Self { parent: None, segment: Segment::Field(name) }
    }
    pub(crate) const fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Field(name) }
    }
    pub(crate) const fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), segment: Segment::Index(index) }
    }
    pub(crate) const fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Segment::Field(name) => f.write_str(name),
            Segment::Key(key) if key.contains(['.', '[']) => write!(f, "[{key}]"),
            Segment::Key(key) => write!(f, ".{key}"),
            Segment::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// `spec`, where most paths begin.
pub(crate) const SPEC: Path<'static> = Path::root("spec");
/// `metadata`.
pub(crate) const METADATA: Path<'static> = Path::root("metadata");

/// The problems found so far.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub(crate) fn add(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.list.push(Problem { path: path.to_string(), message: message.into() });
    }

    /// Adds the problem unless `fine`.
    pub(crate) fn require(&mut self, fine: bool, path: &Path<'_>, message: impl Into<String>) {
        if !fine {
            self.add(path, message);
        }
    }

    pub(crate) fn into_result(self) -> Result<(), Invalid> {
        if self.list.is_empty() { Ok(()) } else { Err(Invalid(self.list)) }
    }
}
