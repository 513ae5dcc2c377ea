//! Against the real kernel, in namespaces: this node in one, everybody else in the other.

mod large;
mod next_hops;
mod others;
mod router;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use margay_netlink::monitor::Event;
use margay_netlink::{Address, AddressOptions, Netns, NexthopChange, NexthopTarget, VethEnd};
use margay_routing::{Family, Hop, HopKey, Target};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// This node's namespace, with `up0` to the other one, where .2, .3 and .4 are routers.
struct World {
    node: Netns,
    others: Netns,
}

/// Namespaces, or nothing (with the reason said) where none may be made.
fn world() -> Option<World> {
    let made = Netns::new().and_then(|node| Ok(World { node, others: Netns::new()? }));
    let world = match made {
        Err(error) if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
            eprintln!("skipped: {error}");
            return None;
        }
        made => made.unwrap(),
    };
    let mut near = Netlink::open_in(&world.node).unwrap();
    let mut far = Netlink::open_in(&world.others).unwrap();
    let end = VethEnd { name: "up0", ..VethEnd::default() };
    let peer = VethEnd { name: "up0", netns: Some(world.others.as_fd()), ..VethEnd::default() };
    near.add_veth(&end, &peer, None).unwrap();
    let set_up = |netlink: &mut Netlink, name: &str, nets: &[&str]| {
        let index = netlink.link_index(name).unwrap();
        netlink.set_up(index, true).unwrap();
        for net in nets {
            let address = Address { index, net: net.parse().unwrap() };
            netlink.add_address(&address, AddressOptions::default()).unwrap();
        }
    };
    set_up(&mut near, "lo", &[]);
    set_up(&mut near, "up0", &["172.20.0.1/24", "fd20::1/64"]);
    set_up(&mut far, "lo", &["10.65.2.1/32", "fd65::2:1/128"]);
    set_up(&mut far, "up0", &["172.20.0.2/24", "172.20.0.3/24", "172.20.0.4/24", "fd20::2/64", "fd20::3/64"]);
    Some(world)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// By way of nodes, named, at these addresses.
fn via(prefix: &str, nodes: &[(&str, &str)]) -> margay_routing::Route {
    let hop = |(node, address): &(&str, &str)| {
        let gateway: IpAddr = address.parse().unwrap();
        let family = Family::of_addr(&gateway);
        let key = HopKey::Node { node: (*node).to_owned(), pool: None, family, way: 0 };
        Hop { key, gateway: Some(gateway), dev: "up0".to_owned(), onlink: false }
    };
    let target = Target::Via(nodes.iter().map(hop).collect());
    margay_routing::Route { prefix: net(prefix), protocol: Protocol::Cluster, target, metric: 0 }
}

fn pod(address: &str, dev: &str) -> margay_routing::Route {
    let target = Target::Link { dev: dev.to_owned() };
    margay_routing::Route { prefix: net(address), protocol: Protocol::Pods, target, metric: 0 }
}

fn wish(
    routes: impl IntoIterator<Item = margay_routing::Route>,
) -> BTreeMap<IpNet, Option<margay_routing::Route>> {
    routes.into_iter().map(|route| (route.prefix, Some(route))).collect()
}

impl Fib {
    /// Wants these besides the others; nothing may be refused.
    fn put(&mut self, routes: impl IntoIterator<Item = margay_routing::Route>) -> Report {
        self.want_routes(wish(routes));
        let report = self.apply(true);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        report
    }

    fn drop_route(&mut self, prefix: &str) {
        self.want_routes(BTreeMap::from([(net(prefix), None)]));
        assert!(self.apply(true).errors.is_empty());
    }

    /// A round as the thread does it.
    fn round(&mut self) -> Report {
        self.listen().unwrap();
        if self.is_suspect() {
            self.learn().unwrap();
        }
        self.apply(true)
    }
}

/// Ours in the kernel.
fn kernel(netlink: &mut Netlink) -> (Vec<Route>, Vec<Nexthop>) {
    let filter = RouteFilter { protocol: Some(181), ..RouteFilter::default() };
    (netlink.routes(filter).unwrap(), netlink.nexthops(Some(181)).unwrap_or_default())
}

/// Changes by others that `monitor` has seen: (routes, nexthop objects).
fn seen(monitor: &mut Monitor) -> (usize, usize) {
    let (mut routes, mut objects) = (0, 0);
    monitor
        .read(|event| match event {
            Event::RouteSet(..) | Event::RouteGone(_) => routes += 1,
            Event::NexthopSet(_) | Event::NexthopGone(_) => objects += 1,
            _ => {}
        })
        .unwrap();
    (routes, objects)
}

/// Sends a datagram every millisecond to an address of the other namespace while `job` runs; how many were sent and how
/// many of them were lost.
fn probe<T: Send>(world: &World, to: &str, job: impl FnOnce() -> T + Send) -> (u32, u32) {
    let to: IpAddr = to.parse().unwrap();
    let receiver = world.others.run(|| UdpSocket::bind((to, 9999)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let sender = world.node.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
    // What waited for the neighbour of an earlier probe may arrive in this one.
    let own_port = sender.local_addr().unwrap().port();
    let (sent, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let arrived = std::thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut buffer = [0; 8];
            let mut arrived = 0;
            while let Ok((_, from)) = receiver.recv_from(&mut buffer) {
                arrived += u32::from(from.port() == own_port);
            }
            arrived
        });
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                // A refusal by this node's own kernel is a loss, too.
                let _lost = sender.send_to(&[1], (to, 9999));
                sent.fetch_add(1, Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let until = |count: u32| {
            let deadline = Instant::now() + PATIENCE;
            while sent.load(Ordering::Acquire) < count {
                assert!(Instant::now() < deadline);
                std::thread::yield_now();
            }
        };
        until(20);
        job();
        until(sent.load(Ordering::Acquire) + 20);
        over.store(true, Ordering::Release);
        counter.join().unwrap()
    });
    let sent = sent.into_inner();
    (sent, sent - arrived)
}

/// Sends until something arrives: then the neighbours are resolved.
fn until_reached(world: &World, to: &str) {
    let deadline = Instant::now() + PATIENCE;
    while probe(world, to, || {}).1 > 0 {
        assert!(Instant::now() < deadline, "{to} cannot be reached");
    }
}
