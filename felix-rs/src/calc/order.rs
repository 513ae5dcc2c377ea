//! Which policies decide an endpoint's packets, in which order.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::Tier as TierObject;
use margay_api::effective::{BUILTIN_TIERS, SortKey, builtin_tier, tier_default_action};
use margay_api::kinds::TierAction;

use super::policy::Policy;
use crate::model::{ActivePolicy, EndpointPolicy, EndpointTier, PolicyId, ProfileId, TierDefault};

/// A tier's place and default action.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tier {
    place: SortKey,
    default: TierDefault,
}

impl Tier {
    fn new(name: &str, object: Option<&TierObject>) -> Self {
        let default = match tier_default_action(name, object) {
            TierAction::Deny => TierDefault::Deny,
            TierAction::Pass => TierDefault::Pass,
        };
        Self { place: SortKey::tier(name, object), default }
    }
}

/// All tiers that exist. Calico's three built-in ones always do, with fixed values.
#[derive(Debug)]
pub(super) struct Tiers(BTreeMap<Arc<str>, Tier>);

impl Default for Tiers {
    fn default() -> Self {
        Self(BUILTIN_TIERS.iter().map(|tier| (tier.name.into(), Tier::new(tier.name, None))).collect())
    }
}

impl Tiers {
    /// Sets or (`None`) removes a tier; whether that changed anything.
    pub(super) fn put(&mut self, name: &str, object: Option<&TierObject>) -> bool {
        if builtin_tier(name).is_some() {
            return false;
        }
        let Some(object) = object else { return self.0.remove(name).is_some() };
        let tier = Tier::new(name, Some(object));
        self.0.insert(name.into(), tier.clone()) != Some(tier)
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Which of a host endpoint's four places policies run at. A workload endpoint has the normal one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Normal,
    Untracked,
    PreDnat,
    Forward,
}

impl Place {
    /// `felix/calc/event_sequencer.go`, tierInfoToProtoTierInfo.
    fn takes(self, policy: &ActivePolicy) -> bool {
        match self {
            Self::Untracked => policy.do_not_track,
            Self::PreDnat => policy.pre_dnat && !policy.do_not_track,
            Self::Forward => policy.apply_on_forward && !policy.do_not_track && !policy.pre_dnat,
            Self::Normal => !policy.do_not_track && !policy.pre_dnat,
        }
    }
}

/// Orders the policies that select an endpoint. Policies of a tier that does not exist come first of all: they are
/// quarantined and deny.
pub(super) fn endpoint_policy<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    tiers: &Tiers,
    profiles: &[ProfileId],
    place: Place,
) -> EndpointPolicy {
    type TierKey<'a> = (Option<&'a SortKey>, &'a Arc<str>);
    let mut by_tier: BTreeMap<TierKey<'_>, BTreeMap<&SortKey, &'a Policy>> = BTreeMap::new();
    for policy in policies.filter(|policy| place.takes(&policy.active)) {
        let name = &policy.active.tier;
        let key = (tiers.0.get(name).map(|tier| &tier.place), name);
        by_tier.entry(key).or_default().insert(&policy.spec.place, policy);
    }
    let mut ordered = Vec::new();
    for ((_, name), policies) in by_tier {
        let of = |wanted: fn(&Policy) -> bool| -> Vec<PolicyId> {
            policies.values().filter(|policy| wanted(policy)).map(|policy| policy.active.id.clone()).collect()
        };
        let (ingress, egress) = (of(|policy| policy.spec.ingress), of(|policy| policy.spec.egress));
        if !ingress.is_empty() || !egress.is_empty() {
            let default = tiers.0.get(name).map_or(TierDefault::Deny, |tier| tier.default);
            ordered.push(EndpointTier { name: Arc::clone(name), default, ingress, egress });
        }
    }
    EndpointPolicy { tiers: ordered, profiles: profiles.to_vec() }
}
