//! A policy as the calculation holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::effective::SortKey;
use margay_api::selector::Selector;

use super::order::Tiers;
use super::sets::SetSpec;
use crate::model::{ActivePolicy, PolicyRule, RuleAction, SetId};

/// What an object says, independent of every other object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PolicySpec {
    /// Place in its tier.
    pub(super) place: SortKey,
    /// Endpoints it applies to.
    pub(super) target: Selector,
    /// It has type Ingress.
    pub(super) ingress: bool,
    /// It has type Egress.
    pub(super) egress: bool,
    /// As handed on, if its tier exists.
    pub(super) active: Arc<ActivePolicy>,
    /// Sets its rules refer to.
    pub(super) sets: BTreeMap<SetId, Arc<SetSpec>>,
    /// What is wrong with it without making it unusable.
    pub(super) notes: Vec<String>,
}

/// A policy in force: what its object says in the light of the tiers.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) spec: Arc<PolicySpec>,
    pub(super) active: Arc<ActivePolicy>,
}

impl Policy {
    /// A policy of a tier that does not exist has no place in the order, neither for what it allows nor for what it
    /// denies: it is quarantined.
    pub(super) fn new(spec: &Arc<PolicySpec>, tiers: &Tiers) -> Self {
        let active = match missing_tier(spec, tiers) {
            Some(reason) => Arc::new(quarantined(&spec.active, spec.ingress, spec.egress, reason)),
            None => Arc::clone(&spec.active),
        };
        Self { spec: Arc::clone(spec), active }
    }

    /// Sets the rules in force refer to.
    pub(super) fn sets(&self) -> impl Iterator<Item = (&SetId, &Arc<SetSpec>)> {
        self.spec.sets.iter().filter(|_| Arc::ptr_eq(&self.active, &self.spec.active))
    }
}

/// Why a policy's tier makes it unusable, if so.
pub(super) fn missing_tier(spec: &PolicySpec, tiers: &Tiers) -> Option<String> {
    (!tiers.exists(&spec.active.tier)).then(|| {
        format!(
            "tier {:?} does not exist or is unreadable: create the Tier, or name another in spec.tier",
            spec.active.tier
        )
    })
}

/// The same policy with all its rules replaced by the denial of everything it governs.
pub(super) fn quarantined(
    policy: &ActivePolicy,
    ingress: bool,
    egress: bool,
    reason: String,
) -> ActivePolicy {
    let deny = |governs: bool| if governs { vec![PolicyRule::any(RuleAction::Deny)] } else { Vec::new() };
    ActivePolicy { ingress: deny(ingress), egress: deny(egress), invalid: Some(reason), ..policy.clone() }
}
