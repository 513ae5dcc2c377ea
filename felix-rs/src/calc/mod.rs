//! From the cluster's objects to what a node must enforce.
//!
//! [`Calculator::update`] takes objects as they come, in any order, as often as they come; [`Calculator::flush`] says
//! what that changes. Adding up all flushes gives an [`EnforcedState`](crate::model::EnforcedState) that
//! depends on nothing but the objects' last values.
//!
//! # What cannot be read fails closed
//! * A policy (not a staged one) that is unreadable, has a rule that cannot be enforced as meant, or belongs to a tier that
//!   does not exist: it denies everything in the directions and for the endpoints it governs. Of an unreadable
//!   one, whatever can be made out of the stored text counts; the rest counts as the widest (every endpoint of its
//!   namespace, or of the cluster; both directions; before the other policies of its tier). A missing tier stands
//!   before all others, because its place is not known.
//! * A profile that an endpoint names and nobody has, or that is unreadable: it denies everything. Profiles `kns.*`
//!   and `ksa.*` need no object: the first allows, the second has no rules. An unreadable Namespace closes its `kns.*`.
//! * A workload endpoint, pod, endpoint slice or network set that is unreadable contributes no addresses (of a network set, those that
//!   can be made out count): rules that allow by it allow less. Rules that *deny* by it deny less: that cannot be
//!   closed without cutting off strangers, and [`Calculator::problems`] says so.
//! * Unreadable configuration, pools and nodes are left out: the defaults are the closed ones.

mod anchor;
mod catalog;
mod compile;
mod convert;
mod facts;
mod graph;
mod index;
mod item;
mod order;
mod pack;
mod policy;
mod profile;
mod salvage;
mod sets;
mod settings;
mod shared;
mod sources;
mod unreadable;
mod who;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use margay_api::{Key, Kind, Resource, WorkloadEndpoint};
use serde::Serialize;
use serde_json::Value;

use self::catalog::Catalog;
use self::facts::{ACCOUNT_PREFIX, LabelMap, NAMESPACE_PREFIX};
use self::graph::Graph;
use self::item::{ItemId, Parent};
use self::profile::ProfileSpec;
use self::sets::KnownSets;
use self::settings::SettingsSource;
pub use self::settings::node_addresses;
use self::sources::{NodeFacts, Slice};
use crate::model::{Delta, NodeSettings, ProfileId};

/// Whose policy to calculate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Endpoints of the node of that name, and those set with [`Calculator::set_local_endpoint`].
    Node(String),
    /// Every endpoint of the cluster: to explain any packet from anywhere. Not for enforcement.
    All,
}

/// Something wrong with an object, in words for the person who owns it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object, as `Kind(namespace/name)`.
    pub object: String,
    /// What is wrong, what follows from it, what to do.
    pub reason: String,
}

/// Interfaces with their addresses.
pub type Interfaces = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

/// The calculation: see the [module](self).
#[derive(Debug)]
pub struct Calculator {
    scope: Scope,
    catalog: Catalog,
    settings: SettingsSource,
    settings_changed: bool,
    told_settings: Arc<NodeSettings>,
    /// The node's interfaces with their addresses.
    interfaces: Interfaces,
    graph: Graph,
    touched_items: BTreeSet<ItemId>,
    unreadable: BTreeMap<Key, String>,
    /// Sets that rules refer to.
    known_sets: KnownSets,
}

impl Calculator {
    /// For the endpoints of one node.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self::with_scope(Scope::Node(node.into()))
    }

    /// For the endpoints of a scope.
    #[must_use]
    pub fn with_scope(scope: Scope) -> Self {
        Self {
            catalog: Catalog::new(scope.clone()),
            scope,
            settings: SettingsSource::default(),
            settings_changed: true,
            told_settings: Arc::default(),
            interfaces: Interfaces::new(),
            graph: Graph::default(),
            touched_items: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            known_sets: KnownSets::default(),
        }
    }

    /// For a kernel without IPv6, whatever objects ask for.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        self.settings.lack_ipv6();
        self
    }

    /// The node's own interfaces: by their addresses host endpoints without `interfaceName` are found, and their names tell who
    /// else works here. Without those of pods of ours.
    pub fn set_interfaces(&mut self, interfaces: Interfaces) {
        self.settings_changed |= interfaces != self.interfaces;
        self.interfaces = interfaces;
    }

    /// An object as it is now; `None`: it is gone. Kinds without a meaning for policy are ignored.
    pub fn update(&mut self, key: &Key, resource: Option<&Resource>) {
        self.unreadable.remove(key);
        self.take(key, resource.filter(|resource| resource.kind() == key.kind));
    }

    /// An object is there but cannot be read. It is quarantined: see the [module](self). `raw` is what is stored, as
    /// far as it is JSON; it narrows down what has to be closed.
    pub fn update_unreadable(&mut self, key: &Key, reason: &str, raw: Option<&Value>) {
        self.take(key, salvage::resource(key, raw).as_ref());
        self.unreadable.insert(key.clone(), reason.to_owned());
        let name = || ProfileId(key.name.as_str().into());
        match key.kind {
            kind if convert::is_policy(kind) => {
                self.graph.put_policy(key.clone(), unreadable::policy(key, raw, reason));
            }
            Kind::Profile => self.graph.put_profile(name(), Some(ProfileSpec::closed(&name()))),
            Kind::Namespace => {
                let profile = ProfileId(format!("kns.{}", key.name).into());
                self.graph.put_profile(profile.clone(), Some(ProfileSpec::closed(&profile)));
            }
            _ => {}
        }
    }

    /// An endpoint the local agent knows of itself; it wins over the datastore's copy of the same namespace and name.
    pub fn set_local_endpoint(&mut self, endpoint: &WorkloadEndpoint) {
        let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
        let touched = self.catalog.put_local(namespace, &endpoint.metadata.name, Some(endpoint));
        self.touched_items.extend(touched);
    }

    /// Takes back [`Calculator::set_local_endpoint`].
    pub fn remove_local_endpoint(&mut self, namespace: &str, name: &str) {
        let touched = self.catalog.put_local(namespace, name, None);
        self.touched_items.extend(touched);
    }

    /// Addresses of pods, with namespace and name of each.
    pub fn pods(&self) -> impl Iterator<Item = (IpAddr, &str, &str)> {
        self.catalog.pods()
    }

    /// What changed since the last flush. The first one has everything, settings included.
    pub fn flush(&mut self) -> Delta {
        let mut delta = Delta::default();
        if self.settings_changed {
            self.touched_items.extend(self.catalog.let_spoof(self.settings.let_spoof(&self.scope)));
        }
        for id in std::mem::take(&mut self.touched_items) {
            let item = self.catalog.item(&id);
            self.graph.put_item(id, item);
        }
        self.graph.flush(&mut delta);
        let prefixes = &self.told_settings.workload_prefixes;
        self.settings_changed |= !delta.endpoints.is_empty()
            && (self.graph.interfaces_beside(prefixes) != self.told_settings.workload_interfaces
                || self.host_addresses() != self.told_settings.host_addresses);
        if std::mem::take(&mut self.settings_changed) {
            let mut settings = self.settings.settings(&self.scope, &self.interfaces);
            settings.workload_interfaces = self.graph.interfaces_beside(&settings.workload_prefixes);
            settings.host_addresses = self.host_addresses();
            let settings = Arc::new(settings);
            if settings != self.told_settings {
                self.told_settings = Arc::clone(&settings);
                delta.settings = Some(settings);
            }
        }
        delta
    }

    /// Those of the node's interfaces that host endpoints are found by.
    fn host_addresses(&self) -> Interfaces {
        let expected = self.graph.expected_addresses();
        let having = self.interfaces.iter().filter(|(_, own)| !own.is_disjoint(&expected));
        having.map(|(name, own)| (Arc::clone(name), own & &expected)).collect()
    }

    /// Needs less memory for what a great many updates have told; what is known stays the same. Takes milliseconds.
    pub fn pack(&mut self) {
        self.catalog.pack();
        self.graph.pack();
    }

    /// Everything that is wrong with the objects, as of the last flush.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = BTreeSet::new();
        for (key, reason) in &self.unreadable {
            let reason = format!("{reason}{}", self.consequences(key));
            problems.insert(Problem { object: key.to_string(), reason });
        }
        for (key, reason) in self.graph.policy_problems() {
            problems.insert(Problem { object: key.to_string(), reason });
        }
        for (key, endpoint) in self.graph.untracked_everywhere() {
            let reason = format!(
                "doNotTrack policies have no effect on HostEndpoint({endpoint}), whose interfaceName is \"*\" (as with Felix): \
                 make a HostEndpoint for each interface that it is to hold for"
            );
            problems.insert(Problem { object: key.to_string(), reason });
        }
        for id in self.graph.missing_profiles() {
            let reason =
                "endpoints name this profile and it does not exist: it denies everything that no policy \
                          decides; create the Profile or take it out of the endpoints"
                    .to_owned();
            problems.insert(Problem { object: Key::cluster(Kind::Profile, &*id.0).to_string(), reason });
        }
        problems.extend(self.settings.problems(&self.scope, &self.interfaces));
        problems.into_iter().collect()
    }

    /// Which policies miss addresses of an unreadable network set.
    fn consequences(&self, key: &Key) -> String {
        let name = key.name.as_str().into();
        let id = match (key.kind, key.namespace.as_deref()) {
            (Kind::NetworkSet, Some(namespace)) => ItemId::NetworkSet(namespace.into(), name),
            (Kind::GlobalNetworkSet, None) => ItemId::GlobalNetworkSet(name),
            _ => return String::new(),
        };
        let policies: Vec<String> = self.graph.policies_about(&id).iter().map(ToString::to_string).collect();
        if policies.is_empty() {
            return String::new();
        }
        format!("; these use it and match only the networks that can be read: {}", policies.join(", "))
    }

    fn take(&mut self, key: &Key, resource: Option<&Resource>) {
        let (namespace, name) = (key.namespace.as_deref().unwrap_or_default(), key.name.as_str());
        match key.kind {
            Kind::WorkloadEndpoint => {
                let endpoint = object!(resource, WorkloadEndpoint);
                self.touched_items.extend(self.catalog.put_stored(namespace, name, endpoint));
            }
            Kind::Pod => {
                self.touched_items.extend(self.catalog.put_pod(namespace, name, object!(resource, Pod)));
            }
            Kind::HostEndpoint => {
                let item =
                    object!(resource, HostEndpoint).map(|host| catalog::host_endpoint(host, &self.scope));
                self.graph.put_item(ItemId::Host(name.into()), item);
            }
            Kind::NetworkSet => {
                let item = object!(resource, NetworkSet).map(catalog::network_set);
                self.graph.put_item(ItemId::NetworkSet(namespace.into(), name.into()), item);
            }
            Kind::GlobalNetworkSet => {
                let item = object!(resource, GlobalNetworkSet).map(catalog::global_network_set);
                self.graph.put_item(ItemId::GlobalNetworkSet(name.into()), item);
            }
            Kind::Namespace => {
                let labels = resource.map_or_else(LabelMap::new, |resource| {
                    convert::prefixed(NAMESPACE_PREFIX, &resource.metadata().labels)
                });
                self.graph.put_parent(Parent::Namespace(name.into()), labels);
                self.graph.put_profile(ProfileId(format!("kns.{name}").into()), None);
            }
            Kind::ServiceAccount => {
                let labels = resource.map_or_else(LabelMap::new, |resource| {
                    convert::prefixed(ACCOUNT_PREFIX, &resource.metadata().labels)
                });
                self.graph.put_parent(Parent::ServiceAccount(namespace.into(), name.into()), labels);
            }
            Kind::Profile => self.take_profile(name, resource),
            Kind::Tier => {
                self.graph.put_tier(name, object!(resource, Tier));
            }
            Kind::FelixConfiguration => {
                self.settings.put_felix(name, object!(resource, FelixConfiguration));
                self.settings_changed = true;
            }
            Kind::BgpConfiguration => {
                self.settings.put_bgp(name, object!(resource, BgpConfiguration));
                self.settings_changed = true;
            }
            Kind::IpPool => {
                self.settings.put_pool(name, object!(resource, IpPool));
                self.settings_changed = true;
            }
            Kind::Node => {
                let node = object!(resource, Node);
                self.graph.put_node(name, node.map(NodeFacts::of));
                self.settings.put_node(name, node, &self.scope);
                self.settings_changed = true;
            }
            Kind::EndpointSlice => {
                let slice = object!(resource, EndpointSlice).and_then(Slice::of);
                self.graph.put_slice(namespace, name, slice);
            }
            kind if convert::is_policy(kind) => {
                let spec = resource.and_then(|resource| convert::policy(key, resource, &mut self.known_sets));
                self.graph.put_policy(key.clone(), spec);
            }
            _ => {}
        }
    }

    /// Names beginning with `kns.` and `ksa.` mean namespaces and service accounts, never a Profile object.
    fn take_profile(&mut self, name: &str, resource: Option<&Resource>) {
        let parent = Parent::of_profile(name);
        if !matches!(parent, Parent::Profile(_)) {
            return;
        }
        let profile = object!(resource, Profile);
        let labels = profile.map(|profile| catalog::labels_of(&profile.spec.labels_to_apply));
        self.graph.put_parent(parent, labels.unwrap_or_default());
        let spec = profile.map(|profile| convert::profile(profile, &mut self.known_sets));
        self.graph.put_profile(ProfileId(name.into()), spec);
    }
}

/// The object inside a resource of the kind, if it is one.
macro_rules! object {
    ($resource:expr, $kind:ident) => {
        match $resource {
            Some(Resource::$kind(object)) => Some(object),
            _ => None,
        }
    };
}
use object;

#[cfg(test)]
mod tests;
