//! From what is known to what the kernel should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use margay_api::IpamBlock;
use margay_bgp::NextHopState;
use margay_netlink::{Netlink, RouteFilter};
use margay_routing::{
    BgpRoute, Desired, Hop, HopKey, Input, LocalPod, Protocol, Route, RouteTrace, Router, Settings, Target,
    UnderlayRoute, Uplink,
};

use super::Node;
use super::register::{detect, is_default};
use crate::fib;

/// How this node reaches its neighbours: the kernel's own routes and interfaces.
#[derive(Debug)]
pub(crate) struct Underlay {
    netlink: Netlink,
    routes: BTreeSet<UnderlayRoute>,
    settings: Settings,
}

impl Underlay {
    /// Reads it for the first time.
    pub(crate) fn read() -> Result<Self, margay_netlink::Error> {
        let mut underlay =
            Self { netlink: Netlink::open()?, routes: BTreeSet::new(), settings: Settings::default() };
        underlay.refresh()?;
        Ok(underlay)
    }

    /// The desired state of a node that knows nothing yet.
    pub(super) fn nothing(&self, node: &str) -> Desired {
        let input = Input {
            node,
            nodes: &[],
            pools: &[],
            blocks: &[],
            bgp: &[],
            pods: &[],
            uplink: None,
            underlay: margay_routing::Underlay::Routes(&self.routes),
            settings: &self.settings,
        };
        Router::new(&input).desired()
    }

    /// How far a BGP next hop is (see [`margay_routing::Underlay::cost`]).
    pub(super) fn next_hop(&self, address: IpAddr) -> NextHopState {
        let cost = margay_routing::Underlay::Routes(&self.routes).cost(address);
        NextHopState { address, cost }
    }

    fn refresh(&mut self) -> Result<(), margay_netlink::Error> {
        let links = self.netlink.links()?;
        let routes = self.netlink.routes(RouteFilter::default())?;
        self.routes = fib::underlay_routes(&routes, &links);
        Ok(())
    }

    /// Names of all interfaces.
    pub(super) fn interfaces(&mut self) -> BTreeSet<String> {
        let links = self.netlink.links().unwrap_or_default();
        links.into_iter().map(|link| link.name).collect()
    }

    /// The address this node most likely has.
    pub(super) fn detect(&mut self) -> Option<Ipv4Net> {
        let links = self.netlink.links().ok()?;
        let name = |index: u32| links.iter().find(|link| link.index == index && link.up);
        let addresses = self.netlink.addresses(None).ok()?;
        let addresses: Vec<(String, IpNet)> = addresses
            .iter()
            .filter_map(|address| Some((name(address.index)?.name.clone(), address.net)))
            .collect();
        let default =
            self.routes.iter().filter(|route| is_default(&route.prefix)).min_by_key(|route| route.metric);
        detect(&addresses, default.map(|route| route.dev.as_str()))
    }

    /// The interface that has the address.
    fn uplink(&mut self, address: IpAddr) -> Option<Uplink> {
        let addresses = self.netlink.addresses(None).ok()?;
        let index = addresses.iter().find(|entry| entry.net.addr() == address)?.index;
        let link = self.netlink.link_by_index(index).ok()??;
        Some(Uplink { name: link.name, mtu: link.mtu })
    }
}

impl Node {
    /// Reads the kernel's own routes again.
    pub(super) async fn underlay_changed(&mut self) {
        if let Err(error) = self.underlay.refresh() {
            tracing::warn!("cannot read the kernel's routes: {error}");
        }
        let mut changed = Vec::new();
        for (address, told) in &mut self.next_hops {
            let state = self.underlay.next_hop(*address);
            if std::mem::replace(told, state.cost) != state.cost {
                changed.push(state);
            }
        }
        self.tell_next_hops(changed).await;
    }

    /// Calculates the desired state and hands it to the forwarding thread; returns the generation to wait for.
    pub(super) fn update_routes(&mut self) -> u64 {
        let address = self.own_address();
        let uplink = address.and_then(|address| self.underlay.uplink(address));
        let mut desired = self.with_router(uplink.as_ref(), |router| router.desired());
        add_gateways(&mut desired, &self.gateways);
        self.desired = Arc::new(desired);
        self.report_route_problems();
        let complete = self.in_sync && self.speaker.is_complete();
        self.forwarding.want(Arc::clone(&self.desired), complete)
    }

    /// How packets to `destination` leave this node.
    pub(super) fn trace(&mut self, destination: IpAddr) -> RouteTrace {
        let address = self.own_address();
        let uplink = address.and_then(|address| self.underlay.uplink(address));
        self.with_router(uplink.as_ref(), |router| router.explain(destination))
    }

    fn with_router<T>(&self, uplink: Option<&Uplink>, ask: impl FnOnce(&Router<'_>) -> T) -> T {
        let nodes: Vec<_> = self.cluster.bgp.nodes.values().collect();
        let pools: Vec<_> = self.cluster.bgp.pools.values().collect();
        let blocks: Vec<&IpamBlock> = self.cluster.blocks.values().map(|(block, _)| block).collect();
        let bgp: Vec<BgpRoute> = self.bgp_routes.values().cloned().collect();
        let pods: Vec<LocalPod> = self
            .addresses
            .attached()
            .values()
            .flat_map(|attached| {
                attached
                    .addresses
                    .iter()
                    .map(|address| LocalPod { address: *address, interface: attached.interface.clone() })
            })
            .collect();
        ask(&Router::new(&Input {
            node: &self.config.node,
            nodes: &nodes,
            pools: &pools,
            blocks: &blocks,
            bgp: &bgp,
            pods: &pods,
            uplink,
            underlay: margay_routing::Underlay::Routes(&self.underlay.routes),
            settings: &self.underlay.settings,
        }))
    }
}

/// Routes to BGP peers by way of a gateway (`reachableBy`). A route that is wanted for another reason stays.
fn add_gateways(desired: &mut Desired, gateways: &BTreeMap<IpAddr, IpAddr>) {
    for (peer, gateway) in gateways {
        let prefix = IpNet::from(*peer);
        let hop = Hop {
            key: HopKey::Gateway { address: *gateway, dev: None },
            gateway: *gateway,
            dev: None,
            onlink: false,
        };
        desired.routes.entry(prefix).or_insert_with(|| Route {
            prefix,
            protocol: Protocol::Cluster,
            target: Target::Via(vec![hop]),
        });
    }
}
