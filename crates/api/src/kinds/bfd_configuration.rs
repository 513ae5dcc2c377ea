//! Timers of BFD.

use serde::{Deserialize, Serialize};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    selector::{self, Selector},
    types::{GoDuration, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// How the loss of a BGP peer is found before the hold timer expires.
    #[derive(Default)]
    pub enum FailureDetectionMode {
        /// Not at all.
        #[default]
        None = "None",
        /// By BFD (RFC 5881) if the peer is in the node's own subnet.
        BfdIfDirectlyConnected = "BFDIfDirectlyConnected",
        /// By BFD, multihop (RFC 5883) if the peer is elsewhere. Margay's; Calico has no such value.
        Bfd = "BFD",
        /// The same, and there is no BGP session before the BFD session is up. Margay's.
        BfdStrict = "BFDStrict",
    }
}

/// BFD timers of some nodes' interfaces. Calico Enterprise's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BfdConfigurationSpec {
    /// Only nodes that match; absent means all.
    #[serde(default, deserialize_with = "selector::optional", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// The first that matches an interface counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<BfdInterface>,
}

/// Timers of sessions on some interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BfdInterface {
    /// Name of the interface; `*` at its end stands for any characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub match_pattern: String,
    /// Shortest interval at which packets are wanted; absent means 10 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_recv_interval: Option<GoDuration>,
    /// Shortest interval at which packets are sent; absent means 100 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_send_interval: Option<GoDuration>,
    /// Interval at which packets are sent while the session is not up; absent means a minute, less than a second counts
    /// as one (RFC 5880 section 6.8.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_send_interval: Option<GoDuration>,
    /// Packets in a row that may be missing, 1 to 255; absent means 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<u8>,
}

impl BfdInterface {
    /// Whether it is for an interface; one whose name is not known matches `*` only.
    #[must_use]
    pub fn matches(&self, interface: Option<&str>) -> bool {
        match self.match_pattern.strip_suffix('*') {
            Some(prefix) => interface.unwrap_or_default().starts_with(prefix),
            None => interface == Some(&self.match_pattern),
        }
    }
}

impl Spec for BfdConfigurationSpec {
    const KIND: Kind = Kind::BfdConfiguration;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::bfd::check(object, problems);
    }
}
