//! Which policies decide an endpoint's packets, in which order.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::policy::Policy;
use crate::model::{ActivePolicy, EndpointPolicy, EndpointTier, PolicyId, ProfileId, TierDefault};

/// Place in an order; absent is after all numbers (Calico's `order`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Rank(pub(super) Option<f64>);

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let value =
            |rank: &Self| rank.0.map_or(f64::INFINITY, |order| if order == 0.0 { 0.0 } else { order });
        value(self).total_cmp(&value(other))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

/// A tier's place and default action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) order: Rank,
    pub(super) default: TierDefault,
}

/// All tiers that exist. Calico's three built-in ones always do, with fixed values.
#[derive(Debug)]
pub(super) struct Tiers(BTreeMap<Arc<str>, Tier>);

const BUILT_IN: [(&str, f64, TierDefault); 3] = [
    ("kube-admin", 1_000.0, TierDefault::Pass),
    ("default", 1_000_000.0, TierDefault::Deny),
    ("kube-baseline", 10_000_000.0, TierDefault::Pass),
];

impl Default for Tiers {
    fn default() -> Self {
        let built_in = |(name, order, default): (&str, f64, TierDefault)| {
            (Arc::from(name), Tier { order: Rank(Some(order)), default })
        };
        Self(BUILT_IN.into_iter().map(built_in).collect())
    }
}

impl Tiers {
    /// Sets or (`None`) removes a tier; whether that changed anything.
    pub(super) fn put(&mut self, name: &str, tier: Option<Tier>) -> bool {
        if BUILT_IN.iter().any(|(built_in, ..)| *built_in == name) {
            return false;
        }
        match tier {
            Some(tier) => self.0.insert(name.into(), tier) != Some(tier),
            None => self.0.remove(name).is_some(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tier> {
        self.0.get(name)
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

/// Orders the policies that select an endpoint: tiers by (order, name), policies by (order, `name/namespace/kind`).
/// Policies of a tier that does not exist come first of all: they are quarantined and deny.
pub(super) fn endpoint_policy<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    tiers: &Tiers,
    profiles: &[ProfileId],
    place: Place,
) -> EndpointPolicy {
    type TierKey<'a> = (Option<Rank>, &'a Arc<str>);
    type PolicyKey<'a> = (Rank, String);
    let mut by_tier: BTreeMap<TierKey<'_>, BTreeMap<PolicyKey<'_>, &'a Policy>> = BTreeMap::new();
    for policy in policies.filter(|policy| place.takes(&policy.active)) {
        let tier = (tiers.get(&policy.spec.tier).map(|tier| tier.order), &policy.spec.tier);
        let id = &policy.active.id;
        let name = format!("{}/{}/{}", id.name, id.namespace.as_deref().unwrap_or_default(), id.kind);
        by_tier.entry(tier).or_default().insert((policy.spec.order, name), policy);
    }
    let mut ordered = Vec::new();
    for ((_, name), policies) in by_tier {
        let of = |wanted: fn(&Policy) -> bool| -> Vec<PolicyId> {
            policies.values().filter(|policy| wanted(policy)).map(|policy| policy.active.id.clone()).collect()
        };
        let (ingress, egress) = (of(|policy| policy.spec.ingress), of(|policy| policy.spec.egress));
        if !ingress.is_empty() || !egress.is_empty() {
            let default = tiers.get(name).map_or(TierDefault::Deny, |tier| tier.default);
            ordered.push(EndpointTier { name: Arc::clone(name), default, ingress, egress });
        }
    }
    EndpointPolicy { tiers: ordered, profiles: profiles.to_vec() }
}
