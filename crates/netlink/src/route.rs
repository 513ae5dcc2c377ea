//! Routes of the main routing table (or another), in large batches.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteScope, RouteType,
};

use crate::error::Result;
use crate::handle::{Netlink, parse_or_skip};
use crate::wire::Request;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// The main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// The metric the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// A route. Two routes with equal [`RouteKey`] are the same route to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destination prefix (host bits are ignored).
    pub destination: IpNet,
    /// Where it leads.
    pub target: RouteTarget,
    /// Who made it (`rtm_protocol`): 180 pods, 181 cluster by default.
    pub protocol: u8,
    /// Priority, lower wins. 0 for IPv6 means the kernel's default and reads back as 1024.
    pub metric: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Routing table, [`TABLE_MAIN`] normally.
    pub table: u32,
}

/// What identifies a route within its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Destination prefix, host bits zero.
    pub destination: IpNet,
    /// Priority, IPv6's default made explicit.
    pub metric: u32,
    /// Routing table.
    pub table: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTarget {
    /// Directly to an interface (`scope link` for IPv4).
    Device {
        /// Index of the interface.
        device: u32,
    },
    /// Through a gateway.
    Via {
        /// Gateway address; of the other family too (IPv4 via IPv6).
        gateway: IpAddr,
        /// Index of the interface, if not to be looked up.
        device: Option<u32>,
        /// The gateway counts as directly reachable even if no route says so.
        onlink: bool,
    },
    /// Through a nexthop object.
    Nexthop(u32),
    /// Dropped silently.
    Blackhole,
    /// Refused with an ICMP error.
    Unreachable,
    /// Through several paths at once.
    Multipath(Vec<Path>),
}

/// One path of several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Gateway address; absent: on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub device: u32,
    /// Share of the traffic, from 1 to 256.
    pub weight: u16,
    /// The gateway counts as directly reachable even if no route says so.
    pub onlink: bool,
}

impl Path {
    fn message(&self, ipv4: bool) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = self.device;
        hop.hops = u8::try_from(self.weight.saturating_sub(1)).unwrap_or(u8::MAX);
        if self.onlink {
            hop.flags = RouteNextHopFlags::Onlink;
        }
        hop.attributes.extend(self.gateway.map(|gateway| gateway_attribute(gateway, ipv4)));
        hop
    }

    fn read(hop: &RouteNextHop) -> Self {
        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(via) => ip_of_via(via),
            _ => None,
        });
        Self {
            gateway,
            device: hop.interface_index,
            weight: u16::from(hop.hops) + 1,
            onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        }
    }
}

/// A gateway of the route's own family, or of the other (RFC 8950).
fn gateway_attribute(gateway: IpAddr, ipv4: bool) -> RouteAttribute {
    if gateway.is_ipv4() == ipv4 {
        RouteAttribute::Gateway(gateway.into())
    } else {
        RouteAttribute::Via(gateway.into())
    }
}

impl Route {
    /// A route in the main table without metric and source.
    pub fn new(destination: IpNet, target: RouteTarget, protocol: u8) -> Self {
        Self {
            destination: destination.trunc(),
            target,
            protocol,
            metric: 0,
            source: None,
            table: TABLE_MAIN,
        }
    }

    /// What identifies it.
    pub fn key(&self) -> RouteKey {
        let metric = match (self.destination, self.metric) {
            (IpNet::V6(_), 0) => IPV6_DEFAULT_METRIC,
            (_, metric) => metric,
        };
        RouteKey { destination: self.destination.trunc(), metric, table: self.table }
    }

    /// The same route as the kernel shows it after taking it: for comparing desired with actual.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        let RouteKey { destination, metric, .. } = self.key();
        self.destination = destination;
        self.metric = metric;
        self
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let ipv4 = matches!(self.destination, IpNet::V4(_));
        message.header = RouteHeader {
            address_family: family(ipv4),
            destination_prefix_length: self.destination.prefix_len(),
            table: u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
            protocol: self.protocol.into(),
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        match &self.target {
            RouteTarget::Device { device } => {
                if ipv4 {
                    message.header.scope = RouteScope::Link;
                }
                attributes.push(RouteAttribute::Oif(*device));
            }
            RouteTarget::Via { gateway, device, onlink } => {
                if *onlink {
                    message.header.flags = RouteFlags::Onlink;
                }
                attributes.push(gateway_attribute(*gateway, ipv4));
                attributes.extend(device.map(RouteAttribute::Oif));
            }
            RouteTarget::Nexthop(id) => attributes.push(RouteAttribute::NhId(*id)),
            RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
            RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
            RouteTarget::Multipath(paths) => {
                let hops = paths.iter().map(|path| path.message(ipv4)).collect();
                attributes.push(RouteAttribute::MultiPath(hops));
            }
        }
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        if self.table > 255 {
            attributes.push(RouteAttribute::Table(self.table));
        }
        message
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.destination)?;
        match &self.target {
            RouteTarget::Device { device } => write!(f, " dev #{device}"),
            RouteTarget::Via { gateway, device, onlink } => {
                write!(f, " via {gateway}")?;
                device.map_or(Ok(()), |device| write!(f, " dev #{device}"))?;
                f.write_str(if *onlink { " onlink" } else { "" })
            }
            RouteTarget::Nexthop(id) => write!(f, " nhid {id}"),
            RouteTarget::Blackhole => f.write_str(" blackhole"),
            RouteTarget::Unreachable => f.write_str(" unreachable"),
            RouteTarget::Multipath(paths) => write!(f, " over {} paths", paths.len()),
        }?;
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Make it, or replace the route with the same key.
    Replace(Route),
    /// Make it; refused when a route with its key is there.
    Add(Route),
    /// Remove the route with its key, protocol and target.
    Delete(Route),
}

impl RouteChange {
    fn request(&self) -> Request {
        match self {
            Self::Replace(route) => {
                Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route.message())
            }
            Self::Add(route) => Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route.message()),
            Self::Delete(route) => Request::new(RTM_DELROUTE, 0, &route.message()),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Replace(route) => format!("set route {route}"),
            Self::Add(route) => format!("add route {route}"),
            Self::Delete(route) => format!("delete route {route}"),
        }
    }
}

/// Which routes to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Only one family: true for IPv4, false for IPv6.
    pub ipv4: Option<bool>,
    /// Only those made by this protocol.
    pub protocol: Option<u8>,
    /// Only this table; the main table otherwise.
    pub table: Option<u32>,
    /// Only those out of this interface.
    pub device: Option<u32>,
}

impl Netlink {
    /// Performs route changes in order, in large batches; one result each.
    pub fn apply_routes(&mut self, changes: &[RouteChange]) -> Vec<Result<()>> {
        let requests = changes.iter().map(RouteChange::request);
        self.socket.batch(requests, |n| changes.get(n).map_or_else(String::new, RouteChange::describe))
    }

    /// Makes a route or replaces the one with its key.
    ///
    /// # Errors
    /// The kernel's refusal (no such device, gateway unreachable).
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let change = RouteChange::Replace(route.clone());
        self.socket.execute(&change.request(), || change.describe())
    }

    /// Makes a route.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] when one with its key is there.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let change = RouteChange::Add(route.clone());
        self.socket.execute(&change.request(), || change.describe())
    }

    /// Removes a route.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when it isn't there.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let change = RouteChange::Delete(route.clone());
        self.socket.execute(&change.request(), || change.describe())
    }

    /// The unicast, blackhole and unreachable routes that match `filter`, in order. The kernel does the filtering, so the
    /// cost follows the answer and not the table.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let mut all = Vec::new();
        for ipv4 in [true, false] {
            if filter.ipv4.is_none_or(|only| only == ipv4) {
                all.extend(self.dump_routes(ipv4, filter)?);
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    fn dump_routes(&mut self, ipv4: bool, filter: RouteFilter) -> Result<Vec<Route>> {
        let table = filter.table.unwrap_or(TABLE_MAIN);
        let mut message = RouteMessage::default();
        message.header.address_family = family(ipv4);
        message.header.protocol = filter.protocol.unwrap_or(0).into();
        message.attributes.push(RouteAttribute::Table(table));
        message.attributes.extend(filter.device.map(RouteAttribute::Oif));
        let wanted = |route: &Route| {
            route.table == table && filter.protocol.is_none_or(|protocol| protocol == route.protocol)
        };
        let listed = self.socket.dump(
            &Request::new(RTM_GETROUTE, 0, &message),
            || "list routes".to_owned(),
            |_, payload, all| {
                all.extend(parse_or_skip(payload, "routes").as_ref().and_then(read).filter(wanted));
                Ok(())
            },
        );
        match listed {
            // A table that was never used doesn't exist.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            other => other,
        }
    }
}

fn family(ipv4: bool) -> AddressFamily {
    if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(crate) fn read(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut destination, mut gateway, mut device, mut nexthop, mut source) =
        (unspecified, None, None, None, None);
    let (mut metric, mut table, mut paths) = (0, u32::from(header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = ip_of_via(via),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::NhId(id) => nexthop = Some(*id),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::MultiPath(hops) => paths = Some(hops),
            _ => {}
        }
    }
    let target = match (header.kind, nexthop, paths, gateway, device) {
        (RouteType::BlackHole, ..) => RouteTarget::Blackhole,
        (RouteType::Unreachable, ..) => RouteTarget::Unreachable,
        (RouteType::Unicast, Some(id), ..) => RouteTarget::Nexthop(id),
        (RouteType::Unicast, None, Some(hops), ..) => {
            RouteTarget::Multipath(hops.iter().map(Path::read).collect())
        }
        (RouteType::Unicast, None, None, Some(gateway), device) => {
            RouteTarget::Via { gateway, device, onlink: header.flags.contains(RouteFlags::Onlink) }
        }
        (RouteType::Unicast, None, None, None, Some(device)) => RouteTarget::Device { device },
        _ => return None,
    };
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { destination, target, protocol: header.protocol.into(), metric, source, table })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn ip_of_via(via: &netlink_packet_route::route::RouteVia) -> Option<IpAddr> {
    use netlink_packet_route::route::RouteVia;
    match via {
        RouteVia::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteVia::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
