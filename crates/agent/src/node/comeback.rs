//! A node without a Node object was taken for dead, and another may be clearing up after it just now (`collect.rs`). So before it uses its
//! blocks again it makes its Node object, and then changes each of them: what was to be deleted as it was before stays.

use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use margay_api::{Key, Kind, Resource};
use margay_datastore::{Error, Store, rfc3339};
use margay_ipam::Family;

use super::collect::is_of;
use super::{Internal, Node};

/// Time between two looks at whether the Node object is there, and between two tries.
const AGAIN: Duration = Duration::from_millis(100);

impl Node {
    /// Nothing is assigned until it is certain which blocks stay. ADDs wait, as for a block.
    pub(super) fn come_back(&mut self) {
        let blocks = self.cluster.blocks_of(&self.config.node).into_iter();
        let blocks: Vec<(Key, IpNet)> = blocks.map(|(block, _)| (block.key(), block.spec.cidr)).collect();
        if self.coming_back || blocks.is_empty() {
            return;
        }
        tracing::warn!("there was no Node object of this node: making sure that its blocks stay");
        self.coming_back = true;
        self.claiming = vec![Family::V4, Family::V6];
        let held: Vec<IpNet> = self.addresses.allocator().blocks().collect();
        held.iter().for_each(|cidr| self.addresses.freeze(cidr, true));
        let (store, node, done) = (self.store.clone(), self.config.node.clone(), self.internal.0.clone());
        tokio::spawn(async move {
            let own = Key::cluster(Kind::Node, node.as_str());
            while !matches!(store.get(&own).await, Ok(Some(_))) {
                tokio::time::sleep(AGAIN).await;
            }
            let mut lost = Vec::new();
            for (key, cidr) in blocks {
                let stays = loop {
                    match touch(&store, &key, &node).await {
                        Ok(stays) => break stays,
                        Err(error) => tracing::warn!("making sure of block {cidr}: {error}; trying again"),
                    }
                    tokio::time::sleep(AGAIN).await;
                };
                if !stays {
                    lost.push(key.name);
                }
            }
            let _stopping = done.send(Internal::CameBack(lost)).await;
        });
    }

    /// These blocks are gone, all others stay.
    pub(super) async fn on_came_back(&mut self, lost: Vec<String>) {
        self.coming_back = false;
        self.claiming.clear();
        for name in lost {
            // The watch tells it later.
            self.cluster.blocks.remove(&name);
            self.router.remove_block(&name);
        }
        self.update_blocks().await;
        self.add_waiting(None);
        self.update_routes();
    }
}

/// Changes a block of the node's; false if it has none of that name any more.
pub(super) async fn touch(store: &Store, key: &Key, node: &str) -> Result<bool, Error> {
    let now = rfc3339(SystemTime::now());
    let mut is_own = false;
    let change = |stored: &mut Resource| {
        // Asked again when somebody else was faster.
        is_own = false;
        if let Resource::IpamBlock(block) = stored
            && is_of(block, node)
        {
            is_own = true;
            block.spec.affinity_claim_time.clone_from(&now);
            // Seconds may be the same.
            block.spec.sequence_number += 1;
        }
    };
    match store.update_with(key, change).await {
        Ok(_) => Ok(is_own),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
