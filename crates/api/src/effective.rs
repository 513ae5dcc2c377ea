//! What a policy means once defaults are applied: one view over all policy kinds, directions, order, tiers.

use std::{cmp::Ordering, fmt};

use crate::{
    Kind, Tier,
    kinds::{
        GlobalNetworkPolicySpec, NetworkPolicySpec, PerformanceHint, PolicyType, Rule, StagedAction,
        StagedGlobalNetworkPolicySpec, StagedNetworkPolicySpec, TierAction,
    },
    selector::Selector,
};

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";
/// The tier of ClusterNetworkPolicy's `Admin`.
pub const KUBE_ADMIN_TIER: &str = "kube-admin";
/// The tier of ClusterNetworkPolicy's `Baseline`.
pub const KUBE_BASELINE_TIER: &str = "kube-baseline";

/// One view over the four Calico policy kinds.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are documented at the specs they come from")]
pub struct PolicyView<'a> {
    pub tier: Option<&'a str>,
    pub order: Option<f64>,
    pub selector: Option<&'a Selector>,
    pub namespace_selector: Option<&'a Selector>,
    pub service_account_selector: Option<&'a Selector>,
    pub types: &'a [PolicyType],
    pub ingress: &'a [Rule],
    pub egress: &'a [Rule],
    pub do_not_track: bool,
    pub pre_dnat: bool,
    pub apply_on_forward: bool,
    pub performance_hints: &'a [PerformanceHint],
    /// `None` for enforced policies.
    pub staged_action: Option<StagedAction>,
}

impl PolicyView<'_> {
    /// The tier's name, `default` when none is given.
    #[must_use]
    pub fn tier(&self) -> &str {
        self.tier.filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER)
    }

    /// The directions that the policy governs, in order, without repeats.
    #[must_use]
    pub fn types(&self) -> Vec<PolicyType> {
        policy_types(self.types, !self.ingress.is_empty(), !self.egress.is_empty())
    }
}

macro_rules! view {
    ($spec:ty $(, namespace_selector: $ns:ident)? $(, host: $host:ident)? $(, staged: $staged:ident)?) => {
        impl<'a> From<&'a $spec> for PolicyView<'a> {
            #[allow(unused_mut, unused_assignments, reason = "which fields exist depends on the kind")]
            fn from(spec: &'a $spec) -> Self {
                let mut view = Self {
                    tier: spec.tier.as_deref(),
                    order: spec.order,
                    selector: spec.selector.as_ref(),
                    namespace_selector: None,
                    service_account_selector: spec.service_account_selector.as_ref(),
                    types: &spec.types,
                    ingress: &spec.ingress,
                    egress: &spec.egress,
                    do_not_track: false,
                    pre_dnat: false,
                    apply_on_forward: false,
                    performance_hints: &spec.performance_hints,
                    staged_action: None,
                };
                $( view.namespace_selector = spec.$ns.as_ref(); )?
                $(
                    let $host = spec;
                    view.do_not_track = $host.do_not_track;
                    view.pre_dnat = $host.pre_dnat;
                    view.apply_on_forward = $host.apply_on_forward;
                )?
                $( view.staged_action = Some(spec.$staged.unwrap_or_default()); )?
                view
            }
        }
    };
}
view!(NetworkPolicySpec);
view!(GlobalNetworkPolicySpec, namespace_selector: namespace_selector, host: spec);
view!(StagedNetworkPolicySpec, staged: staged_action);
view!(StagedGlobalNetworkPolicySpec, namespace_selector: namespace_selector, host: spec, staged: staged_action);

/// The directions of a policy with these `types` and rules: as given, or by the rules
/// (`api/pkg/defaults/networkpolicy.go`): ingress unless there are only egress rules, egress when there are any.
#[must_use]
pub fn policy_types(given: &[PolicyType], has_ingress: bool, has_egress: bool) -> Vec<PolicyType> {
    let mut types = match (given.is_empty(), has_ingress, has_egress) {
        (false, _, _) => given.to_vec(),
        (true, false, true) => vec![PolicyType::Egress],
        (true, _, false) => vec![PolicyType::Ingress],
        (true, true, true) => vec![PolicyType::Ingress, PolicyType::Egress],
    };
    types.sort_unstable();
    types.dedup();
    types
}

/// Place of a policy inside its tier, or of a tier among tiers: lower goes first, no order goes last, the text breaks
/// ties (`felix/calc/policy_sorter.go`).
#[derive(Debug, Clone, PartialEq)]
pub struct SortKey {
    order: Option<f64>,
    text: String,
}

impl SortKey {
    /// Of a policy.
    #[must_use]
    pub fn policy(order: Option<f64>, kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        Self {
            order: order.filter(|o| !o.is_nan()),
            text: format!("{name}/{}/{kind}", namespace.unwrap_or("")),
        }
    }

    /// Of a tier. A tier that doesn't exist has no order.
    #[must_use]
    pub fn tier(name: &str, tier: Option<&Tier>) -> Self {
        let order =
            tier.and_then(|tier| tier.spec.order).or_else(|| builtin_tier(name).map(|builtin| builtin.order));
        Self { order: order.filter(|o| !o.is_nan()), text: name.to_owned() }
    }
}

impl fmt::Display for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order {
            Some(order) => write!(f, "{order} {}", self.text),
            None => write!(f, "last {}", self.text),
        }
    }
}

impl Eq for SortKey {}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_order = match (self.order, other.order) {
            // NaN was dropped; adding zero makes -0 and 0 equal, as in Go.
            (Some(a), Some(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_order.then_with(|| self.text.cmp(&other.text))
    }
}

/// A tier that exists without anybody creating it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BuiltinTier {
    /// Its name.
    pub name: &'static str,
    /// Its fixed place.
    pub order: f64,
    /// Its fixed default action.
    pub default_action: TierAction,
}

/// The tiers that always exist, in order.
pub const BUILTIN_TIERS: [BuiltinTier; 3] = [
    BuiltinTier { name: KUBE_ADMIN_TIER, order: 1_000.0, default_action: TierAction::Pass },
    BuiltinTier { name: DEFAULT_TIER, order: 1_000_000.0, default_action: TierAction::Deny },
    BuiltinTier { name: KUBE_BASELINE_TIER, order: 10_000_000.0, default_action: TierAction::Pass },
];

/// The built-in tier of this name.
#[must_use]
pub fn builtin_tier(name: &str) -> Option<BuiltinTier> {
    BUILTIN_TIERS.into_iter().find(|tier| tier.name == name)
}

/// What happens to packets that a tier's policies select and don't decide.
#[must_use]
pub fn tier_default_action(name: &str, tier: Option<&Tier>) -> TierAction {
    tier.and_then(|tier| tier.spec.default_action)
        .or_else(|| builtin_tier(name).map(|builtin| builtin.default_action))
        .unwrap_or_default()
}
