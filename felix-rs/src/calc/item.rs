//! What the calculation needs of an endpoint or a network set.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::facts::{ACCOUNT_PREFIX, LabelMap, NAME, NAMESPACE_PREFIX};
use super::sets::Contribution;
use crate::model::{EndpointId, ProfileId};

/// Identity of something that selectors can select.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemId {
    /// A workload endpoint, by namespace and name.
    Workload(Arc<str>, Arc<str>),
    /// A pod without workload endpoint, by namespace and name.
    Pod(Arc<str>, Arc<str>),
    /// A host endpoint.
    Host(Arc<str>),
    /// A network set, by namespace and name.
    NetworkSet(Arc<str>, Arc<str>),
    /// A global network set.
    GlobalNetworkSet(Arc<str>),
}

/// Where an item inherits labels from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Parent {
    /// A namespace; Calico's profile `kns.<namespace>`.
    Namespace(Arc<str>),
    /// A service account, by namespace and name; Calico's profile `ksa.<namespace>.<name>`.
    ServiceAccount(Arc<str>, Arc<str>),
    /// A Profile object.
    Profile(Arc<str>),
}

impl Parent {
    /// The parent a profile name means. Names of namespaces have no dots.
    pub(super) fn of_profile(name: &str) -> Self {
        if let Some(namespace) = name.strip_prefix("kns.") {
            return Self::Namespace(namespace.into());
        }
        if let Some((namespace, account)) = name.strip_prefix("ksa.").and_then(|rest| rest.split_once('.')) {
            return Self::ServiceAccount(namespace.into(), account.into());
        }
        Self::Profile(name.into())
    }

    /// Labels it lends whether or not the datastore has its object: a namespace's name is a fact, and
    /// Kubernetes' API server labels every namespace with it.
    pub(super) fn implied_labels(&self) -> LabelMap {
        let lend = |pairs: &[(&str, &str, &Arc<str>)]| {
            pairs
                .iter()
                .map(|(prefix, name, value)| (format!("{prefix}{name}").into(), Arc::clone(value)))
                .collect()
        };
        match self {
            Self::Namespace(name) => lend(&[
                (NAMESPACE_PREFIX, NAME, name),
                (NAMESPACE_PREFIX, "kubernetes.io/metadata.name", name),
            ]),
            Self::ServiceAccount(_, name) => lend(&[(ACCOUNT_PREFIX, NAME, name)]),
            Self::Profile(_) => LabelMap::new(),
        }
    }
}

/// An item as its object (or several: a pod and its workload endpoint) describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Own labels, Calico's included; shared with the indexes.
    pub(super) labels: Arc<LabelMap>,
    /// In the order in which they lend labels.
    pub(super) parents: Arc<[Parent]>,
    /// What it puts into sets.
    pub(super) contribution: Contribution,
    /// Present if its policy is this calculation's business.
    pub(super) local: Option<Box<Local>>,
}

/// What the rules need of an endpoint whose policy is this calculation's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) id: EndpointId,
    pub(super) interface: Arc<str>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) allowed_sources: BTreeSet<IpNet>,
    pub(super) profiles: Vec<ProfileId>,
}
