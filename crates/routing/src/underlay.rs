//! How a next hop is reached: longest match in the kernel's own routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::input::UnderlayRoute;

/// What the kernel needs to send to an address outside the cluster's routes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resolved {
    /// The address itself, or the router before it.
    pub(crate) gateway: IpAddr,
    /// Interface.
    pub(crate) dev: String,
    /// The router is reached although no route says so.
    pub(crate) onlink: bool,
}

/// See [`crate::Router::cost`].
pub(crate) fn cost(routes: &BTreeSet<UnderlayRoute>, address: IpAddr) -> Option<u32> {
    best(routes, address).map(|route| route.gateway.map_or(0, |_router| route.metric.max(1))).min()
}

/// Longest match, then lowest metric: several if they are equal in both.
fn best(routes: &BTreeSet<UnderlayRoute>, address: IpAddr) -> impl Iterator<Item = &UnderlayRoute> {
    let rank = |route: &UnderlayRoute| (u8::MAX - route.prefix.prefix_len(), route.metric);
    let covering = move || routes.iter().filter(move |route| route.prefix.contains(&address));
    let best = covering().map(rank).min();
    covering().filter(move |route| Some(rank(route)) == best)
}

/// The equally good ways to `address`, in order; none: unreachable.
pub(crate) fn resolve(routes: &BTreeSet<UnderlayRoute>, address: IpAddr) -> Vec<Resolved> {
    let mut ways: Vec<Resolved> = best(routes, address)
        .map(|route| Resolved {
            // A host route to the next hop itself through nothing is on the link.
            gateway: route.gateway.unwrap_or(address),
            dev: route.dev.clone(),
            onlink: route.onlink,
        })
        .collect();
    ways.sort_unstable();
    ways.dedup();
    ways
}

/// The routes to `prefix` by way of a gateway on a link.
pub(crate) fn behind(
    routes: &BTreeSet<UnderlayRoute>,
    prefix: IpNet,
    gateway: IpAddr,
) -> impl Iterator<Item = UnderlayRoute> {
    let ways = resolve(routes, gateway).into_iter();
    let route = move |way: Resolved| UnderlayRoute {
        prefix,
        gateway: Some(way.gateway),
        dev: way.dev,
        metric: 0,
        onlink: way.onlink,
    };
    ways.map(route)
}

/// True when `address` is inside the subnet of `own` (address with mask).
pub(crate) fn same_subnet(own: &IpNet, address: IpAddr) -> bool {
    own.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, gateway: Option<&str>, dev: &str, metric: u32) -> UnderlayRoute {
        UnderlayRoute {
            prefix: prefix.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            dev: dev.to_owned(),
            metric,
            onlink: false,
        }
    }

    #[test]
    fn longest_match_then_metric_then_all_that_are_equal() {
        let routes = BTreeSet::from([
            route("0.0.0.0/0", Some("172.20.0.254"), "eth0", 0),
            route("172.20.0.0/24", None, "wlan0", 600),
            route("172.20.0.0/24", None, "eth0", 100),
            route("172.21.0.0/24", Some("172.20.0.253"), "eth0", 0),
            route("172.21.0.0/24", Some("172.20.1.253"), "eth1", 0),
        ]);
        let ways = |address: &str| {
            let ways = resolve(&routes, address.parse().unwrap());
            ways.into_iter().map(|way| format!("{} {}", way.gateway, way.dev)).collect::<Vec<_>>()
        };
        assert_eq!(ways("172.20.0.7"), ["172.20.0.7 eth0"]);
        assert_eq!(ways("172.21.0.7"), ["172.20.0.253 eth0", "172.20.1.253 eth1"]);
        assert_eq!(ways("8.8.8.8"), ["172.20.0.254 eth0"]);
        assert!(ways("fd00::1").is_empty());
        let cost = |address: &str| cost(&routes, address.parse().unwrap());
        assert_eq!((cost("172.20.0.7"), cost("172.21.0.7")), (Some(0), Some(1)));
        assert_eq!((cost("8.8.8.8"), cost("fd00::1")), (Some(1), None));
    }
}
