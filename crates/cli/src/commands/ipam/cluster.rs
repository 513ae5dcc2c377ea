//! What the datastore says of addresses.

use margay_api::kinds::disjoint_pools;
use margay_api::{IpPool, IpamBlock, Kind, Node, Resource, WorkloadEndpoint};
use margay_ipam::View;

use crate::commands::session;
use crate::config::GlobalArgs;
use crate::store::Access;

/// Everything of these kinds that can be read.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) pools: Vec<IpPool>,
    pub(super) blocks: Vec<IpamBlock>,
    pub(super) endpoints: Vec<WorkloadEndpoint>,
}

impl Cluster {
    pub(super) fn read(global: &GlobalArgs) -> anyhow::Result<Self> {
        let session = session(global, Access::Read)?;
        let kinds = [Kind::Node, Kind::IpPool, Kind::IpamBlock, Kind::WorkloadEndpoint];
        let mut cluster = Self::default();
        for stored in session.list(&kinds, None)? {
            match stored.resource.as_deref() {
                Ok(Resource::Node(node)) => cluster.nodes.push(node.clone()),
                Ok(Resource::IpPool(pool)) => cluster.pools.push(pool.clone()),
                Ok(Resource::IpamBlock(block)) => cluster.blocks.push(block.clone()),
                Ok(Resource::WorkloadEndpoint(endpoint)) => cluster.endpoints.push(endpoint.clone()),
                _ => {}
            }
        }
        cluster.blocks.sort_by_key(|block| block.spec.cidr);
        Ok(cluster)
    }

    /// Hands all of it to a function of the core.
    pub(super) fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let (pools, _not_in_force) = disjoint_pools(&self.pools);
        look(&View {
            nodes: &self.nodes.iter().collect::<Vec<_>>(),
            pools: &pools,
            blocks: &self.blocks.iter().collect::<Vec<_>>(),
            endpoints: &self.endpoints.iter().collect::<Vec<_>>(),
        })
    }
}
