//! How a next hop is reached: longest match in the kernel's own routes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::input::Underlay;

/// What the kernel needs to send to an address outside the cluster's routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The address itself, or the router before it.
    pub(crate) gateway: IpAddr,
    /// Interface.
    pub(crate) dev: Option<String>,
    /// 0 on the link, else the kernel's metric of the route there, at least 1.
    cost: u32,
}

impl Underlay<'_> {
    /// How far an address is, for BGP's choice between next hops: 0 on a link of this node, else the kernel's metric of
    /// the route there, at least 1. Absent: unreachable.
    pub fn cost(&self, address: IpAddr) -> Option<u32> {
        self.resolve(address).map(|resolved| resolved.cost)
    }

    /// Absent: unreachable.
    pub(crate) fn resolve(&self, address: IpAddr) -> Option<Resolved> {
        match self {
            Self::Kernel => Some(Resolved { gateway: address, dev: None, cost: 0 }),
            Self::Routes(routes) => {
                let best = routes
                    .iter()
                    .filter(|route| route.prefix.contains(&address))
                    .min_by_key(|route| (u8::MAX - route.prefix.prefix_len(), route.metric, *route))?;
                // A host route to the next hop itself through nothing is on the link.
                let gateway = best.gateway.unwrap_or(address);
                let cost = best.gateway.map_or(0, |_router| best.metric.max(1));
                Some(Resolved { gateway, dev: Some(best.dev.clone()), cost })
            }
        }
    }
}

/// True when `address` is inside the subnet of `own` (address with mask).
pub(crate) fn same_subnet(own: &IpNet, address: IpAddr) -> bool {
    own.contains(&address)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::input::UnderlayRoute;

    fn route(prefix: &str, gateway: Option<&str>, dev: &str, metric: u32) -> UnderlayRoute {
        UnderlayRoute {
            prefix: prefix.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            dev: dev.to_owned(),
            metric,
        }
    }

    #[test]
    fn longest_match_then_metric() {
        let routes = BTreeSet::from([
            route("0.0.0.0/0", Some("172.20.0.254"), "eth0", 0),
            route("172.20.0.0/24", None, "wlan0", 600),
            route("172.20.0.0/24", None, "eth0", 100),
            route("172.21.0.0/24", Some("172.20.0.253"), "eth0", 0),
        ]);
        let underlay = Underlay::Routes(&routes);
        let resolve =
            |a: &str| underlay.resolve(a.parse().unwrap()).map(|r| (r.gateway.to_string(), r.dev.unwrap()));
        let to = |gateway: &str| Some((gateway.to_owned(), "eth0".to_owned()));
        assert_eq!(resolve("172.20.0.7"), to("172.20.0.7"));
        assert_eq!(resolve("172.21.0.7"), to("172.20.0.253"));
        assert_eq!(resolve("8.8.8.8"), to("172.20.0.254"));
        assert_eq!(resolve("fd00::1"), None);
        let cost = |address: &str| underlay.cost(address.parse().unwrap());
        assert_eq!((cost("172.20.0.7"), cost("172.21.0.7")), (Some(0), Some(1)));
        assert_eq!((cost("8.8.8.8"), cost("fd00::1")), (Some(1), None));
    }
}
