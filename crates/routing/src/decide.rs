//! One destination: is there a route, which, and why.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::context::{Context, Learned, Pool};
use crate::desired::{Encapsulation, Hop, HopKey, Protocol, Route, Target};
use crate::input::{Backend, Family, NextHop};
use crate::underlay::{resolve, same_subnet};

/// Where a route to another node comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A BGP route.
    Bgp,
    /// The owner of the block in the datastore.
    Datastore,
}

/// Why there is or isn't a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the sentences of Display are the documentation; fields are what they name")]
pub enum Reason {
    LocalPod { interface: String },
    OwnBlock,
    OwnFullLengthBlock,
    Plain { pool: Option<String>, next_hop: IpAddr, node: Option<String>, source: Source, stale: bool },
    SameSubnet { pool: String, node: String, source: Source },
    Tunnel { pool: String, node: String, encapsulation: Encapsulation, cross_subnet: bool, source: Source },
    TunnelNotYet { pool: String, node: String, next_hop: IpAddr },
    InsideOwnBlock { block: IpNet, next_hop: Option<IpAddr> },
    NextHopIsThisNode { next_hop: IpAddr },
    NextHopUnreachable { next_hop: IpAddr },
    NextHopIsNoNode { next_hop: IpAddr, encapsulation: Encapsulation },
    StaleAndGone { next_hop: IpAddr },
    NotLearned { pool: Option<String>, node: Option<String> },
    UnknownNode { node: String },
    NodeWithoutAddress { node: String, family: Family },
    NodeWithoutTunnel { node: String, family: Family },
    OwnTunnelMissing { family: Family },
    NobodysBlock,
    NotOfBackend { pool: Option<String>, backend: Backend },
}

impl Reason {
    /// A person should know of it: it doesn't go away with the next update.
    fn is_problem(&self) -> bool {
        match self {
            Self::InsideOwnBlock { .. }
            | Self::TunnelNotYet { .. }
            | Self::NextHopUnreachable { .. }
            | Self::NextHopIsNoNode { .. }
            | Self::UnknownNode { .. }
            | Self::NodeWithoutAddress { .. }
            | Self::NodeWithoutTunnel { .. }
            | Self::OwnTunnelMissing { .. }
            | Self::NotOfBackend { backend: Backend::Vxlan, .. } => true,
            Self::LocalPod { .. }
            | Self::OwnBlock
            | Self::OwnFullLengthBlock
            | Self::Plain { .. }
            | Self::SameSubnet { .. }
            | Self::Tunnel { .. }
            | Self::NextHopIsThisNode { .. }
            | Self::StaleAndGone { .. }
            | Self::NotLearned { .. }
            | Self::NobodysBlock
            | Self::NotOfBackend { .. } => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bgp => "by BGP",
            Self::Datastore => "by its block in the datastore",
        })
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no encapsulation",
            Self::Ipip => "IPIP",
            Self::Vxlan => "VXLAN",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalPod { interface } => write!(f, "a pod of this node, behind {interface}"),
            Self::OwnBlock => f.write_str("this node's block: addresses without a pod are dropped here"),
            Self::OwnFullLengthBlock => {
                f.write_str("this node's block of one address: only its pod has a route")
            }
            Self::Plain { pool, next_hop, node, source, stale } => {
                match node {
                    Some(node) => write!(f, "to node {node} ({next_hop}) {source}")?,
                    None => write!(f, "via {next_hop} {source}")?,
                }
                match pool {
                    Some(pool) => write!(f, "; IPPool({pool}) uses no encapsulation")?,
                    None => f.write_str("; in no IPPool")?,
                }
                if *stale { f.write_str("; kept over a graceful restart") } else { Ok(()) }
            }
            Self::SameSubnet { pool, node, source } => {
                write!(
                    f,
                    "to node {node} {source}; IPPool({pool}) is CrossSubnet and the node is in our subnet"
                )
            }
            Self::Tunnel { pool, node, encapsulation, cross_subnet, source } => {
                write!(f, "{encapsulation} to node {node} {source}; IPPool({pool}) is ")?;
                f.write_str(if *cross_subnet {
                    "CrossSubnet and the node is in another subnet"
                } else {
                    "Always"
                })
            }
            Self::TunnelNotYet { pool, node, next_hop } => write!(
                f,
                "to node {node} ({next_hop}) by BGP until both nodes have the tunnel that IPPool({pool}) asks for"
            ),
            Self::InsideOwnBlock { block, next_hop } => {
                write!(f, "refused: it is inside this node's own block {block}")?;
                match next_hop {
                    Some(next_hop) => write!(f, "; {next_hop} must not advertise it"),
                    None => f.write_str(", which another block of the datastore overlaps"),
                }
            }
            Self::NextHopIsThisNode { next_hop } => {
                write!(f, "not installed: next hop {next_hop} is this node")
            }
            Self::NextHopUnreachable { next_hop } => {
                write!(f, "not installed: no kernel route leads to next hop {next_hop}")
            }
            Self::NextHopIsNoNode { next_hop, encapsulation } => {
                write!(
                    f,
                    "not installed: it needs {encapsulation}, but next hop {next_hop} is no Node's address"
                )
            }
            Self::StaleAndGone { next_hop } => {
                write!(
                    f,
                    "not installed: only a stale route says {next_hop}, and no Node has that address any more"
                )
            }
            Self::NotLearned { pool, node } => {
                f.write_str("no route: ")?;
                if let Some(node) = node {
                    write!(f, "the block is node {node}'s, but ")?;
                }
                f.write_str("BGP has not learned it")?;
                pool.as_ref().map_or(Ok(()), |pool| write!(f, " (IPPool({pool}))"))
            }
            Self::UnknownNode { node } => {
                write!(
                    f,
                    "no route: its owner Node({node}) does not exist; delete the block if the node is gone"
                )
            }
            Self::NodeWithoutAddress { node, family } => {
                write!(f, "no route: its owner Node({node}) has no {family} address in spec.bgp")
            }
            Self::NodeWithoutTunnel { node, family } => {
                write!(f, "no route: its owner Node({node}) has no {family} VXLAN tunnel address yet")
            }
            Self::OwnTunnelMissing { family } => {
                write!(
                    f,
                    "no route: this node has no {family} address or no VXLAN tunnel address of that family yet"
                )
            }
            Self::NobodysBlock => f.write_str("no route: the block belongs to no node"),
            Self::NotOfBackend { backend: Backend::None, .. } => {
                f.write_str("no route of ours: this agent's backend is none")
            }
            Self::NotOfBackend { pool, backend } => {
                f.write_str("no route: ")?;
                if let Some(pool) = pool {
                    write!(f, "IPPool({pool}) needs BGP, and ")?;
                }
                write!(f, "this agent's backend is {backend}: set vxlanMode, or backend: bgp")
            }
        }
    }
}

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
        let mut usable = BTreeSet::new();
        for (hop, why) in hops {
            match hop {
                Ok(hops) => {
                    usable.extend(hops);
                    reasons.push(why);
                }
                Err(refusal) => reasons.push(refusal),
            }
        }
        let hops: Vec<Hop> = usable.into_iter().take(max_paths.max(1)).collect();
        let route = (!hops.is_empty()).then_some(Route {
            prefix,
            protocol: Protocol::Cluster,
            target: Target::Via(hops),
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
    if let Some(interface) = cx.pods.get(&prefix).and_then(BTreeSet::first) {
        let route =
            Route { prefix, protocol: Protocol::Pods, target: Target::Link { dev: interface.clone() } };
        let reasons = vec![Reason::LocalPod { interface: interface.clone() }];
        return Decision { prefix, route: Some(route), reasons };
    }
    if cx.own_blocks.contains(&prefix) {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            return Decision::none(prefix, Reason::OwnFullLengthBlock);
        }
        let route = Route { prefix, protocol: Protocol::Cluster, target: Target::Blackhole };
        return Decision { prefix, route: Some(route), reasons: vec![Reason::OwnBlock] };
    }
    let learned = cx.bgp.get(&prefix);
    if let Some(&block) = cx.own_blocks.iter().find(|block| block.contains(&prefix)) {
        let next_hop = learned.and_then(|learned| learned.next_hops.first().map(|hop| hop.address));
        return Decision::none(prefix, Reason::InsideOwnBlock { block, next_hop });
    }
    let pool = cx.pool_of(&prefix);
    let backend = cx.settings.backend;
    if !backend.carries(pool.map_or(Encapsulation::None, |pool| pool.encapsulation)) {
        let pool = pool.map(|pool| pool.name.clone());
        return Decision::none(prefix, Reason::NotOfBackend { pool, backend });
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
            Ok(vec![Hop { key, gateway, dev: dev.clone(), onlink: false }])
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
        Hop { key, gateway: resolved.gateway, dev: resolved.dev, onlink: resolved.onlink }
    });
    Ok(hops.collect())
}

/// To a BGP peer by way of a gateway on one of our links (`reachableBy`).
pub(crate) fn to_peer(cx: &Context, prefix: IpNet, gateway: IpAddr) -> Option<Route> {
    let hops = direct_hops(cx, None, gateway).ok()?;
    Some(Route { prefix, protocol: Protocol::Cluster, target: Target::Via(hops) })
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
        gateway: vtep.address,
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
        gateway: next_hop,
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
