//! Tiers.

use serde::{Deserialize, Serialize};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    types::{self, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// What happens to a packet that a tier's policies select and don't decide.
    #[derive(Default)]
    pub enum TierAction {
        /// Drop it.
        #[default]
        Deny = "Deny",
        /// Go on with the next tier.
        Pass = "Pass",
    }
}

/// A group of policies with a place in the order of evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TierSpec {
    /// Lower goes first; absent means last.
    #[serde(default, serialize_with = "types::serialize_order", skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// For packets that a policy of the tier selects and none decides; `Deny` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<TierAction>,
}

impl Spec for TierSpec {
    const KIND: Kind = Kind::Tier;
    type Status = NoStatus;
    fn set_defaults(object: &mut Object<Self>) {
        validate::tier::set_defaults(object);
    }
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::tier::check(object, problems);
    }
}
