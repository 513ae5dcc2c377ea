//! The addresses of the whole cluster compared with each other: what `margay ipam check` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::kinds::Affinity;
use margay_api::{IpPool, IpamBlock, Node, WorkloadEndpoint};
use serde::Serialize;

use crate::handle::{Attributes, Handle};
use crate::lend::{LENT, borrower};
use crate::range::address_at;

/// An address that a block says is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub handle: Handle,
    /// What is known about that.
    pub attributes: Attributes,
}

/// The addresses a block says are in use, in order. One whose owner can't be read belongs to `unknown.<address>`; one
/// that cools down after its release (Calico) isn't in use.
pub fn allocations(block: &IpamBlock) -> impl Iterator<Item = Allocation> + '_ {
    let spec = &block.spec;
    (0..).zip(&spec.allocations).filter_map(|(ordinal, attribute)| {
        let address = address_at(&spec.cidr, ordinal)?;
        let attribute = usize::try_from((*attribute)?).ok().and_then(|at| spec.attributes.get(at));
        let (handle, attributes) = match attribute {
            Some(known) if known.released_at.is_some() => return None,
            Some(known) => (known.handle_id.clone(), Attributes::from_map(&known.secondary)),
            None => (None, Attributes::default()),
        };
        let handle = Handle::from_text(handle.unwrap_or_else(|| format!("unknown.{address}")));
        Some(Allocation { address, handle, attributes })
    })
}

/// What is compared. The order of the lists does not matter.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Every Node.
    pub nodes: &'a [&'a Node],
    /// The pools in force.
    pub pools: &'a [&'a IpPool],
    /// Every block.
    pub blocks: &'a [&'a IpamBlock],
    /// Every endpoint.
    pub endpoints: &'a [&'a WorkloadEndpoint],
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "finding", rename_all = "camelCase")]
#[allow(missing_docs, reason = "the sentences of Display are the documentation; fields are what they name")]
pub enum Finding {
    Overlap { block: IpNet, other: IpNet },
    Inconsistent { block: IpNet, reason: String },
    Twice { address: IpAddr, endpoints: Vec<String> },
    Unallocated { address: IpAddr, endpoint: String },
    DeadNode { node: String, block: IpNet, used: usize },
    DeadEndpoint { node: String, endpoint: String },
    NoPool { block: IpNet },
    Leaked { address: IpAddr, handle: String, node: String },
}

impl Finding {
    /// Two may have the same address: as opposed to addresses that nobody can have although nobody uses them.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Overlap { .. }
            | Self::Inconsistent { .. }
            | Self::Twice { .. }
            | Self::Unallocated { .. } => true,
            Self::DeadNode { .. } | Self::DeadEndpoint { .. } | Self::NoPool { .. } | Self::Leaked { .. } => {
                false
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { block, other } => {
                write!(f, "blocks {block} and {other} overlap: delete the one that was made by hand")
            }
            Self::Inconsistent { block, reason } => write!(f, "block {block}: {reason}"),
            Self::Twice { address, endpoints } => {
                write!(
                    f,
                    "{address} is that of {}: delete all but one of these pods",
                    endpoints.join(" and ")
                )
            }
            Self::Unallocated { address, endpoint } => {
                write!(f, "{endpoint} has {address}, which its block says is free: delete that pod")
            }
            Self::DeadNode { node, block, used } => write!(
                f,
                "block {block} ({used} in use) is node {node}'s, which does not exist: collected by itself after a \
                 minute, or now by `margay ipam release --node {node}`"
            ),
            Self::DeadEndpoint { node, endpoint } => {
                write!(f, "{endpoint} is on node {node}, which does not exist")
            }
            Self::NoPool { block } => {
                write!(f, "block {block} is in no IPPool: it goes when its last pod does")
            }
            Self::Leaked { address, handle, node } => write!(
                f,
                "{address} of {handle} has no endpoint: if it is still so in a minute, `margay ipam release {address}` on \
                 node {node}"
            ),
        }
    }
}

/// Everything that is wrong, in order.
pub fn audit(view: &View<'_>) -> BTreeSet<Finding> {
    let mut found = BTreeSet::new();
    let nodes: BTreeSet<&str> = view.nodes.iter().map(|node| node.metadata.name.as_str()).collect();
    let mut owners: BTreeMap<IpAddr, Allocation> = BTreeMap::new();
    blocks_apart(&apart_from_lent(view.blocks), &mut found);
    for block in view.blocks {
        let cidr = block.spec.cidr;
        found.extend(inconsistency(block).map(|reason| Finding::Inconsistent { block: cidr, reason }));
        let used: Vec<Allocation> = allocations(block).collect();
        match &block.spec.affinity {
            Some(Affinity::Host(node)) if !nodes.contains(node.as_str()) => {
                found.insert(Finding::DeadNode { node: node.clone(), block: cidr, used: used.len() });
            }
            Some(Affinity::Host(_)) if !view.pools.iter().any(|pool| pool.spec.cidr.contains(&cidr)) => {
                found.insert(Finding::NoPool { block: cidr });
            }
            _ => {}
        }
        let own = used.into_iter().filter(|allocation| !is_lent(allocation));
        owners.extend(own.map(|allocation| (allocation.address, allocation)));
    }
    let endpoints = by_address(view.endpoints);
    for (address, of_address) in &endpoints {
        let endpoint = of_address.first().cloned().unwrap_or_default();
        if of_address.len() > 1 {
            found.insert(Finding::Twice { address: *address, endpoints: of_address.clone() });
        }
        let in_block = view.blocks.iter().any(|block| block.spec.cidr.contains(address));
        if in_block && !owners.contains_key(address) {
            found.insert(Finding::Unallocated { address: *address, endpoint });
        }
    }
    for endpoint in view.endpoints.iter().filter(|endpoint| !nodes.contains(endpoint.spec.node.as_str())) {
        let node = endpoint.spec.node.clone();
        found.insert(Finding::DeadEndpoint { node, endpoint: endpoint.key().to_string() });
    }
    for allocation in owners.into_values().filter(|allocation| allocation.attributes.kind.is_none()) {
        let node = allocation.attributes.node.clone().unwrap_or_default();
        // What a dead node has goes with its blocks.
        if !endpoints.contains_key(&allocation.address) && (node.is_empty() || nodes.contains(node.as_str()))
        {
            let Allocation { address, handle, .. } = allocation;
            found.insert(Finding::Leaked { address, handle: handle.to_string(), node });
        }
    }
    found
}

/// The address is another node's, and that node's block of one address says whose.
fn is_lent(allocation: &Allocation) -> bool {
    allocation.attributes.kind.as_deref() == Some(LENT)
}

/// Without blocks of one address that the block around them says are lent, or that are only asked for.
fn apart_from_lent<'a>(blocks: &[&'a IpamBlock]) -> Vec<&'a IpamBlock> {
    let lent: BTreeSet<IpAddr> =
        blocks.iter().flat_map(|block| allocations(block)).filter(is_lent).map(|one| one.address).collect();
    let is_apart = |block: &&&IpamBlock| {
        let known = block.spec.affinity.is_none() || lent.contains(&block.spec.cidr.addr());
        !(borrower(block).is_some() && known)
    };
    blocks.iter().filter(is_apart).copied().collect()
}

/// Blocks sorted by prefix: one that overlaps another directly follows it or a third that does.
fn blocks_apart(blocks: &[&IpamBlock], found: &mut BTreeSet<Finding>) {
    let mut cidrs: Vec<IpNet> = blocks.iter().map(|block| block.spec.cidr.trunc()).collect();
    cidrs.sort_unstable();
    let mut widest: Option<IpNet> = None;
    for block in cidrs {
        match widest {
            Some(other) if other.contains(&block) => {
                found.insert(Finding::Overlap { block, other });
            }
            _ => widest = Some(block),
        }
    }
}

/// Why nobody can rely on what the block says; absent when all is well.
fn inconsistency(block: &IpamBlock) -> Option<String> {
    let spec = &block.spec;
    let count = crate::block::address_count(&spec.cidr)?;
    let mut free = BTreeSet::new();
    for ordinal in &spec.unallocated {
        if *ordinal >= count || !free.insert(*ordinal) {
            return Some(format!("its list of free addresses names {ordinal} wrongly"));
        }
    }
    for (ordinal, attribute) in (0..count).zip(&spec.allocations) {
        let known = attribute.is_none_or(|at| usize::try_from(at).is_ok_and(|at| at < spec.attributes.len()));
        if !known {
            return Some(format!("nobody knows who has its address {ordinal}"));
        }
        if attribute.is_some() == free.contains(&ordinal) {
            return Some(format!("its address {ordinal} is both free and in use, or neither"));
        }
    }
    None
}

fn by_address(endpoints: &[&WorkloadEndpoint]) -> BTreeMap<IpAddr, Vec<String>> {
    let mut all: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for endpoint in endpoints {
        for net in &endpoint.spec.ip_networks {
            all.entry(net.addr()).or_default().push(endpoint.key().to_string());
        }
    }
    all.values_mut().for_each(|names| names.sort_unstable());
    all
}

#[cfg(test)]
mod tests {
    use margay_api::Metadata;
    use margay_api::kinds::{NodeSpec, WorkloadEndpointSpec};

    use super::*;
    use crate::allocator::{Allocator, Request};
    use crate::range::{Family, RangeSet};

    const CIDR: &str = "10.65.1.0/29";

    /// A block of `n1` with pods `a` and `b`.
    fn block() -> IpamBlock {
        let mut allocator = Allocator::default();
        allocator.add_block(CIDR.parse().unwrap(), 1).unwrap();
        for pod in ["a", "b"] {
            let request = Request {
                handle: Handle::pod("margay", pod, "eth0"),
                attributes: Attributes { node: Some("n1".into()), ..Attributes::default() },
                families: &[Family::V4],
                addresses: &[],
                pools: &["10.65.0.0/16".parse().unwrap()],
                reserved: &RangeSet::default(),
                now: 0,
                cooldown: 0,
            };
            allocator.assign(&request).unwrap();
        }
        allocator.to_block_resource(&CIDR.parse().unwrap(), "n1", None).unwrap()
    }

    fn endpoint(name: &str, node: &str, address: &str) -> WorkloadEndpoint {
        let spec = WorkloadEndpointSpec {
            node: node.into(),
            ip_networks: vec![format!("{address}/32").parse().unwrap()],
            ..WorkloadEndpointSpec::default()
        };
        WorkloadEndpoint::new(Metadata::namespaced("default", name), spec)
    }

    fn audited(nodes: &[&str], blocks: &[&IpamBlock], endpoints: &[WorkloadEndpoint]) -> Vec<String> {
        let nodes: Vec<Node> =
            nodes.iter().map(|name| Node::new(Metadata::named(*name), NodeSpec::default())).collect();
        let pool = IpPool::new(
            Metadata::named("pods"),
            serde_json::from_value(serde_json::json!({ "cidr": "10.65.0.0/16" })).unwrap(),
        );
        let view = View {
            nodes: &nodes.iter().collect::<Vec<_>>(),
            pools: &[&pool],
            blocks,
            endpoints: &endpoints.iter().collect::<Vec<_>>(),
        };
        audit(&view).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_cluster_in_order_has_no_findings() {
        let endpoints = [endpoint("a", "n1", "10.65.1.0"), endpoint("b", "n1", "10.65.1.1")];
        assert_eq!(audited(&["n1"], &[&block()], &endpoints), [""; 0]);
    }

    #[test]
    fn each_kind_of_disorder_is_found() {
        let (a, b) = (endpoint("a", "n1", "10.65.1.0"), endpoint("b", "n1", "10.65.1.1"));
        let find = |nodes: &[&str], blocks: &[&IpamBlock], endpoints: &[WorkloadEndpoint], word: &str| {
            let all = audited(nodes, blocks, endpoints);
            assert!(all.len() == 1 && all[0].contains(word), "{word}: {all:?}");
        };
        let good = block();
        find(&["n1"], &[&good], std::slice::from_ref(&a), "10.65.1.1 of margay.b.eth0 has no endpoint");
        find(&["n1"], &[&good], &[a.clone(), b.clone(), endpoint("c", "n1", "10.65.1.7")], "says is free");
        find(&["n1"], &[&good], &[a.clone(), b.clone(), endpoint("c", "n1", "10.65.1.1")], "all but one");
        find(&[], &[&good], &[], "10.65.1.0/29 (2 in use) is node n1's");
        let mut inside = block();
        inside.spec.cidr = "10.65.1.4/31".parse().unwrap();
        inside.spec.allocations = vec![None, None];
        (inside.spec.attributes, inside.spec.unallocated) = (Vec::new(), vec![0, 1]);
        find(&["n1"], &[&good, &inside], &[a.clone(), b.clone()], "overlap");
        let mut bad = block();
        bad.spec.unallocated.push(0);
        find(&["n1"], &[&bad], &[a, b], "both free and in use");
    }
}
