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
use crate::told::{GivenBack, yields_to};

const NODES: usize = 3;
const POOL: &str = "10.65.0.0/28";

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
    /// The node acts on what it saw of the datastore last, which may be long ago.
    Notice(usize),
    /// There is no room for the journal, or there is again.
    Disk {
        node: usize,
        full: bool,
    },
    /// The node hears of another block size of the pool.
    Resize(usize),
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
        4 => (node.clone(), prop::bool::weighted(0.3))
            .prop_map(|(node, dies_before_delete)| Step::GiveBack { node, dies_before_delete }),
        3 => node.clone().prop_map(Step::Notice),
        1 => (node.clone(), prop::bool::weighted(0.4)).prop_map(|(node, full)| Step::Disk { node, full }),
        1 => node.clone().prop_map(Step::Resize),
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
    /// What happened and is not in the journal yet: it comes before anything else.
    late: Vec<Record>,
    disk_is_full: bool,
    view: Vec<(IpamBlock, u64)>,
    given_back: GivenBack,
    block_size: u8,
    claimed: Vec<(IpamBlock, u64)>,
    /// What pods were told.
    pods: BTreeMap<Handle, Vec<IpAddr>>,
}

impl Node {
    /// Whether all is written.
    fn catch_up(&mut self) -> bool {
        if !self.disk_is_full {
            self.journal.append(&mut self.late);
        }
        self.late.is_empty()
    }

    /// What has happened anyway.
    fn note(&mut self, records: impl IntoIterator<Item = Record>) {
        self.late.extend(records);
        self.catch_up();
    }

    fn pool(&self) -> IpPool {
        let spec = serde_json::json!({ "cidr": POOL, "blockSize": self.block_size });
        IpPool::new(Metadata::named("p"), serde_json::from_value(spec).unwrap())
    }

    /// What an agent does about blocks of its own that it does not hold; returns those to delete.
    fn take_up(&mut self) -> Vec<(IpNet, u64)> {
        let view: Vec<(&IpamBlock, u64)> = self.view.iter().map(|(block, at)| (block, *at)).collect();
        let claiming = if self.claimed.is_empty() { &[][..] } else { &[Family::V4] };
        let unknown = self.given_back.unknown(&self.name, &self.allocator, claiming, &view);
        let records = adopt(&unknown.adopt);
        let yielding: Vec<(IpNet, u64)> =
            unknown.yielding.iter().map(|(block, at)| (block.spec.cidr, *at)).collect();
        yielding.iter().for_each(|(cidr, at)| self.given_back.insert(*cidr, *at));
        for record in &records {
            self.allocator.apply(record).unwrap();
        }
        self.note(records);
        yielding
    }
}

#[derive(Default)]
struct World {
    store: BTreeMap<String, (IpamBlock, u64)>,
    revision: u64,
    nodes: Vec<Node>,
}

impl World {
    fn new() -> Self {
        let node = |n| Node { name: format!("n{n}"), block_size: 30, ..Node::default() };
        Self { nodes: (0..NODES).map(node).collect(), ..Self::default() }
    }

    fn handle(node: usize, pod: u8) -> Handle {
        Handle::pod("net", &format!("n{node}c{pod}"), "eth0")
    }

    fn owns(&self, node: usize, block: &IpamBlock) -> bool {
        block.spec.affinity == Some(Affinity::Host(self.nodes[node].name.clone()))
    }

    fn claim(&mut self, node: usize, answer_lost: bool) {
        let actor = &self.nodes[node];
        let pool = actor.pool();
        let plan = plan_claim(&ClaimQuery {
            node: &actor.name,
            family: Family::V4,
            eligible: &Eligible { pools: vec![&pool], excluded: Vec::new() },
            blocks: &actor.view.iter().map(|(block, _)| block).collect::<Vec<_>>(),
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
        self.store.insert(name, (claim.resource.clone(), self.revision));
        if !answer_lost {
            self.nodes[node].claimed.push((claim.resource, self.revision));
        }
    }

    /// The node looks at what there is beside the block it has created, and uses it.
    fn confirm(&mut self, index: usize) {
        let all: Vec<(IpamBlock, u64)> = self.store.values().cloned().collect();
        let all: Vec<(&IpamBlock, u64)> = all.iter().map(|(block, at)| (block, *at)).collect();
        for (block, revision) in std::mem::take(&mut self.nodes[index].claimed) {
            if yields_to(&block, revision, &all).is_some() {
                self.nodes[index].given_back.insert(block.spec.cidr, revision);
                self.delete(&block.metadata.name, revision);
                continue;
            }
            let node = &mut self.nodes[index];
            let record = node.allocator.add_block(block.spec.cidr, revision).ok();
            node.note(record);
        }
        self.look(index);
        self.notice(index);
    }

    fn look(&mut self, node: usize) {
        self.nodes[node].view = self.store.values().cloned().collect();
    }

    fn notice(&mut self, node: usize) {
        let before: BTreeSet<IpNet> = self.nodes[node].allocator.blocks().collect();
        for (cidr, revision) in self.nodes[node].take_up() {
            self.delete(&crate::block_name(&cidr), revision);
        }
        for cidr in self.nodes[node].allocator.blocks().filter(|cidr| !before.contains(cidr)) {
            let stored = self.store.get(&crate::block_name(&cidr));
            let is_own = stored.is_some_and(|(block, _)| self.owns(node, block));
            assert!(is_own, "{cidr} is taken up, and anybody may have it");
        }
        // Of a lost journal what was lent comes back so.
        self.lend(node, false);
    }

    fn delete(&mut self, name: &str, expected: u64) {
        if self.store.get(name).is_some_and(|(_, revision)| *revision == expected) {
            self.revision += 1;
            self.store.remove(name);
        }
    }

    fn assign(&mut self, node: usize, pod: u8, dies_before_journal: bool) {
        let handle = Self::handle(node, pod);
        let pools: Vec<IpNet> = vec![POOL.parse().unwrap()];
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
        if let Some(record) = given.record {
            if dies_before_journal {
                return self.crash(node);
            }
            if !actor.catch_up() || actor.disk_is_full {
                return actor.allocator.undo(&record, 0);
            }
            actor.journal.push(record);
        }
        actor.pods.insert(handle, given.addresses);
    }

    fn release(&mut self, node: usize, pod: u8) {
        let handle = Self::handle(node, pod);
        let node = &mut self.nodes[node];
        node.pods.remove(&handle);
        let record = node.allocator.release(&handle, 0);
        node.note(record);
    }

    fn mirror(&mut self, node: usize) {
        for cidr in self.nodes[node].allocator.blocks().collect::<Vec<_>>() {
            let name = crate::block_name(&cidr);
            let current = self.store.get(&name).map(|(block, _)| block.clone());
            let Some(current) = current.filter(|block| self.owns(node, block)) else { continue };
            let actor = &self.nodes[node];
            let block = actor.allocator.to_block_resource(&cidr, &actor.name, Some(&current)).unwrap();
            if block != current {
                self.revision += 1;
                self.store.insert(name, (block, self.revision));
            }
        }
    }

    /// As far as the node knows it is its own, and empty.
    fn give_back(&mut self, node: usize, dies_before_delete: bool) {
        let actor = &mut self.nodes[node];
        if !actor.claimed.is_empty() {
            return;
        }
        let empty = actor.allocator.usage(0, 0).into_iter().find(|usage| usage.used == 0);
        let Some(empty) = empty else { return };
        let told = actor.view.iter().find(|(block, _)| block.spec.cidr == empty.cidr);
        let Some((block, revision)) = told.cloned() else { return };
        if block.spec.affinity != Some(Affinity::Host(actor.name.clone())) {
            return;
        }
        let record = actor.allocator.drop_block(empty.cidr).ok();
        actor.note(record);
        if !actor.late.is_empty() {
            return;
        }
        if dies_before_delete {
            return self.crash(node);
        }
        actor.given_back.insert(empty.cidr, revision);
        self.delete(&block.metadata.name, revision);
    }

    fn borrow(&mut self, node: usize) {
        let none = (BTreeSet::new(), BTreeSet::new());
        let actor = &self.nodes[node];
        let pool = actor.pool();
        let asked = plan_borrow(&BorrowQuery {
            containing: None,
            node: &actor.name,
            family: Family::V4,
            eligible: &Eligible { pools: vec![&pool], excluded: Vec::new() },
            blocks: &actor.view.iter().map(|(block, _)| block).collect::<Vec<_>>(),
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
            blocks: &actor.view.iter().map(|(block, _)| block).collect::<Vec<_>>(),
            borrowers: &names.iter().map(String::as_str).collect(),
            reserved: &RangeSet::default(),
            now: 0,
            cooldown: 0,
        });
        actor.note(lending.records);
        if !actor.late.is_empty() {
            return;
        }
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
        actor.late.clear();
        actor.claimed.clear();
        actor.given_back = GivenBack::default();
        self.look(node);
        self.notice(node);
    }

    fn reinstall(&mut self, node: usize) {
        let actor = &mut self.nodes[node];
        actor.journal.clear();
        actor.pods.clear();
        self.crash(node);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Look(node) => self.look(node),
            Step::Notice(node) => self.notice(node),
            Step::Disk { node, full } => self.nodes[node].disk_is_full = full,
            Step::Resize(node) => self.nodes[node].block_size ^= 30 ^ 29,
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
            // A block is used by one node only, but for what of it is lent.
            for (number, node) in world.nodes.iter().enumerate() {
                let others = world.nodes.iter().skip(number + 1).flat_map(|node| node.allocator.blocks());
                for (a, b) in others.flat_map(|b| node.allocator.blocks().map(move |a| (a, b))) {
                    let single = a.prefix_len().max(b.prefix_len()) == 32 && a != b;
                    prop_assert!(single || !(a.contains(&b) || b.contains(&a)), "{a} and {b} have two nodes");
                }
            }
        }
    }
}
