//! What is known, kept up to date piece by piece, and the routes that follow from it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use margay_api::types::interface_matches;
use margay_api::{IpPool, IpamBlock, Node};
use serde::Serialize;

use crate::context::{Context, Learned, Peer};
use crate::decide::{Decision, decide, to_peer};
use crate::desired::{Changes, Hop, NatOutgoing, Problem, Route, Tunnels};
use crate::input::{BgpRoute, Family, NextHop, UnderlayRoute, Uplink};
use crate::read;
use crate::settings::Settings;
use crate::tunnels::{self, Mtus};
use crate::underlay::{behind, cost};
use crate::wireguard;

/// Prefixes by what their routes depend on.
type Index<K> = BTreeMap<K, BTreeSet<IpNet>>;

/// What is known of the cluster, and the state of this node's kernel that follows from it.
///
/// The setters take note; [`take_changes`](Self::take_changes) decides again what they touched and nothing else. The
/// result depends on what is known and not on the order in which it became known.
#[derive(Debug, Clone)]
pub struct Router {
    context: Context,
    /// The prefix of each block, by the block's name.
    block_names: BTreeMap<String, IpNet>,
    by_owner: Index<String>,
    by_next_hop: Index<IpAddr>,
    /// Prefixes that the speaker of before has told.
    doubted: BTreeSet<IpNet>,
    /// All the kernel's routes that are not ours.
    underlay: BTreeSet<UnderlayRoute>,
    /// Routers before BGP peers (`reachableBy`).
    gateways: BTreeMap<IpNet, IpAddr>,
    /// Prefixes to decide about again, some of them more than once; `None`: all of them.
    dirty: Option<Vec<IpNet>>,
    tunnels_dirty: bool,
    problems_dirty: bool,
    routes: BTreeMap<IpNet, Route>,
    tunnels: Tunnels,
    route_problems: BTreeMap<IpNet, BTreeSet<String>>,
}

/// How a packet to one address leaves this node, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteTrace {
    /// The address asked about.
    pub destination: IpAddr,
    /// The IPPool the address is in.
    pub pool: Option<String>,
    /// The block the address is in.
    pub block: Option<IpNet>,
    /// The node the block belongs to.
    pub owner: Option<String>,
    /// Our route that is used; absent: the node's other routes decide.
    pub route: Option<Route>,
    /// Every prefix that covers the address, the most specific first, with what was decided about it.
    pub considered: Vec<Decision>,
}

impl Router {
    /// Of a node that knows nothing of its cluster yet.
    pub fn new(node: &str, settings: Settings) -> Self {
        let mut router = Self {
            context: Context::new(node, settings),
            block_names: BTreeMap::new(),
            by_owner: Index::new(),
            by_next_hop: Index::new(),
            doubted: BTreeSet::new(),
            underlay: BTreeSet::new(),
            gateways: BTreeMap::new(),
            dirty: None,
            tunnels_dirty: true,
            problems_dirty: true,
            routes: BTreeMap::new(),
            tunnels: Tunnels::default(),
            route_problems: BTreeMap::new(),
        };
        router.take_changes();
        router
    }

    /// All nodes, this one among them.
    pub fn set_nodes(&mut self, nodes: &[&Node]) {
        let before = std::mem::take(&mut self.context.peers);
        let own = std::mem::take(&mut self.context.own);
        self.context.set_nodes(nodes);
        self.problems_dirty = true;
        if self.context.peers == before {
            return;
        }
        self.tunnels_dirty = true;
        if self.context.own != own {
            self.dirty = None;
            return;
        }
        let after = &self.context.peers;
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let mut touched = BTreeSet::new();
        for name in names.into_iter().filter(|name| before.get(*name) != after.get(*name)) {
            touched.extend(self.by_owner.get(name).into_iter().flatten());
            let addresses = |peer: &Peer| peer.addresses.values().map(IpNet::addr).collect::<Vec<_>>();
            for address in [before.get(name), after.get(name)].into_iter().flatten().flat_map(addresses) {
                touched.extend(self.by_next_hop.get(&address).into_iter().flatten());
            }
        }
        self.touch(touched);
    }

    /// All pools.
    pub fn set_pools<'a>(&mut self, pools: impl IntoIterator<Item = &'a IpPool>) {
        let before = std::mem::take(&mut self.context.pools);
        self.context.set_pools(pools);
        self.problems_dirty = true;
        if self.context.pools != before {
            self.dirty = None;
            self.tunnels_dirty = true;
        }
    }

    /// A block of the datastore, new or changed.
    pub fn set_block(&mut self, block: &IpamBlock) {
        let Some((cidr, owner)) = read::block(block) else { return self.remove_block(&block.metadata.name) };
        if self.block_names.get(&block.metadata.name).is_some_and(|old| *old != cidr) {
            self.remove_block(&block.metadata.name);
        }
        self.block_names.insert(block.metadata.name.clone(), cidr);
        if self.context.blocks.get(&cidr) != Some(&owner) {
            self.set_owner(cidr, Some(owner));
        }
    }

    /// A range of this node's that is no block, under a name that no block has: it is treated like one.
    pub fn set_own_range(&mut self, name: &str, range: IpNet) {
        self.block_names.insert(name.to_owned(), range);
        self.set_owner(range, Some(Some(self.context.node.clone())));
    }

    /// A block that is not in the datastore any more, or a range of [`Self::set_own_range`].
    pub fn remove_block(&mut self, name: &str) {
        if let Some(cidr) = self.block_names.remove(name) {
            self.set_owner(cidr, None);
        }
    }

    fn set_owner(&mut self, cidr: IpNet, owner: Option<Option<String>>) {
        let own = |owner: &Option<Option<String>>| {
            owner.as_ref().and_then(Option::as_ref) == Some(&self.context.node)
        };
        let is_own = own(&owner);
        let before = self.context.blocks.get(&cidr).cloned();
        let was_own = own(&before);
        if let Some(Some(before)) = before {
            unlink(&mut self.by_owner, &before, cidr);
        }
        match owner {
            Some(owner) => {
                if let Some(owner) = &owner {
                    self.by_owner.entry(owner.clone()).or_default().insert(cidr);
                }
                self.context.blocks.insert(cidr, owner);
            }
            None => {
                self.context.blocks.remove(&cidr);
            }
        }
        if is_own != was_own {
            if is_own {
                self.context.own_blocks.insert(cidr);
            } else {
                self.context.own_blocks.remove(&cidr);
            }
            // What lies inside a block of ours is nobody else's.
            let inside: BTreeSet<IpNet> =
                self.context.prefixes().filter(|prefix| cidr.contains(prefix)).collect();
            self.touch(inside);
        }
        // Whether an own address is a borrowed one depends on the block around it.
        let own_inside: Vec<IpNet> =
            self.context.own_blocks.iter().filter(|own| cidr.contains(*own)).copied().collect();
        self.touch(own_inside);
        self.touch([cidr]);
    }

    /// What BGP has chosen for a prefix; without next hops: nothing.
    pub fn set_bgp(&mut self, route: BgpRoute) {
        let BgpRoute { prefix, mut next_hops, stale } = route;
        let prefix = prefix.trunc();
        self.doubted.remove(&prefix);
        next_hops.sort_unstable();
        next_hops.dedup();
        let before = if next_hops.is_empty() {
            let Some(before) = self.context.bgp.remove(&prefix) else { return };
            before
        } else {
            for next_hop in &next_hops {
                self.by_next_hop.entry(next_hop.address).or_default().insert(prefix);
            }
            let learned = self.context.bgp.entry(prefix).or_default();
            let before = std::mem::replace(learned, Learned { next_hops, stale });
            if *learned == before {
                return;
            }
            before
        };
        let is_used = |hop: &NextHop| {
            let now = self.context.bgp.get(&prefix);
            now.is_some_and(|now| now.next_hops.iter().any(|new| new.address == hop.address))
        };
        for next_hop in before.next_hops.iter().filter(|hop| !is_used(hop)) {
            unlink(&mut self.by_next_hop, &next_hop.address, prefix);
        }
        self.touch([prefix]);
    }

    /// Another speaker begins with an empty table and withdraws nothing of what the one before has told.
    pub fn doubt_bgp(&mut self) {
        self.doubted = self.context.bgp.keys().copied().collect();
    }

    /// It has told everything it knows: what it has not told again is gone.
    pub fn trust_bgp(&mut self) {
        for prefix in std::mem::take(&mut self.doubted) {
            self.set_bgp(BgpRoute { prefix, next_hops: Vec::new(), stale: false });
        }
    }

    /// A pod of this node has this address, behind the host side of its veth pair.
    pub fn add_pod(&mut self, address: IpAddr, interface: &str) {
        let prefix = IpNet::from(address);
        self.context.pods.entry(prefix).or_default().insert(interface.to_owned());
        self.touch_pod(prefix);
    }

    /// It has it no longer.
    pub fn remove_pod(&mut self, address: IpAddr, interface: &str) {
        let prefix = IpNet::from(address);
        if let Some(interfaces) = self.context.pods.get_mut(&prefix) {
            interfaces.remove(interface);
            if interfaces.is_empty() {
                self.context.pods.remove(&prefix);
            }
            self.touch_pod(prefix);
        }
    }

    /// A pod's own route, and those that it announced.
    fn touch_pod(&mut self, prefix: IpNet) {
        let behind: Vec<IpNet> =
            self.by_next_hop.get(&prefix.addr()).into_iter().flatten().copied().collect();
        self.touch(behind.into_iter().chain([prefix]));
    }

    /// BGP peers (addresses) that are reached by way of a router on the link (`reachableBy`), and so is what has one of them
    /// as next hop. A route wanted for another reason stays.
    pub fn set_gateways(&mut self, gateways: &BTreeMap<IpAddr, IpAddr>) {
        let gateways: BTreeMap<IpNet, IpAddr> =
            gateways.iter().map(|(peer, gateway)| (IpNet::from(*peer), *gateway)).collect();
        if gateways != self.gateways {
            let before = std::mem::replace(&mut self.gateways, gateways);
            let touched: Vec<IpNet> = before.keys().chain(self.gateways.keys()).copied().collect();
            self.touch(touched);
            self.look_at_underlay();
        }
    }

    /// Addresses of this node that its workloads speak BGP with.
    pub fn set_workload_peering(&mut self, addresses: &BTreeSet<IpAddr>) {
        if self.context.workload_peering != *addresses {
            self.context.workload_peering.clone_from(addresses);
            self.tunnels_dirty = true;
        }
    }

    /// The kernel's routes that are not ours; a next hop none of them covers is unreachable.
    pub fn set_underlay(&mut self, routes: BTreeSet<UnderlayRoute>) {
        self.underlay = routes;
        self.look_at_underlay();
    }

    /// Takes what counts of the kernel's routes: links of ignored interfaces lead nowhere (`ignoredInterfaces`). Our own to
    /// peers behind gateways count too.
    fn look_at_underlay(&mut self) {
        let ignored = &self.context.settings.ignored_interfaces;
        let ignores = |dev: &str| ignored.iter().any(|pattern| interface_matches(pattern, dev));
        let counts = |route: &&UnderlayRoute| route.gateway.is_some() || !ignores(&route.dev);
        let mut routes: BTreeSet<UnderlayRoute> = self.underlay.iter().filter(counts).cloned().collect();
        let own = self.gateways.iter().flat_map(|(peer, gateway)| behind(&routes, *peer, *gateway));
        let own: Vec<UnderlayRoute> = own.collect();
        routes.extend(own);
        if self.context.underlay != routes {
            self.context.underlay = routes;
            self.dirty = None;
        }
    }

    /// Where packets of each family leave; of a family that is missing the other one's MTU is taken, or 1500, and its
    /// tunnels aren't bound to a device.
    pub fn set_uplinks(&mut self, uplinks: BTreeMap<Family, Uplink>) {
        if self.context.uplinks != uplinks {
            self.context.uplinks = uplinks;
            self.tunnels_dirty = true;
        }
    }

    /// Other settings from now on. Devices and routes follow.
    pub fn set_settings(&mut self, settings: Settings) {
        if self.context.settings != settings {
            self.context.settings = settings;
            self.dirty = None;
            self.tunnels_dirty = true;
            self.problems_dirty = true;
            self.look_at_underlay();
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// How far an address is, for BGP's choice between next hops: 0 on a link of this node, else the kernel's metric of
    /// the route there, at least 1. Absent: unreachable.
    pub fn cost(&self, next_hop: IpAddr) -> Option<u32> {
        if self.context.pods.contains_key(&IpNet::from(next_hop)) {
            return Some(0);
        }
        cost(&self.context.underlay, next_hop)
    }

    fn touch(&mut self, prefixes: impl IntoIterator<Item = IpNet>) {
        if let Some(dirty) = &mut self.dirty {
            dirty.extend(prefixes);
        }
    }

    /// Decides about everything that was touched, and says what came out differently.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes =
            Changes { problems: std::mem::take(&mut self.problems_dirty), ..Changes::default() };
        let dirty = self.dirty.replace(Vec::new());
        let mut dirty = dirty.unwrap_or_else(|| {
            let known = self.routes.keys().chain(self.route_problems.keys()).chain(self.gateways.keys());
            self.context.prefixes().chain(known.copied()).collect()
        });
        dirty.sort_unstable();
        dirty.dedup();
        let mut last = None;
        let decided = dirty.into_iter().filter_map(|prefix| {
            let route = self.decide_again(prefix, &mut last, &mut changes.problems)?;
            Some((prefix, route))
        });
        changes.routes = decided.collect();
        if std::mem::take(&mut self.tunnels_dirty) {
            let tunnels = self.new_tunnels();
            changes.tunnels = tunnels != self.tunnels;
            self.tunnels = tunnels;
        }
        changes
    }

    /// Decides about one destination; returns its route if that is another one now. `last`: where the route before leads to,
    /// which often is a block of the same node.
    fn decide_again(
        &mut self,
        prefix: IpNet,
        last: &mut Option<Arc<[Hop]>>,
        other_problems: &mut bool,
    ) -> Option<Option<Route>> {
        let decision = self.context.knows(&prefix).then(|| decide(&self.context, prefix));
        let mut problems: BTreeSet<String> = decision.iter().flat_map(Decision::problems).collect();
        problems.extend(self.context.pod_problem(&prefix));
        let route = decision.and_then(|decision| decision.route).or_else(|| {
            self.gateways.get(&prefix).and_then(|gateway| to_peer(&self.context, prefix, *gateway))
        });
        if self.route_problems.get(&prefix).map_or(!problems.is_empty(), |known| *known != problems) {
            *other_problems = true;
            if problems.is_empty() {
                self.route_problems.remove(&prefix);
            } else {
                self.route_problems.insert(prefix, problems);
            }
        }
        let route = route.map(|route| route.sharing(last));
        let before = match (self.routes.entry(prefix), &route) {
            (Entry::Occupied(known), Some(route)) if known.get() == route => return None,
            (Entry::Vacant(_), None) => return None,
            (Entry::Occupied(mut known), Some(route)) => Some(known.insert(route.clone())),
            (Entry::Occupied(known), None) => Some(known.remove()),
            (Entry::Vacant(place), Some(route)) => {
                place.insert(route.clone());
                None
            }
        };
        let ways = [before.as_ref(), route.as_ref()];
        self.tunnels_dirty |= ways.into_iter().any(|way| wireguard::encrypts(&self.context, way));
        Some(route)
    }

    fn new_tunnels(&self) -> Tunnels {
        let cx = &self.context;
        let used = tunnels::used(cx);
        let mtus = Mtus::new(&cx.settings, &cx.uplinks, &used);
        let vxlan = tunnels::vxlan_devices(cx, &used, &mtus);
        let (fdb, neighbours) = tunnels::vxlan_entries(cx, &vxlan);
        let pools = |wanted: fn(&crate::context::Pool) -> bool| {
            cx.pools.iter().filter(|pool| wanted(pool)).map(|pool| pool.cidr).collect()
        };
        Tunnels {
            ipip: tunnels::ipip_device(cx, &used, &mtus),
            workload_peering: cx.workload_peering.iter().map(|address| IpNet::from(*address)).collect(),
            vxlan,
            wireguard: wireguard::devices(cx, &self.routes, &mtus),
            fdb,
            neighbours,
            nat_outgoing: NatOutgoing {
                masquerade: pools(|pool| pool.nat_outgoing && pool.for_pods),
                pools: pools(|pool| pool.for_pods),
            },
            pod_mtu: mtus.pod,
        }
    }

    /// Routes of the main table by destination, as of the last [`take_changes`](Self::take_changes).
    pub fn routes(&self) -> &BTreeMap<IpNet, Route> {
        &self.routes
    }

    /// Tunnels, as of the last [`take_changes`](Self::take_changes).
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// What is wrong, as of the last [`take_changes`](Self::take_changes).
    pub fn problems(&self) -> BTreeSet<Problem> {
        let of_routes = self.route_problems.iter().flat_map(|(prefix, messages)| {
            messages.iter().map(|message| Problem { object: prefix.to_string(), message: message.clone() })
        });
        let cx = &self.context;
        let of_objects = cx.node_problems.iter().chain(&cx.pool_problems).cloned();
        of_objects.chain(wireguard::problems(cx)).chain(of_routes).collect()
    }

    /// The route to one address and the reasons for it.
    pub fn explain(&self, destination: IpAddr) -> RouteTrace {
        let cx = &self.context;
        let host = IpNet::from(destination);
        let mut covering: Vec<IpNet> = cx.prefixes().filter(|prefix| prefix.contains(&destination)).collect();
        covering.sort_by_key(|prefix| (u8::MAX - prefix.prefix_len(), *prefix));
        covering.dedup();
        let considered: Vec<Decision> = covering.into_iter().map(|prefix| decide(cx, prefix)).collect();
        let block = cx.block_of(&host);
        RouteTrace {
            destination,
            pool: cx.pool_of(&host).map(|pool| pool.name.clone()),
            block: block.map(|(cidr, _)| *cidr),
            owner: block.and_then(|(_, owner)| owner.map(str::to_owned)),
            route: considered.iter().find_map(|decision| decision.route.clone()),
            considered,
        }
    }
}

/// Takes one prefix out of an index.
fn unlink<K: Ord>(index: &mut Index<K>, key: &K, prefix: IpNet) {
    if let Some(prefixes) = index.get_mut(key) {
        prefixes.remove(&prefix);
        if prefixes.is_empty() {
            index.remove(key);
        }
    }
}

impl fmt::Display for RouteTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Some(route) => write!(f, "{route}")?,
            None => write!(f, "{}: no route of ours; the node's own routes decide", self.destination)?,
        }
        for decision in &self.considered {
            for reason in &decision.reasons {
                write!(f, "\n  {}: {reason}", decision.prefix)?;
            }
        }
        if self.considered.is_empty() {
            match &self.pool {
                Some(pool) => write!(f, "\n  IPPool({pool}) has the address, but no node claimed its block")?,
                None => f.write_str("\n  in no IPPool, block or BGP route")?,
            }
        }
        Ok(())
    }
}
