//! Against the real kernel, in namespaces: this node in one, everybody else in the other.

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
    margay_routing::Route { prefix: net(prefix), protocol: Protocol::Cluster, target }
}

fn pod(address: &str, dev: &str) -> margay_routing::Route {
    let target = Target::Link { dev: dev.to_owned() };
    margay_routing::Route { prefix: net(address), protocol: Protocol::Pods, target }
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
fn seen(monitor: &mut Monitor, own: &Netlink) -> (usize, usize) {
    let (mut routes, mut objects) = (0, 0);
    monitor
        .read(own, |event| match event {
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

#[test]
fn a_node_is_one_object_which_outlives_a_restart_and_moves_in_one_message() {
    let Some(world) = world() else { return };
    let blocks = |address: &'static str| {
        (0..200).map(move |n| via(&format!("10.65.{n}.0/24"), &[("n2", address)])).collect::<Vec<_>>()
    };
    world
        .node
        .run(|| {
            let mut observer = Netlink::open().unwrap();
            let mut monitor = Monitor::open().unwrap();
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            assert_eq!(fib.put(blocks("172.20.0.2")).changed, 200);
            let (routes, objects) = kernel(&mut observer);
            assert_eq!((routes.len(), objects.len()), (200, 1), "{objects:?}");
            drop(fib);
            seen(&mut monitor, &observer);

            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            assert_eq!(fib.put(blocks("172.20.0.2")).changed, 0, "a restart changes nothing");
            assert_eq!(seen(&mut monitor, &observer), (0, 0));
            assert_eq!(kernel(&mut observer), (routes.clone(), objects));

            for address in ["172.20.0.3", "172.20.0.4", "172.20.0.2"] {
                fib.put(blocks(address));
                until_reached(&world, "10.65.2.1");
            }
            seen(&mut monitor, &observer);
            let (_, lost) = probe(&world, "10.65.2.1", || {
                for address in ["172.20.0.3", "172.20.0.2", "172.20.0.4"] {
                    assert_eq!(fib.put(blocks(address)).changed, 0);
                }
            });
            assert_eq!(lost, 0);
            let (now, objects) = kernel(&mut observer);
            assert_eq!((now, objects.len()), (routes, 1), "only the object was changed");
            // The kernel tells of each route, too, for programs that know no objects (`nexthop_compat_mode`).
            assert_eq!(seen(&mut monitor, &observer).1, 3);
        })
        .unwrap();
}

#[test]
fn other_next_hops_and_members_of_groups_lose_no_packet() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let (n2, n3, n4) = (("n2", "172.20.0.2"), ("n3", "172.20.0.3"), ("n4", "172.20.0.4"));
            let (v2, v3) = (("n2", "fd20::2"), ("n3", "fd20::3"));
            let sets: [&[(&str, &str)]; 8] =
                [&[n2], &[n2, n3], &[n3], &[n2, n3, n4], &[n4], &[v2], &[v2, v3], &[n2, v3]];
            for node in [n2, n3, n4, v2, v3] {
                fib.put([via("10.65.2.0/24", &[node])]);
                until_reached(&world, "10.65.2.1");
            }
            let (sent, lost) = probe(&world, "10.65.2.1", || {
                for set in sets.iter().cycle().take(400) {
                    fib.put([via("10.65.2.0/24", set)]);
                }
            });
            assert_eq!(lost, 0, "IPv4, of {sent}");
            fib.put([via("fd65::2:0/112", &[v2])]);
            let (sent, lost) = probe(&world, "fd65::2:1", || {
                for set in [[v2, v3].as_slice(), &[v3], &[v3, v2], &[v2]].iter().cycle().take(400) {
                    fib.put([via("fd65::2:0/112", set)]);
                }
            });
            assert_eq!(lost, 0, "IPv6, of {sent}");
            let mut observer = Netlink::open().unwrap();
            let (routes, objects) = kernel(&mut observer);
            // IPv4 over n2 and v3 with their group, IPv6 over v2.
            assert_eq!((routes.len(), objects.len()), (2, 4), "nothing is left over: {objects:?}");
            fib.drop_route("10.65.2.0/24");
            fib.drop_route("fd65::2:0/112");
            assert_eq!(kernel(&mut observer), (Vec::new(), Vec::new()));
        })
        .unwrap();
}

#[test]
fn what_others_take_away_comes_back() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let mut other = Netlink::open().unwrap();
            let nodes = [("n2", "172.20.0.2"), ("n3", "172.20.0.3")];
            let wanted = [
                via("10.65.2.0/24", &nodes),
                via("10.65.3.0/24", &nodes[..1]),
                via("fd65::/64", &[("n2", "fd20::2")]),
            ];
            fib.put(wanted);
            let before = kernel(&mut other);
            assert_eq!((before.0.len(), before.1.len()), (3, 4));
            let intact = |fib: &mut Fib, other: &mut Netlink| {
                let report = fib.round();
                assert!(report.errors.is_empty(), "{:?}", report.errors);
                assert_eq!(kernel(other), before);
            };
            for route in &before.0 {
                other.delete_route(route).unwrap();
                intact(&mut fib, &mut other);
            }
            let replaced = Route { target: RouteTarget::Blackhole, ..before.0[1].clone() };
            other.replace_route(&replaced).unwrap();
            intact(&mut fib, &mut other);
            for object in &before.1 {
                // The routes go along with it, silently.
                other.apply_nexthops(&[NexthopChange::Delete(object.id)]).remove(0).unwrap();
                intact(&mut fib, &mut other);
            }
            let mut bent = before.1[0].clone();
            bent.target = before.1[1].target.clone();
            other.apply_nexthops(&[NexthopChange::Replace(bent)]).remove(0).unwrap();
            intact(&mut fib, &mut other);
            let index = other.link_index("up0").unwrap();
            other.set_up(index, false).unwrap();
            assert!(fib.round().errors.is_empty());
            assert_eq!(kernel(&mut other), (Vec::new(), Vec::new()));
            other.set_up(index, true).unwrap();
            let address = Address { index, net: net("fd20::1/64") };
            // IPv6 addresses go when their interface goes down.
            other.replace_address(&address, AddressOptions::default()).unwrap();
            let report = fib.round();
            assert!(report.errors.is_empty(), "{:?}", report.errors);
            let (routes, objects) = kernel(&mut other);
            assert_eq!((routes.len(), objects.len()), (3, 4));
        })
        .unwrap();
}

#[test]
fn what_others_made_is_not_touched() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut other = Netlink::open().unwrap();
            let device = other.link_index("up0").unwrap();
            let theirs = Nexthop {
                id: 1_810_000_000,
                protocol: 4,
                target: NexthopTarget::Via { gateway: [172, 20, 0, 9].into(), device, onlink: false },
            };
            let route = Route::new(net("10.65.3.0/24"), RouteTarget::Nexthop(1_810_000_000), 4);
            other.apply_nexthops(&[NexthopChange::Add(theirs)]).remove(0).unwrap();
            other.add_route(&route).unwrap();
            let foreign = |other: &mut Netlink| {
                let filter = RouteFilter { protocol: Some(4), ..RouteFilter::default() };
                (other.routes(filter).unwrap(), other.nexthops(Some(4)).unwrap())
            };
            let before = foreign(&mut other);
            assert_eq!((before.0.len(), before.1.len()), (1, 1));

            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let underlay = fib.underlay();
            assert!(
                underlay.routes.iter().any(|route| route.prefix == net("10.65.3.0/24")
                    && route.gateway == Some([172, 20, 0, 9].into())),
                "{underlay:?}"
            );
            let nodes = [("n2", "172.20.0.2"), ("n3", "172.20.0.3")];
            fib.want_routes(wish([via("10.65.2.0/24", &nodes), via("10.65.3.0/24", &nodes[..1])]));
            fib.apply(true);
            let report = fib.round();
            assert!(
                report.errors[0].contains("10.65.3.0/24: a route that is not Margay's is in the way"),
                "{report:?}"
            );
            fib.doubt();
            fib.round();
            assert_eq!(foreign(&mut other), before);
            assert_eq!(kernel(&mut other).0.len(), 1);
            other.delete_route(&route).unwrap();
            assert!(fib.round().errors.is_empty());
            assert_eq!(kernel(&mut other).0.len(), 2, "ours comes when theirs goes");
            // Somebody takes an id that is ours, while we do not listen.
            let (_, objects) = kernel(&mut other);
            let id = objects[0].id;
            let mut stolen = objects[0].clone();
            stolen.protocol = 4;
            other
                .apply_nexthops(&[NexthopChange::Delete(id), NexthopChange::Add(stolen)])
                .into_iter()
                .for_each(Result::unwrap);
            assert!(fib.round().errors.is_empty());
            assert_eq!(kernel(&mut other).0.len(), 2);
            assert!(foreign(&mut other).1.iter().any(|object| object.id == id));
            fib.drop_route("10.65.2.0/24");
            fib.drop_route("10.65.3.0/24");
            assert_eq!(kernel(&mut other), (Vec::new(), Vec::new()));
            assert_eq!(foreign(&mut other).1.len(), 2);
        })
        .unwrap();
}

#[test]
fn ids_do_not_leak_when_blocks_wander() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let mut other = Netlink::open().unwrap();
            let addresses: Vec<String> = (2..40).map(|n| format!("172.20.0.{n}")).collect();
            for round in 0..30 {
                let routes = (0..40).map(|n| {
                    let nodes: Vec<(&str, &str)> = (0..=(n + round) % 3)
                        .map(|k| addresses[(n * 7 + round + k) % addresses.len()].as_str())
                        .map(|address| (address, address))
                        .collect();
                    via(&format!("10.65.{n}.0/24"), &nodes)
                });
                fib.put(routes);
                let (routes, objects) = kernel(&mut other);
                assert_eq!(routes.len(), 40);
                let mut needed = BTreeSet::new();
                for route in &routes {
                    let RouteTarget::Nexthop(id) = route.target else { panic!("{route}") };
                    needed.insert(id);
                    let object = objects.iter().find(|object| object.id == id).unwrap();
                    if let NexthopTarget::Group(members) = &object.target {
                        needed.extend(members.iter().map(|(member, _)| *member));
                    }
                }
                assert_eq!(objects.iter().map(|object| object.id).collect::<BTreeSet<_>>(), needed);
            }
        })
        .unwrap();
}

#[test]
fn a_kernel_without_nexthop_objects_gets_routes_with_their_own() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut fib = Fib::with(Netlink::open().unwrap(), None, std::env::temp_dir()).unwrap();
            let mut other = Netlink::open().unwrap();
            let nodes = [("n2", "172.20.0.2"), ("n3", "172.20.0.3")];
            for node in &nodes {
                fib.put([via("10.65.2.0/24", &[*node])]);
                until_reached(&world, "10.65.2.1");
            }
            let sets: [&[(&str, &str)]; 3] = [&nodes, &nodes[1..], &nodes[..1]];
            let (_, lost) = probe(&world, "10.65.2.1", || {
                for set in sets.iter().cycle().take(300) {
                    fib.put([via("10.65.2.0/24", set)]);
                }
            });
            assert_eq!(lost, 0);
            fib.put([via("10.65.2.0/24", &nodes), via("fd65::/64", &[("n2", "fd20::2"), ("n3", "fd20::3")])]);
            let (routes, objects) = kernel(&mut other);
            assert!(objects.is_empty());
            let paths = |route: &Route| match &route.target {
                RouteTarget::Multipath(paths) => paths.len(),
                _ => 0,
            };
            assert_eq!(routes.iter().map(paths).collect::<Vec<_>>(), [2, 2], "{routes:?}");
            drop(fib);
            let mut fib = Fib::with(Netlink::open().unwrap(), None, std::env::temp_dir()).unwrap();
            assert_eq!(
                fib.put([via("10.65.2.0/24", &nodes)]).changed,
                1,
                "the other one is not wanted any more"
            );
            // A newer kernel, or an agent that knows of objects, takes over.
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            fib.put([via("10.65.2.0/24", &nodes)]);
            assert_eq!(kernel(&mut other).1.len(), 3);
        })
        .unwrap();
}

#[test]
fn a_pod_s_route_waits_for_its_interface() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let mut other = Netlink::open().unwrap();
            fib.want_routes(wish([pod("10.65.1.7/32", "mgyaaa")]));
            assert_eq!(fib.apply(true).pods_missing, BTreeSet::from([net("10.65.1.7/32")]));
            for _ in 0..2 {
                let ends = ["mgyaaa", "mgybbb"].map(|name| VethEnd { name, ..VethEnd::default() });
                other.add_veth(&ends[0], &ends[1], None).unwrap();
                let index = other.link_index("mgyaaa").unwrap();
                assert_eq!(fib.round().pods_missing.len(), 1, "not up yet");
                other.set_up(index, true).unwrap();
                let before = fib.underlay();
                assert!(fib.round().pods_missing.is_empty());
                assert_eq!(fib.underlay(), before, "a pod is no way to another node");
                other.delete_link(index).unwrap();
                assert_eq!(fib.round().pods_missing.len(), 1);
            }
        })
        .unwrap();
}

#[test]
fn the_thread_repairs_at_once_and_does_not_fight_without_end() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let health = margay_daemon::health::Health::new("test", "n1", &["routes"]);
            let mut forwarding =
                crate::forwarding::Forwarding::spawn(Fib::open(std::env::temp_dir()).unwrap(), health)
                    .unwrap();
            let mut other = Netlink::open().unwrap();
            let routes: Vec<_> =
                (0..100).map(|n| via(&format!("10.65.{n}.0/24"), &[("n2", "172.20.0.2")])).collect();
            forwarding.want(wish(routes), None, true);
            let all = |other: &mut Netlink| {
                let deadline = Instant::now() + PATIENCE;
                while kernel(other).0.len() < 100 {
                    assert!(Instant::now() < deadline);
                    std::thread::sleep(Duration::from_millis(2));
                }
            };
            all(&mut other);
            let (routes, objects) = kernel(&mut other);
            other.delete_route(&routes[7]).unwrap();
            all(&mut other);
            other.apply_nexthops(&[NexthopChange::Delete(objects[0].id)]).remove(0).unwrap();
            assert_eq!(kernel(&mut other).0.len(), 0);
            all(&mut other);
            // Somebody deletes the same route whenever it is there.
            let mut monitor = Monitor::open().unwrap();
            let end = Instant::now() + Duration::from_secs(2);
            let mut written = 0;
            while Instant::now() < end {
                let route =
                    kernel(&mut other).0.into_iter().find(|route| route.destination == routes[7].destination);
                if let Some(route) = route {
                    other.delete_route(&route).unwrap();
                }
                written += seen(&mut monitor, &other).0;
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!((1..20).contains(&written), "{written} times in 2 s");
            all(&mut other);
        })
        .unwrap();
}
