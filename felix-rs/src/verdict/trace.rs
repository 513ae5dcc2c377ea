//! What a verdict was made of: tier by tier, policy by policy, rule by rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::matching::Mismatch;
use crate::model::{Direction, EndpointId, PolicyId, ProfileId, RuleAction};

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Verdict {
    /// It may go on.
    Allow,
    /// It is dropped silently.
    Deny,
}

/// What decided a packet at one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum Decision {
    /// A rule of a policy.
    #[serde(rename_all = "camelCase")]
    Rule {
        /// Tier of the policy.
        tier: Arc<str>,
        /// The policy.
        policy: PolicyId,
        /// Number of the rule, from 0, as written.
        rule: u32,
        /// Annotations of the rule.
        annotations: BTreeMap<String, String>,
    },
    /// A policy that is quarantined and so denies what it governs.
    #[serde(rename_all = "camelCase")]
    Quarantined {
        /// Tier of the policy.
        tier: Arc<str>,
        /// The policy.
        policy: PolicyId,
        /// Why.
        reason: String,
    },
    /// The end of a tier whose policies select the endpoint, and none of them decided.
    #[serde(rename_all = "camelCase")]
    EndOfTier {
        /// The tier.
        tier: Arc<str>,
        /// Its enforced policies for this direction.
        policies: Vec<PolicyId>,
    },
    /// A rule of a profile.
    #[serde(rename_all = "camelCase")]
    ProfileRule {
        /// The profile.
        profile: ProfileId,
        /// Number of the rule, from 0.
        rule: u32,
    },
    /// No tier decided and no profile either.
    NoProfileMatched,
    /// A failsafe port of a host endpoint.
    Failsafe,
    /// Pods send no VXLAN and IPIP packets, unless `allowVXLANPacketsFromWorkloads` or `allowIPIPPacketsFromWorkloads` says so:
    /// nodes trust what they get by their tunnels.
    Tunnel,
}

/// A rule of a stored object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleAt {
    /// Kind of the object, as in [`PolicyId::kind`], or `Profile`.
    pub kind: Arc<str>,
    /// Its namespace, if it has one.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Where the rule stands in it: `spec.ingress[2]`.
    pub field: String,
}

impl EndpointVerdict {
    /// The rule that decided, if one did.
    #[must_use]
    pub fn rule(&self) -> Option<RuleAt> {
        let (kind, namespace, name, rule) = match &self.decision {
            Decision::Rule { policy, rule, .. } => {
                (Arc::clone(&policy.kind), policy.namespace.clone(), &policy.name, rule)
            }
            Decision::ProfileRule { profile, rule } => ("Profile".into(), None, &profile.0, rule),
            _ => return None,
        };
        let field = format!("spec.{}[{rule}]", self.direction);
        Some(RuleAt { kind, namespace, name: Arc::clone(name), field })
    }
}

/// Another verdict than before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Turned {
    /// The verdict now.
    pub before: Verdict,
    /// The verdict after the change.
    pub after: Verdict,
    /// What decides then, at the end where it decides.
    pub by: String,
    /// The rule, if one does.
    pub rule: Option<RuleAt>,
}

impl Turned {
    pub(super) fn by(before: Verdict, after: Verdict, end: Option<&EndpointVerdict>) -> Self {
        let by = end.map(|end| end.decision.to_string()).unwrap_or_default();
        Self { before, after, by, rule: end.and_then(EndpointVerdict::rule) }
    }
}

/// Why a rule did or did not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleResult {
    /// It matched and its action was taken.
    Matched,
    /// It was passed over.
    PassedOver(Mismatch),
}

/// One rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleTrace {
    /// Number as written, from 0.
    pub index: u32,
    /// Its action.
    pub action: RuleAction,
    /// See [`RuleResult`].
    pub result: RuleResult,
}

/// What a list of rules said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RulesOutcome {
    /// A rule allowed the packet.
    Allow,
    /// A rule denied it.
    Deny,
    /// A rule sent it to the next tier.
    Pass,
    /// No rule decided.
    NoMatch,
}

/// One policy that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTrace {
    /// The policy.
    pub policy: PolicyId,
    /// Staged: what it says has no effect.
    pub staged: bool,
    /// Why it is quarantined, if it is.
    pub invalid: Option<String>,
    /// Rules up to the one that decided.
    pub rules: Vec<RuleTrace>,
    /// What they said.
    pub outcome: RulesOutcome,
}

/// How a tier ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TierOutcome {
    /// A rule allowed the packet.
    Allow,
    /// A rule denied it.
    Deny,
    /// A rule passed it to the next tier.
    Pass,
    /// Undecided: the tier's default action denied it.
    DefaultDeny,
    /// Undecided: the tier's default action passed it on.
    DefaultPass,
    /// Only staged policies here, which never decide.
    OnlyStaged,
}

/// One tier that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TierTrace {
    /// Name of the tier.
    pub name: Arc<str>,
    /// Policies up to the one that decided; staged ones are shown wherever they stand before it.
    pub policies: Vec<PolicyTrace>,
    /// How it ended.
    pub outcome: TierOutcome,
}

/// One profile that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileTrace {
    /// The profile.
    pub profile: ProfileId,
    /// Rules up to the one that decided.
    pub rules: Vec<RuleTrace>,
    /// What they said.
    pub outcome: RulesOutcome,
}

/// The verdict at one end with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointVerdict {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Egress at the source's end, ingress at the destination's.
    pub direction: Direction,
    /// The verdict.
    pub verdict: Verdict,
    /// What decided.
    pub decision: Decision,
    /// Tiers that were looked at.
    pub tiers: Vec<TierTrace>,
    /// Profiles that were looked at.
    pub profiles: Vec<ProfileTrace>,
}
