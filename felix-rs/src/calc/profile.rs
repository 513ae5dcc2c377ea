//! Profiles: what runs when no tier decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::convert::DEFAULT_ALLOW_PROFILE;

use super::item::Parent;
use super::sets::SetSpec;
use crate::model::{ActiveProfile, PolicyRule, ProfileId, RuleAction, SetId};

/// A profile's rules and the sets they refer to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProfileSpec {
    pub(super) active: Arc<ActiveProfile>,
    pub(super) sets: BTreeMap<SetId, Arc<SetSpec>>,
}

impl ProfileSpec {
    fn fixed(id: &ProfileId, rules: &[PolicyRule]) -> Self {
        let active = ActiveProfile { id: id.clone(), ingress: rules.to_vec(), egress: rules.to_vec() };
        Self { active: Arc::new(active), sets: BTreeMap::new() }
    }

    /// Denies everything: stands for a profile that does not exist or cannot be read.
    pub(super) fn closed(id: &ProfileId) -> Self {
        Self::fixed(id, &[PolicyRule::any(RuleAction::Deny)])
    }

    /// The profile of that name if no object has it: a namespace's allows everything and a service account's says
    /// nothing, whether or not the datastore has the Namespace (their objects lend labels only).
    pub(super) fn built_in(id: &ProfileId) -> Option<Self> {
        match Parent::of_profile(&id.0) {
            Parent::Namespace(_) => Some(Self::fixed(id, &[PolicyRule::any(RuleAction::Allow)])),
            Parent::ServiceAccount(..) => Some(Self::fixed(id, &[])),
            Parent::Profile(name) if &*name == DEFAULT_ALLOW_PROFILE => {
                Some(Self::fixed(id, &[PolicyRule::any(RuleAction::Allow)]))
            }
            Parent::Profile(_) => None,
        }
    }
}
