//! From stored objects to the calculation's own forms: policies and profiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::convert::{Converted, cluster_policy, kubernetes_policy, staged_kubernetes_policy};
use margay_api::effective::{PolicyView, SortKey};
use margay_api::kinds::{PolicyType, Rule, StagedAction};
use margay_api::{Key, Kind, Object, Profile, Resource, Spec};

use super::compile::Compiler;
use super::facts::LabelMap;
use super::policy::{PolicySpec, quarantined};
use super::profile::ProfileSpec;
use super::sets::{KnownSets, SetSpec};
use super::who::Who;
use crate::model::{ActivePolicy, ActiveProfile, Direction, PolicyId, ProfileId};

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
            | Kind::ClusterNetworkPolicy
    )
}

pub(super) fn is_staged(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::StagedKubernetesNetworkPolicy
    )
}

/// `None`: the object has no effect on packets nor on what explain says.
pub(super) fn policy(key: &Key, resource: &Resource, known: &mut KnownSets) -> Option<PolicySpec> {
    let view = match resource {
        Resource::NetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::GlobalNetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::StagedNetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::StagedGlobalNetworkPolicy(policy) => PolicyView::from(&policy.spec),
        Resource::KubernetesNetworkPolicy(policy) => {
            let converted = kubernetes_policy(policy);
            return Some(from_kubernetes(key, &converted, PolicyView::from(&converted.policy.spec), known));
        }
        Resource::ClusterNetworkPolicy(policy) => {
            let converted = cluster_policy(policy);
            let governs = !policy.spec.ingress.is_empty() || !policy.spec.egress.is_empty();
            return governs
                .then(|| from_kubernetes(key, &converted, PolicyView::from(&converted.policy.spec), known));
        }
        Resource::StagedKubernetesNetworkPolicy(policy) => {
            let action = policy.spec.staged_action.unwrap_or_default();
            let converted = staged_kubernetes_policy(policy);
            let view = PolicyView { staged_action: Some(action), ..PolicyView::from(&converted.policy.spec) };
            return would_apply(action).then(|| from_kubernetes(key, &converted, view, known));
        }
        _ => return None,
    };
    view.staged_action.is_none_or(would_apply).then(|| build(key, &key.name, &view, known))
}

/// A staged policy that would be set; the other actions name a policy to take away or none at all.
fn would_apply(action: StagedAction) -> bool {
    action == StagedAction::Set
}

/// Rules keep the number they have in the Kubernetes object, however many they became.
fn from_kubernetes<S: Spec>(
    key: &Key,
    converted: &Converted<Object<S>>,
    view: PolicyView<'_>,
    known: &mut KnownSets,
) -> PolicySpec {
    let mut spec = build(key, &converted.policy.metadata.name, &view, known);
    let mut active = ActivePolicy::clone(&spec.active);
    for rule in active.egress.iter_mut().filter(|_| spec.active.invalid.is_none()) {
        let nodes = usize::try_from(rule.index).ok().and_then(|index| converted.egress_nodes.get(&index));
        if let Some(nodes) = nodes {
            let (id, set) = known.share(SetSpec::Nodes(nodes.clone()));
            rule.destination.sets.push(id.clone());
            spec.sets.insert(id, set);
        }
    }
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
    spec.notes.extend(dropped.map(|rule| {
        let instead = if rule.denies { "denies everything" } else { "is left out" };
        format!("{} {instead}: {}", rule.path, rule.reason)
    }));
    spec
}

/// The number in `spec.ingress[2].from[1]`: 2.
fn number_in(origin: &str) -> Option<u32> {
    let (_, rest) = origin.split_once('[')?;
    rest.split_once(']')?.0.parse().ok()
}

pub(super) fn policy_id(key: &Key) -> PolicyId {
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
fn build(key: &Key, name: &str, view: &PolicyView<'_>, known: &mut KnownSets) -> PolicySpec {
    let namespace = key.namespace.as_deref();
    let types = view.types();
    let (ingress, egress) = (types.contains(&PolicyType::Ingress), types.contains(&PolicyType::Egress));
    let mut compiler = Compiler::new(namespace, known);
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

/// A Profile's rules.
pub(super) fn profile(profile: &Profile, known: &mut KnownSets) -> ProfileSpec {
    let id = ProfileId(profile.metadata.name.as_str().into());
    let mut compiler = Compiler::new(None, known);
    let ingress = compiler.rules(&profile.spec.ingress, Direction::Ingress);
    let egress = compiler.rules(&profile.spec.egress, Direction::Egress);
    if compiler.unusable.is_some() {
        return ProfileSpec::closed(&id);
    }
    ProfileSpec { active: Arc::new(ActiveProfile { id, ingress, egress }), sets: compiler.sets }
}

/// Labels under a prefix, as namespaces and service accounts lend them.
pub(super) fn prefixed(prefix: &str, labels: &BTreeMap<String, String>) -> LabelMap {
    labels.iter().map(|(name, value)| (format!("{prefix}{name}").into(), value.as_str().into())).collect()
}
