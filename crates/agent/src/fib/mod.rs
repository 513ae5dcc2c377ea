//! Routes, nexthop objects, tunnel devices, neighbours and FDB: what [`margay_routing`] wants, into the kernel.
//!
//! Everything ours is recognised by its route protocol number or its device, adopted when right, and swept when not
//! wanted, but only once what is wanted is complete: before that, a restart could take away what BGP has not
//! told again yet. What others change is heard of at once and repaired; what the kernel takes away silently is read back.
//! What others made is never touched: a route of theirs in the place of ours is reported, and ours comes when theirs goes.

mod kernel;
mod listen;
mod nexthops;
mod resolve;
mod router;
#[cfg(test)]
mod tests;
mod tunnels;
mod wireguard;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use margay_netlink::delta::{Change, Tracker};
use margay_netlink::monitor::Monitor;
use margay_netlink::{
    Error, IgnoreMissing as _, Netlink, Nexthop, Route, RouteChange, RouteFilter, RouteKey, RouteTarget,
};
use margay_routing::{Protocol, Tunnels};
use nix::errno::Errno;

use self::kernel::Kernel;
pub(crate) use self::kernel::Underlay;
use self::nexthops::Nexthops;
pub(crate) use self::tunnels::DEVICES;
use self::tunnels::Entries;
pub(crate) use self::wireguard::own_rules;
use self::wireguard::{Encryption, NODES_TABLE};
use self::writer::{PART, Writer};

/// Protocol numbers that mark a route as ours.
const OURS: [u8; 2] = [Protocol::Pods.number(), Protocol::Cluster.number()];

/// Routes written before notifications are read: so many fit into the monitor's buffer together with others'.
const CHUNK: usize = 4096;

/// How long a tunnel device is kept when no pool needs it any more: other nodes may not have heard of it yet.
const LINGER: Duration = Duration::from_secs(30);

/// A wanted route, with the nexthop objects it holds.
#[derive(Debug)]
struct Wanted {
    route: margay_routing::Route,
    objects: Arc<[u32]>,
    /// No next hop of it can be used now: an interface is missing or down.
    waits: bool,
}

/// The kernel's side of routing.
#[derive(Debug)]
pub(crate) struct Fib {
    netlink: Netlink,
    writer: Writer,
    monitor: Monitor,
    kernel: Kernel,
    wanted: BTreeMap<IpNet, Wanted>,
    /// Those of them that are local pods'.
    pods: BTreeSet<RouteKey>,
    routes: Tracker<RouteKey, Route>,
    /// Routes written before they were asked for with [`Fib::apply`].
    changed_ahead: usize,
    /// Absent on a kernel that has none: each route then carries its next hops itself.
    nexthops: Option<Nexthops>,
    tunnels: Arc<Tunnels>,
    /// When other tunnels were last wanted.
    tunnels_since: Instant,
    entries: Entries,
    encryption: Encryption,
    /// Tunnel devices that were wanted once.
    former: BTreeSet<String>,
    /// Wanted routes to other nodes through WireGuard.
    node_routes: BTreeSet<RouteKey>,
    /// Devices and their entries have to be looked at.
    tunnels_suspect: bool,
    /// The kernel may have taken something away silently: read everything back.
    suspect: bool,
    /// Routes that found one of somebody else in their place.
    blocked: BTreeSet<RouteKey>,
    /// The node was told to forward; true: IPv6, too.
    forwards: Option<bool>,
}

/// Outcome of one round.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What the kernel refused, in words; tried again.
    pub(crate) errors: Vec<String>,
    /// Routes written or removed.
    pub(crate) changed: usize,
    /// Routes of ours in the kernel.
    pub(crate) routes: usize,
    /// Addresses of local pods whose route is not in the kernel.
    pub(crate) pods_missing: BTreeSet<IpNet>,
    /// Public keys of WireGuard devices have changed.
    pub(crate) keys_changed: bool,
}

/// The routes of ours in the kernel.
pub(crate) fn own_routes(netlink: &mut Netlink) -> Result<Vec<Route>, Error> {
    let mut all = Vec::new();
    for (protocol, table) in OURS.into_iter().zip([None; OURS.len()]).chain([(OURS[1], Some(NODES_TABLE))]) {
        let filter = RouteFilter { protocol: Some(protocol), table, ..RouteFilter::default() };
        match netlink.routes(filter) {
            // A table exists while there is something in it.
            Err(error) if error.is_not_found() && table.is_some() => {}
            found => all.extend(found?),
        }
    }
    Ok(all)
}

/// The nexthop objects of ours in the kernel; none on a kernel without such objects.
pub(crate) fn own_nexthops(netlink: &mut Netlink) -> Result<Vec<Nexthop>, Error> {
    match netlink.nexthops(None) {
        Ok(all) => Ok(all.into_iter().filter(nexthops::is_ours).collect()),
        Err(Error::Kernel { errno: Errno::EOPNOTSUPP, .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl AsFd for Fib {
    /// Readable when others have changed something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

impl Fib {
    /// Opens the kernel's interface and learns what there is; changes nothing. Private keys are kept in the folder `state`.
    pub(crate) fn open(state: PathBuf) -> Result<Self, Error> {
        let mut netlink = Netlink::open()?;
        let nexthops = match netlink.nexthops(None) {
            Ok(_) => Some(Nexthops::new()),
            Err(Error::Kernel { errno: Errno::EOPNOTSUPP, .. }) => {
                tracing::info!(
                    "this kernel has no nexthop objects (Linux 5.3): each route gets its own next hops"
                );
                None
            }
            Err(error) => return Err(error),
        };
        Self::with(netlink, nexthops, state)
    }

    fn with(netlink: Netlink, nexthops: Option<Nexthops>, state: PathBuf) -> Result<Self, Error> {
        let mut routes = Tracker::new();
        routes.desired_complete();
        let of_writer = Netlink::open()?;
        let mut fib = Self {
            // Before anything is read: what changes in between is heard of.
            monitor: Monitor::open([&netlink, &of_writer])?,
            netlink,
            writer: Writer::spawn(of_writer)?,
            kernel: Kernel::default(),
            wanted: BTreeMap::new(),
            pods: BTreeSet::new(),
            routes,
            changed_ahead: 0,
            nexthops,
            tunnels: Arc::default(),
            tunnels_since: Instant::now(),
            entries: Entries::default(),
            encryption: Encryption::new(state),
            former: BTreeSet::new(),
            node_routes: BTreeSet::new(),
            tunnels_suspect: true,
            suspect: true,
            blocked: BTreeSet::new(),
            forwards: None,
        };
        fib.learn()?;
        Ok(fib)
    }

    /// How this node reaches its neighbours.
    pub(crate) fn underlay(&self) -> Underlay {
        Underlay { wireguard: self.encryption.keys.clone(), ..self.kernel.underlay() }
    }

    /// Something may be missing in the kernel that nobody has told of.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Doubts everything, once in a while.
    pub(crate) fn doubt(&mut self) {
        self.suspect = true;
        self.tunnels_suspect = true;
        self.forwards = None;
    }

    /// Reads everything back.
    pub(crate) fn learn(&mut self) -> Result<(), Error> {
        self.written_ahead(0);
        let objects = match self.nexthops {
            Some(_) => self.netlink.nexthops(None)?,
            None => Vec::new(),
        };
        self.kernel = Kernel::read(&mut self.netlink, &objects)?;
        let found = own_routes(&mut self.netlink)?;
        self.routes.learn_all(found.into_iter().map(|route| (route.key(), route)));
        let ids_are_ours = self.nexthops.as_mut().is_none_or(|nexthops| nexthops.learn_all(objects));
        if !ids_are_ours {
            self.nexthops.iter_mut().for_each(Nexthops::forget_ids);
            self.wanted.values_mut().for_each(|wanted| wanted.objects = Arc::default());
        }
        self.suspect = false;
        self.resolve_again(|_| true);
        Ok(())
    }

    /// Wants these routes instead of what was wanted for their destinations. Those of a large table are written while others are
    /// taken in, if nothing else has to come before; [`apply`](Self::apply) waits for them, and does the rest.
    pub(crate) fn want_routes(&mut self, routes: BTreeMap<IpNet, Option<margay_routing::Route>>) {
        let ahead = routes.len() >= PART && !self.suspect && !self.tunnels_suspect && self.forwards.is_some();
        let mut part = Vec::new();
        let mut last = None;
        for (prefix, route) in routes {
            if self.writer.is_writing(&prefix) {
                self.written_ahead(0);
            }
            let key = route.as_ref().map(key_of);
            let is_pod = route.as_ref().is_some_and(|route| route.protocol == Protocol::Pods);
            // It keeps its objects until the new one has them: what both use stays.
            let before = match route {
                Some(route) => self.resolve(route, &mut last),
                None => self.wanted.remove(&prefix),
            };
            if let Some(before) = before {
                let old = key_of(&before.route);
                self.pods.remove(&old);
                if key != Some(old) {
                    self.routes.unset(&old);
                    self.blocked.remove(&old);
                }
                self.release(&before);
            }
            self.pods.extend(key.filter(|_| is_pod));
            part.extend(key.filter(|_| ahead));
            if part.len() == PART {
                self.write_ahead(&part);
                part.clear();
            }
        }
        self.write_ahead(&part);
    }

    /// Routes are being written that [`apply`](Self::apply) will wait for.
    pub(crate) fn is_writing(&self) -> bool {
        self.writer.is_busy()
    }

    /// Has the writer write these routes.
    fn write_ahead(&mut self, keys: &[RouteKey]) {
        if keys.is_empty() {
            return;
        }
        if let Some(nexthops) = &mut self.nexthops {
            // Those that fail are tried again, and reported, with the rest.
            let _errors = nexthops.write(&mut self.netlink);
        }
        let changes = keys.iter().filter_map(|key| {
            let change = self.routes.difference(key)?;
            Some((*key, step(&change, self.nexthops.as_ref(), false)?))
        });
        let changes = changes.collect();
        self.writer.write(changes);
        self.written_ahead(1);
    }

    /// Takes in what the writer has written, until no more than `most` parts are under way.
    fn written_ahead(&mut self, most: usize) {
        // What failed is tried again, and reported, with the rest.
        let mut report = Report::default();
        while let Some(results) = self.writer.next(most) {
            for (key, result) in results {
                self.route_applied(&key, result, &mut report);
            }
        }
        self.changed_ahead += report.changed;
    }

    /// Wants these tunnels.
    pub(crate) fn want_tunnels(&mut self, tunnels: Arc<Tunnels>) {
        self.former.extend(tunnels::device_names(&self.tunnels).map(str::to_owned));
        self.tunnels = tunnels;
        self.tunnels_since = Instant::now();
        self.tunnels_suspect = true;
    }

    /// Brings the kernel closer to what is wanted; with `complete`, also removes what is ours and not wanted.
    pub(crate) fn apply(&mut self, complete: bool) -> Report {
        self.written_ahead(0);
        let mut report = Report { changed: std::mem::take(&mut self.changed_ahead), ..Report::default() };
        if let Err(error) = self.be_router() {
            report.errors.push(error.to_string());
        }
        if self.tunnels_suspect {
            self.apply_tunnels(complete, &mut report);
        }
        if let Some(nexthops) = &mut self.nexthops {
            report.errors.extend(nexthops.write(&mut self.netlink).iter().map(ToString::to_string));
        }
        self.apply_routes(complete, &mut report);
        if complete {
            let routes = &self.routes;
            let in_use = || {
                let targets = routes.all_present().map(|(_, route)| &route.target);
                targets.filter_map(|target| match target {
                    RouteTarget::Nexthop(id) => Some(*id),
                    _ => None,
                })
            };
            if let Some(nexthops) = &mut self.nexthops {
                let errors = nexthops.sweep(&mut self.netlink, || in_use().collect());
                report.errors.extend(errors.iter().map(ToString::to_string));
            }
        }
        if complete && self.tunnels_since.elapsed() >= LINGER {
            let errors = tunnels::sweep_devices(&mut self.netlink, &self.tunnels, &self.former, &self.kernel);
            report.errors.extend(errors.iter().map(ToString::to_string));
        }
        report.routes = self.routes.present_len();
        let missing = self.pods.iter().filter(|key| self.routes.present(key).is_none());
        report.pods_missing = missing.map(|key| key.destination).collect();
        report
    }

    /// A node is a router, for IPv6 from the first route on.
    fn be_router(&mut self) -> Result<(), Error> {
        let ipv6 = self.wanted.last_key_value().is_some_and(|(prefix, _)| matches!(prefix, IpNet::V6(_)));
        if self.forwards != Some(ipv6) {
            router::forward(&mut self.netlink, &self.kernel, ipv6)?;
            self.forwards = Some(ipv6);
        }
        Ok(())
    }

    /// Tunnels make ways back differ from ways there.
    fn loosen(&self, tunnels: &Tunnels) -> Result<(), Error> {
        let ends = tunnels.vxlan.values().map(|device| device.local);
        let ends = ends.chain(tunnels.ipip.iter().map(|device| device.local.into()));
        let nodes = tunnels.wireguard.values().filter_map(|device| device.nodes.as_ref());
        let ends: BTreeSet<IpAddr> = ends.chain(nodes.map(|nodes| nodes.source)).collect();
        let underlay = self.kernel.underlay();
        let uplinks = ends.into_iter().filter_map(|end| underlay.uplink(end)?.name);
        let devices = tunnels::device_names(tunnels).map(str::to_owned);
        uplinks.chain(devices).try_for_each(|name| router::take_from_anywhere(&name).ignore_missing())
    }

    fn apply_tunnels(&mut self, complete: bool, report: &mut Report) {
        let before = report.errors.len();
        let wanted = Arc::clone(&self.tunnels);
        for device in wanted.vxlan.values() {
            if let Err(error) = tunnels::ensure_vxlan(&mut self.netlink, device) {
                report.errors.push(format!("VXLAN device {}: {error}", device.name));
            }
        }
        if let Some(device) = &wanted.ipip
            && let Err(error) = tunnels::ensure_ipip(&mut self.netlink, device)
        {
            report.errors.push(match error {
                Error::Kernel { errno: Errno::EOPNOTSUPP, .. } => {
                    "this kernel has no IPIP, which an IPPool asks for: load its module ipip, or use vxlanMode"
                        .to_owned()
                }
                error => format!("IPIP device {}: {error}", device.name),
            });
        }
        if !wanted.workload_peering.is_empty()
            && let Err(error) = tunnels::ensure_peering(&mut self.netlink, &wanted.workload_peering)
        {
            report.errors.push(format!("addresses for workloads to peer with: {error}"));
        }
        let keys = self.encryption.keys.clone();
        report.errors.extend(self.encryption.ensure(&mut self.netlink, &wanted));
        report.keys_changed = keys != self.encryption.keys;
        if let Err(error) = self.loosen(&wanted) {
            report.errors.push(error.to_string());
        }
        for name in tunnels::device_names(&wanted) {
            // Our own changes are not among the notifications.
            match self.netlink.link(name) {
                Ok(Some(link)) => {
                    self.link_set(link);
                }
                Ok(None) => {}
                Err(error) => report.errors.push(error.to_string()),
            }
        }
        if let Err(error) = self.entries.learn(&mut self.netlink, &wanted, &self.kernel) {
            report.errors.push(error.to_string());
        }
        self.entries.want(&wanted, &self.kernel);
        report.errors.extend(self.entries.write(&mut self.netlink, complete).iter().map(ToString::to_string));
        let routes = wireguard::node_routes(&wanted, &self.kernel);
        let keys = routes.iter().map(Route::key).collect();
        for gone in std::mem::replace(&mut self.node_routes, keys).difference(&self.node_routes) {
            self.routes.unset(gone);
        }
        for route in routes {
            self.routes.set(route.key(), route);
        }
        self.tunnels_suspect = report.errors.len() > before;
    }

    fn apply_routes(&mut self, complete: bool, report: &mut Report) {
        let mut keys = Vec::new();
        let mut changes = Vec::new();
        // What is new comes before what is old goes: it may be the same destination with another metric.
        let is_delete = |change: &Change<'_, RouteKey, Route>| matches!(change, Change::Delete { .. });
        let (old, new): (Vec<_>, Vec<_>) = self.routes.changes().partition(is_delete);
        for change in new.into_iter().chain(old) {
            if let Some(step) = step(&change, self.nexthops.as_ref(), complete) {
                keys.push(*change.key());
                changes.push(step);
            }
        }
        for (keys, changes) in keys.chunks(CHUNK).zip(changes.chunks(CHUNK)) {
            let results = self.netlink.apply_routes(changes);
            for (key, result) in keys.iter().zip(results) {
                self.route_applied(key, result, report);
            }
        }
    }

    fn route_applied(&mut self, key: &RouteKey, result: Result<(), Error>, report: &mut Report) {
        match result {
            Ok(()) => {
                report.changed += 1;
                self.blocked.remove(key);
                self.routes.succeeded(key);
            }
            // The kernel drops routes together with their interface.
            Err(error) if error.is_not_found() && self.routes.wanted(key).is_none() => {
                self.routes.forget(key);
            }
            Err(error) => {
                self.routes.failed(key);
                if !error.is_exists() {
                    report.errors.push(error.to_string());
                } else if self.blocked.insert(*key) {
                    // Ours after all, or somebody else's? Reading back tells.
                    self.suspect = true;
                } else {
                    report.errors.push(format!(
                        "{}: a route that is not Margay's is in the way: see `ip route show {0}`, remove it if nothing needs it",
                        key.destination
                    ));
                }
            }
        }
    }
}

/// What a difference asks of the kernel, as far as that is possible now; with `complete`, what is not wanted goes.
fn step(
    change: &Change<'_, RouteKey, Route>,
    nexthops: Option<&Nexthops>,
    complete: bool,
) -> Option<RouteChange> {
    // Its object's own failure is the one to report.
    let possible = |route: &Route| match route.target {
        RouteTarget::Nexthop(id) => nexthops.is_some_and(|nexthops| nexthops.is_in_kernel(id)),
        _ => true,
    };
    match change {
        Change::Add { value, .. } => possible(value).then(|| RouteChange::Add((*value).clone())),
        Change::Update { to, .. } => possible(to).then(|| RouteChange::Replace((*to).clone())),
        Change::Delete { value, .. } => complete.then(|| RouteChange::Delete((*value).clone())),
    }
}

fn key_of(route: &margay_routing::Route) -> RouteKey {
    let key = Route::new(route.prefix, RouteTarget::Blackhole, OURS[0]);
    Route { metric: route.metric, ..key }.key()
}
