//! What others do to the same table.

use super::*;

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
            let mut monitor = Monitor::open([&other]).unwrap();
            let end = Instant::now() + Duration::from_secs(2);
            let mut written = 0;
            while Instant::now() < end {
                let route =
                    kernel(&mut other).0.into_iter().find(|route| route.destination == routes[7].destination);
                if let Some(route) = route {
                    other.delete_route(&route).unwrap();
                }
                written += seen(&mut monitor).0;
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!((1..20).contains(&written), "{written} times in 2 s");
            all(&mut other);
        })
        .unwrap();
}
