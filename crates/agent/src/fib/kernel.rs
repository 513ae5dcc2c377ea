//! What the kernel has that is not ours: interfaces, addresses, other routes. From these follow the ways to other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use margay_api::types::WireguardKey;
use margay_netlink::{
    Address, Error, Link, Netlink, Nexthop, NexthopTarget, Route, RouteFilter, RouteTarget, TABLE_MAIN,
};
use margay_routing::{Family, Hop, UnderlayRoute, Uplink};

use super::OURS;
use super::nexthops::is_ours;

/// Interfaces whose addresses are never a node's: loopback, tunnels, bridges of container runtimes.
const NOT_UPLINKS: [&str; 7] = ["lo", "cali", "vxlan", "tunl", "docker", "cni", "veth"];

/// Interfaces of ours: of pods, and tunnels.
pub(super) fn is_own_name(name: &str) -> bool {
    name.starts_with("mgy") || name.ends_with(".mgy")
}

/// How this node reaches its neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Underlay {
    /// The kernel's routes that are not ours.
    pub(crate) routes: BTreeSet<UnderlayRoute>,
    /// Addresses of interfaces that are up and not ours, with name and MTU of the interface.
    pub(crate) addresses: Vec<(String, u32, IpNet)>,
    /// Public keys of our WireGuard devices.
    pub(crate) wireguard: BTreeMap<Family, WireguardKey>,
}

impl Underlay {
    /// Where packets from the node's address leave: by the interface that has it, or, where that leads nowhere (routing on the host,
    /// with the address on `lo` or a dummy), by whichever has a default route.
    pub(crate) fn uplink(&self, address: IpAddr) -> Option<Uplink> {
        let (name, mtu, net) = self.addresses.iter().find(|(.., net)| net.addr() == address)?;
        let is_on_link = net.prefix_len() < net.max_prefix_len();
        let leads_out = |route: &UnderlayRoute| route.dev == *name && route.prefix.addr() != address;
        if name != "lo" && (is_on_link || self.routes.iter().any(leads_out)) {
            return Some(Uplink { name: Some(name.clone()), mtu: *mtu });
        }
        let family = Family::of_addr(&address);
        let defaults = self.routes.iter().filter(|route| {
            route.prefix.prefix_len() == 0 && Family::of(&route.prefix) == family && route.dev != *name
        });
        let devices: BTreeSet<&str> = defaults.map(|route| route.dev.as_str()).collect();
        let mtus = self.addresses.iter().filter(|(name, ..)| devices.contains(name.as_str()));
        mtus.map(|(_, mtu, _)| *mtu).min().map(|mtu| Uplink { name: None, mtu })
    }

    /// The address this node most likely has: of the interface with the default route, else of the first that can be an
    /// uplink.
    pub(crate) fn detect(&self) -> Option<Ipv4Net> {
        let is_default = |route: &&UnderlayRoute| route.prefix == IpNet::V4(Ipv4Net::default());
        let default = self.routes.iter().filter(is_default).min_by_key(|route| route.metric);
        let default = default.map(|route| route.dev.as_str());
        let mut candidates = self.addresses.iter().filter_map(|(name, _, net)| match net {
            IpNet::V4(net)
                if !NOT_UPLINKS.iter().any(|prefix| name.starts_with(prefix))
                    && !net.addr().is_link_local()
                    && !net.addr().is_loopback() =>
            {
                Some((name.as_str(), *net))
            }
            _ => None,
        });
        let first = candidates.clone().next();
        candidates.find(|(name, _)| Some(*name) == default).or(first).map(|(_, net)| net)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    links: BTreeMap<u32, Link>,
    names: BTreeMap<String, u32>,
    addresses: BTreeSet<Address>,
    routes: BTreeSet<Route>,
    nexthops: BTreeMap<u32, NexthopTarget>,
}

impl Kernel {
    /// Reads everything.
    pub(super) fn read(netlink: &mut Netlink, nexthops: &[Nexthop]) -> Result<Self, Error> {
        let mut kernel = Self::default();
        for link in netlink.links()? {
            kernel.set_link(link);
        }
        kernel.addresses = netlink.addresses(None)?.into_iter().collect();
        for nexthop in nexthops.iter().filter(|nexthop| !is_ours(nexthop)) {
            kernel.nexthops.insert(nexthop.id, nexthop.target.clone());
        }
        for route in netlink.routes(RouteFilter::default())? {
            kernel.set_route(route, false);
        }
        Ok(kernel)
    }

    /// The index of an interface that is there and up.
    pub(super) fn usable(&self, name: &str) -> Option<u32> {
        let index = self.names.get(name)?;
        self.links.get(index)?.up.then_some(*index)
    }

    /// Those of the next hops whose interface is there and up, with its index.
    pub(super) fn usable_hops<'a>(&self, hops: &'a [Hop]) -> Vec<(&'a Hop, u32)> {
        hops.iter().filter_map(|hop| Some((hop, self.usable(&hop.dev)?))).collect()
    }

    /// The interface with this index.
    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The index of an interface that is there.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// Takes note of an interface; returns what it was.
    pub(super) fn set_link(&mut self, link: Link) -> Option<Link> {
        if let Some(before) = self.links.get(&link.index)
            && before.name != link.name
        {
            self.names.remove(&before.name);
        }
        self.names.insert(link.name.clone(), link.index);
        self.links.insert(link.index, link)
    }

    /// An interface is gone.
    pub(super) fn remove_link(&mut self, index: u32) {
        if let Some(link) = self.links.remove(&index) {
            self.names.remove(&link.name);
        }
        self.addresses.retain(|address| address.index != index);
        self.drop_routes(index);
    }

    /// The kernel drops the routes of an interface that goes down, and says nothing of it.
    pub(super) fn drop_routes(&mut self, index: u32) {
        self.routes.retain(|route| !leads_to(&route.target, index));
    }

    /// Reads the addresses of one interface again.
    pub(super) fn read_addresses(&mut self, netlink: &mut Netlink, index: u32) -> Result<(), Error> {
        if self.links.get(&index).is_none_or(|link| is_own_name(&link.name)) {
            return Ok(());
        }
        self.addresses.retain(|address| address.index != index);
        match netlink.addresses(Some(index)) {
            // It went away meanwhile.
            Err(error) if error.is_not_found() => {}
            found => self.addresses.extend(found?.into_iter().filter(|address| address.index == index)),
        }
        Ok(())
    }

    /// Takes note of a route of somebody else.
    pub(super) fn set_route(&mut self, route: Route, replaces: bool) {
        if replaces {
            let key = route.key();
            self.routes.retain(|other| other.key() != key);
        }
        if self.matters(&route) {
            self.routes.insert(route);
        }
    }

    /// A route of somebody else is gone.
    pub(super) fn remove_route(&mut self, route: &Route) {
        self.routes.remove(route);
    }

    /// A nexthop object of somebody else.
    pub(super) fn set_nexthop(&mut self, nexthop: Nexthop) {
        self.nexthops.insert(nexthop.id, nexthop.target);
    }

    /// Another node may be reached by it.
    fn matters(&self, route: &Route) -> bool {
        let own = |index: &u32| self.links.get(index).is_some_and(|link| is_own_name(&link.name));
        let device = match &route.target {
            RouteTarget::Device { device } | RouteTarget::Via { device: Some(device), .. } => Some(device),
            _ => None,
        };
        let network = route.destination.network();
        let local = match network {
            IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
        };
        let local = local && route.destination.prefix_len() > 0;
        route.table == TABLE_MAIN && !OURS.contains(&route.protocol) && !local && !device.is_some_and(own)
    }

    /// The ways to other nodes.
    pub(super) fn underlay(&self) -> Underlay {
        let routes = self.routes.iter().flat_map(|route| self.ways(route)).collect();
        let address = |address: &Address| {
            let link = self.links.get(&address.index).filter(|link| link.up && !is_own_name(&link.name))?;
            Some((link.name.clone(), link.mtu, address.net))
        };
        let addresses = self.addresses.iter().filter_map(address).collect();
        Underlay { routes, addresses, ..Underlay::default() }
    }

    fn ways(&self, route: &Route) -> Vec<UnderlayRoute> {
        let hops = match &route.target {
            RouteTarget::Device { device } => vec![(None, *device, false)],
            RouteTarget::Via { gateway, device: Some(device), onlink } => {
                vec![(Some(*gateway), *device, *onlink)]
            }
            RouteTarget::Multipath(paths) => {
                paths.iter().map(|path| (path.gateway, path.device, path.onlink)).collect()
            }
            RouteTarget::Nexthop(id) => self.hops(*id, true),
            _ => Vec::new(),
        };
        let way = |(gateway, device, onlink)| {
            let dev = self.links.get(&device).filter(|link| link.up)?.name.clone();
            Some(UnderlayRoute { prefix: route.destination, gateway, dev, metric: route.metric, onlink })
        };
        hops.into_iter().filter_map(way).collect()
    }

    /// Where a nexthop object leads; members of a group are never groups.
    fn hops(&self, id: u32, groups: bool) -> Vec<(Option<IpAddr>, u32, bool)> {
        match self.nexthops.get(&id) {
            Some(NexthopTarget::Via { gateway, device, onlink }) => vec![(Some(*gateway), *device, *onlink)],
            Some(NexthopTarget::Device { device, .. }) => vec![(None, *device, false)],
            Some(NexthopTarget::Group(members)) if groups => {
                members.iter().flat_map(|(member, _)| self.hops(*member, false)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The route leads out of this interface, as far as the route itself says.
pub(super) fn leads_to(target: &RouteTarget, index: u32) -> bool {
    match target {
        RouteTarget::Device { device } => *device == index,
        RouteTarget::Via { device, .. } => *device == Some(index),
        RouteTarget::Multipath(paths) => paths.iter().any(|path| path.device == index),
        RouteTarget::Nexthop(_) | RouteTarget::Blackhole | RouteTarget::Unreachable => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_by_the_interface_with_the_address_unless_that_leads_nowhere() {
        let of = |interface: &str, net: &str, routes: &[(&str, &str)]| {
            let route = |(prefix, dev): &(&str, &str)| UnderlayRoute {
                prefix: prefix.parse().unwrap(),
                gateway: None,
                dev: (*dev).to_owned(),
                metric: 0,
                onlink: false,
            };
            let net: IpNet = net.parse().unwrap();
            let addresses = [
                ("lo", 65536, "127.0.0.1/8".parse().unwrap()),
                (interface, if interface == "lo" { 65536 } else { 1500 }, net),
                ("eth0", 9000, "fe80::1/64".parse().unwrap()),
                ("eth1", 8000, "198.51.100.1/31".parse().unwrap()),
            ];
            let underlay = Underlay {
                routes: routes.iter().map(route).collect(),
                addresses: addresses.map(|(name, mtu, net)| (name.to_owned(), mtu, net)).to_vec(),
                ..Underlay::default()
            };
            underlay.uplink(net.addr()).map(|uplink| (uplink.name, uplink.mtu))
        };
        let ways = [("0.0.0.0/0", "eth0"), ("0.0.0.0/0", "eth1"), ("::/0", "eth0")];
        assert_eq!(of("ens3", "192.0.2.7/24", &ways), Some((Some("ens3".to_owned()), 1500)));
        assert_eq!(of("lo", "192.0.2.7/32", &ways), Some((None, 8000)));
        assert_eq!(of("lo", "192.0.2.7/24", &ways), Some((None, 8000)));
        let own = [ways.as_slice(), &[("2001:db8::7/128", "dummy0")]].concat();
        assert_eq!(of("dummy0", "2001:db8::7/128", &own), Some((None, 9000)));
        assert_eq!(of("lo", "192.0.2.7/32", &[]), None, "not known yet");
        // A cloud's gateway on a link without a prefix.
        let cloud = [("0.0.0.0/0", "ens3"), ("192.0.2.1/32", "ens3")];
        assert_eq!(of("ens3", "192.0.2.7/32", &cloud), Some((Some("ens3".to_owned()), 1500)));
    }

    #[test]
    fn the_interface_with_the_default_route_wins() {
        let addresses = [
            ("lo", "127.0.0.1/8"),
            ("docker0", "172.17.0.1/16"),
            ("eth0", "192.0.2.7/24"),
            ("eth1", "198.51.100.7/24"),
            ("eth1", "2001:db8::7/64"),
        ];
        let of = |count: usize, default: Option<&str>| {
            let addresses = addresses.iter().take(count);
            let routes = default.map(|dev| UnderlayRoute {
                prefix: "0.0.0.0/0".parse().unwrap(),
                gateway: None,
                dev: dev.to_owned(),
                metric: 0,
                onlink: false,
            });
            let underlay = Underlay {
                routes: routes.into_iter().collect(),
                addresses: addresses
                    .map(|(name, net)| ((*name).to_owned(), 1500, net.parse().unwrap()))
                    .collect(),
                ..Underlay::default()
            };
            underlay.detect()
        };
        assert_eq!(of(5, Some("eth1")), Some("198.51.100.7/24".parse().unwrap()));
        assert_eq!(of(5, None), Some("192.0.2.7/24".parse().unwrap()));
        assert_eq!(of(2, Some("docker0")), None);
    }
}
