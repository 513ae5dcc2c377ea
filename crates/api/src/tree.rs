//! A document as a tree that knows where each value stands in the file, and a serde deserializer over it whose
//! errors carry the field path and the position. JSON goes through the same tree, without positions.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};

use crate::error::Problem;

/// Line and column, both from 1; line 0 means unknown (JSON values).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Line in the file, from 1.
    pub line: u32,
    /// Column in the line in characters, from 1.
    pub column: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Position,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn empty_map(at: Position) -> Self {
        Self { value: Value::Map(Vec::new()), at }
    }

    pub(crate) fn from_json(json: &serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(unsigned), _) => Value::Unsigned(unsigned),
                (None, Some(signed)) => Value::Signed(signed),
                (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Value::Text(s.clone()),
            serde_json::Value::Array(items) => Value::Seq(items.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        key_at: Position::default(),
                        node: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self { value, at: Position::default() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|e| e.key == key && e.node.value != Value::Null).map(|e| &e.node)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub(crate) fn is_empty_document(&self) -> bool {
        self.value == Value::Null
    }

    /// Position of the value at a [`Problem`] path, or of its closest existing parent.
    pub(crate) fn locate(&self, path: &str) -> Position {
        let mut node = self;
        let mut at = self.at;
        let mut rest = path;
        while !rest.is_empty() {
            let (segment, next, bracket) = split_segment(rest);
            rest = next;
            match &node.value {
                Value::Map(entries) => {
                    let Some(entry) = entries.iter().find(|e| e.key == segment) else { return at };
                    at = entry.key_at;
                    node = &entry.node;
                }
                Value::Seq(items) if bracket => {
                    let Some(item) = segment.parse::<usize>().ok().and_then(|i| items.get(i)) else {
                        return at;
                    };
                    at = item.at;
                    node = item;
                }
                _ => return at,
            }
        }
        at
    }
}

/// First segment of a path, the rest, and whether it stood in brackets.
fn split_segment(path: &str) -> (&str, &str, bool) {
    if let Some(inner) = path.strip_prefix('[') {
        let (segment, rest) = inner.split_once(']').unwrap_or((inner, ""));
        return (segment, rest.strip_prefix('.').unwrap_or(rest), true);
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (segment, rest) = path.split_at(end);
    (segment, rest.strip_prefix('.').unwrap_or(rest), false)
}

/// A decoding failure. The path is collected on the way out, innermost segment first.
#[derive(Debug)]
pub(crate) struct DecodeError {
    message: String,
    /// The message came from a value's own parser, which doesn't repeat the value.
    wants_value: bool,
    path: Vec<String>,
    pub(crate) at: Option<Position>,
}

impl DecodeError {
    pub(crate) fn at(message: impl Into<String>, at: Position) -> Self {
        Self { message: message.into(), wants_value: false, path: Vec::new(), at: Some(at) }
    }

    pub(crate) fn under_key(mut self, key: &str, at: Position) -> Self {
        self.path.push(key.to_owned());
        self.at.get_or_insert(at);
        self
    }

    fn under_index(mut self, index: usize, at: Position) -> Self {
        self.path.push(format!("[{index}]"));
        self.at.get_or_insert(at);
        self
    }

    fn of_value(mut self, value: impl fmt::Debug) -> Self {
        if self.wants_value {
            self.message = format!("{value:?}: {}", self.message);
            self.wants_value = false;
        }
        self
    }

    pub(crate) fn into_problem(self) -> Problem {
        let mut path = String::new();
        for segment in self.path.iter().rev() {
            if segment.starts_with('[') {
                path.push_str(segment);
            } else if segment.contains(['.', '[']) {
                path.push_str(&format!("[{segment}]"));
            } else {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(segment);
            }
        }
        Problem { path, message: self.message }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

/// What serde calls Rust types by, in words.
fn in_words(expected: &dyn de::Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, not negative".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        _ if expected.starts_with("struct ") || expected == "a map" => "a mapping of fields".to_owned(),
        _ => expected,
    }
}

fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(b) => format!("{b} (a boolean)"),
        Unexpected::Unsigned(n) => format!("{n}"),
        Unexpected::Signed(n) => format!("{n}"),
        Unexpected::Float(n) => format!("{n}"),
        Unexpected::Str(s) => format!("{s:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        other => other.to_string(),
    }
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), wants_value: true, path: Vec::new(), at: None }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let words = in_words(expected);
        let scalar = matches!(
            unexpected,
            Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_)
        );
        let quote = if scalar && words.contains("string") { ": put it in quotes" } else { "" };
        let mut error = Self::custom(format!("{} found where {words} is expected{quote}", found(unexpected)));
        error.wants_value = false;
        error
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let mut error = Self::custom(format!("{} is not {}", found(unexpected), in_words(expected)));
        error.wants_value = false;
        error
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::custom(format!("{variant:?} is not one of {}", expected.join(", ")));
        error.wants_value = false;
        error
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = match closest(field, expected) {
            Some(name) => format!("unknown field; did you mean {name}?"),
            None if expected.is_empty() => "unknown field: none are allowed here".to_owned(),
            None => format!("unknown field; allowed here: {}", expected.join(", ")),
        };
        let mut error = Self::custom(message);
        error.wants_value = false;
        error
    }

    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::custom("required, but missing");
        error.wants_value = false;
        error.path.push(field.to_owned());
        error
    }
}

/// The candidate within two edits of `word` (one for short words), case ignored; the first of equals.
pub(crate) fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    let limit = if lower.chars().count() <= 4 { 1 } else { 2 };
    candidates
        .iter()
        .map(|c| (edits(&lower, &c.to_ascii_lowercase()), *c))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(&b) {
            let above = *slot;
            left = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Signed(n) => visitor.visit_i64::<DecodeError>(*n).map_err(|e| e.of_value(n)),
            Value::Unsigned(n) => visitor.visit_u64::<DecodeError>(*n).map_err(|e| e.of_value(n)),
            Value::Float(n) => visitor.visit_f64::<DecodeError>(*n).map_err(|e| e.of_value(n)),
            Value::Text(s) => visitor.visit_borrowed_str::<DecodeError>(s).map_err(|e| e.of_value(s)),
            Value::Seq(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(Fields { entries: entries.iter(), pending: None }),
        };
        result.map_err(|mut e| {
            e.at.get_or_insert(self.at);
            e
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Map(entries) if entries.len() == 1 => {
                visitor.visit_enum(de::value::MapAccessDeserializer::new(Fields {
                    entries: entries.iter(),
                    pending: None,
                }))
            }
            _ => Err(DecodeError::at(
                format!("exactly one of these keys is expected: {}", variants.join(", ")),
                self.at,
            )),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let spelled = self.text().and_then(|text| match text.to_ascii_lowercase().as_str() {
            "y" | "yes" | "on" => Some(true),
            "n" | "no" | "off" => Some(false),
            _ => None,
        });
        match spelled {
            Some(value) => visitor.visit_bool(value),
            None => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(node).map(Some).map_err(|e| e.under_index(index, node.at))
    }
    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

struct Fields<'de> {
    entries: std::slice::Iter<'de, Entry>,
    pending: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = DecodeError;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        // A field set to null is an absent field, as in Kubernetes.
        let Some(entry) = self.entries.find(|e| e.node.value != Value::Null) else { return Ok(None) };
        self.pending = Some(entry);
        let key: de::value::StrDeserializer<'de, DecodeError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|e| e.under_key(&entry.key, entry.key_at))
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        let Some(entry) = self.pending.take() else {
            return Err(de::Error::custom("value asked for before its key"));
        };
        seed.deserialize(&entry.node).map_err(|e| e.under_key(&entry.key, entry.node.at))
    }
}
