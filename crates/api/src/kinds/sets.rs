//! Network sets.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Object, Spec, path::Problems, types::net, validate};

/// Networks that rules of the namespace select by the set's labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSetSpec {
    /// The networks; bare addresses are single hosts.
    #[serde(default, deserialize_with = "net::nets", skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<IpNet>,
}

/// Networks that rules select by the set's labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GlobalNetworkSetSpec {
    /// The networks; bare addresses are single hosts.
    #[serde(default, deserialize_with = "net::nets", skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<IpNet>,
}

impl Spec for NetworkSetSpec {
    const KIND: Kind = Kind::NetworkSet;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::sets::check(object, problems);
    }
}

impl Spec for GlobalNetworkSetSpec {
    const KIND: Kind = Kind::GlobalNetworkSet;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::sets::check_global(object, problems);
    }
}
