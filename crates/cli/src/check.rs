//! Rules between objects, checked before anything is written. Rules of one object are `margay-api`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::{IpPool, IpamBlock, Key, Node, Resource};

use crate::files::FromFile;

/// What the datastore holds.
#[derive(Debug, Default)]
pub(crate) struct Existing<'a> {
    pub(crate) pools: Vec<&'a IpPool>,
    pub(crate) blocks: Vec<&'a IpamBlock>,
    pub(crate) nodes: Vec<&'a Node>,
}

impl<'a> Existing<'a> {
    pub(crate) fn new(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        let mut existing = Self::default();
        for resource in resources {
            match resource {
                Resource::IpPool(pool) => existing.pools.push(pool),
                Resource::IpamBlock(block) => existing.blocks.push(block),
                Resource::Node(node) => existing.nodes.push(node),
                _ => {}
            }
        }
        existing
    }
}

/// What stands against writing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Nothing is written.
    pub(crate) errors: Vec<String>,
    /// It is written, but a person should know.
    pub(crate) warnings: Vec<String>,
}

/// Checks what is to be written against what there is and against itself.
pub(crate) fn check(new: &[FromFile], existing: &Existing<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut seen: BTreeMap<Key, &str> = BTreeMap::new();
    for item in new {
        if let Some(first) = seen.insert(item.resource.key(), &item.place) {
            findings.errors.push(format!("{}: {} is also at {first}", item.place, item.resource.key()));
        }
    }
    for item in new {
        match &item.resource {
            Resource::IpPool(pool) => check_pool(item, pool, new, existing, &mut findings),
            Resource::Node(node) => check_node(item, node, new, existing, &mut findings),
            _ => {}
        }
    }
    findings
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn check_pool(
    item: &FromFile,
    pool: &IpPool,
    new: &[FromFile],
    existing: &Existing<'_>,
    findings: &mut Findings,
) {
    let (name, place, cidr) = (&pool.metadata.name, &item.place, &pool.spec.cidr);
    let newer = new.iter().filter_map(|other| match &other.resource {
        Resource::IpPool(pool) => Some(pool),
        _ => None,
    });
    let replaced = |old: &&&IpPool| newer.clone().any(|pool| pool.metadata.name == old.metadata.name);
    let others = existing.pools.iter().filter(|old| !replaced(old)).copied().chain(newer.clone());
    for other in others.filter(|other| other.metadata.name != *name && overlap(cidr, &other.spec.cidr)) {
        findings.errors.push(format!(
            "{place}: spec.cidr: {cidr} of IPPool({name}) overlaps {} of IPPool({})",
            other.spec.cidr, other.metadata.name
        ));
    }
    if let Some(old) = existing.pools.iter().find(|old| old.metadata.name == *name) {
        if old.spec.cidr != *cidr {
            findings.errors.push(format!(
                "{place}: spec.cidr: a pool can't move from {} to {cidr}: make a second pool, disable this one, and delete it when it is empty",
                old.spec.cidr
            ));
        } else if old.spec.block_size != pool.spec.block_size {
            findings.errors.push(format!(
                "{place}: spec.blockSize: a pool's block size can't change: make a second pool and disable this one"
            ));
        }
    }
    let size = pool.spec.block_size;
    let whole = existing.blocks.iter().filter(|block| margay_ipam::borrower(block).is_none());
    let inside = whole.filter(|block| overlap(cidr, &block.spec.cidr));
    if let Some(block) =
        inside.into_iter().find(|block| size.is_some_and(|s| s != block.spec.cidr.prefix_len()))
    {
        findings.errors.push(format!(
            "{place}: spec.blockSize: block {} in this range has another size: use blockSize {}",
            block.spec.cidr,
            block.spec.cidr.prefix_len()
        ));
    }
}

/// Every address that must be the node's alone, with the name of its field.
fn addresses(node: &Node) -> Vec<(&'static str, IpAddr)> {
    let spec = &node.spec;
    let bgp = spec.bgp.as_ref();
    let all = [
        ("spec.bgp.ipv4Address", bgp.and_then(|b| b.ipv4_address).map(|a| IpAddr::V4(a.addr()))),
        ("spec.bgp.ipv6Address", bgp.and_then(|b| b.ipv6_address).map(|a| IpAddr::V6(a.addr()))),
        ("spec.ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4)),
        ("spec.ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6)),
        ("spec.bgp.ipv4IPIPTunnelAddr", bgp.and_then(|b| b.ipv4_ipip_tunnel_addr).map(IpAddr::V4)),
    ];
    all.into_iter().filter_map(|(field, address)| Some((field, address?))).collect()
}

fn check_node(
    item: &FromFile,
    node: &Node,
    new: &[FromFile],
    existing: &Existing<'_>,
    findings: &mut Findings,
) {
    let (name, place) = (&node.metadata.name, &item.place);
    let newer = new.iter().filter_map(|other| match &other.resource {
        Resource::Node(node) => Some(node),
        _ => None,
    });
    let replaced = |old: &&&Node| newer.clone().any(|node| node.metadata.name == old.metadata.name);
    let others: Vec<&Node> =
        existing.nodes.iter().filter(|old| !replaced(old)).copied().chain(newer.clone()).collect();
    let own = addresses(node);
    for (field, address) in &own {
        let taken = others
            .iter()
            .filter(|other| other.metadata.name != *name)
            .find_map(|other| addresses(other).iter().find(|(_, a)| a == address).map(|(f, _)| (*other, *f)));
        if let Some((other, other_field)) = taken {
            findings.errors.push(format!(
                "{place}: {field}: {address} is already {other_field} of Node({})",
                other.metadata.name
            ));
        }
    }
    if !own.iter().any(|(field, _)| matches!(*field, "spec.bgp.ipv4Address" | "spec.bgp.ipv6Address")) {
        findings.warnings.push(format!(
            "{place}: Node({name}) has no spec.bgp.ipv4Address and no ipv6Address: no other node has a route to its pods until it has one"
        ));
    }
}

/// Addresses in use inside a pool, which would stay behind when it is deleted.
pub(crate) fn addresses_in_use(pool: &IpPool, existing: &Existing<'_>) -> usize {
    let inside = existing.blocks.iter().filter(|block| overlap(&pool.spec.cidr, &block.spec.cidr));
    inside.map(|block| block.spec.allocations.iter().filter(|slot| slot.is_some()).count()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(kind: &str, name: &str, spec: &serde_json::Value) -> Resource {
        let json = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        Resource::from_json(&json).unwrap().with_defaults()
    }

    fn pool(name: &str, cidr: &str, size: u8) -> Resource {
        resource("IPPool", name, &json!({ "cidr": cidr, "blockSize": size }))
    }

    fn node(name: &str, address: &str) -> Resource {
        resource("Node", name, &json!({ "bgp": { "ipv4Address": address } }))
    }

    fn run(new: Vec<Resource>, old: &[Resource]) -> Findings {
        let number = |(n, resource)| FromFile { resource, place: format!("file {n}") };
        let new: Vec<FromFile> = new.into_iter().enumerate().map(number).collect();
        check(&new, &Existing::new(old))
    }

    #[test]
    fn pools_must_not_overlap_old_or_new_ones() {
        let old = [pool("a", "10.65.0.0/16", 26)];
        assert_eq!(
            run(vec![pool("a", "10.65.0.0/16", 26), pool("b", "10.66.0.0/16", 26)], &old),
            Findings::default()
        );
        let error = run(vec![pool("b", "10.65.128.0/17", 26)], &old).errors.concat();
        assert!(error.contains("10.65.128.0/17 of IPPool(b) overlaps 10.65.0.0/16 of IPPool(a)"), "{error}");
        assert_eq!(
            run(vec![pool("b", "10.66.0.0/16", 26), pool("c", "10.66.0.0/24", 26)], &[]).errors.len(),
            2
        );
        assert_eq!(
            run(vec![pool("b", "10.66.0.0/16", 26), pool("b", "10.66.0.0/16", 26)], &[]).errors.len(),
            1
        );
    }

    #[test]
    fn range_and_block_size_of_a_pool_stay() {
        let old = [
            pool("a", "10.65.0.0/16", 26),
            resource("IPAMBlock", "10-66-0-0-26", &json!({ "cidr": "10.66.0.0/26", "affinity": "host:n1" })),
        ];
        for (new, says) in [
            (pool("a", "10.67.0.0/16", 26), "a pool can't move from 10.65.0.0/16"),
            (pool("a", "10.65.0.0/16", 24), "block size can't change"),
            (pool("b", "10.66.0.0/16", 24), "use blockSize 26"),
        ] {
            let errors = run(vec![new], &old).errors.concat();
            assert!(errors.contains(says), "{errors}");
        }
        assert!(run(vec![pool("b", "10.66.0.0/16", 26)], &old).errors.is_empty());
    }

    #[test]
    fn a_nodes_addresses_are_its_own() {
        let old = [node("n1", "172.20.0.1/24")];
        assert!(run(vec![node("n1", "172.20.0.1/24")], &old).errors.is_empty());
        let swapped = vec![node("n1", "172.20.0.2/24"), node("n2", "172.20.0.1/24")];
        assert!(run(swapped, &old).errors.is_empty(), "n1 gives the address up in the same call");
        let error = run(vec![node("n2", "172.20.0.1/16")], &old).errors.concat();
        assert!(error.contains("172.20.0.1 is already spec.bgp.ipv4Address of Node(n1)"), "{error}");
        let bare = run(vec![resource("Node", "n3", &json!({}))], &old);
        assert!(
            bare.errors.is_empty() && bare.warnings.concat().contains("no spec.bgp.ipv4Address"),
            "{bare:?}"
        );
    }
}
