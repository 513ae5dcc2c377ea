//! Reading and writing resources as YAML: several documents per file, lists, and errors that say where.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_saphyr::Spanned;

pub use crate::tree::Position;
use crate::{
    Key, Resource,
    error::Problem,
    json,
    tree::{Entry, Node, Value},
};

/// Something read from a file, and where it stood.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// Which document of the file, from 1; empty documents don't count.
    pub document: usize,
    /// Where it begins.
    pub at: Position,
}

/// One mistake in a file: `policies.yaml: document 2, line 14: spec.ingress[0].action: "Alow" is not one of Allow, ...`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {}{problem}", place(*document, *at))]
pub struct YamlError {
    /// As given by the caller.
    pub file: String,
    /// From 1; 0 when the file as a whole is broken.
    pub document: usize,
    /// Line and column; line 0 when unknown.
    pub at: Position,
    /// Field path and message.
    pub problem: Problem,
}

fn place(document: usize, at: Position) -> String {
    let document = if document > 0 { format!("document {document}, ") } else { String::new() };
    if at.line > 0 { format!("{document}line {}: ", at.line) } else { document.replace(", ", ": ") }
}

/// Documents of one file: a cluster's whole configuration in one dump must fit.
const MAX_DOCUMENTS: usize = 200_000;
/// YAML nodes of one file; each costs some tens of bytes.
const MAX_NODES: usize = 10_000_000;
/// YAML nodes that aliases may stand for in one file: far beyond any manifest, far below what hurts.
const MAX_ALIASED: usize = 50_000;

/// Reads every resource of a file, fills in defaults and checks every rule, so that the result can be stored.
///
/// Documents may be empty, and may be lists (`kind: List` or any `...List` with `items`). JSON is YAML, too.
///
/// # Errors
/// Every mistake of the file: at most one per document while fields don't decode, all broken rules of those that do.
pub fn parse(file: &str, text: &str) -> Result<Vec<Located<Resource>>, Vec<YamlError>> {
    let documents = trees(text).map_err(|(problem, at)| {
        vec![YamlError { file: file.to_owned(), document: document_at(text, at), at, problem }]
    })?;
    let mut resources = Vec::new();
    let mut errors = Vec::new();
    for (index, tree) in documents.iter().enumerate() {
        let document = index + 1;
        let mut fail = |problem: Problem, at: Position| {
            errors.push(YamlError { file: file.to_owned(), document, at, problem });
        };
        for (prefix, item) in items(tree) {
            match json::from_tree(item) {
                Ok(resource) => {
                    let resource = resource.with_defaults();
                    match resource.validate() {
                        Ok(()) => resources.push(Located { value: resource, document, at: item.at }),
                        Err(invalid) => {
                            for problem in invalid.0 {
                                let at = item.locate(&problem.path);
                                fail(under(&prefix, problem), at);
                            }
                        }
                    }
                }
                Err((error, at)) => fail(under(&prefix, error.problem().clone()), at),
            }
        }
    }
    if errors.is_empty() { Ok(resources) } else { Err(errors) }
}

/// Where a field (`spec.ingress[2]`) of the first resource with such a key stands in a file that [`parse`] reads.
#[must_use]
pub fn locate(text: &str, is_it: impl Fn(&Key) -> bool, field: &str) -> Option<Position> {
    let documents = trees(text).ok()?;
    documents.iter().flat_map(items).find_map(|(_, item)| {
        let resource = json::from_tree(item).ok()?;
        is_it(&resource.key()).then(|| item.locate(field))
    })
}

fn under(prefix: &str, mut problem: Problem) -> Problem {
    if !prefix.is_empty() {
        let dot = if problem.path.is_empty() { "" } else { "." };
        problem.path = format!("{prefix}{dot}{}", problem.path);
    }
    problem
}

/// The resources in a document, with the path of each: the document itself, or the items of a list.
fn items(tree: &Node) -> Vec<(String, &Node)> {
    let is_list = tree.get("kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List"));
    if !is_list {
        return vec![(String::new(), tree)];
    }
    match tree.get("items").map(|items| &items.value) {
        Some(Value::Seq(items)) => {
            items.iter().enumerate().map(|(index, item)| (format!("items[{index}]"), item)).collect()
        }
        _ => Vec::new(),
    }
}

/// The non-empty documents of a text.
fn trees(text: &str) -> Result<Vec<Node>, (Problem, Position)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // YAML 1.1 takes a node called `n` for a boolean; where a boolean is wanted, the tree still understands `yes` and `off`.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED },
    };
    match serde_saphyr::from_multiple_with_options::<Node>(text, options) {
        Ok(documents) => Ok(documents.into_iter().filter(|d| !d.is_empty_document()).collect()),
        Err(error) => {
            let error = error.without_snippet();
            let at = error.location().map(position).unwrap_or_default();
            let message = error.to_string();
            // The location is said once, by YamlError.
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            Err((Problem { path: String::new(), message }, at))
        }
    }
}

/// Number of the document that a line is in, counting by `---` lines.
fn document_at(text: &str, at: Position) -> usize {
    let lines = text.lines().take(at.line as usize);
    let (mut number, mut content) = (0, false);
    for line in lines {
        if line.starts_with("---") {
            content = false;
        }
        let blank = line.trim().is_empty() || line.starts_with('#') || line.trim_end() == "---";
        if !blank && !content {
            content = true;
            number += 1;
        }
    }
    number
}

fn position(location: serde_saphyr::Location) -> Position {
    let number = |value| u32::try_from(value).unwrap_or(0);
    Position { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, at: position(spanned.referenced) })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> de::Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Unsigned(value))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }
            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(Value::Text(value))
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::Seq(items))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let key_at = position(key.referenced);
                    entries.push(Entry { key: key.value, key_at, node: map.next_value()? });
                }
                Ok(Value::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A resource as one YAML document, fields in the order people write them.
///
/// # Errors
/// Never for resources that came from [`parse`] or [`Resource::from_json`].
pub fn to_string(resource: &Resource) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(&Ordered(&resource.to_json()))
}

/// `apiVersion`, `kind`, `metadata`, then the rest, instead of the map's alphabetical order.
struct Ordered<'a>(&'a serde_json::Value);

impl serde::Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
        let fields = self.0.as_object().into_iter().flatten();
        let rest = fields.map(|(key, _)| key.as_str()).filter(|key| !FIRST.contains(key));
        serializer.collect_map(
            FIRST.into_iter().chain(rest).filter_map(|key| self.0.get(key).map(|value| (key, value))),
        )
    }
}
