//! Which addresses of Kubernetes' services a node advertises (`serviceClusterIPs`, `serviceExternalIPs`,
//! `serviceLoadBalancerIPs` of BGPConfiguration), as Calico's confd decides it (`pkg/backends/calico/routes.go`).
//!
//! Every node advertises the ranges, for any node can bring a packet to any endpoint. A service with
//! `externalTrafficPolicy: Local` is advertised address by address, by the nodes that have a ready endpoint: the longer
//! prefix takes its packets there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::{
    BgpConfigurationSpec, ExternalTrafficPolicy, LABEL_SERVICE_NAME, ServiceType, Toggle,
};
use margay_api::{EndpointSlice, Key, Service};

use super::Cluster;

/// A node with this label and the value `true` advertises no services.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Namespace and name.
type Name = (String, String);

/// Why a service has an address. Each has ranges of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Cluster,
    External,
    LoadBalancer,
}

impl Use {
    const ALL: [Self; 3] = [Self::Cluster, Self::External, Self::LoadBalancer];

    fn ranges(self, spec: &BgpConfigurationSpec) -> impl Iterator<Item = IpNet> {
        let blocks = match self {
            Self::Cluster => &spec.service_cluster_ips,
            Self::External => &spec.service_external_ips,
            Self::LoadBalancer => &spec.service_load_balancer_ips,
        };
        blocks.iter().filter_map(|block| block.cidr)
    }
}

/// A service that can be reached from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reachable {
    addresses: Vec<(Use, IpAddr)>,
    policy: ExternalTrafficPolicy,
}

/// Where a ready endpoint is, if that is known, and whether it has an IPv4 address.
type Place = (Option<String>, bool);

/// Services and the places of their ready endpoints.
#[derive(Debug, Default, Clone)]
pub(super) struct Services {
    services: BTreeMap<Name, Reachable>,
    /// By service, then by slice.
    places: BTreeMap<Name, BTreeMap<String, BTreeSet<Place>>>,
    /// The service of each slice.
    slices: BTreeMap<Name, Name>,
}

impl Services {
    /// Takes a service in; true if that changes anything.
    pub(super) fn put(&mut self, service: &Service) -> bool {
        let name = name_of(&service.key());
        match reachable(service) {
            Some(reachable) => {
                self.services.insert(name, reachable.clone()).is_none_or(|old| old != reachable)
            }
            None => self.services.remove(&name).is_some(),
        }
    }

    /// Takes a service out; true if that changes anything.
    pub(super) fn delete(&mut self, key: &Key) -> bool {
        self.services.remove(&name_of(key)).is_some()
    }

    /// Takes a part of a service's endpoints in; true if that changes anything.
    pub(super) fn put_slice(&mut self, slice: &EndpointSlice) -> bool {
        let key = slice.key();
        let Some(service) = slice.metadata.labels.get(LABEL_SERVICE_NAME) else {
            return self.delete_slice(&key);
        };
        let (namespace, name) = name_of(&key);
        let service = (namespace.clone(), service.clone());
        let ready = slice.spec.endpoints.iter().filter(|endpoint| endpoint.is_ready());
        let places: BTreeSet<Place> = ready
            .flat_map(|endpoint| {
                let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                addresses.map(|address| (endpoint.node_name.clone(), address.is_ipv4()))
            })
            .collect();
        let moved =
            self.slices.get(&(namespace.clone(), name.clone())).is_some_and(|before| *before != service)
                && self.delete_slice(&key);
        self.slices.insert((namespace, name.clone()), service.clone());
        let before = self.places.entry(service).or_default().insert(name, places.clone());
        before.unwrap_or_default() != places || moved
    }

    /// Takes a part of a service's endpoints out; true if that changes anything.
    pub(super) fn delete_slice(&mut self, key: &Key) -> bool {
        let slice = name_of(key);
        let Some(service) = self.slices.remove(&slice) else { return false };
        let Some(slices) = self.places.get_mut(&service) else { return false };
        let places = slices.remove(&slice.1);
        if slices.is_empty() {
            self.places.remove(&service);
        }
        places.is_some_and(|places| !places.is_empty())
    }

    fn places<'a>(&'a self, service: &Name) -> impl Iterator<Item = &'a Place> + use<'a> {
        self.places.get(service).into_iter().flat_map(BTreeMap::values).flatten()
    }
}

/// What a node advertises of services.
#[must_use]
pub fn service_routes(node: &str, cluster: &Cluster) -> BTreeSet<IpNet> {
    let labels = cluster.nodes.get(node).map(|node| &node.metadata.labels);
    let excluded = labels.is_some_and(|labels| labels.get(EXCLUDED).is_some_and(|value| value == "true"));
    let Some(spec) = cluster.settings().filter(|_| !excluded) else { return BTreeSet::new() };
    let alone = spec.service_load_balancer_aggregation == Some(Toggle::Disabled);
    let mut routes = BTreeSet::new();
    for of in Use::ALL.into_iter().filter(|of| *of != Use::LoadBalancer || !alone) {
        // A range of one address is advertised with the service that has it.
        routes.extend(of.ranges(spec).filter(|range| of == Use::Cluster || !is_host(range)));
    }
    for (name, service) in &cluster.services.services {
        let places = |address: &IpAddr| {
            let v4 = address.is_ipv4();
            cluster.services.places(name).filter(move |(_, of_v4)| *of_v4 == v4)
        };
        let wanted = service.addresses.iter().filter(|(of, address)| {
            let mut ranges = of.ranges(spec).filter(|range| range.contains(address)).peekable();
            ranges.peek().is_some()
                && match (service.policy, of) {
                    (ExternalTrafficPolicy::Local, _) => {
                        places(address).any(|(place, _)| place.as_deref() == Some(node))
                    }
                    (ExternalTrafficPolicy::Cluster, Use::Cluster) => false,
                    (ExternalTrafficPolicy::Cluster, of) => {
                        let by_itself = *of == Use::LoadBalancer && alone && places(address).next().is_some();
                        by_itself || ranges.any(|range| is_host(&range))
                    }
                }
        });
        routes.extend(wanted.map(|(_, address)| IpNet::from(*address)));
    }
    routes
}

/// Every range that services' addresses are advertised of.
#[must_use]
pub fn service_ranges(cluster: &Cluster) -> BTreeSet<IpNet> {
    let spec = cluster.settings();
    spec.into_iter().flat_map(|spec| Use::ALL.into_iter().flat_map(|of| of.ranges(spec))).collect()
}

fn is_host(range: &IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}

/// The addresses of a service that has cluster addresses: one without (headless, or a name for something outside) has
/// nothing that a node answers to.
fn reachable(service: &Service) -> Option<Reachable> {
    let (spec, status) = (&service.spec, &service.status);
    let cluster = if spec.cluster_ips.is_empty() { spec.cluster_ip.as_slice() } else { &spec.cluster_ips };
    let parsed = |of: Use, texts: &[String]| -> Vec<(Use, IpAddr)> {
        texts.iter().filter_map(|text| Some((of, text.parse().ok()?))).collect()
    };
    let mut addresses = parsed(Use::Cluster, cluster);
    if addresses.is_empty() || spec.r#type == Some(ServiceType::ExternalName) {
        return None;
    }
    addresses.extend(parsed(Use::External, &spec.external_ips));
    let ingress = status.load_balancer.iter().flat_map(|status| &status.ingress);
    let ingress: Vec<String> = ingress.filter_map(|ingress| ingress.ip.clone()).collect();
    addresses.extend(parsed(Use::LoadBalancer, &ingress));
    Some(Reachable { addresses, policy: spec.external_traffic_policy.unwrap_or_default() })
}

fn name_of(key: &Key) -> Name {
    (key.namespace.clone().unwrap_or_default(), key.name.clone())
}

#[cfg(test)]
mod tests {
    use margay_api::kinds::{EndpointConditions, ServiceEndpoint};
    use margay_api::{Kind, Metadata, Node, Resource, yaml};

    use super::*;

    const OBJECTS: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  serviceClusterIPs: [{cidr: 10.96.0.0/12}, {cidr: 'fd96::/112'}]
  serviceExternalIPs: [{cidr: 192.0.2.0/25}, {cidr: 203.0.113.9/32}]
  serviceLoadBalancerIPs: [{cidr: 198.51.100.0/24}, {cidr: 203.0.113.10/32}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd96::7']
  externalIPs: [192.0.2.7, 192.0.2.200, nonsense]
  externalTrafficPolicy: Local
status: {loadBalancer: {ingress: [{ip: 198.51.100.7}, {hostname: elsewhere}]}}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec: {type: LoadBalancer, clusterIP: 10.96.0.8, externalIPs: [203.0.113.9, 192.0.2.8], externalTrafficPolicy: Cluster}
status: {loadBalancer: {ingress: [{ip: 198.51.100.8}, {ip: 203.0.113.10}]}}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, externalIPs: [192.0.2.9], externalTrafficPolicy: Local}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.65.0.5], nodeName: n1}
- {addresses: [10.65.1.5], nodeName: n2, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: all-1, namespace: shop, labels: {kubernetes.io/service-name: all}}
addressType: IPv4
endpoints: [{addresses: [10.65.0.6], nodeName: n1}]
";

    const RANGES: [&str; 4] = ["10.96.0.0/12", "192.0.2.0/25", "198.51.100.0/24", "fd96::/112"];
    /// Addresses that are ranges of their own.
    const SINGLE: [&str; 2] = ["203.0.113.9/32", "203.0.113.10/32"];

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for located in yaml::parse("services.yaml", OBJECTS).unwrap() {
            cluster.put(&located.value);
        }
        cluster
    }

    fn routes(node: &str, cluster: &Cluster) -> BTreeSet<String> {
        service_routes(node, cluster).into_iter().map(|route| route.to_string()).collect()
    }

    fn with(more: &[&str]) -> BTreeSet<String> {
        RANGES.iter().chain(&SINGLE).chain(more).map(|route| (*route).to_owned()).collect()
    }

    #[test]
    fn ranges_from_every_node_and_local_services_from_nodes_with_a_ready_endpoint() {
        let mut cluster = cluster();
        let local = ["10.96.0.7/32", "192.0.2.7/32", "198.51.100.7/32"];
        assert_eq!(routes("n1", &cluster), with(&local));
        assert_eq!(routes("n2", &cluster), with(&[]), "its endpoint is not ready");
        assert_eq!(service_ranges(&cluster).len(), 6);

        let slice = |ready, address: &str| {
            let mut slice = EndpointSlice::new(Metadata::namespaced("shop", "web-2"), Default::default());
            slice.metadata.labels.insert(LABEL_SERVICE_NAME.to_owned(), "web".to_owned());
            slice.spec.endpoints = vec![ServiceEndpoint {
                addresses: vec![address.to_owned()],
                node_name: Some("n2".to_owned()),
                conditions: Some(EndpointConditions { ready }),
            }];
            Resource::from(slice)
        };
        assert!(cluster.put(&slice(None, "fd65::5")));
        assert!(!cluster.put(&slice(Some(true), "fd65::6")), "nothing new");
        assert_eq!(routes("n2", &cluster), with(&["fd96::7/128"]), "its endpoint speaks IPv6 only");
        assert!(cluster.put(&slice(Some(false), "fd65::6")));
        assert_eq!(routes("n2", &cluster), with(&[]));
        assert!(cluster.delete(&Key::namespaced(Kind::EndpointSlice, "shop", "web-1")));
        assert_eq!(routes("n1", &cluster), with(&[]), "the last local endpoint is gone");
    }

    #[test]
    fn a_slice_may_change_its_service() {
        let mut cluster = cluster();
        let moved = OBJECTS.replace("service-name: web", "service-name: other");
        for located in yaml::parse("services.yaml", &moved).unwrap() {
            cluster.put(&located.value);
        }
        assert_eq!(routes("n1", &cluster), with(&[]));
        assert!(cluster.delete(&Key::namespaced(Kind::Service, "shop", "web")));
        assert!(
            !cluster.delete(&Key::namespaced(Kind::Service, "shop", "headless")),
            "it has nothing to lose"
        );
        let mut empty = EndpointSlice::new(Metadata::namespaced("shop", "web-1"), Default::default());
        empty.metadata.labels.insert(LABEL_SERVICE_NAME.to_owned(), "third".to_owned());
        assert!(cluster.put(&empty.into()), "the service that it leaves loses an endpoint");
    }

    #[test]
    fn without_aggregation_load_balancers_are_advertised_one_by_one() {
        let mut cluster = cluster();
        let spec = &mut cluster.configurations.get_mut("default").unwrap().spec;
        spec.service_load_balancer_aggregation = Some(Toggle::Disabled);
        let mut expected = with(&["198.51.100.8/32"]);
        expected.remove("198.51.100.0/24");
        assert_eq!(routes("n2", &cluster), expected);
        cluster.delete(&Key::namespaced(Kind::EndpointSlice, "shop", "all-1"));
        expected.remove("198.51.100.8/32");
        assert_eq!(routes("n2", &cluster), expected, "nobody would answer");
    }

    #[test]
    fn a_node_can_be_excluded() {
        let mut cluster = cluster();
        let mut node = Node::new(Metadata::named("n1"), Default::default());
        node.metadata.labels.insert(EXCLUDED.to_owned(), String::new());
        cluster.put(&node.clone().into());
        assert!(!routes("n1", &cluster).is_empty(), "kubeadm labels so what Calico does not exclude");
        node.metadata.labels.insert(EXCLUDED.to_owned(), "true".to_owned());
        cluster.put(&node.into());
        assert_eq!(routes("n1", &cluster), BTreeSet::new());
    }
}
