//! What this node knows of the cluster, apart from policy (which the policy engine keeps itself).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use margay_api::convert::ORCHESTRATOR_KUBERNETES;
use margay_api::kinds::{Affinity, FelixConfigurationSpec, IpamBlockSpec};
use margay_api::{
    IpReservation, IpamBlock, IpamConfiguration, Key, Kind, Metadata, Namespace, Pod, Resource,
};
use margay_daemon::topology::Cluster as BgpCluster;
use margay_ipam::borrower;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Nodes, pools, BGP objects.
    pub(crate) bgp: BgpCluster,
    /// Blocks by name, with the revision at which each was last changed; of other nodes' no more than who has them.
    pub(crate) blocks: BTreeMap<String, (IpamBlock, u64)>,
    /// Addresses that are not handed out.
    pub(crate) reservations: BTreeMap<String, IpReservation>,
    /// IPAM settings.
    pub(crate) ipam: Option<IpamConfiguration>,
    /// Settings of the data plane.
    pub(crate) felix: BTreeMap<String, FelixConfigurationSpec>,
    /// Namespaces by name.
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// Pods of this node, and those nobody has placed yet, by namespace and name.
    pub(crate) pods: BTreeMap<(String, String), Pod>,
    /// There are such objects in this cluster, if perhaps not for this node.
    pub(crate) has_pods: bool,
    /// WorkloadEndpoints of this node in the datastore.
    pub(crate) own_endpoints: BTreeSet<Key>,
    /// Objects that could not be read.
    pub(crate) unreadable: BTreeMap<Key, String>,
}

/// Annotation of a mirror pod: the UID that its node gave the pod of the file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a change touches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Routes and tunnels.
    pub(crate) routes: bool,
    /// Nodes or pools, on which routes to everywhere depend.
    pub(crate) cluster: bool,
    /// Blocks of this node, or what it may claim.
    pub(crate) own_blocks: bool,
    /// BGP sessions.
    pub(crate) sessions: bool,
    /// What this node advertises of services.
    pub(crate) services: bool,
}

impl std::ops::BitOrAssign for Touched {
    fn bitor_assign(&mut self, other: Self) {
        self.routes |= other.routes;
        self.cluster |= other.cluster;
        self.own_blocks |= other.own_blocks;
        self.sessions |= other.sessions;
        self.services |= other.services;
    }
}

const NOTHING: Touched =
    Touched { routes: false, cluster: false, own_blocks: false, sessions: false, services: false };
const ROUTES: Touched = Touched { routes: true, ..NOTHING };
const OWN_BLOCKS: Touched = Touched { own_blocks: true, ..ROUTES };
/// Tunnels, and with them their addresses.
const SETTINGS: Touched = Touched { cluster: true, ..OWN_BLOCKS };
const SESSIONS: Touched = Touched { sessions: true, ..NOTHING };
const SERVICES: Touched = Touched { services: true, ..NOTHING };
const CLUSTER: Touched = Touched { cluster: true, sessions: true, ..OWN_BLOCKS };

impl Cluster {
    /// Takes an object in.
    pub(crate) fn put(&mut self, node: &str, resource: &Resource, revision: u64) -> Touched {
        self.unreadable.remove(&resource.key());
        let name = resource.metadata().name.clone();
        match resource {
            Resource::IpamBlock(object) => {
                let own = is_of(object, node);
                let sessions = self.bgp.put(resource) && self.reflects(node);
                let kept = if own { object.clone() } else { outline(object) };
                let before = self.blocks.insert(name, (kept, revision));
                let was_own = before.is_some_and(|(before, _)| is_of(&before, node));
                Touched { sessions, ..if own || was_own { OWN_BLOCKS } else { ROUTES } }
            }
            Resource::IpReservation(object) => {
                self.reservations.insert(name, object.clone());
                NOTHING
            }
            Resource::IpamConfiguration(object) => {
                self.ipam = Some(object.clone());
                NOTHING
            }
            Resource::FelixConfiguration(object) => {
                self.felix.insert(name, object.spec.clone());
                SETTINGS
            }
            Resource::WorkloadEndpoint(object) => {
                if object.spec.node != node {
                    return self.delete(node, &object.key());
                }
                // Those of other orchestrators are theirs to write and to delete.
                let orchestrator = object.spec.orchestrator.as_deref().unwrap_or(ORCHESTRATOR_KUBERNETES);
                if orchestrator == ORCHESTRATOR_KUBERNETES {
                    self.own_endpoints.insert(object.key());
                }
                Touched { sessions: self.bgp.put_workload(object), ..NOTHING }
            }
            Resource::Namespace(object) => {
                self.namespaces.insert(name, object.clone());
                NOTHING
            }
            Resource::Pod(object) => {
                self.has_pods = true;
                let key = (object.metadata.namespace.clone().unwrap_or_default(), name);
                if object.spec.node_name.as_deref().is_none_or(|placed| placed == node) {
                    self.pods.insert(key, object.clone());
                } else {
                    self.pods.remove(&key);
                }
                NOTHING
            }
            _ => touched(resource.kind(), self.bgp.put(resource)),
        }
    }

    /// Takes an object out.
    pub(crate) fn delete(&mut self, node: &str, key: &Key) -> Touched {
        self.unreadable.remove(key);
        let name = key.name.as_str();
        match key.kind {
            Kind::IpamBlock => {
                let sessions = self.bgp.delete(key) && self.reflects(node);
                let was_own = self.blocks.remove(name).is_some_and(|(before, _)| is_of(&before, node));
                Touched { sessions, ..if was_own { OWN_BLOCKS } else { ROUTES } }
            }
            Kind::IpReservation => {
                self.reservations.remove(name);
                NOTHING
            }
            Kind::IpamConfiguration => {
                self.ipam = None;
                NOTHING
            }
            Kind::FelixConfiguration => {
                self.felix.remove(name);
                SETTINGS
            }
            Kind::WorkloadEndpoint => {
                self.own_endpoints.remove(key);
                Touched { sessions: self.bgp.delete_workload(key), ..NOTHING }
            }
            Kind::Namespace => {
                self.namespaces.remove(name);
                NOTHING
            }
            Kind::Pod => {
                self.pods.remove(&(key.namespace.clone().unwrap_or_default(), key.name.clone()));
                NOTHING
            }
            _ => touched(key.kind, self.bgp.delete(key)),
        }
    }

    /// Whether the Pod object of this name is known, that of `uid` if it is told: the next pod of a StatefulSet has the name of the last.
    /// A mirror pod (one that the kubelet has from a file) has two.
    pub(crate) fn knows_pod(&self, pod: &(String, String), uid: Option<&str>) -> bool {
        self.pods.get(pod).is_some_and(|known| {
            let own = known.metadata.uid.as_deref().into_iter();
            let mut uids = own.chain(known.metadata.annotations.get(MIRROR).map(String::as_str)).peekable();
            uid.is_none() || uids.peek().is_none() || uids.any(|known| Some(known) == uid)
        })
    }

    /// Whether the node is a reflector: then blocks say what others may announce to it.
    fn reflects(&self, node: &str) -> bool {
        let bgp = self.bgp.nodes.get(node).and_then(|node| node.spec.bgp.as_ref());
        bgp.is_some_and(|bgp| bgp.route_reflector_cluster_id.is_some())
    }

    /// Takes note of an object that cannot be read: what was known of it stays in force.
    pub(crate) fn unreadable(&mut self, key: Key, reason: String) {
        self.unreadable.insert(key, reason);
    }

    /// Blocks of `node`, with the revisions that fence them.
    pub(crate) fn blocks_of(&self, node: &str) -> Vec<(&IpamBlock, u64)> {
        let mine = Affinity::Host(node.to_owned());
        self.blocks
            .values()
            .filter(|(block, _)| block.spec.affinity.as_ref() == Some(&mine) && !block.spec.deleted)
            .map(|(block, revision)| (block, *revision))
            .collect()
    }

    /// Labels of a namespace; none when there is no such object.
    pub(crate) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        self.namespaces.get(name).map(|namespace| namespace.metadata.labels.clone()).unwrap_or_default()
    }

    /// Addresses that must be asked for by name.
    pub(crate) fn reserved(&self) -> Vec<IpNet> {
        self.reservations.values().flat_map(|object| object.spec.reserved_cidrs.iter().copied()).collect()
    }
}

/// The block is the node's, or part of one that may be.
fn is_of(block: &IpamBlock, node: &str) -> bool {
    let owned = matches!(&block.spec.affinity, Some(Affinity::Host(owner)) if owner == node);
    owned || borrower(block).is_some()
}

/// A block without what it says of its addresses: of a thousand nodes' blocks that is megabytes.
fn outline(block: &IpamBlock) -> IpamBlock {
    let spec = IpamBlockSpec {
        cidr: block.spec.cidr,
        affinity: block.spec.affinity.clone(),
        affinity_claim_time: block.spec.affinity_claim_time.clone(),
        allocations: Vec::new(),
        attributes: Vec::new(),
        unallocated: Vec::new(),
        strict_affinity: block.spec.strict_affinity,
        sequence_number: block.spec.sequence_number,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: block.spec.deleted,
    };
    IpamBlock::new(Metadata::named(block.metadata.name.clone()), spec)
}

/// What a change of an object that sessions follow from touches.
fn touched(kind: Kind, changed: bool) -> Touched {
    match kind {
        _ if !changed => NOTHING,
        Kind::Node | Kind::IpPool => CLUSTER,
        Kind::BgpConfiguration => Touched { cluster: true, routes: true, ..SESSIONS },
        Kind::Service | Kind::EndpointSlice => SERVICES,
        _ => SESSIONS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_others_blocks_it_keeps_who_has_them_and_of_its_own_everything() {
        let mut cluster = Cluster::default();
        for (revision, owner, addresses) in [(1, "n2", 0), (2, "n1", 4), (3, "n2", 0)] {
            let affinity = Affinity::Host(owner.to_owned());
            let spec = serde_json::json!({
                "cidr": "10.65.1.0/30", "affinity": affinity.to_string(),
                "allocations": vec![None::<u32>; 4], "unallocated": [0, 1, 2, 3],
            });
            let block = IpamBlock::new(Metadata::named("a"), serde_json::from_value(spec).unwrap());
            let touched = cluster.put("n1", &block.into(), revision);
            assert_eq!(touched.own_blocks, revision > 1, "it is this node's, or was");
            let (kept, fence) = &cluster.blocks["a"];
            assert_eq!((kept.spec.affinity.as_ref(), *fence), (Some(&affinity), revision));
            assert_eq!((kept.spec.allocations.len(), kept.spec.unallocated.len()), (addresses, addresses));
        }
    }

    #[test]
    fn a_pod_of_the_same_name_is_another() {
        let mut cluster = Cluster::default();
        let name = ("default".to_owned(), "web-0".to_owned());
        assert!(!cluster.knows_pod(&name, None));
        let mut metadata = Metadata::namespaced("default", "web-0");
        let told = |cluster: &mut Cluster, metadata: &Metadata| {
            cluster.put("n1", &Pod::new(metadata.clone(), margay_api::kinds::PodSpec::default()).into(), 1);
        };
        told(&mut cluster, &metadata);
        assert!(cluster.knows_pod(&name, Some("u-1")), "an object without a UID says nothing");
        metadata.uid = Some("u-1".to_owned());
        told(&mut cluster, &metadata);
        assert!(cluster.knows_pod(&name, Some("u-1")) && cluster.knows_pod(&name, None));
        assert!(!cluster.knows_pod(&name, Some("u-2")), "the last pod of that name");
        metadata.annotations.insert(MIRROR.to_owned(), "hash".to_owned());
        told(&mut cluster, &metadata);
        assert!(cluster.knows_pod(&name, Some("hash")));
    }
}
