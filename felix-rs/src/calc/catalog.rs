//! Endpoints and network sets: several objects (a pod, its workload endpoint in the datastore, the local agent's own
//! knowledge of it) become one item.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use margay_api::convert::{
    ORCHESTRATOR_KUBERNETES, namespace_profile_name, pod_is_finished, pod_labels, pod_ports,
    service_account_profile_name,
};
use margay_api::kinds::WorkloadPort;
use margay_api::types::Protocol;
use margay_api::{GlobalNetworkSet, HostEndpoint, NetworkSet, Pod, WorkloadEndpoint};

use super::Scope;
use super::facts::{
    ACCOUNT_PREFIX, LabelMap, NAME, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT,
};
use super::item::{Item, ItemId, Local, Parent};
use super::pack;
use super::sets::{Contribution, NamedPort};
use super::shared::Shared;
use crate::model::{EndpointId, ProfileId};

/// Namespace and name.
type Place = (Arc<str>, Arc<str>);

#[derive(Debug, Clone, PartialEq)]
struct Workload {
    labels: Arc<LabelMap>,
    node: Arc<str>,
    pod: Option<Arc<str>>,
    orchestrator: Arc<str>,
    account: Option<Arc<str>>,
    nets: Arc<[IpNet]>,
    ports: BTreeSet<NamedPort>,
    profiles: Arc<[Arc<str>]>,
    interface: Arc<str>,
    allowed_sources: BTreeSet<IpNet>,
}

#[derive(Debug, Clone, PartialEq)]
struct PodFacts {
    labels: Arc<LabelMap>,
    account: Option<Arc<str>>,
    nets: Arc<[IpNet]>,
    ports: BTreeSet<NamedPort>,
    finished: bool,
    host_network: bool,
}

/// Workload endpoints and pods.
#[derive(Debug)]
pub(super) struct Catalog {
    scope: Scope,
    stored: BTreeMap<Place, Workload>,
    local: BTreeMap<Place, Workload>,
    pods: BTreeMap<Place, PodFacts>,
    /// Namespace, pod, and name of a workload endpoint of it.
    endpoints_of: BTreeSet<(Arc<str>, Arc<str>, Arc<str>)>,
    /// Workload endpoints may name sources besides their addresses.
    may_spoof: bool,
    pools: Pools,
}

/// What endpoints have in common.
#[derive(Debug, Default)]
struct Pools {
    texts: Shared<str>,
    labels: Shared<LabelMap>,
    profiles: Shared<[Arc<str>]>,
    parents: Shared<[Parent]>,
}

/// Items to compute anew after a change.
type Touched = BTreeSet<ItemId>;

pub(super) fn labels_of(labels: &BTreeMap<String, String>) -> LabelMap {
    let lent = |name: &str| name.starts_with(NAMESPACE_PREFIX) || name.starts_with(ACCOUNT_PREFIX);
    let own = labels.iter().filter(|(name, _)| !lent(name));
    own.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}

impl Catalog {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            stored: BTreeMap::new(),
            local: BTreeMap::new(),
            pods: BTreeMap::new(),
            endpoints_of: BTreeSet::new(),
            may_spoof: false,
            pools: Pools::default(),
        }
    }

    pub(super) fn pack(&mut self) {
        pack::map(&mut self.stored);
        pack::map(&mut self.pods);
        pack::set(&mut self.endpoints_of);
        self.pools.texts.pack();
    }

    /// `workloadSourceSpoofing: Any` says whether workload endpoints' `allowSpoofedSourcePrefixes` count.
    pub(super) fn let_spoof(&mut self, may_spoof: bool) -> Touched {
        if std::mem::replace(&mut self.may_spoof, may_spoof) == may_spoof {
            return Touched::new();
        }
        let all = self.stored.iter().chain(&self.local);
        let spoofing = all.filter(|(_, workload)| !workload.allowed_sources.is_empty());
        spoofing
            .map(|((namespace, name), _)| ItemId::Workload(Arc::clone(namespace), Arc::clone(name)))
            .collect()
    }

    /// The datastore's copy of a workload endpoint.
    pub(super) fn put_stored(
        &mut self,
        namespace: &str,
        name: &str,
        endpoint: Option<&WorkloadEndpoint>,
    ) -> Touched {
        self.put_workload(namespace, name, endpoint, |catalog| &mut catalog.stored)
    }

    /// The local agent's copy: it wins over the datastore's.
    pub(super) fn put_local(
        &mut self,
        namespace: &str,
        name: &str,
        endpoint: Option<&WorkloadEndpoint>,
    ) -> Touched {
        self.put_workload(namespace, name, endpoint, |catalog| &mut catalog.local)
    }

    fn put_workload(
        &mut self,
        namespace: &str,
        name: &str,
        endpoint: Option<&WorkloadEndpoint>,
        map: fn(&mut Self) -> &mut BTreeMap<Place, Workload>,
    ) -> Touched {
        let place: Place = (self.pools.texts.share(namespace), name.into());
        let before = self.effective(&place).and_then(|workload| workload.pod.clone());
        match endpoint {
            Some(endpoint) => {
                let workload = self.pools.workload(endpoint);
                map(self).insert(place.clone(), workload)
            }
            None => map(self).remove(&place),
        };
        let after = self.effective(&place).and_then(|workload| workload.pod.clone());
        let (namespace, name) = place;
        let mut touched = Touched::from([ItemId::Workload(Arc::clone(&namespace), Arc::clone(&name))]);
        if before != after {
            if let Some(pod) = before {
                self.endpoints_of.remove(&(Arc::clone(&namespace), Arc::clone(&pod), Arc::clone(&name)));
                touched.insert(ItemId::Pod(Arc::clone(&namespace), pod));
            }
            if let Some(pod) = after {
                self.endpoints_of.insert((Arc::clone(&namespace), Arc::clone(&pod), name));
                touched.insert(ItemId::Pod(namespace, pod));
            }
        }
        touched
    }

    pub(super) fn put_pod(&mut self, namespace: &str, name: &str, pod: Option<&Pod>) -> Touched {
        let place: Place = (self.pools.texts.share(namespace), name.into());
        match pod {
            Some(pod) => {
                let facts = self.pools.pod_facts(pod);
                self.pods.insert(place.clone(), facts)
            }
            None => self.pods.remove(&place),
        };
        let endpoints = self.endpoints_of(&place);
        let mut touched: Touched =
            endpoints.map(|endpoint| ItemId::Workload(Arc::clone(&place.0), Arc::clone(endpoint))).collect();
        touched.insert(ItemId::Pod(place.0, place.1));
        touched
    }

    /// Names of the workload endpoints of a pod.
    fn endpoints_of(&self, pod: &Place) -> impl Iterator<Item = &Arc<str>> {
        let (namespace, name) = pod.clone();
        let of_pod = self.endpoints_of.range((Arc::clone(&namespace), Arc::clone(&name), Arc::from(""))..);
        of_pod.take_while(move |entry| entry.0 == namespace && entry.1 == name).map(|entry| &entry.2)
    }

    /// Addresses of pods, with namespace and name of each.
    pub(super) fn pods(&self) -> impl Iterator<Item = (IpAddr, &str, &str)> {
        let endpoints = self.stored.iter().chain(&self.local).filter_map(|((namespace, _), workload)| {
            Some((namespace, workload.pod.as_ref()?, &workload.nets))
        });
        let pods = self.pods.iter().map(|((namespace, name), pod)| (namespace, name, &pod.nets));
        endpoints.chain(pods).flat_map(|(namespace, name, nets)| {
            nets.iter().map(move |net| (net.addr(), namespace.as_ref(), name.as_ref()))
        })
    }

    fn effective(&self, place: &Place) -> Option<&Workload> {
        self.local.get(place).or_else(|| self.stored.get(place))
    }

    /// The item a workload endpoint or a pod makes now, if any.
    pub(super) fn item(&mut self, id: &ItemId) -> Option<Item> {
        match id {
            ItemId::Workload(namespace, name) => self.workload_item(namespace, name),
            ItemId::Pod(namespace, name) => self.pod_item(namespace, name),
            _ => None,
        }
    }

    /// A pod knows its labels, ports and phase better than the endpoint made when it started; the endpoint knows its
    /// addresses and interface.
    fn workload_item(&mut self, namespace: &Arc<str>, name: &Arc<str>) -> Option<Item> {
        let place = (Arc::clone(namespace), Arc::clone(name));
        // Not `effective`: the pools are needed beside it.
        let workload = self.local.get(&place).or_else(|| self.stored.get(&place))?;
        let pod =
            workload.pod.as_ref().and_then(|pod| self.pods.get(&(Arc::clone(namespace), Arc::clone(pod))));
        let account = pod.and_then(|pod| pod.account.clone()).or_else(|| workload.account.clone());
        let mut profiles = Arc::clone(&workload.profiles);
        if profiles.is_empty() && pod.is_some() {
            profiles = kubernetes_profiles(namespace, account.as_ref()).into();
        }
        let labels = pod.map_or(&workload.labels, |pod| &pod.labels);
        let contribution = if pod.is_some_and(|pod| pod.finished) {
            Contribution::default()
        } else {
            let ports = pod.map_or(&workload.ports, |pod| &pod.ports).clone();
            Contribution { nets: Arc::clone(&workload.nets), ports }
        };
        let is_local = match &self.scope {
            Scope::All => true,
            Scope::Node(node) => self.local.contains_key(&place) || *workload.node == **node,
        };
        let local = is_local.then(|| Local {
            id: EndpointId::Workload { namespace: Arc::clone(namespace), name: Arc::clone(name) },
            interface: Arc::clone(&workload.interface),
            addresses: workload.nets.iter().map(IpNet::addr).collect(),
            allowed_sources: if self.may_spoof { workload.allowed_sources.clone() } else { BTreeSet::new() },
            profiles: profile_ids(&profiles),
        });
        let labels = workload_labels(labels, namespace, &workload.orchestrator, account.as_ref());
        Some(Item {
            labels: self.pools.labels.share(labels),
            parents: self.pools.parents.share(parents(&profiles, Some(namespace), account.as_ref())),
            contribution,
            local: local.map(Box::new),
        })
    }

    /// A pod that no workload endpoint speaks for: another node's, where the datastore is Kubernetes' own.
    fn pod_item(&mut self, namespace: &Arc<str>, name: &Arc<str>) -> Option<Item> {
        let place = (Arc::clone(namespace), Arc::clone(name));
        let pod = self.pods.get(&place)?;
        if self.endpoints_of(&place).next().is_some()
            || pod.host_network
            || pod.finished
            || pod.nets.is_empty()
        {
            return None;
        }
        let profiles = kubernetes_profiles(namespace, pod.account.as_ref());
        // Its interface is unknown, so that it can be explained but not enforced.
        let local = (self.scope == Scope::All).then(|| Local {
            id: EndpointId::Workload { namespace: Arc::clone(namespace), name: Arc::clone(name) },
            interface: "".into(),
            addresses: pod.nets.iter().map(IpNet::addr).collect(),
            allowed_sources: BTreeSet::new(),
            profiles: profile_ids(&profiles),
        });
        let account = pod.account.as_ref();
        let labels = workload_labels(&pod.labels, namespace, ORCHESTRATOR_KUBERNETES, account);
        Some(Item {
            parents: self.pools.parents.share(parents(&profiles, Some(namespace), account)),
            contribution: Contribution { nets: Arc::clone(&pod.nets), ports: pod.ports.clone() },
            labels: self.pools.labels.share(labels),
            local: local.map(Box::new),
        })
    }
}

impl Pools {
    fn workload(&mut self, endpoint: &WorkloadEndpoint) -> Workload {
        let spec = &endpoint.spec;
        let profiles: Vec<Arc<str>> =
            spec.profiles.iter().map(|name| self.texts.share(name.as_str())).collect();
        Workload {
            labels: self.labels.share(labels_of(&endpoint.metadata.labels)),
            node: self.texts.share(spec.node.as_str()),
            pod: spec.pod.as_deref().map(Into::into),
            orchestrator: self.texts.share(spec.orchestrator.as_deref().unwrap_or(ORCHESTRATOR_KUBERNETES)),
            account: spec.service_account_name.as_deref().map(|account| self.texts.share(account)),
            nets: sorted(spec.ip_networks.iter().map(IpNet::trunc)),
            ports: named_ports(&spec.ports),
            profiles: self.profiles.share(profiles),
            interface: spec.interface_name.as_str().into(),
            allowed_sources: spec.allow_spoofed_source_prefixes.iter().map(IpNet::trunc).collect(),
        }
    }

    fn pod_facts(&mut self, pod: &Pod) -> PodFacts {
        let labels = labels_of(&pod_labels(pod));
        let ports = pod_ports(pod);
        let addresses = pod.status.pod_ips.iter().map(|address| address.ip).chain(pod.status.pod_ip);
        PodFacts {
            account: labels.get(SERVICE_ACCOUNT).cloned(),
            labels: self.labels.share(labels),
            nets: sorted(addresses.map(IpNet::from)),
            ports: named_ports(&ports),
            finished: pod_is_finished(pod),
            host_network: pod.spec.host_network,
        }
    }
}

/// In order, each once.
fn sorted(nets: impl Iterator<Item = IpNet>) -> Arc<[IpNet]> {
    nets.collect::<BTreeSet<_>>().into_iter().collect()
}

fn named_port(name: &str, protocol: Protocol, port: u16) -> NamedPort {
    NamedPort { name: name.into(), protocol: protocol.number(), port }
}

fn named_ports(ports: &[WorkloadPort]) -> BTreeSet<NamedPort> {
    let named = ports.iter().filter(|port| !port.name.is_empty());
    named.map(|port| named_port(&port.name, port.protocol, port.port)).collect()
}

/// Calico's own labels are laid over the user's: nobody can claim another namespace.
fn workload_labels(
    labels: &LabelMap,
    namespace: &Arc<str>,
    orchestrator: &str,
    account: Option<&Arc<str>>,
) -> LabelMap {
    let mut labels = labels.clone();
    labels.insert(NAMESPACE.into(), Arc::clone(namespace));
    labels.insert(ORCHESTRATOR.into(), orchestrator.into());
    match account {
        Some(account) => labels.insert(SERVICE_ACCOUNT.into(), Arc::clone(account)),
        None => labels.remove(SERVICE_ACCOUNT),
    };
    labels
}

fn kubernetes_profiles(namespace: &str, account: Option<&Arc<str>>) -> Vec<Arc<str>> {
    let of_account = account.map(|account| service_account_profile_name(namespace, account).into());
    std::iter::once(namespace_profile_name(namespace).into()).chain(of_account).collect()
}

fn profile_ids(profiles: &[Arc<str>]) -> Vec<ProfileId> {
    profiles.iter().map(|name| ProfileId(Arc::clone(name))).collect()
}

/// What the profiles name, then the namespace and the service account if no profile names them.
fn parents(profiles: &[Arc<str>], namespace: Option<&Arc<str>>, account: Option<&Arc<str>>) -> Vec<Parent> {
    let mut parents: Vec<Parent> = Vec::new();
    let of_namespace = namespace.map(|namespace| Parent::Namespace(Arc::clone(namespace)));
    let of_account = namespace
        .zip(account)
        .map(|(namespace, account)| Parent::ServiceAccount(Arc::clone(namespace), Arc::clone(account)));
    let named = profiles.iter().map(|name| Parent::of_profile(name));
    for parent in named.chain(of_namespace).chain(of_account) {
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    parents
}

/// A network set of a namespace.
pub(super) fn network_set(set: &NetworkSet) -> Item {
    let namespace: Option<Arc<str>> = set.metadata.namespace.as_deref().map(Into::into);
    let mut labels = labels_of(&set.metadata.labels);
    if let Some(namespace) = &namespace {
        labels.insert(NAMESPACE.into(), Arc::clone(namespace));
    }
    labels.insert(NAME.into(), set.metadata.name.as_str().into());
    nets_item(labels, parents(&[], namespace.as_ref(), None), &set.spec.nets)
}

/// A network set of the cluster.
pub(super) fn global_network_set(set: &GlobalNetworkSet) -> Item {
    let mut labels = labels_of(&set.metadata.labels);
    labels.remove(NAMESPACE);
    labels.insert(NAME.into(), set.metadata.name.as_str().into());
    nets_item(labels, Vec::new(), &set.spec.nets)
}

fn nets_item(labels: LabelMap, parents: Vec<Parent>, nets: &[IpNet]) -> Item {
    let nets = sorted(nets.iter().map(IpNet::trunc));
    Item {
        labels: labels.into(),
        parents: parents.into(),
        contribution: Contribution { nets, ports: BTreeSet::new() },
        local: None,
    }
}

/// An interface of a node.
pub(super) fn host_endpoint(endpoint: &HostEndpoint, scope: &Scope) -> Item {
    let spec = &endpoint.spec;
    let mut labels = labels_of(&endpoint.metadata.labels);
    labels.remove(NAMESPACE);
    let profiles: Vec<Arc<str>> = spec.profiles.iter().map(|name| name.as_str().into()).collect();
    let is_local = match scope {
        Scope::All => true,
        Scope::Node(node) => spec.node == *node,
    };
    let addresses: BTreeSet<IpAddr> = spec.expected_ips.iter().copied().collect();
    let local = is_local.then(|| Local {
        id: EndpointId::Host { name: endpoint.metadata.name.as_str().into() },
        interface: spec.interface_name.as_deref().unwrap_or_default().into(),
        addresses: addresses.clone(),
        allowed_sources: BTreeSet::new(),
        profiles: profile_ids(&profiles),
    });
    let ports = spec.ports.iter().map(|port| named_port(&port.name, port.protocol, port.port)).collect();
    Item {
        labels: labels.into(),
        parents: parents(&profiles, None, None).into(),
        contribution: Contribution { nets: sorted(addresses.into_iter().map(IpNet::from)), ports },
        local: local.map(Box::new),
    }
}
