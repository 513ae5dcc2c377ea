//! One destination: is there a route, which, and why.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::context::{Context, Learned, Pool};
use crate::desired::{Encapsulation, Hop, HopKey, Protocol, Route, Target};
use crate::input::{Family, NextHop};
use crate::reason::{Reason, Source};
use crate::underlay::{resolve, same_subnet};
use crate::wireguard;

/// The decision about one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The destination.
    pub prefix: IpNet,
    /// The route, if there is one.
    pub route: Option<Route>,
    /// Why; one per next hop.
    pub reasons: Vec<Reason>,
}

impl Decision {
    fn none(prefix: IpNet, reason: Reason) -> Self {
        Self { prefix, route: None, reasons: vec![reason] }
    }

    fn via(prefix: IpNet, hops: Vec<(Result<Vec<Hop>, Reason>, Reason)>, max_paths: usize) -> Self {
        let mut reasons = Vec::new();
        let mut usable = Vec::new();
        for (hop, why) in hops {
            match hop {
                Ok(hops) => {
                    usable.extend(hops);
                    reasons.push(why);
                }
                Err(refusal) => reasons.push(refusal),
            }
        }
        usable.sort_unstable();
        usable.dedup();
        usable.truncate(max_paths.max(1));
        let route = (!usable.is_empty()).then(|| Route {
            prefix,
            protocol: Protocol::Cluster,
            target: Target::Via(usable.into()),
            metric: 0,
        });
        Self { prefix, route, reasons }
    }

    /// The sentences a person should see in the node's status.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.reasons.iter().filter(|reason| reason.is_problem()).map(ToString::to_string)
    }
}

/// Decides about one destination. Looks at nothing but the context, so any prefix can be asked at any time.
pub(crate) fn decide(cx: &Context, prefix: IpNet) -> Decision {
    let decision = choose(cx, prefix);
    Decision { route: decision.route.map(|route| cx.settings.with_metric(route)), ..decision }
}

fn choose(cx: &Context, prefix: IpNet) -> Decision {
    if let Some(interface) = cx.pods.get(&prefix).and_then(BTreeSet::first) {
        let route = Route {
            prefix,
            protocol: Protocol::Pods,
            target: Target::Link { dev: interface.clone() },
            metric: 0,
        };
        let reasons = vec![Reason::LocalPod { interface: interface.clone() }];
        return Decision { prefix, route: Some(route), reasons };
    }
    if cx.own_blocks.contains(&prefix) {
        // Inside another's block its owner would send it here again.
        let is_lent = || cx.blocks.keys().any(|block| block.contains(&prefix) && *block != prefix);
        if prefix.prefix_len() == prefix.max_prefix_len() && !is_lent() {
            return Decision::none(prefix, Reason::OwnFullLengthBlock);
        }
        let route = Route { prefix, protocol: Protocol::Cluster, target: Target::Blackhole, metric: 0 };
        return Decision { prefix, route: Some(route), reasons: vec![Reason::OwnBlock] };
    }
    let learned = cx.bgp.get(&prefix);
    // What this node has lent is somebody else's block.
    let is_others = matches!(cx.blocks.get(&prefix), Some(Some(_)));
    if !is_others && let Some(&block) = cx.own_blocks.iter().find(|block| block.contains(&prefix)) {
        let next_hop = learned.and_then(|learned| learned.next_hops.first().map(|hop| hop.address));
        return Decision::none(prefix, Reason::InsideOwnBlock { block, next_hop });
    }
    if learned.is_some() && cx.settings.services.iter().any(|range| range.contains(&prefix)) {
        return Decision::none(prefix, Reason::Service);
    }
    let pool = cx.pool_of(&prefix);
    let backend = cx.settings.backend;
    if !backend.carries(pool.map_or(Encapsulation::None, |pool| pool.encapsulation)) {
        let pool = pool.map(|pool| pool.name.clone());
        return Decision::none(prefix, Reason::NotOfBackend { pool, backend });
    }
    if let Some(pool) = pool {
        if let Some((hop, why)) = wireguard::hop(cx, &prefix, pool, learned) {
            return Decision::via(prefix, vec![(Ok(vec![hop]), why)], cx.settings.max_paths);
        }
        if !cx.settings.allows(pool.encapsulation) {
            let (pool, encapsulation) = (pool.name.clone(), pool.encapsulation);
            return Decision::none(prefix, Reason::SwitchedOff { pool, encapsulation });
        }
        if !cx.settings.writes(pool.encapsulation) {
            return Decision::none(prefix, Reason::LeftToOthers { pool: pool.name.clone() });
        }
    }
    match pool {
        Some(pool) if pool.encapsulation == Encapsulation::Vxlan => vxlan(cx, prefix, pool, learned),
        Some(pool) if pool.encapsulation == Encapsulation::Ipip => ipip(cx, prefix, pool, learned),
        pool => plain(cx, prefix, pool, learned),
    }
}

/// From BGP as it is.
fn plain(cx: &Context, prefix: IpNet, pool: Option<&Pool>, learned: Option<&Learned>) -> Decision {
    let Some(learned) = learned.filter(|learned| !learned.next_hops.is_empty()) else {
        return Decision::none(prefix, not_learned(cx, &prefix, pool));
    };
    let hops = learned.next_hops.iter().map(|hop| {
        let next_hop = hop.address;
        let node = cx.by_address.get(&next_hop).cloned();
        let why = Reason::Plain {
            pool: pool.map(|p| p.name.clone()),
            next_hop,
            node,
            source: Source::Bgp,
            stale: learned.stale,
        };
        let hop = if learned.stale && is_gone(cx, &prefix, next_hop) {
            Err(Reason::StaleAndGone { next_hop })
        } else {
            learned_hops(cx, pool, hop)
        };
        (hop, why)
    });
    Decision::via(prefix, hops.collect(), cx.settings.max_paths)
}

/// The block's node is not in the datastore any more, nor is the next hop (which may be a router before the node, as with
/// an eBGP fabric): waiting for a restart to end would only send packets to nobody.
fn is_gone(cx: &Context, prefix: &IpNet, next_hop: IpAddr) -> bool {
    let owner = cx.blocks.get(prefix).and_then(Option::as_ref);
    !cx.by_address.contains_key(&next_hop) && owner.is_some_and(|owner| !cx.peers.contains_key(owner))
}

/// Why a block that only BGP could bring has no route.
fn not_learned(cx: &Context, prefix: &IpNet, pool: Option<&Pool>) -> Reason {
    let pool = pool.map(|p| p.name.clone());
    match cx.blocks.get(prefix) {
        Some(None) => Reason::NobodysBlock,
        None => Reason::NotLearned { pool, node: None },
        Some(Some(node)) => match cx.peers.get(node) {
            None => Reason::UnknownNode { node: node.clone() },
            Some(peer) if peer.address(Family::of(prefix)).is_none() => {
                Reason::NodeWithoutAddress { node: node.clone(), family: Family::of(prefix) }
            }
            Some(_) => Reason::NotLearned { pool, node: Some(node.clone()) },
        },
    }
}

/// To a next hop of BGP without a tunnel. A router on the link is used by its link-local address (RFC 2545); nodes have
/// their own addresses everywhere.
fn learned_hops(cx: &Context, pool: Option<&Pool>, next_hop: &NextHop) -> Result<Vec<Hop>, Reason> {
    match &next_hop.link_local {
        Some((address, dev)) if !cx.by_address.contains_key(&next_hop.address) => {
            let gateway = IpAddr::V6(*address);
            let key = HopKey::Gateway { address: gateway, dev: dev.clone() };
            Ok(vec![Hop { key, gateway: Some(gateway), dev: dev.clone(), onlink: false }])
        }
        _ => direct_hops(cx, pool, next_hop.address),
    }
}

/// To an address without a tunnel: each of the kernel's equally good ways there.
fn direct_hops(cx: &Context, pool: Option<&Pool>, next_hop: IpAddr) -> Result<Vec<Hop>, Reason> {
    let family = Family::of_addr(&next_hop);
    if cx.own.address(family) == Some(next_hop) {
        return Err(Reason::NextHopIsThisNode { next_hop });
    }
    if let Some(interface) = cx.pods.get(&IpNet::from(next_hop)).and_then(BTreeSet::first) {
        // A workload of this node, which announces what is behind it.
        let key = HopKey::Gateway { address: next_hop, dev: interface.clone() };
        return Ok(vec![Hop { key, gateway: Some(next_hop), dev: interface.clone(), onlink: true }]);
    }
    let ways = resolve(&cx.underlay, next_hop);
    if ways.is_empty() {
        return Err(Reason::NextHopUnreachable { next_hop });
    }
    let hops = ways.into_iter().enumerate().map(|(way, resolved)| {
        let key = match cx.by_address.get(&next_hop) {
            Some(node) => {
                HopKey::Node { node: node.clone(), pool: pool.map(|pool| pool.name.clone()), family, way }
            }
            None => HopKey::Gateway { address: resolved.gateway, dev: resolved.dev.clone() },
        };
        Hop { key, gateway: Some(resolved.gateway), dev: resolved.dev, onlink: resolved.onlink }
    });
    Ok(hops.collect())
}

/// To a BGP peer by way of a gateway on one of our links (`reachableBy`).
pub(crate) fn to_peer(cx: &Context, prefix: IpNet, gateway: IpAddr) -> Option<Route> {
    let hops = direct_hops(cx, None, gateway).ok()?;
    let route = Route { prefix, protocol: Protocol::Cluster, target: Target::Via(hops.into()), metric: 0 };
    Some(cx.settings.with_metric(route))
}

/// In our subnet: BGP's way if it knows one, else straight to the owner. In another: the owner's tunnel end.
fn vxlan(cx: &Context, prefix: IpNet, pool: &Pool, learned: Option<&Learned>) -> Decision {
    let family = Family::of(&prefix);
    let learned = learned.filter(|learned| !learned.next_hops.is_empty());
    let owner = match cx.blocks.get(&prefix) {
        Some(None) if learned.is_none() => return Decision::none(prefix, Reason::NobodysBlock),
        Some(owner) => owner.as_ref(),
        None => None,
    };
    // A prefix that is no block (a single borrowed address, an aggregate) is at the node BGP names.
    let Some(owner) = owner else {
        let Some(learned) = learned else {
            return Decision::none(prefix, Reason::NotLearned { pool: Some(pool.name.clone()), node: None });
        };
        let addresses = learned.next_hops.iter().map(|hop| hop.address);
        let hops = addresses.map(|next_hop| match cx.by_address.get(&next_hop) {
            Some(node) => vxlan_hop(cx, family, pool, node, Source::Bgp),
            None if learned.stale => {
                let reason = Reason::StaleAndGone { next_hop };
                (Err(reason.clone()), reason)
            }
            None => {
                let reason = Reason::NextHopIsNoNode { next_hop, encapsulation: Encapsulation::Vxlan };
                (Err(reason.clone()), reason)
            }
        });
        return Decision::via(prefix, hops.collect(), cx.settings.max_paths);
    };
    let by_datastore = vxlan_hop(cx, family, pool, owner, Source::Datastore);
    if let (Reason::SameSubnet { node, .. }, Some(learned)) = (&by_datastore.1, learned) {
        let hops: Vec<_> = learned
            .next_hops
            .iter()
            .map(|hop| hop.address)
            .filter(|next_hop| cx.own.addresses.get(&family).is_some_and(|own| same_subnet(own, *next_hop)))
            .map(|next_hop| {
                let why =
                    Reason::SameSubnet { pool: pool.name.clone(), node: node.clone(), source: Source::Bgp };
                (direct_hops(cx, Some(pool), next_hop), why)
            })
            .collect();
        let decision = Decision::via(prefix, hops, cx.settings.max_paths);
        if decision.route.is_some() {
            return decision;
        }
    }
    if let (Err(Reason::NodeWithoutTunnel { .. } | Reason::OwnTunnelMissing { .. }), Some(learned)) =
        (&by_datastore.0, learned)
    {
        // The pool is being switched: the way it had is better than none.
        let hops = learned.next_hops.iter().map(|hop| {
            let (pool_name, next_hop) = (pool.name.clone(), hop.address);
            let why = Reason::TunnelNotYet { pool: pool_name, node: owner.clone(), next_hop };
            (learned_hops(cx, Some(pool), hop), why)
        });
        let decision = Decision::via(prefix, hops.collect(), cx.settings.max_paths);
        if decision.route.is_some() {
            return decision;
        }
    }
    Decision::via(prefix, vec![by_datastore], cx.settings.max_paths)
}

/// To a node of a VXLAN pool.
fn vxlan_hop(
    cx: &Context,
    family: Family,
    pool: &Pool,
    node: &str,
    source: Source,
) -> (Result<Vec<Hop>, Reason>, Reason) {
    let refuse = |reason: Reason| (Err(reason.clone()), reason);
    let node_name = node.to_owned();
    let Some(peer) = cx.peers.get(node) else {
        return refuse(Reason::UnknownNode { node: node_name });
    };
    let Some(address) = peer.address(family) else {
        return refuse(Reason::NodeWithoutAddress { node: node_name, family });
    };
    if node == cx.node {
        return refuse(Reason::NextHopIsThisNode { next_hop: address });
    }
    let own = cx.own.addresses.get(&family);
    if pool.cross_subnet && own.is_some_and(|own| same_subnet(own, address)) {
        let why = Reason::SameSubnet { pool: pool.name.clone(), node: node_name, source };
        return (direct_hops(cx, Some(pool), address), why);
    }
    if own.is_none() || !cx.own.vteps.contains_key(&family) {
        return refuse(Reason::OwnTunnelMissing { family });
    }
    let Some(vtep) = peer.vteps.get(&family) else {
        return refuse(Reason::NodeWithoutTunnel { node: node_name, family });
    };
    let dev = match family {
        Family::V4 => &cx.settings.vxlan_device,
        Family::V6 => &cx.settings.vxlan_device_v6,
    };
    let hop = Hop {
        key: HopKey::Node { node: node_name.clone(), pool: Some(pool.name.clone()), family, way: 0 },
        gateway: Some(vtep.gateway()),
        dev: dev.clone(),
        onlink: true,
    };
    let why = Reason::Tunnel {
        pool: pool.name.clone(),
        node: node_name,
        encapsulation: Encapsulation::Vxlan,
        cross_subnet: pool.cross_subnet,
        source,
    };
    (Ok(vec![hop]), why)
}

/// From BGP; through the tunnel when the next hop is a node in another subnet (or always).
fn ipip(cx: &Context, prefix: IpNet, pool: &Pool, learned: Option<&Learned>) -> Decision {
    let Some(learned) = learned.filter(|learned| !learned.next_hops.is_empty()) else {
        return Decision::none(prefix, not_learned(cx, &prefix, Some(pool)));
    };
    let hops = learned.next_hops.iter().map(|hop| ipip_hop(cx, pool, hop.address, learned.stale));
    Decision::via(prefix, hops.collect(), cx.settings.max_paths)
}

fn ipip_hop(cx: &Context, pool: &Pool, next_hop: IpAddr, stale: bool) -> (Result<Vec<Hop>, Reason>, Reason) {
    let refuse = |reason: Reason| (Err(reason.clone()), reason);
    let Some(node) = cx.by_address.get(&next_hop) else {
        return refuse(if stale {
            Reason::StaleAndGone { next_hop }
        } else {
            Reason::NextHopIsNoNode { next_hop, encapsulation: Encapsulation::Ipip }
        });
    };
    if *node == cx.node {
        return refuse(Reason::NextHopIsThisNode { next_hop });
    }
    let Some(own) = cx.own.addresses.get(&Family::V4) else {
        return refuse(Reason::NodeWithoutAddress { node: cx.node.clone(), family: Family::V4 });
    };
    if pool.cross_subnet && same_subnet(own, next_hop) {
        let why = Reason::SameSubnet { pool: pool.name.clone(), node: node.clone(), source: Source::Bgp };
        return (direct_hops(cx, Some(pool), next_hop), why);
    }
    let hop = Hop {
        key: HopKey::Node {
            node: node.clone(),
            pool: Some(pool.name.clone()),
            family: Family::of_addr(&next_hop),
            way: 0,
        },
        gateway: Some(next_hop),
        dev: cx.settings.ipip_device.clone(),
        onlink: true,
    };
    let why = Reason::Tunnel {
        pool: pool.name.clone(),
        node: node.clone(),
        encapsulation: Encapsulation::Ipip,
        cross_subnet: pool.cross_subnet,
        source: Source::Bgp,
    };
    (Ok(vec![hop]), why)
}
