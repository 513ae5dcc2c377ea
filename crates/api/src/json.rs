//! The envelope: finding the kind of a document, decoding its parts, writing it again.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use crate::{
    Kind, Metadata, Object, Resource, Spec,
    error::{ApiError, Problem},
    tree::{DecodeError, Node, Position, Value, closest},
};

const ENVELOPE: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// A document to decode: a JSON value (fast, errors without place) or a located tree.
pub(crate) trait Input {
    type Error;
    fn part<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, Self::Error>;
    fn part_or_default<T: DeserializeOwned + Default>(&self, key: &'static str) -> Result<T, Self::Error>;
    fn whole<T: DeserializeOwned>(&self) -> Result<T, Self::Error>;
    /// Refuses keys that aren't `allowed`, at the top or in the part called `key`.
    fn only(&self, key: Option<&'static str>, allowed: &[&str]) -> Result<(), Self::Error>;
}

/// The fast path failed; decode again through a tree to learn where.
pub(crate) struct SomethingWrong;

impl Input for Json {
    type Error = SomethingWrong;

    fn part<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, SomethingWrong> {
        match self.get(key) {
            Some(part) => T::deserialize(part).map_err(|_cause| SomethingWrong),
            None => T::deserialize(serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(
                std::iter::empty::<(&str, &str)>(),
            ))
            .map_err(|_cause| SomethingWrong),
        }
    }

    fn part_or_default<T: DeserializeOwned + Default>(&self, key: &'static str) -> Result<T, SomethingWrong> {
        match self.get(key) {
            Some(part) => T::deserialize(part).map_err(|_cause| SomethingWrong),
            None => Ok(T::default()),
        }
    }

    fn whole<T: DeserializeOwned>(&self) -> Result<T, SomethingWrong> {
        T::deserialize(self).map_err(|_cause| SomethingWrong)
    }

    fn only(&self, key: Option<&'static str>, allowed: &[&str]) -> Result<(), SomethingWrong> {
        let Some(part) = key.map_or(Some(self), |key| self.get(key)) else { return Ok(()) };
        let fine = part.as_object().is_some_and(|map| map.keys().all(|key| allowed.contains(&key.as_str())));
        if fine { Ok(()) } else { Err(SomethingWrong) }
    }
}

impl Input for Node {
    type Error = DecodeError;

    fn part<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, DecodeError> {
        let empty = Self::empty_map(self.at);
        let part = self.get(key).unwrap_or(&empty);
        T::deserialize(part).map_err(|e| e.under_key(key, part.at))
    }

    fn part_or_default<T: DeserializeOwned + Default>(&self, key: &'static str) -> Result<T, DecodeError> {
        self.get(key).map_or_else(
            || Ok(T::default()),
            |part| T::deserialize(part).map_err(|e| e.under_key(key, part.at)),
        )
    }

    fn whole<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        T::deserialize(self)
    }

    fn only(&self, key: Option<&'static str>, allowed: &[&str]) -> Result<(), DecodeError> {
        let Some(part) = key.map_or(Some(self), |key| self.get(key)) else { return Ok(()) };
        let Value::Map(entries) = &part.value else { return Ok(()) };
        let Some(entry) = entries.iter().find(|entry| !allowed.contains(&entry.key.as_str())) else {
            return Ok(());
        };
        let message = match closest(&entry.key, allowed) {
            Some(name) => format!("unknown field; did you mean {name}?"),
            None => format!("unknown field; allowed here: {}", allowed.join(", ")),
        };
        let error = DecodeError::at(message, entry.key_at).under_key(&entry.key, entry.key_at);
        Err(key.into_iter().fold(error, |error, key| error.under_key(key, part.at)))
    }
}

pub(crate) fn decode<S: Spec, I: Input>(input: &I) -> Result<Object<S>, I::Error> {
    if S::KIND.is_policed() {
        input.only(None, &ENVELOPE)?;
        input.only(Some("metadata"), &Metadata::FIELDS)?;
    }
    Ok(Object {
        metadata: input.part("metadata")?,
        spec: if S::FLAT { input.whole()? } else { input.part("spec")? },
        status: input.part_or_default("status")?,
    })
}

pub(crate) fn encode<S: Spec>(object: &Object<S>) -> Json {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a, S: Spec> {
        api_version: &'a str,
        kind: &'a str,
        metadata: &'a Metadata,
        spec: &'a S,
        status: &'a S::Status,
    }
    let document = Document {
        api_version: S::KIND.api_version(),
        kind: S::KIND.kind(),
        metadata: &object.metadata,
        spec: &object.spec,
        status: &object.status,
    };
    // The specs hold only string keys and finite numbers, which serde_json always takes.
    let mut json = serde_json::to_value(document).unwrap_or(Json::Null);
    if let Json::Object(map) = &mut json {
        if S::FLAT
            && let Some(Json::Object(fields)) = map.remove("spec")
        {
            map.extend(fields);
        }
        map.retain(|key, value| match value {
            Json::Null => false,
            Json::Object(fields) => key != "status" || !fields.is_empty(),
            _ => true,
        });
    }
    json
}

pub(crate) fn from_json(json: &Json) -> Result<Resource, ApiError> {
    if let (Some(version), Some(kind)) =
        (json.get("apiVersion").and_then(Json::as_str), json.get("kind").and_then(Json::as_str))
        && let Some(kind) = Kind::of(version, kind)
        && let Ok(resource) = Resource::decode(kind, json)
    {
        return Ok(resource);
    }
    from_tree(&Node::from_json(json)).map_err(|(error, _)| error)
}

pub(crate) fn from_tree(tree: &Node) -> Result<Resource, (ApiError, Position)> {
    let kind = kind_of(tree).map_err(|(problem, at)| (ApiError::Kind(problem), at))?;
    Resource::decode(kind, tree).map_err(|error| {
        let at = error.at.unwrap_or(tree.at);
        (ApiError::Field(error.into_problem()), at)
    })
}

/// Which kind a document is, or a sentence that says why it is none.
fn kind_of(tree: &Node) -> Result<Kind, (Problem, Position)> {
    let problem = |path: &str, message: String| {
        Err((
            Problem { path: path.to_owned(), message },
            if path.is_empty() { tree.at } else { tree.locate(path) },
        ))
    };
    if !matches!(tree.value, Value::Map(_)) {
        return problem(
            "",
            "not a resource: a mapping with apiVersion, kind, metadata and spec is expected".to_owned(),
        );
    }
    let Some(version) = tree.get("apiVersion") else {
        return problem(
            "",
            "apiVersion is missing: for Calico's kinds it is projectcalico.org/v3".to_owned(),
        );
    };
    let Some(kind) = tree.get("kind") else { return problem("", "kind is missing".to_owned()) };
    let (Some(version), Some(kind)) = (version.text(), kind.text()) else {
        let path = if version.text().is_none() { "apiVersion" } else { "kind" };
        return problem(path, "a string is expected".to_owned());
    };
    if let Some(found) = Kind::of(version, kind) {
        return Ok(found);
    }
    // calicoctl before 3.0: apiVersion v1 and a kind in lower camel case (ipPool, policy, profile, bgpPeer, hostEndpoint).
    let old_kinds = [
        "ipPool",
        "policy",
        "profile",
        "bgpPeer",
        "hostEndpoint",
        "workloadEndpoint",
        "node",
        "tier",
        "bgpConfig",
    ];
    if version == "v1" && old_kinds.contains(&kind) {
        return problem(
            "kind",
            format!(
                "{kind} of apiVersion v1 is calicoctl's format from before Calico 3.0, which is not read: \
                 rewrite it as projectcalico.org/v3"
            ),
        );
    }
    let same_kind: Vec<&str> =
        Kind::ALL.iter().filter(|k| k.kind() == kind).map(|k| k.api_version()).collect();
    if !same_kind.is_empty() {
        return problem("apiVersion", format!("{version:?} has no {kind}: use {}", same_kind.join(" or ")));
    }
    let of_version: Vec<&str> = Kind::ALL
        .iter()
        .filter(|k| k.api_version() == version || version == "crd.projectcalico.org/v1" && k.is_calico())
        .map(|k| k.kind())
        .collect();
    if of_version.is_empty() {
        let mut versions: Vec<&str> = Kind::ALL.iter().map(|k| k.api_version()).collect();
        versions.sort_unstable();
        versions.dedup();
        return problem(
            "apiVersion",
            format!("{version:?} is not known here; known: {}", versions.join(", ")),
        );
    }
    let message = match closest(kind, &of_version) {
        Some(name) => format!("{kind:?} is not a kind of {version}; did you mean {name}?"),
        None => format!("{kind:?} is not a kind of {version} known here; known: {}", of_version.join(", ")),
    };
    problem("kind", message)
}
