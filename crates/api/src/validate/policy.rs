//! Calico's policies and profiles.

use super::{
    common, metadata,
    rule::{self, Place},
};
use crate::{
    Object, Profile, Spec,
    effective::{DEFAULT_TIER, PolicyView, policy_types},
    kinds::{
        GlobalNetworkPolicySpec, NetworkPolicySpec, PolicyType, StagedAction, StagedGlobalNetworkPolicySpec,
        StagedNetworkPolicySpec,
    },
    path::{Problems, SPEC},
};

/// The label that says a policy's tier.
pub(crate) const TIER_LABEL: &str = "projectcalico.org/tier";

/// Access to the fields that defaults are written to.
pub(crate) trait Defaultable: Spec {
    fn tier(&mut self) -> &mut Option<String>;
    fn types(&mut self) -> &mut Vec<PolicyType>;
    fn rules(&self) -> (bool, bool);
    fn staged(&mut self) -> Option<&mut Option<StagedAction>>;
}

macro_rules! defaultable {
    ($($spec:ty: |$this:ident| $staged:expr;)*) => { $(
        impl Defaultable for $spec {
            fn tier(&mut self) -> &mut Option<String> { &mut self.tier }
            fn types(&mut self) -> &mut Vec<PolicyType> { &mut self.types }
            fn rules(&self) -> (bool, bool) { (!self.ingress.is_empty(), !self.egress.is_empty()) }
            fn staged(&mut self) -> Option<&mut Option<StagedAction>> { let $this = self; $staged }
        }
    )* };
}
defaultable! {
    NetworkPolicySpec: |_this| None;
    GlobalNetworkPolicySpec: |_this| None;
    StagedNetworkPolicySpec: |this| Some(&mut this.staged_action);
    StagedGlobalNetworkPolicySpec: |this| Some(&mut this.staged_action);
}

pub(crate) fn set_defaults<S: Defaultable>(object: &mut Object<S>) {
    let spec = &mut object.spec;
    let action = spec.staged().map(|action| *action.get_or_insert_default());
    let tier = spec.tier();
    let tier = match tier {
        Some(name) if !name.is_empty() => name.clone(),
        _ => tier.insert(DEFAULT_TIER.to_owned()).clone(),
    };
    object.metadata.labels.insert(TIER_LABEL.to_owned(), tier);
    // A staged deletion says nothing but the name of what it deletes.
    if action != Some(StagedAction::Delete) && spec.types().is_empty() {
        let (ingress, egress) = spec.rules();
        *spec.types() = policy_types(&[], ingress, egress);
    }
}

pub(crate) fn check<S: Spec>(object: &Object<S>, problems: &mut Problems)
where
    for<'a> PolicyView<'a>: From<&'a S>,
{
    let view = PolicyView::from(&object.spec);
    let namespaced = S::KIND.namespaced();
    if let Some(tier) = view.tier {
        problems.require(
            metadata::is_label(tier),
            &SPEC.field("tier"),
            format!("{tier:?} is not the name of a tier"),
        );
    }
    check_order(view.order, problems);
    common::selector(view.selector, &SPEC.field("selector"), problems);
    common::selector(view.namespace_selector, &SPEC.field("namespaceSelector"), problems);
    common::selector(view.service_account_selector, &SPEC.field("serviceAccountSelector"), problems);
    common::unique(view.types, &SPEC.field("types"), problems);
    common::unique(view.performance_hints, &SPEC.field("performanceHints"), problems);
    if view.staged_action == Some(StagedAction::Delete) {
        check_staged_delete(&view, problems);
        return;
    }
    let ingress = Place { direction: PolicyType::Ingress, namespaced };
    rule::check_list(view.ingress, ingress, &SPEC.field("ingress"), problems);
    let egress = Place { direction: PolicyType::Egress, namespaced };
    rule::check_list(view.egress, egress, &SPEC.field("egress"), problems);
    check_host_policy(&view, problems);
}

fn check_staged_delete(view: &PolicyView<'_>, problems: &mut Problems) {
    let empty = view.order.is_none()
        && view.selector.is_none()
        && view.namespace_selector.is_none()
        && view.service_account_selector.is_none()
        && view.types.is_empty()
        && view.ingress.is_empty()
        && view.egress.is_empty()
        && view.performance_hints.is_empty()
        && !view.do_not_track
        && !view.pre_dnat
        && !view.apply_on_forward;
    problems.require(empty, &SPEC.field("stagedAction"), "Delete allows no other field beside it but tier");
}

fn check_host_policy(view: &PolicyView<'_>, problems: &mut Problems) {
    let pre_dnat = SPEC.field("preDNAT");
    if view.pre_dnat {
        problems.require(!view.do_not_track, &pre_dnat, "preDNAT and doNotTrack can't both be true");
        problems.require(
            view.egress.is_empty(),
            &SPEC.field("egress"),
            "a preDNAT policy can't have egress rules",
        );
        problems.require(
            !view.types.contains(&PolicyType::Egress),
            &SPEC.field("types"),
            "a preDNAT policy can't have type Egress",
        );
    }
    problems.require(
        view.apply_on_forward || !(view.pre_dnat || view.do_not_track),
        &SPEC.field("applyOnForward"),
        "must be true if preDNAT or doNotTrack is true",
    );
}

pub(crate) fn check_order(order: Option<f64>, problems: &mut Problems) {
    problems.require(order.is_none_or(f64::is_finite), &SPEC.field("order"), "must be a finite number");
}

pub(crate) fn check_profile(profile: &Profile, problems: &mut Problems) {
    let spec = &profile.spec;
    let ingress = Place { direction: PolicyType::Ingress, namespaced: false };
    rule::check_list(&spec.ingress, ingress, &SPEC.field("ingress"), problems);
    let egress = Place { direction: PolicyType::Egress, namespaced: false };
    rule::check_list(&spec.egress, egress, &SPEC.field("egress"), problems);
    let labels = SPEC.field("labelsToApply");
    for (name, value) in &spec.labels_to_apply {
        metadata::check_label_name(name, &labels.key(name), problems);
        metadata::check_label_value(value, &labels.key(name), problems);
    }
}
