//! What selectors see of an endpoint or a network set.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use margay_api::convert::{
    LABEL_NAME as NAME, LABEL_NAMESPACE as NAMESPACE, LABEL_ORCHESTRATOR as ORCHESTRATOR,
    LABEL_SERVICE_ACCOUNT as SERVICE_ACCOUNT, NAMESPACE_LABEL_PREFIX as NAMESPACE_PREFIX,
    SERVICE_ACCOUNT_LABEL_PREFIX as ACCOUNT_PREFIX,
};
use margay_api::selector::Labels;

/// Label names to values.
pub(super) type LabelMap = BTreeMap<Arc<str>, Arc<str>>;

/// Effective labels: an object's own, then what its parents (namespace, service account, profiles) lend it, the
/// earlier parent first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    pub(super) own: Arc<LabelMap>,
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
