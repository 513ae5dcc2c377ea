//! Where sets get members that no selector over endpoints finds: the endpoints of Services, and addresses of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use margay_api::kinds::LABEL_SERVICE_NAME;
use margay_api::types::Protocol;
use margay_api::{EndpointSlice, Node};

use super::catalog::labels_of;
use super::facts::Facts;
use super::sets::SetSpec;
use super::settings::node_addresses;
use crate::model::SetMember;

/// Namespace and name.
type Place = (Arc<str>, Arc<str>);

/// A part of a Service's endpoints (`felix/serviceindex`): ready or not, for who may connect is not a question of health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    /// The Service, in the slice's own namespace.
    pub(super) service: Arc<str>,
    addresses: BTreeSet<IpAddr>,
    /// Protocol and number.
    ports: BTreeSet<(u8, u16)>,
}

/// What a set of nodes sees of one.
#[derive(Debug)]
pub(super) struct NodeFacts {
    facts: Facts,
    addresses: BTreeSet<IpAddr>,
}

impl Slice {
    /// `None`: the slice names no Service.
    pub(super) fn of(object: &EndpointSlice) -> Option<Self> {
        let service = object.metadata.labels.get(LABEL_SERVICE_NAME)?;
        let addresses = object.spec.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let ports = object.spec.ports.iter().filter_map(|port| {
            // A port that is not restricted is no port: nothing matches it.
            Some((port.protocol.unwrap_or(Protocol::Tcp).number(), port.port?))
        });
        Some(Self {
            service: service.as_str().into(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            ports: ports.collect(),
        })
    }

    pub(super) fn members(&self, with_ports: bool) -> Vec<SetMember> {
        let each = self.addresses.iter();
        if !with_ports {
            return each.map(|address| SetMember::Net(IpNet::from(*address))).collect();
        }
        each.flat_map(|address| {
            self.ports.iter().map(|(protocol, port)| SetMember::IpPort(*address, *protocol, *port))
        })
        .collect()
    }
}

impl NodeFacts {
    pub(super) fn of(node: &Node) -> Self {
        let own = Arc::new(labels_of(&node.metadata.labels));
        Self { facts: Facts { own, inherited: Vec::new() }, addresses: node_addresses(node) }
    }

    /// Its addresses, if the set is one of nodes and this is one of them.
    pub(super) fn members(&self, spec: &SetSpec) -> Vec<SetMember> {
        match spec {
            SetSpec::Nodes(selector) if selector.matches(&self.facts) => {
                self.addresses.iter().map(|address| SetMember::Net(IpNet::from(*address))).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// All EndpointSlices and Nodes.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// By namespace and name, of the Service and of the slice.
    services: BTreeMap<Place, BTreeMap<Arc<str>, Slice>>,
    /// By namespace and name of the slice: its Service.
    service_of: BTreeMap<Place, Arc<str>>,
    nodes: BTreeMap<Arc<str>, NodeFacts>,
}

impl Sources {
    /// Takes a slice, or (`None`) takes it out; the one before.
    pub(super) fn put_slice(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        new: Option<Slice>,
    ) -> Option<Slice> {
        let place = (Arc::clone(namespace), Arc::clone(name));
        let old = self.service_of.remove(&place).and_then(|service| {
            let service = (Arc::clone(namespace), service);
            let slices = self.services.get_mut(&service)?;
            let old = slices.remove(name);
            if slices.is_empty() {
                self.services.remove(&service);
            }
            old
        });
        if let Some(new) = new {
            self.service_of.insert(place, Arc::clone(&new.service));
            let service = (Arc::clone(namespace), Arc::clone(&new.service));
            self.services.entry(service).or_default().insert(Arc::clone(name), new);
        }
        old
    }

    /// Takes a node, or (`None`) takes it out; the one before.
    pub(super) fn put_node(&mut self, name: &str, new: Option<NodeFacts>) -> Option<NodeFacts> {
        match new {
            Some(new) => self.nodes.insert(name.into(), new),
            None => self.nodes.remove(name),
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// What a set gets from here, once for each slice and node that has it.
    pub(super) fn members(&self, spec: &SetSpec) -> Vec<SetMember> {
        match spec {
            SetSpec::Selected(_) | SetSpec::Port { .. } => Vec::new(),
            SetSpec::Nodes(_) => self.nodes.values().flat_map(|node| node.members(spec)).collect(),
            SetSpec::Service { namespace, name, ports } => {
                let slices = self.services.get(&(Arc::clone(namespace), Arc::clone(name)));
                slices
                    .into_iter()
                    .flat_map(BTreeMap::values)
                    .flat_map(|slice| slice.members(*ports))
                    .collect()
            }
        }
    }
}
