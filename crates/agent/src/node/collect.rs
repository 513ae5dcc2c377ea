//! Gives back what nobody uses: empty blocks, what dead nodes left, interfaces that went without a DEL.
//!
//! Nothing that may be alive is touched: a node counts as dead when its Node object has been missing for a while (a living
//! agent puts its own back at once), and every deletion names the revision it was decided on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use margay_api::kinds::Affinity;
use margay_api::{IpamBlock, Key, Kind, Resource};
use margay_control::status::{ReleaseRequest, Released};
use margay_daemon::server::Failure;
use margay_datastore::{Error, Revision, Store};
use margay_ipam::{Family, GivenBack, Handle};

use super::cni::interfaces;
use super::{Internal, Node};
use crate::addresses::now;
use crate::attachments::interface_name;

/// How long a block must have been empty: pods that are replaced one by one shall find it again.
const EMPTY: Duration = Duration::from_secs(20);

/// How long a Node object must have been missing. The first living node by name looks first, each further one
/// [`TURN`] later, so that one of them usually does all of it.
const DEAD: Duration = Duration::from_secs(30);
/// See [`DEAD`].
const TURN: Duration = Duration::from_secs(5);

/// Time between two looks at the pods' interfaces: what is missing in both is gone.
const LOOK: Duration = Duration::from_secs(30);

/// What may be given back soon.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Blocks without an address in use.
    empty_since: BTreeMap<IpNet, Instant>,
    /// Blocks given back, of which late news is no reason to take one up again.
    pub(super) given_back: GivenBack,
    /// Nodes with blocks and without a Node object.
    dead_since: BTreeMap<String, Instant>,
    /// A task clears up after this one.
    clearing: Option<String>,
    /// Attachments, and what was reserved for some, without an interface.
    gone: BTreeSet<Handle>,
    looked: Option<Instant>,
}

impl Node {
    /// One look at everything.
    pub(super) async fn collect_leftovers(&mut self) {
        self.collect_interfaces();
        self.collect_tunnel_addresses();
        self.collect_blocks().await;
        self.drop_requests();
        self.collect_nodes();
    }

    /// The namespace of a pod went with its interface, and no runtime said so.
    fn collect_interfaces(&mut self) {
        if self.leftovers.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        self.leftovers.looked = Some(Instant::now());
        let Ok(interfaces) = interfaces() else { return };
        let attached = self.addresses.attached().iter();
        let attached = attached.filter(|(_, attached)| !interfaces.contains(&attached.interface));
        // The shim ended between the phases of its ADD, and no DEL followed.
        let reserved = self.addresses.reserved();
        let reserved = reserved.filter(|(handle, _)| !interfaces.contains(&interface_name(handle)));
        let gone = attached.map(|(handle, _)| handle).chain(reserved.map(|(handle, _)| handle));
        let gone: BTreeSet<Handle> = gone.cloned().collect();
        let before = std::mem::replace(&mut self.leftovers.gone, gone);
        let both: Vec<Handle> = before.intersection(&self.leftovers.gone).cloned().collect();
        for handle in both {
            tracing::info!("its interface is gone: releasing {handle}");
            self.leave_or_warn(&handle);
        }
    }

    /// Blocks beyond the last of each family go when they have been empty for a while; so does the last one of a pool that
    /// gives no addresses any more.
    async fn collect_blocks(&mut self) {
        let usage = self.addresses.allocator().usage(now(), self.cooldown());
        let offered = [Family::V4, Family::V6].map(|family| self.offered(family)).concat();
        let is_offered = |block: &IpNet| offered.iter().any(|pool| pool.contains(block));
        let of =
            |family| usage.iter().filter(move |block| Family::of(&block.cidr) == family && !block.frozen);
        let mut empty = Vec::new();
        for family in [Family::V4, Family::V6] {
            let free: Vec<IpNet> = of(family)
                .filter(|block| block.used == 0 && block.cooling == 0)
                .map(|block| block.cidr)
                .collect();
            let staying = of(family).filter(|block| is_offered(&block.cidr) && !free.contains(&block.cidr));
            let keep = if staying.count() > 0 { None } else { free.iter().find(|block| is_offered(block)) };
            empty.extend(free.iter().filter(|block| Some(*block) != keep).copied());
        }
        let since = &mut self.leftovers.empty_since;
        since.retain(|block, _| empty.contains(block));
        empty.iter().for_each(|block| {
            since.entry(*block).or_insert_with(Instant::now);
        });
        let due: Vec<IpNet> =
            since.iter().filter(|(_, since)| since.elapsed() >= EMPTY).map(|(block, _)| *block).collect();
        if self.waiting.is_empty() && self.claiming.is_empty() {
            for block in due {
                self.give_back(block).await;
            }
        }
    }

    /// First the journal forgets the block, then the datastore: whatever happens between, nobody else has it.
    async fn give_back(&mut self, cidr: IpNet) {
        let Some((block, revision)) = self.cluster.blocks.get(&margay_ipam::block_name(&cidr)) else {
            return;
        };
        if block.spec.allocations.iter().any(Option::is_some) {
            // The datastore has not been told yet of the last release.
            return;
        }
        let (key, revision) = (block.key(), *revision);
        if let Err(error) = self.addresses.drop_block(cidr) {
            return tracing::warn!("giving back {cidr}: {error}");
        }
        tracing::info!(%cidr, "giving back an empty block");
        self.leftovers.empty_since.remove(&cidr);
        self.leftovers.given_back.insert(cidr, revision);
        self.originate().await;
        self.deletions.begin(key, Revision(revision));
    }

    /// What nodes left that do not exist any more.
    fn collect_nodes(&mut self) {
        let nodes = &self.cluster.bgp.nodes;
        let owners = self.cluster.blocks.values().filter_map(|(block, _)| match &block.spec.affinity {
            Some(Affinity::Host(node)) => Some(node),
            _ => None,
        });
        let dead: BTreeSet<String> = owners.filter(|node| !nodes.contains_key(*node)).cloned().collect();
        let since = &mut self.leftovers.dead_since;
        since.retain(|node, _| dead.contains(node));
        for node in dead {
            since.entry(node).or_insert_with(Instant::now);
        }
        let rank = nodes.keys().take_while(|node| **node != self.config.node).count();
        let wait = DEAD + TURN * u32::try_from(rank).unwrap_or(u32::MAX);
        let due = since.iter().find(|(_, since)| since.elapsed() >= wait).map(|(node, _)| node.clone());
        let (Some(node), None) = (due, &self.leftovers.clearing) else { return };
        self.leftovers.clearing = Some(node.clone());
        let (store, done) = (self.store.clone(), self.internal.0.clone());
        tokio::spawn(async move {
            match clear(&store, &node).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(node, "removed {count} objects of a node that does not exist"),
                Err(error) => tracing::warn!("clearing up after node {node}: {error}; trying again"),
            }
            let _stopping = done.send(Internal::Cleared(node)).await;
        });
    }

    /// The task has ended; what it could not do is tried again after another wait.
    pub(super) fn on_cleared(&mut self, node: &str) {
        self.leftovers.clearing = None;
        self.leftovers.dead_since.remove(node);
    }

    /// `margay ipam release`: addresses whose container nobody knows any more.
    pub(super) fn release_addresses(&mut self, request: &ReleaseRequest) -> Result<Vec<Released>, Failure> {
        let interfaces = interfaces().map_err(|error| Failure::try_later(error.to_string()))?;
        let mut released = Vec::new();
        for address in &request.addresses {
            let outcome = self.release_address(*address, request.force, &interfaces);
            let (handle, refused) = match outcome {
                Ok(handle) => (Some(handle), None),
                Err(refused) => (None, Some(refused)),
            };
            released.push(Released { address: *address, handle, refused });
        }
        Ok(released)
    }

    fn release_address(
        &mut self,
        address: IpAddr,
        force: bool,
        interfaces: &BTreeSet<String>,
    ) -> Result<String, String> {
        let allocator = self.addresses.allocator();
        let Some(handle) = allocator.owner_of(address).cloned() else {
            let block = self.cluster.blocks.values().find(|(block, _)| block.spec.cidr.contains(&address));
            return Err(match block.and_then(|(block, _)| block.spec.affinity.as_ref()) {
                Some(Affinity::Host(node)) if *node != self.config.node => {
                    format!("it is in a block of node {node}: run this there")
                }
                _ => "nobody has it".to_owned(),
            });
        };
        if allocator.owned(&handle).is_some_and(|owned| owned.attributes.kind.is_some()) {
            return Err(format!("it is this node's own ({handle})"));
        }
        match self.addresses.attached().get(&handle) {
            Some(attached) if interfaces.contains(&attached.interface) => Err(format!(
                "pod {}/{} has it and its interface {} is there: delete the pod",
                attached.namespace, attached.pod, attached.interface
            )),
            None if !force => Err(format!(
                "{handle} was attached by another program, so nobody here knows whether it is alive: use --force if it is not"
            )),
            _ => self
                .leave(&handle)
                .map(|()| handle.to_string())
                .map_err(|failure| failure.message().to_owned()),
        }
    }

    /// How long a released address rests, seconds.
    pub(super) fn cooldown(&self) -> u64 {
        self.cluster.ipam.as_ref().and_then(|conf| conf.spec.ip_cooldown_seconds).unwrap_or(0).into()
    }
}

/// Removes the endpoints and blocks of a node, if there is none of that name. Endpoints first: whoever gets one of these
/// addresses next must not be taken for the dead.
async fn clear(store: &Store, node: &str) -> Result<usize, Error> {
    let left = left_by(store, node).await?;
    if exists(store, node).await? { Ok(0) } else { remove(store, &left).await }
}

/// What a node has, each with the revision of its last change.
async fn left_by(store: &Store, node: &str) -> Result<Vec<(Key, Revision)>, Error> {
    let mut left = Vec::new();
    for kind in [Kind::WorkloadEndpoint, Kind::IpamBlock] {
        let stored = store.list(&[kind.into()]).await?.items.into_iter();
        let of_node = stored.filter(|stored| match stored.resource.as_deref() {
            Ok(Resource::WorkloadEndpoint(endpoint)) => endpoint.spec.node == node,
            Ok(Resource::IpamBlock(block)) => is_of(block, node),
            _ => false,
        });
        left.extend(of_node.map(|stored| (stored.key, stored.revision)));
    }
    Ok(left)
}

/// To be asked after [`left_by`], not before: a node that comes back makes its Node object first and then changes its blocks
/// (`comeback.rs`), so whoever has seen the blocks changed sees the Node, too, and whoever has not cannot delete them.
async fn exists(store: &Store, node: &str) -> Result<bool, Error> {
    Ok(store.get(&Key::cluster(Kind::Node, node)).await?.is_some())
}

/// Deletes what has not changed.
async fn remove(store: &Store, left: &[(Key, Revision)]) -> Result<usize, Error> {
    let mut count = 0;
    for (key, revision) in left {
        match store.delete(key, Some(*revision)).await {
            Ok(_) => count += 1,
            Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

pub(super) fn is_of(block: &IpamBlock, node: &str) -> bool {
    block.spec.affinity == Some(Affinity::Host(node.to_owned()))
}

#[cfg(test)]
mod tests {
    use margay_api::kinds::NodeSpec;
    use margay_api::{Metadata, Node as NodeResource};
    use margay_datastore::StoreConfig;

    use super::super::comeback::touch;
    use super::*;

    /// One node clears up after another, which comes back meanwhile: between any two of the steps.
    #[tokio::test]
    async fn who_comes_back_keeps_what_it_uses() {
        let folder = std::env::temp_dir().join(format!("margay-comeback-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = Store::connect(&StoreConfig::embedded(folder.join("margay.db"))).await.unwrap();
        let cidr: IpNet = "10.65.0.0/30".parse().unwrap();
        let spec = serde_json::json!({
            "cidr": cidr, "affinity": "host:n1", "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3],
        });
        let block = IpamBlock::new(Metadata::named("10-65-0-0-30"), serde_json::from_value(spec).unwrap());
        let key = block.key();
        store.create(block.into()).await.unwrap();
        let come_back = async || {
            let own = NodeResource::new(Metadata::named("n1"), NodeSpec::default());
            store.apply(own.into()).await.unwrap();
            assert!(touch(&store, &key, "n1").await.unwrap());
        };
        let go = async || store.delete(&Key::cluster(Kind::Node, "n1"), None).await.unwrap();

        let left = left_by(&store, "n1").await.unwrap();
        come_back().await;
        assert!(exists(&store, "n1").await.unwrap());
        let _gone = go().await;
        assert_eq!(remove(&store, &left).await.unwrap(), 0, "it was changed");

        let left = left_by(&store, "n1").await.unwrap();
        assert!(!exists(&store, "n1").await.unwrap());
        come_back().await;
        assert_eq!(remove(&store, &left).await.unwrap(), 0, "it was changed, within the same second");
        assert_eq!(clear(&store, "n1").await.unwrap(), 0, "it is there");
        let _gone = go().await;
        assert_eq!(clear(&store, "n1").await.unwrap(), 1);
        assert!(!touch(&store, &key, "n1").await.unwrap(), "too late");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
