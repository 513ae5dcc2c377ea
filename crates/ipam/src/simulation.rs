//! Several nodes on one datastore, with crashes between any two steps, lost answers and stale views.
//!
//! The truth is what callers were told: an address stays a pod's until the pod is deleted, whatever happens to agents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::Affinity;
use margay_api::{IpPool, IpamBlock, Metadata};
use proptest::prelude::*;

use crate::allocator::{Allocator, Request};
use crate::claim::{ClaimQuery, plan_claim};
use crate::handle::{Attributes, Handle};
use crate::journal::Record;
use crate::lend::{BorrowQuery, LendQuery, borrower, plan_borrow};
use crate::mirror::adopt;
use crate::pool::Eligible;
use crate::range::{Family, RangeSet};

const NODES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// The node sees the datastore as it is now.
    Look(usize),
    /// The node creates a block; the answer may be lost on the way back.
    Claim {
        node: usize,
        answer_lost: bool,
    },
    /// The node learns that its claim succeeded.
    Confirm(usize),
    Assign {
        node: usize,
        pod: u8,
        dies_before_journal: bool,
    },
    Release {
        node: usize,
        pod: u8,
    },
    Mirror(usize),
    /// The node gives back an empty block; it may die before the datastore is told.
    GiveBack {
        node: usize,
        dies_before_delete: bool,
    },
    Crash(usize),
    /// The node asks for an address of another's block.
    Borrow(usize),
    /// The node answers requests; it may die before the datastore is told.
    Lend {
        node: usize,
        dies_before_grant: bool,
    },
    /// The node comes back with nothing on its disk; its pods are gone with it.
    Reinstall(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        3 => node.clone().prop_map(Step::Look),
        3 => (node.clone(), prop::bool::weighted(0.2)).prop_map(|(node, answer_lost)| Step::Claim { node, answer_lost }),
        3 => node.clone().prop_map(Step::Confirm),
        8 => (node.clone(), 0u8..6, prop::bool::weighted(0.1))
            .prop_map(|(node, pod, dies_before_journal)| Step::Assign { node, pod, dies_before_journal }),
        4 => (node.clone(), 0u8..6).prop_map(|(node, pod)| Step::Release { node, pod }),
        3 => node.clone().prop_map(Step::Mirror),
        1 => (node.clone(), any::<bool>())
            .prop_map(|(node, dies_before_delete)| Step::GiveBack { node, dies_before_delete }),
        2 => node.clone().prop_map(Step::Crash),
        2 => node.clone().prop_map(Step::Borrow),
        4 => (node.clone(), prop::bool::weighted(0.2))
            .prop_map(|(node, dies_before_grant)| Step::Lend { node, dies_before_grant }),
        1 => node.prop_map(Step::Reinstall),
    ]
}

#[derive(Default)]
struct Node {
    name: String,
    allocator: Allocator,
    journal: Vec<Record>,
    view: Vec<IpamBlock>,
    claimed: Vec<(IpNet, u64)>,
    /// What pods were told.
    pods: BTreeMap<Handle, Vec<IpAddr>>,
}

#[derive(Default)]
struct World {
    store: BTreeMap<String, (IpamBlock, u64)>,
    revision: u64,
    nodes: Vec<Node>,
    pool: Option<IpPool>,
}

impl World {
    fn new() -> Self {
        let spec = serde_json::json!({ "cidr": "10.65.0.0/28", "blockSize": 30 });
        let pool = IpPool::new(Metadata::named("p"), serde_json::from_value(spec).unwrap());
        let nodes = (0..NODES).map(|n| Node { name: format!("n{n}"), ..Node::default() }).collect();
        Self { pool: Some(pool), nodes, ..Self::default() }
    }

    fn handle(node: usize, pod: u8) -> Handle {
        Handle::pod("net", &format!("n{node}c{pod}"), "eth0")
    }

    fn owns(&self, node: usize, block: &IpamBlock) -> bool {
        block.spec.affinity == Some(Affinity::Host(self.nodes[node].name.clone()))
    }

    fn claim(&mut self, node: usize, answer_lost: bool) {
        let eligible = Eligible { pools: self.pool.iter().collect(), excluded: Vec::new() };
        let plan = plan_claim(&ClaimQuery {
            node: &self.nodes[node].name,
            family: Family::V4,
            eligible: &eligible,
            blocks: &self.nodes[node].view.iter().collect::<Vec<_>>(),
            reserved: &RangeSet::default(),
            containing: None,
            max_blocks: None,
        });
        let Ok(claim) = plan else { return };
        let name = claim.resource.metadata.name.clone();
        if self.store.contains_key(&name) {
            return;
        }
        self.revision += 1;
        self.store.insert(name, (claim.resource, self.revision));
        if !answer_lost {
            self.nodes[node].claimed.push((claim.cidr, self.revision));
        }
    }

    fn confirm(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        for (cidr, revision) in std::mem::take(&mut node.claimed) {
            node.journal.extend(node.allocator.add_block(cidr, revision));
        }
        self.take_up(index);
    }

    fn assign(&mut self, node: usize, pod: u8, dies_before_journal: bool) {
        let handle = Self::handle(node, pod);
        let pools: Vec<IpNet> = self.pool.iter().map(|p| p.spec.cidr).collect();
        let actor = &mut self.nodes[node];
        let given = actor.allocator.assign(&Request {
            handle: handle.clone(),
            attributes: Attributes::default(),
            families: &[Family::V4],
            addresses: &[],
            pools: &pools,
            reserved: &RangeSet::default(),
            now: 0,
            cooldown: 0,
        });
        let Ok(given) = given else { return };
        if dies_before_journal && given.record.is_some() {
            return self.crash(node);
        }
        actor.journal.extend(given.record);
        actor.pods.insert(handle, given.addresses);
    }

    fn release(&mut self, node: usize, pod: u8) {
        let handle = Self::handle(node, pod);
        let node = &mut self.nodes[node];
        node.pods.remove(&handle);
        node.journal.extend(node.allocator.release(&handle, 0));
    }

    fn mirror(&mut self, node: usize) {
        for cidr in self.nodes[node].allocator.blocks().collect::<Vec<_>>() {
            let name = crate::block_name(&cidr);
            let current = self.store.get(&name).map(|(block, _)| block.clone());
            let Some(current) = current.filter(|block| self.owns(node, block)) else { continue };
            let actor = &self.nodes[node];
            let block = actor.allocator.to_block_resource(&cidr, &actor.name, Some(&current)).unwrap();
            self.revision += 1;
            self.store.insert(name, (block, self.revision));
        }
    }

    fn give_back(&mut self, node: usize, dies_before_delete: bool) {
        let actor = &mut self.nodes[node];
        let empty = actor.allocator.usage(0, 0).into_iter().find(|usage| usage.used == 0);
        let Some(empty) = empty else { return };
        actor.journal.extend(actor.allocator.drop_block(empty.cidr));
        if dies_before_delete {
            return self.crash(node);
        }
        let name = crate::block_name(&empty.cidr);
        if self.store.get(&name).is_some_and(|(block, _)| self.owns(node, block)) {
            self.store.remove(&name);
        }
    }

    fn borrow(&mut self, node: usize) {
        let none = (BTreeSet::new(), BTreeSet::new());
        let asked = plan_borrow(&BorrowQuery {
            containing: None,
            node: &self.nodes[node].name,
            family: Family::V4,
            eligible: &Eligible { pools: self.pool.iter().collect(), excluded: Vec::new() },
            blocks: &self.nodes[node].view.iter().collect::<Vec<_>>(),
            reserved: &RangeSet::default(),
            silent: &none.0,
            refused: &none.1,
        });
        let Some((claim, _)) = asked else { return };
        let name = claim.resource.metadata.name.clone();
        if !self.store.contains_key(&name) {
            self.revision += 1;
            self.store.insert(name, (claim.resource, self.revision));
        }
    }

    /// From a view that may be old; what it writes is compared with what is there.
    fn lend(&mut self, node: usize, dies_before_grant: bool) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let actor = &mut self.nodes[node];
        let lending = actor.allocator.lend(&LendQuery {
            blocks: &actor.view.iter().collect::<Vec<_>>(),
            borrowers: &names.iter().map(String::as_str).collect(),
            reserved: &RangeSet::default(),
            now: 0,
            cooldown: 0,
        });
        actor.journal.extend(lending.records);
        if dies_before_grant {
            return self.crash(node);
        }
        for granted in lending.grant {
            let name = granted.metadata.name.clone();
            let asked = self.store.get(&name).is_some_and(|(block, _)| {
                block.spec.affinity.is_none() && borrower(block) == borrower(&granted)
            });
            if asked {
                self.revision += 1;
                self.store.insert(name, (granted, self.revision));
            }
        }
        for name in lending.refuse {
            if self.store.get(&name).is_some_and(|(block, _)| block.spec.affinity.is_none()) {
                self.store.remove(&name);
            }
        }
    }

    fn crash(&mut self, node: usize) {
        let actor = &mut self.nodes[node];
        let (allocator, problems) = Allocator::replay(&actor.journal);
        assert!(problems.is_empty(), "{problems:?}");
        actor.allocator = allocator;
        actor.claimed.clear();
        self.take_up(node);
    }

    fn reinstall(&mut self, node: usize) {
        let actor = &mut self.nodes[node];
        actor.allocator = Allocator::default();
        actor.journal.clear();
        actor.claimed.clear();
        actor.pods.clear();
        self.take_up(node);
    }

    /// What an agent does at its start: blocks of the datastore that the journal doesn't know.
    fn take_up(&mut self, node: usize) {
        self.nodes[node].view = self.store.values().map(|(block, _)| block.clone()).collect();
        let known: Vec<IpNet> = self.nodes[node].allocator.blocks().collect();
        let unknown: Vec<(IpamBlock, u64)> = self
            .store
            .values()
            .filter(|(block, _)| self.owns(node, block) && !known.contains(&block.spec.cidr))
            .cloned()
            .collect();
        let actor = &mut self.nodes[node];
        for record in adopt(&unknown.iter().map(|(block, revision)| (block, *revision)).collect::<Vec<_>>()) {
            actor.allocator.apply(&record).unwrap();
            actor.journal.push(record);
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Look(node) => self.nodes[node].view = self.store.values().map(|(b, _)| b.clone()).collect(),
            Step::Claim { node, answer_lost } => self.claim(node, answer_lost),
            Step::Confirm(node) => self.confirm(node),
            Step::Assign { node, pod, dies_before_journal } => self.assign(node, pod, dies_before_journal),
            Step::Release { node, pod } => self.release(node, pod),
            Step::Mirror(node) => self.mirror(node),
            Step::GiveBack { node, dies_before_delete } => self.give_back(node, dies_before_delete),
            Step::Crash(node) => self.crash(node),
            Step::Borrow(node) => self.borrow(node),
            Step::Lend { node, dies_before_grant } => self.lend(node, dies_before_grant),
            Step::Reinstall(node) => self.reinstall(node),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_address_is_ever_two_pods_whatever_crashes(steps in proptest::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            let mut owner: BTreeMap<IpAddr, &Handle> = BTreeMap::new();
            for node in &world.nodes {
                prop_assert_eq!(node.allocator.inconsistencies(), Vec::<String>::new());
                for (handle, addresses) in &node.pods {
                    for address in addresses {
                        prop_assert_eq!(owner.insert(*address, handle), None, "two pods have {}", address);
                        prop_assert_eq!(node.allocator.owner_of(*address), Some(handle), "forgotten");
                    }
                }
            }
            // A block is used by one node only.
            let mut blocks: Vec<IpNet> = world.nodes.iter().flat_map(|node| node.allocator.blocks()).collect();
            let all = blocks.len();
            blocks.sort();
            blocks.dedup();
            prop_assert_eq!(blocks.len(), all, "a block has two nodes");
        }
    }
}
