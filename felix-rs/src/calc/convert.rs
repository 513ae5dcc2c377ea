//! From stored objects to the calculation's own forms: policies and profiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::convert::{Converted, KUBERNETES_POLICY_ORDER, kubernetes_policy, staged_kubernetes_policy};
use margay_api::effective::{DEFAULT_TIER, PolicyView, SortKey};
use margay_api::kinds::{PolicyType, Rule, StagedAction};
use margay_api::selector::{LabelSelector, Selector};
use margay_api::{Key, Kind, Profile, Resource};
use serde_json::Value;

use super::compile::Compiler;
use super::facts::{LabelMap, ORCHESTRATOR};
use super::policy::{PolicySpec, quarantined};
use super::profile::ProfileSpec;
use super::sets::SetSpec;
use super::who::Who;
use crate::model::{ActivePolicy, ActiveProfile, Direction, PolicyId, ProfileId, SetId};

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
    let view = match resource {
        Resource::NetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::GlobalNetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::StagedNetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::StagedGlobalNetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::KubernetesNetworkPolicy(policy) => {
            return Some(kubernetes(key, &kubernetes_policy(policy), None));
        }
        Resource::StagedKubernetesNetworkPolicy(policy) => {
            let action = policy.spec.staged_action.unwrap_or_default();
            return would_apply(action)
                .then(|| kubernetes(key, &staged_kubernetes_policy(policy), Some(action)));
        }
        _ => return None,
    };
    view.staged_action.is_none_or(would_apply).then(|| build(key, &key.name, &view))
}

/// A staged policy that would be set; the other actions name a policy to take away or none at all.
fn would_apply(action: StagedAction) -> bool {
    action == StagedAction::Set
}

/// Rules keep the number they have in the Kubernetes object, however many they became.
fn kubernetes(key: &Key, converted: &Converted, staged_action: Option<StagedAction>) -> PolicySpec {
    let view = PolicyView { staged_action, ..PolicyView::from(&converted.policy.spec) };
    let mut spec = build(key, &converted.policy.metadata.name, &view);
    let mut active = ActivePolicy::clone(&spec.active);
    for (rules, origins) in
        [(&mut active.ingress, &converted.ingress_origins), (&mut active.egress, &converted.egress_origins)]
    {
        for rule in rules {
            let origin = usize::try_from(rule.index).ok().and_then(|index| origins.get(index));
            if let Some(number) = origin.and_then(|origin| number_in(origin)) {
                rule.index = number;
            }
        }
    }
    spec.active = Arc::new(active);
    let dropped = converted.dropped.iter();
    spec.notes.extend(dropped.map(|rule| format!("{} is left out: {}", rule.path, rule.reason)));
    spec
}

/// The number in `spec.ingress[2].from[1]`: 2.
fn number_in(origin: &str) -> Option<u32> {
    let (_, rest) = origin.split_once('[')?;
    rest.split_once(']')?.0.parse().ok()
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

/// `name` decides among policies of equal order.
fn build(key: &Key, name: &str, view: &PolicyView<'_>) -> PolicySpec {
    let namespace = key.namespace.as_deref();
    let types = view.types();
    let (ingress, egress) = (types.contains(&PolicyType::Ingress), types.contains(&PolicyType::Egress));
    let mut compiler = Compiler { namespace, ..Compiler::default() };
    // Rules of a direction the policy has no type for are never looked at.
    let mut rules = |wanted: bool, rules: &[Rule], direction| {
        if wanted { compiler.rules(rules, direction) } else { Vec::new() }
    };
    let mut active = ActivePolicy {
        id: policy_id(key),
        tier: view.tier().into(),
        staged: view.staged_action.is_some(),
        ingress: rules(ingress, view.ingress, Direction::Ingress),
        egress: rules(egress, view.egress, Direction::Egress),
        do_not_track: view.do_not_track,
        pre_dnat: view.pre_dnat,
        apply_on_forward: view.apply_on_forward,
        invalid: None,
    };
    let mut sets = compiler.sets;
    if let Some(reason) = compiler.unusable {
        active = quarantined(&active, ingress, egress, reason);
        sets = BTreeMap::new();
    }
    let target = Who {
        namespace,
        selector: view.selector,
        namespace_selector: view.namespace_selector,
        account_selector: view.service_account_selector,
        ..Who::default()
    };
    PolicySpec {
        place: SortKey::policy(view.order, key.kind, namespace, name),
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
    let order = if kubernetes { KUBERNETES_POLICY_ORDER } else { order };
    Some(PolicySpec {
        place: SortKey::policy(Some(order), key.kind, key.namespace.as_deref(), &key.name),
        target: who.target(),
        ingress,
        egress,
        active: Arc::new(quarantined(&active, ingress, egress, reason.to_owned())),
        sets: BTreeMap::new(),
        notes: Vec::new(),
    })
}

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
