//! Calico's selector language (`libcalico-go/lib/selector`): boolean expressions over labels.
//!
//! ```text
//! or := and { "||" and } ;  and := unary { "&&" unary } ;  unary := { "!" } ( "(" or ")" | term )
//! term := "all()" | "global()" | "has(" label ")" | label op string | label ("in" | "not in") "{" strings "}"
//! op := "==" | "!=" | "contains" | "starts with" | "ends with"
//! ```

mod expr;
mod kubernetes;
mod parse;
mod restriction;
#[cfg(test)]
mod tests;
mod token;

use std::{collections::BTreeMap, fmt, hash, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha224};

pub use expr::Expr;
pub use kubernetes::{LabelOperator, LabelRequirement, LabelSelector};
pub use restriction::Restriction;
pub use token::SelectorError;

/// Something with labels.
pub trait Labels {
    /// The label's value, `None` when the label is absent.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Labels for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).copied()
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, name: &str) -> Option<&str> {
        (**self).get(name)
    }
}

/// A parsed selector. Cheap to clone; equality, order and hash are those of the expression, not of its spelling.
#[derive(Clone)]
pub struct Selector(Arc<Parsed>);

struct Parsed {
    expr: Expr,
    /// As written, so that a resource comes back the way its author wrote it.
    source: String,
}

impl Selector {
    /// `all()`: matches everything that has labels.
    #[must_use]
    pub fn all() -> Self {
        Expr::All.into()
    }

    /// Parses `text`; empty text is `all()`.
    ///
    /// # Errors
    /// With the column of the first mistake.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let expr = parse::parse(text)?;
        Ok(Self(Arc::new(Parsed { expr, source: text.to_owned() })))
    }

    /// Whether something with these labels is selected.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        self.0.expr.matches(labels)
    }

    /// The expression.
    #[must_use]
    pub fn expr(&self) -> &Expr {
        &self.0.expr
    }

    /// As its author wrote it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Calico's unique id: `s:` and the base64url SHA-224 of `s:` + canonical text. Equal for every spelling of one expression.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = Sha224::digest(format!("s:{self}"));
        format!("s:{}", URL_SAFE_NO_PAD.encode(digest))
    }

    /// What every match must satisfy, per label: lets an index skip what can't match. Labels not listed are unrestricted.
    #[must_use]
    pub fn restrictions(&self) -> BTreeMap<String, Restriction> {
        restriction::of(&self.0.expr)
    }

    /// Whether it is `all()`.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.expr == Expr::All
    }

    /// Whether it is exactly `global()`, which in a namespace selector picks objects outside all namespaces.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.0.expr == Expr::Global
    }

    /// Whether `global()` occurs anywhere in it.
    #[must_use]
    pub fn mentions_global(&self) -> bool {
        self.0.expr.mentions_global()
    }

    /// Both must match. `all()` operands disappear.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self.expr(), other.expr()) {
            (Expr::All, _) => other.clone(),
            (_, Expr::All) => self.clone(),
            (left, right) => Expr::And(vec![left.clone(), right.clone()]).into(),
        }
    }

    /// The same selector over labels with `prefix` in front of every name (`pcns.`, `pcsa.`).
    #[must_use]
    pub fn with_label_prefix(&self, prefix: &str) -> Self {
        self.0.expr.with_label_prefix(prefix).into()
    }
}

impl From<Expr> for Selector {
    fn from(expr: Expr) -> Self {
        let expr = expr.simplified();
        let source = expr.to_string();
        Self(Arc::new(Parsed { expr, source }))
    }
}

/// The canonical text.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expr.fmt(f)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.expr == other.0.expr
    }
}
impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.expr.cmp(&other.0.expr)
    }
}

impl hash::Hash for Selector {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.expr.hash(state);
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.source)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Selector;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a selector string such as app == 'web'")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Selector, E> {
                Selector::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// For selector fields: Calico takes the empty string for "not given", which isn't the same as `all()` everywhere.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Selector>, D::Error> {
    Ok(Option::<Selector>::deserialize(deserializer)?
        .filter(|s| !s.source().trim_matches([' ', '\t']).is_empty()))
}
