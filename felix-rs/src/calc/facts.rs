//! What selectors see of an endpoint or a network set.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_api::selector::Labels;

/// Label names to values.
pub(super) type LabelMap = BTreeMap<Arc<str>, Arc<str>>;

/// Label that Calico gives every namespaced object.
pub(super) const NAMESPACE: &str = "projectcalico.org/namespace";
/// Label that Calico gives every workload endpoint with a service account.
pub(super) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Label that Calico gives every workload endpoint of an orchestrator (`k8s`).
pub(super) const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Label with the name, on namespaces, service accounts and network sets.
pub(super) const NAME: &str = "projectcalico.org/name";
/// Prefix of labels inherited from the namespace.
pub(super) const NAMESPACE_PREFIX: &str = "pcns.";
/// Prefix of labels inherited from the service account.
pub(super) const ACCOUNT_PREFIX: &str = "pcsa.";

/// Effective labels: an object's own, then what its parents (namespace, service account, profiles) lend it, the
/// earlier parent first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    pub(super) own: LabelMap,
    pub(super) inherited: Vec<Arc<LabelMap>>,
}

impl Facts {
    /// All effective labels.
    pub(super) fn pairs(&self) -> BTreeMap<&Arc<str>, &Arc<str>> {
        let mut pairs = BTreeMap::new();
        for map in self.inherited.iter().rev() {
            pairs.extend(map.iter());
        }
        pairs.extend(self.own.iter());
        pairs
    }
}

impl Labels for Facts {
    fn get(&self, name: &str) -> Option<&str> {
        self.own.get(name).or_else(|| self.inherited.iter().find_map(|map| map.get(name))).map(AsRef::as_ref)
    }
}
