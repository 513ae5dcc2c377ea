//! What all kinds share: metadata and the envelope.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Key, Kind, error::Invalid, path::Problems};

/// `metadata` of an object. Fields that only a server writes are kept when it needs them back, and otherwise dropped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Unique per kind (and namespace).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Set exactly on namespaced kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What selectors see.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free text for tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Identity across delete and re-create, given by the datastore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The datastore's revision of this object, opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Counts changes of the spec (Kubernetes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// RFC 3339; set while deletion waits for finalizers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Who must agree before the object goes away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Kubernetes owners, passed through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<serde_json::Value>,
}

impl Metadata {
    /// Every field that may be written; the last four are accepted and not kept.
    pub(crate) const FIELDS: [&'static str; 15] = [
        "name",
        "namespace",
        "labels",
        "annotations",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "finalizers",
        "ownerReferences",
        "managedFields",
        "selfLink",
        "generateName",
        "deletionGracePeriodSeconds",
    ];

    /// Of a cluster-scoped object.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Of a namespaced object.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: Some(namespace.into()), ..Self::default() }
    }
}

/// The status of kinds whose status nobody here reads: accepted, not kept, never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoStatus;

impl Serialize for NoStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_none()
    }
}

impl<'de> Deserialize<'de> for NoStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// The spec of one kind: what makes `Object<S>` a resource.
pub trait Spec:
    Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Which kind this is the spec of.
    const KIND: Kind;
    /// The fields stand beside `metadata`, not under `spec`.
    const FLAT: bool = false;
    /// The kind's status.
    type Status: Clone
        + PartialEq
        + Default
        + fmt::Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static;

    /// Fills in what Calico's API server would. Applying it twice changes nothing more.
    fn set_defaults(_object: &mut Object<Self>) {}

    /// Reports every broken rule of the kind's own; names and metadata are checked elsewhere.
    fn check(object: &Object<Self>, problems: &mut Problems);
}

/// A resource of one kind: metadata, spec and status.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<S: Spec> {
    /// Name, namespace, labels.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// What was observed.
    pub status: S::Status,
}

impl<S: Spec> Object<S> {
    /// An object without status.
    pub fn new(metadata: Metadata, spec: S) -> Self {
        Self { metadata, spec, status: S::Status::default() }
    }

    /// The object's identity.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { kind: S::KIND, namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }

    /// Checks every rule of the kind.
    ///
    /// # Errors
    /// All problems found, in field order.
    pub fn validate(&self) -> Result<(), Invalid> {
        let mut problems = Problems::default();
        crate::validate::metadata::check(S::KIND, &self.metadata, &mut problems);
        S::check(self, &mut problems);
        problems.into_result()
    }

    /// Fills in the kind's defaults.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        self.set_defaults();
        self
    }

    /// Fills in the kind's defaults, and the namespace `default` where one is needed.
    pub fn set_defaults(&mut self) {
        if S::KIND.namespaced() {
            self.metadata.namespace.get_or_insert_with(|| "default".to_owned());
        }
        S::set_defaults(self);
    }
}
