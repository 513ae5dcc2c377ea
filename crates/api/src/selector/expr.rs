use std::{collections::BTreeSet, fmt};

use super::Labels;

/// A selector's expression. `And` and `Or` hold at least two operands, `Not` never holds a `Not`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expr {
    /// `all()`
    All,
    /// `global()`
    Global,
    /// `has(label)`
    Has(String),
    /// `label == "value"`
    Eq(String, String),
    /// `label != "value"`; true when the label is absent.
    Ne(String, String),
    /// `label contains "text"`
    Contains(String, String),
    /// `label starts with "text"`
    StartsWith(String, String),
    /// `label ends with "text"`
    EndsWith(String, String),
    /// `label in {"a", "b"}`
    In(String, BTreeSet<String>),
    /// `label not in {"a", "b"}`; true when the label is absent.
    NotIn(String, BTreeSet<String>),
    /// `!operand`
    Not(Box<Self>),
    /// Every operand.
    And(Vec<Self>),
    /// Any operand.
    Or(Vec<Self>),
}

impl Expr {
    /// Evaluates against labels; `global()` is true here, its meaning is the caller's.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.get(label).is_some(),
            Self::Eq(label, value) => labels.get(label) == Some(value),
            Self::Ne(label, value) => labels.get(label) != Some(value),
            Self::Contains(label, text) => labels.get(label).is_some_and(|v| v.contains(text.as_str())),
            Self::StartsWith(label, text) => labels.get(label).is_some_and(|v| v.starts_with(text.as_str())),
            Self::EndsWith(label, text) => labels.get(label).is_some_and(|v| v.ends_with(text.as_str())),
            Self::In(label, values) => labels.get(label).is_some_and(|v| values.contains(v)),
            Self::NotIn(label, values) => labels.get(label).is_none_or(|v| !values.contains(v)),
            Self::Not(operand) => !operand.matches(labels),
            Self::And(operands) => operands.iter().all(|o| o.matches(labels)),
            Self::Or(operands) => operands.iter().any(|o| o.matches(labels)),
        }
    }

    pub(super) fn negated(self) -> Self {
        match self {
            Self::Not(operand) => *operand,
            other => Self::Not(Box::new(other)),
        }
    }

    pub(super) fn mentions_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(operand) => operand.mentions_global(),
            Self::And(operands) | Self::Or(operands) => operands.iter().any(Self::mentions_global),
            _ => false,
        }
    }

    /// Restores the invariants of hand-built expressions: an empty `And` is `all()`, an empty `Or` matches nothing.
    pub(super) fn simplified(self) -> Self {
        match self {
            Self::Not(operand) => operand.simplified().negated(),
            Self::And(mut operands) if operands.len() < 2 => {
                operands.pop().map_or(Self::All, Self::simplified)
            }
            Self::Or(mut operands) if operands.len() < 2 => {
                operands.pop().map_or_else(|| Self::All.negated(), Self::simplified)
            }
            Self::And(operands) => Self::And(operands.into_iter().map(Self::simplified).collect()),
            Self::Or(operands) => Self::Or(operands.into_iter().map(Self::simplified).collect()),
            other => other,
        }
    }

    pub(super) fn with_label_prefix(&self, prefix: &str) -> Self {
        let label = |name: &String| format!("{prefix}{name}");
        let all = |operands: &[Self]| operands.iter().map(|o| o.with_label_prefix(prefix)).collect();
        match self {
            Self::All => Self::All,
            Self::Global => Self::Global,
            Self::Has(name) => Self::Has(label(name)),
            Self::Eq(name, value) => Self::Eq(label(name), value.clone()),
            Self::Ne(name, value) => Self::Ne(label(name), value.clone()),
            Self::Contains(name, text) => Self::Contains(label(name), text.clone()),
            Self::StartsWith(name, text) => Self::StartsWith(label(name), text.clone()),
            Self::EndsWith(name, text) => Self::EndsWith(label(name), text.clone()),
            Self::In(name, values) => Self::In(label(name), values.clone()),
            Self::NotIn(name, values) => Self::NotIn(label(name), values.clone()),
            Self::Not(operand) => Self::Not(Box::new(operand.with_label_prefix(prefix))),
            Self::And(operands) => Self::And(all(operands)),
            Self::Or(operands) => Self::Or(all(operands)),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

/// The canonical text, byte for byte Calico's.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |f: &mut fmt::Formatter<'_>, label: &str, op: &str, values: &BTreeSet<String>| {
            write!(f, "{label} {op} {{")?;
            for (i, value) in values.iter().enumerate() {
                write!(f, "{}{}", if i == 0 { "" } else { ", " }, Quoted(value))?;
            }
            f.write_str("}")
        };
        let joined = |f: &mut fmt::Formatter<'_>, op: &str, operands: &[Self]| {
            f.write_str("(")?;
            for (i, operand) in operands.iter().enumerate() {
                write!(f, "{}{operand}", if i == 0 { "" } else { op })?;
            }
            f.write_str(")")
        };
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(label) => write!(f, "has({label})"),
            Self::Eq(label, value) => write!(f, "{label} == {}", Quoted(value)),
            Self::Ne(label, value) => write!(f, "{label} != {}", Quoted(value)),
            Self::Contains(label, text) => write!(f, "{label} contains {}", Quoted(text)),
            Self::StartsWith(label, text) => write!(f, "{label} starts with {}", Quoted(text)),
            Self::EndsWith(label, text) => write!(f, "{label} ends with {}", Quoted(text)),
            Self::In(label, values) => set(f, label, "in", values),
            Self::NotIn(label, values) => set(f, label, "not in", values),
            Self::Not(operand) => write!(f, "!{operand}"),
            Self::And(operands) => joined(f, " && ", operands),
            Self::Or(operands) => joined(f, " || ", operands),
        }
    }
}
