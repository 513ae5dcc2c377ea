//! Facts about the cluster.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Object, Spec, path::Problems, validate};

/// Facts about the cluster; the object is called `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterInformationSpec {
    /// Identity of the cluster.
    #[serde(rename = "clusterGUID", default, skip_serializing_if = "Option::is_none")]
    pub cluster_guid: Option<String>,
    /// Comma-separated properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_type: Option<String>,
    /// Version that wrote the datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calico_version: Option<String>,
    /// False: agents pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// Product variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Spec for ClusterInformationSpec {
    const KIND: Kind = Kind::ClusterInformation;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::metadata::check_singleton(object, problems);
    }
}
