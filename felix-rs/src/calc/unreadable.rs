//! What stands for a policy that cannot be read: it denies everything in the directions, and for the endpoints, that can
//! still be made out of the stored text; what cannot be made out counts as the widest (every endpoint of the
//! namespace, or of the cluster; both directions; first in the tier).

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::convert::{KUBERNETES_POLICY_ORDER, cluster_subject, cluster_tier};
use margay_api::effective::{DEFAULT_TIER, KUBE_ADMIN_TIER, SortKey};
use margay_api::kinds::{ClusterPolicySubject, NamespacedPods};
use margay_api::selector::{Expr, LabelSelector, Selector};
use margay_api::{Key, Kind};
use serde_json::Value;

use super::convert::{is_staged, policy_id};
use super::facts::ORCHESTRATOR;
use super::policy::{PolicySpec, quarantined};
use super::who::Who;
use crate::model::ActivePolicy;

/// The readable fields of a spec.
#[derive(Clone, Copy)]
struct Remains<'a>(Option<&'a Value>);

/// What they say the policy governs.
struct Governed {
    tier: String,
    order: f64,
    selector: Selector,
    namespaces: Option<Selector>,
    accounts: Option<Selector>,
    ingress: bool,
    egress: bool,
}

impl<'a> Remains<'a> {
    fn field(self, name: &str) -> Option<&'a Value> {
        self.0.and_then(|spec| spec.get(name))
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.field(name).and_then(Value::as_str)
    }

    fn flag(self, name: &str) -> bool {
        self.field(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn selector(self, name: &str) -> Option<Selector> {
        let text = self.text(name)?;
        (!text.trim().is_empty()).then(|| Selector::parse(text).ok()).flatten()
    }

    /// The directions listed in a field; all if there is none.
    fn types(self, name: &str) -> (bool, bool) {
        let has = |direction: &str| match self.field(name).and_then(Value::as_array) {
            Some(types) => types.iter().any(|value| value.as_str() == Some(direction)),
            None => true,
        };
        (has("Ingress"), has("Egress"))
    }

    fn calico(self, namespaced: bool) -> Governed {
        let (ingress, egress) = self.types("types");
        Governed {
            tier: self.text("tier").unwrap_or(DEFAULT_TIER).to_owned(),
            order: self.field("order").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY),
            selector: self.selector("selector").unwrap_or_else(Selector::all),
            namespaces: self.selector("namespaceSelector").filter(|_| !namespaced),
            accounts: self.selector("serviceAccountSelector"),
            ingress,
            egress,
        }
    }

    fn kubernetes(self) -> Governed {
        let pods = self
            .field("podSelector")
            .and_then(|value| serde_json::from_value::<LabelSelector>(value.clone()).ok());
        let orchestrated: Selector = Expr::Eq(ORCHESTRATOR.to_owned(), "k8s".to_owned()).into();
        let (ingress, egress) = self.types("policyTypes");
        Governed {
            tier: DEFAULT_TIER.to_owned(),
            order: KUBERNETES_POLICY_ORDER,
            selector: pods.unwrap_or_default().to_selector().and(&orchestrated),
            namespaces: None,
            accounts: None,
            ingress,
            egress,
        }
    }

    fn cluster(self) -> Governed {
        let subject = self
            .field("subject")
            .and_then(|value| serde_json::from_value::<ClusterPolicySubject>(value.clone()).ok());
        let everything = ClusterPolicySubject::Pods(NamespacedPods::default());
        let (selector, namespaces) = cluster_subject(&subject.unwrap_or(everything));
        let has_rules =
            |name| self.field(name).is_some_and(|rules| rules.as_array().is_none_or(|r| !r.is_empty()));
        Governed {
            tier: self
                .text("tier")
                .and_then(|tier| tier.parse().ok())
                .map_or(KUBE_ADMIN_TIER, cluster_tier)
                .to_owned(),
            order: self.field("priority").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY),
            selector,
            namespaces: Some(namespaces),
            accounts: None,
            ingress: has_rules("ingress"),
            egress: has_rules("egress"),
        }
    }
}

/// `None` for staged policies, which never have an effect.
pub(super) fn policy(key: &Key, raw: Option<&Value>, reason: &str) -> Option<PolicySpec> {
    if is_staged(key.kind) {
        return None;
    }
    let remains = Remains(raw.and_then(|raw| raw.get("spec")));
    let namespace = key.namespace.as_deref();
    let governed = match key.kind {
        Kind::KubernetesNetworkPolicy => remains.kubernetes(),
        Kind::ClusterNetworkPolicy => remains.cluster(),
        _ => remains.calico(namespace.is_some()),
    };
    let (ingress, egress) = match (governed.ingress, governed.egress) {
        (false, false) => (true, true),
        some => some,
    };
    let active = ActivePolicy {
        id: policy_id(key),
        tier: governed.tier.into(),
        staged: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        do_not_track: remains.flag("doNotTrack"),
        pre_dnat: remains.flag("preDNAT"),
        apply_on_forward: remains.flag("applyOnForward"),
        invalid: None,
    };
    let who = Who {
        namespace,
        selector: Some(&governed.selector),
        namespace_selector: governed.namespaces.as_ref(),
        account_selector: governed.accounts.as_ref(),
        ..Who::default()
    };
    Some(PolicySpec {
        place: SortKey::policy(Some(governed.order), key.kind, namespace, &key.name),
        target: who.target(),
        ingress,
        egress,
        active: Arc::new(quarantined(&active, ingress, egress, reason.to_owned())),
        sets: BTreeMap::new(),
        notes: Vec::new(),
    })
}
