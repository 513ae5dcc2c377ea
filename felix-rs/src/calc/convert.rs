//! From stored objects to the calculation's own forms: policies and profiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::kinds::{PolicyType, Rule, StagedAction};
use margay_api::selector::{LabelSelector, Selector};
use margay_api::{Key, Kind, Profile, Resource};
use serde_json::Value;

use super::compile::Compiler;
use super::facts::{LabelMap, ORCHESTRATOR};
use super::order::Rank;
use super::policy::{PolicySpec, quarantined};
use super::profile::ProfileSpec;
use super::sets::SetSpec;
use super::who::Who;
use crate::model::{ActivePolicy, ActiveProfile, Direction, PolicyId, ProfileId, SetId};

/// Tier of policies that name none.
const DEFAULT_TIER: &str = "default";

/// What all policy kinds have in common.
#[derive(Debug, Clone, Copy, Default)]
struct Source<'a> {
    tier: Option<&'a str>,
    order: Option<f64>,
    selector: Option<&'a Selector>,
    namespace_selector: Option<&'a Selector>,
    account_selector: Option<&'a Selector>,
    types: &'a [PolicyType],
    ingress: &'a [Rule],
    egress: &'a [Rule],
    staged: bool,
    do_not_track: bool,
    pre_dnat: bool,
    apply_on_forward: bool,
}

macro_rules! common {
    ($spec:expr) => {
        Source {
            tier: $spec.tier.as_deref(),
            order: $spec.order,
            selector: $spec.selector.as_ref(),
            account_selector: $spec.service_account_selector.as_ref(),
            types: &$spec.types,
            ingress: &$spec.ingress,
            egress: &$spec.egress,
            ..Source::default()
        }
    };
}

macro_rules! global {
    ($spec:expr) => {
        Source {
            namespace_selector: $spec.namespace_selector.as_ref(),
            do_not_track: $spec.do_not_track,
            pre_dnat: $spec.pre_dnat,
            apply_on_forward: $spec.apply_on_forward,
            ..common!($spec)
        }
    };
}

/// A staged policy that would be set; the other actions name a policy to take away or none at all.
fn would_apply(action: Option<StagedAction>) -> bool {
    matches!(action, None | Some(StagedAction::Set))
}

/// Whether objects of a kind are policies.
pub(super) fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy
            | Kind::KubernetesNetworkPolicy
    )
}

fn is_staged(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::StagedKubernetesNetworkPolicy
    )
}

/// `None`: the object has no effect on packets nor on what explain says.
pub(super) fn policy(key: &Key, resource: &Resource) -> Option<PolicySpec> {
    match resource {
        Resource::NetworkPolicy(policy) => Some(build(key, common!(policy.spec))),
        Resource::GlobalNetworkPolicy(policy) => Some(build(key, global!(policy.spec))),
        Resource::StagedNetworkPolicy(policy) => would_apply(policy.spec.staged_action)
            .then(|| build(key, Source { staged: true, ..common!(policy.spec) })),
        Resource::StagedGlobalNetworkPolicy(policy) => would_apply(policy.spec.staged_action)
            .then(|| build(key, Source { staged: true, ..global!(policy.spec) })),
        _ => None,
    }
}

fn policy_id(key: &Key) -> PolicyId {
    let kind = match key.kind {
        Kind::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
        kind => kind.kind(),
    };
    PolicyId {
        kind: kind.into(),
        namespace: key.namespace.as_deref().map(Into::into),
        name: key.name.as_str().into(),
    }
}

/// Absent types: Egress if there are egress rules, Ingress if there are ingress rules or none at all
/// (`api/pkg/defaults/networkpolicy.go`).
fn directions(source: &Source<'_>) -> (bool, bool) {
    if source.types.is_empty() {
        let egress = !source.egress.is_empty();
        return (!egress || !source.ingress.is_empty(), egress);
    }
    (source.types.contains(&PolicyType::Ingress), source.types.contains(&PolicyType::Egress))
}

fn build(key: &Key, source: Source<'_>) -> PolicySpec {
    let namespace = key.namespace.as_deref();
    let (ingress, egress) = directions(&source);
    let mut compiler = Compiler { namespace, ..Compiler::default() };
    // Rules of a direction the policy has no type for are never looked at.
    let mut rules = |wanted: bool, rules: &[Rule], direction| {
        if wanted { compiler.rules(rules, direction) } else { Vec::new() }
    };
    let mut active = ActivePolicy {
        id: policy_id(key),
        tier: source.tier.unwrap_or(DEFAULT_TIER).into(),
        staged: source.staged,
        ingress: rules(ingress, source.ingress, Direction::Ingress),
        egress: rules(egress, source.egress, Direction::Egress),
        do_not_track: source.do_not_track,
        pre_dnat: source.pre_dnat,
        apply_on_forward: source.apply_on_forward,
        invalid: None,
    };
    let mut sets = compiler.sets;
    if let Some(reason) = compiler.unusable {
        active = quarantined(&active, ingress, egress, reason);
        sets = BTreeMap::new();
    }
    let target = Who {
        namespace,
        selector: source.selector,
        namespace_selector: source.namespace_selector,
        account_selector: source.account_selector,
        ..Who::default()
    };
    PolicySpec {
        tier: Arc::clone(&active.tier),
        order: Rank(source.order),
        target: target.target(),
        ingress,
        egress,
        active: Arc::new(active),
        sets,
        notes: compiler.notes,
    }
}

/// What stands for a policy that cannot be read: it denies everything in the directions, and for the endpoints, that can
/// still be made out of the stored text; what cannot be made out counts as the widest (every endpoint of
/// the namespace, or of the cluster; both directions; first in the tier). `None` for staged policies, which never have
/// an effect.
pub(super) fn unreadable_policy(key: &Key, raw: Option<&Value>, reason: &str) -> Option<PolicySpec> {
    if is_staged(key.kind) {
        return None;
    }
    let spec = raw.and_then(|raw| raw.get("spec"));
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let selector = |name: &str| {
        let text = field(name)?.as_str()?;
        (!text.trim().is_empty()).then(|| Selector::parse(text).ok()).flatten()
    };
    let flag = |name: &str| field(name).and_then(Value::as_bool).unwrap_or(false);
    let kubernetes = key.kind == Kind::KubernetesNetworkPolicy;
    let (target, types) = if kubernetes {
        let pods = field("podSelector")
            .and_then(|value| serde_json::from_value::<LabelSelector>(value.clone()).ok());
        let pods = pods.unwrap_or_default().to_selector();
        (pods.and(&orchestrated()), field("policyTypes"))
    } else {
        (selector("selector").unwrap_or_else(Selector::all), field("types"))
    };
    let has = |direction: &str| match types.and_then(Value::as_array) {
        Some(types) => types.iter().any(|value| value.as_str() == Some(direction)),
        None => true,
    };
    let (mut ingress, mut egress) = (has("Ingress"), has("Egress"));
    if !ingress && !egress {
        (ingress, egress) = (true, true);
    }
    let active = ActivePolicy {
        id: policy_id(key),
        tier: field("tier").and_then(Value::as_str).unwrap_or(DEFAULT_TIER).into(),
        staged: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        do_not_track: flag("doNotTrack"),
        pre_dnat: flag("preDNAT"),
        apply_on_forward: flag("applyOnForward"),
        invalid: None,
    };
    let namespace_selector = selector("namespaceSelector");
    let account_selector = selector("serviceAccountSelector");
    let who = Who {
        namespace: key.namespace.as_deref(),
        selector: Some(&target),
        namespace_selector: namespace_selector.as_ref().filter(|_| key.namespace.is_none()),
        account_selector: account_selector.as_ref(),
        ..Who::default()
    };
    let order = field("order").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY);
    Some(PolicySpec {
        tier: Arc::clone(&active.tier),
        order: Rank(Some(if kubernetes { KUBERNETES_ORDER } else { order })),
        target: who.target(),
        ingress,
        egress,
        active: Arc::new(quarantined(&active, ingress, egress, reason.to_owned())),
        sets: BTreeMap::new(),
        notes: Vec::new(),
    })
}

/// Order of Kubernetes' policies in the default tier (`libcalico-go/lib/backend/k8s/conversion`).
const KUBERNETES_ORDER: f64 = 1000.0;

fn orchestrated() -> Selector {
    margay_api::selector::Expr::Eq(ORCHESTRATOR.to_owned(), "k8s".to_owned()).into()
}

/// A Profile's rules.
pub(super) fn profile(profile: &Profile) -> ProfileSpec {
    let id = ProfileId(profile.metadata.name.as_str().into());
    let mut compiler = Compiler::default();
    let ingress = compiler.rules(&profile.spec.ingress, Direction::Ingress);
    let egress = compiler.rules(&profile.spec.egress, Direction::Egress);
    if compiler.unusable.is_some() {
        return ProfileSpec::closed(&id);
    }
    let sets: BTreeMap<SetId, SetSpec> = compiler.sets;
    ProfileSpec { active: Arc::new(ActiveProfile { id, ingress, egress }), sets }
}

/// Labels under a prefix, as namespaces and service accounts lend them.
pub(super) fn prefixed(prefix: &str, labels: &BTreeMap<String, String>) -> LabelMap {
    labels.iter().map(|(name, value)| (format!("{prefix}{name}").into(), value.as_str().into())).collect()
}
