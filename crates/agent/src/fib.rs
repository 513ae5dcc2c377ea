//! Routes, tunnel devices, neighbours and FDB: what [`margay_routing`] wants, into the kernel.
//!
//! Everything ours is recognised by its route protocol number or its device, adopted when right, and swept when not
//! wanted, but only once what is wanted is complete: before that, a restart could take away what BGP has not
//! told again yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_netlink::delta::{Change, Tracker};
use margay_netlink::{
    Address, AddressOptions, Error, FdbEntry, Link, LinkChange, Mac, Netlink, Route, RouteChange,
    RouteFilter, RouteTarget, Vxlan, sysctl,
};
use margay_routing::{Desired, Family, Protocol, Target, UnderlayRoute, VxlanDevice};

/// Protocol numbers that mark a route as ours.
const OURS: [u8; 2] = [Protocol::Pods.number(), Protocol::Cluster.number()];

/// A neighbour or FDB entry's key: interface, then address or MAC.
type Neighbours = Tracker<(u32, IpAddr), Mac>;
type Fdb = Tracker<(u32, Mac), IpAddr>;

/// The kernel's side of routing.
#[derive(Debug)]
pub(crate) struct Fib {
    netlink: Netlink,
    routes: Tracker<IpNet, Route>,
    neighbours: Neighbours,
    fdb: Fdb,
    /// The node was told to forward.
    forwarding: bool,
}

/// Outcome of one round.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What the kernel refused, in words; tried again in the next round.
    pub(crate) errors: Vec<String>,
    /// Routes written or removed.
    pub(crate) changed: usize,
    /// Routes of ours in the kernel.
    pub(crate) routes: usize,
}

impl Fib {
    /// Opens the kernel's interface and learns which routes are ours; changes nothing.
    pub(crate) fn open() -> Result<Self, Error> {
        let mut fib = Self {
            netlink: Netlink::open()?,
            routes: Tracker::new(),
            neighbours: Tracker::new(),
            fdb: Tracker::new(),
            forwarding: false,
        };
        fib.learn()?;
        Ok(fib)
    }

    /// Reads back every route of ours, so that what somebody else removed is written again.
    pub(crate) fn learn(&mut self) -> Result<(), Error> {
        let mut found = BTreeMap::new();
        for protocol in OURS {
            let filter = RouteFilter { protocol: Some(protocol), ..RouteFilter::default() };
            found.extend(self.netlink.routes(filter)?.into_iter().map(|route| (route.destination, route)));
        }
        self.routes.learn_all(found);
        Ok(())
    }

    /// Brings the kernel closer to `desired`; with `complete`, also removes what is ours and not wanted.
    pub(crate) fn apply(&mut self, desired: &Desired, complete: bool) -> Report {
        let mut report = Report::default();
        if let Err(error) = self.turn_forwarding_on() {
            report.errors.push(error.to_string());
        }
        for device in desired.vxlan.values() {
            if let Err(error) = self.ensure_vxlan(device) {
                report.errors.push(format!("VXLAN device {}: {error}", device.name));
            }
        }
        if desired.ipip.is_some() {
            report.errors.push("IPIP is not supported yet: use vxlanMode in the IPPool".to_owned());
        }
        let links: BTreeMap<String, u32> = match self.netlink.links() {
            Ok(links) => links.into_iter().map(|link| (link.name, link.index)).collect(),
            Err(error) => {
                report.errors.push(error.to_string());
                return report;
            }
        };
        self.apply_tunnel_entries(desired, &links, complete, &mut report);
        let wanted = desired.routes.values().filter_map(|route| kernel_route(route, &links));
        self.routes.replace_desired(wanted.map(|route| (route.destination, route)));
        self.apply_routes(complete, &mut report);
        if complete {
            self.sweep_devices(desired, &links, &mut report);
        }
        report.routes = self.routes.actual().len();
        report
    }

    /// A node is a router.
    fn turn_forwarding_on(&mut self) -> Result<(), Error> {
        if self.forwarding {
            return Ok(());
        }
        sysctl::write(&["net", "ipv4", "ip_forward"], "1")?;
        // A kernel without IPv6 has nothing to forward.
        if let Err(error) = sysctl::write(&["net", "ipv6", "conf", "all", "forwarding"], "1") {
            tracing::info!("IPv6 is not forwarded: {error}");
        }
        self.forwarding = true;
        Ok(())
    }

    fn apply_routes(&mut self, complete: bool, report: &mut Report) {
        let mut keys = Vec::new();
        let mut changes = Vec::new();
        for change in self.routes.changes() {
            let step = match change {
                Change::Add { value, .. } | Change::Update { to: value, .. } => {
                    RouteChange::Replace(value.clone())
                }
                Change::Delete { .. } if !complete => continue,
                Change::Delete { value, .. } => RouteChange::Delete(value.clone()),
            };
            keys.push(*change.key());
            changes.push(step);
        }
        let results = self.netlink.apply_routes(&changes);
        for (key, result) in keys.iter().zip(results) {
            match result {
                Ok(()) => {
                    report.changed += 1;
                    self.routes.succeeded(key);
                }
                // The kernel drops routes together with their interface.
                Err(error) if error.is_not_found() && !self.routes.desired().contains_key(key) => {
                    self.routes.forget(key);
                }
                Err(error) => {
                    self.routes.failed(key);
                    report.errors.push(error.to_string());
                }
            }
        }
    }

    fn apply_tunnel_entries(
        &mut self,
        desired: &Desired,
        links: &BTreeMap<String, u32>,
        complete: bool,
        report: &mut Report,
    ) {
        let mut neighbours = BTreeMap::new();
        for entry in &desired.neighbours {
            if let Some(index) = links.get(&entry.dev) {
                neighbours.insert((*index, entry.address), Mac(entry.mac.0));
            }
        }
        let mut fdb = BTreeMap::new();
        for entry in &desired.fdb {
            if let Some(index) = links.get(&entry.dev) {
                fdb.insert((*index, Mac(entry.mac.0)), entry.destination);
            }
        }
        if let Err(error) = self.learn_tunnel_entries(desired, links) {
            report.errors.push(error.to_string());
            return;
        }
        self.neighbours.replace_desired(neighbours);
        self.fdb.replace_desired(fdb);
        let netlink = &mut self.netlink;
        let errors = self.neighbours.apply(|change| match change {
            Change::Add { key, value } | Change::Update { key, to: value, .. } => {
                netlink.set_neighbour(key.0, key.1, *value)
            }
            Change::Delete { .. } if !complete => Ok(()),
            Change::Delete { key, .. } => netlink.delete_neighbour(key.0, key.1),
        });
        report.errors.extend(errors.into_iter().map(|(_, error)| error.to_string()));
        let errors = self.fdb.apply(|change| match change {
            Change::Add { key, value } | Change::Update { key, to: value, .. } => {
                netlink.set_fdb(&FdbEntry { index: key.0, mac: key.1, remote: *value })
            }
            Change::Delete { .. } if !complete => Ok(()),
            Change::Delete { key, value } => {
                netlink.delete_fdb(&FdbEntry { index: key.0, mac: key.1, remote: *value })
            }
        });
        report.errors.extend(errors.into_iter().map(|(_, error)| error.to_string()));
    }

    /// Entries on our tunnel devices are all ours.
    fn learn_tunnel_entries(
        &mut self,
        desired: &Desired,
        links: &BTreeMap<String, u32>,
    ) -> Result<(), Error> {
        let mut neighbours = BTreeMap::new();
        let mut fdb = BTreeMap::new();
        for device in desired.vxlan.values() {
            let Some(&index) = links.get(&device.name) else { continue };
            for entry in self.netlink.neighbours(Some(index))? {
                if let (Some(mac), true) = (entry.mac, entry.permanent) {
                    neighbours.insert((index, entry.ip), mac);
                }
            }
            for entry in self.netlink.fdb(index)? {
                fdb.insert((index, entry.mac), entry.remote);
            }
        }
        self.neighbours.learn_all(neighbours);
        self.fdb.learn_all(fdb);
        Ok(())
    }

    /// Makes the device as wanted. What can be changed on a device in use is changed; else it is made anew.
    fn ensure_vxlan(&mut self, wanted: &VxlanDevice) -> Result<(), Error> {
        let underlay = match &wanted.parent {
            Some(parent) => Some(self.netlink.link_index(parent)?),
            None => None,
        };
        let parameters = Vxlan { underlay, ..Vxlan::new(wanted.vni, wanted.port, wanted.local) };
        let mac = Mac(wanted.mac.0);
        if let Some(link) = self.netlink.link(&wanted.name)?
            && link.vxlan.as_ref() != Some(&parameters)
        {
            tracing::info!(device = wanted.name, "making the VXLAN device anew: its parameters changed");
            self.netlink.delete_link(link.index)?;
        }
        if self.netlink.link(&wanted.name)?.is_none() {
            self.netlink.add_vxlan(&wanted.name, &parameters, Some(mac), Some(wanted.mtu))?;
        }
        let Some(link) = self.netlink.link(&wanted.name)? else { return Ok(()) };
        if link.mac != Some(mac) || link.mtu != wanted.mtu || !link.up {
            let change = LinkChange {
                mac: (link.mac != Some(mac)).then_some(mac),
                mtu: Some(wanted.mtu),
                up: Some(true),
                ..LinkChange::default()
            };
            self.netlink.change_link(link.index, &change)?;
        }
        let mut present = false;
        for address in self.netlink.addresses(Some(link.index))? {
            if address.net == wanted.address {
                present = true;
            } else if !is_link_local(address.net.addr()) {
                self.netlink.delete_address(&address)?;
            }
        }
        if !present {
            let address = Address { index: link.index, net: wanted.address };
            self.netlink.add_address(&address, AddressOptions::default())?;
        }
        Ok(())
    }

    /// Removes tunnel devices of ours that no pool needs any more.
    fn sweep_devices(&mut self, desired: &Desired, links: &BTreeMap<String, u32>, report: &mut Report) {
        let names = margay_routing::Settings::default();
        for (family, name) in [(Family::V4, &names.vxlan_device), (Family::V6, &names.vxlan_device_v6)] {
            if !desired.vxlan.contains_key(&family)
                && links.contains_key(name)
                && let Err(error) = self.netlink.delete_link_named(name)
            {
                report.errors.push(error.to_string());
            }
        }
    }
}

/// Routes that are not ours: how this node reaches its neighbours.
pub(crate) fn underlay_routes(routes: &[Route], links: &[Link]) -> BTreeSet<UnderlayRoute> {
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let foreign = routes.iter().filter(|route| !OURS.contains(&route.protocol));
    foreign.filter_map(|route| underlay_route(route, &names)).collect()
}

fn underlay_route(route: &Route, names: &BTreeMap<u32, &str>) -> Option<UnderlayRoute> {
    let (gateway, device) = match &route.target {
        RouteTarget::Device { device } => (None, *device),
        RouteTarget::Via { gateway, device, .. } => (Some(*gateway), (*device)?),
        _ => return None,
    };
    let dev = (*names.get(&device)?).to_owned();
    Some(UnderlayRoute { prefix: route.destination, gateway, dev, metric: route.metric })
}

/// The route with interface numbers; absent while its interface does not exist.
fn kernel_route(route: &margay_routing::Route, links: &BTreeMap<String, u32>) -> Option<Route> {
    let target = match &route.target {
        Target::Link { dev } => RouteTarget::Device { device: *links.get(dev)? },
        Target::Blackhole => RouteTarget::Blackhole,
        Target::Via(hops) => {
            let hop = hops.first()?;
            let device = match &hop.dev {
                Some(dev) => Some(*links.get(dev)?),
                None => None,
            };
            RouteTarget::Via { gateway: hop.gateway, device, onlink: hop.onlink }
        }
    };
    Some(Route::new(route.prefix, target, route.protocol.number()).normalised())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
