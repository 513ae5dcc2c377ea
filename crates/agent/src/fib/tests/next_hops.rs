//! Nexthop objects: one for a node, moved in one message, and a kernel without them.

use super::*;

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
            let mut monitor = Monitor::open([&observer]).unwrap();
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            assert_eq!(fib.put(blocks("172.20.0.2")).changed, 200);
            let (routes, objects) = kernel(&mut observer);
            assert_eq!((routes.len(), objects.len()), (200, 1), "{objects:?}");
            drop(fib);
            seen(&mut monitor);

            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            assert_eq!(fib.put(blocks("172.20.0.2")).changed, 0, "a restart changes nothing");
            assert_eq!(seen(&mut monitor), (0, 0));
            assert_eq!(kernel(&mut observer), (routes.clone(), objects));

            for address in ["172.20.0.3", "172.20.0.4", "172.20.0.2"] {
                fib.put(blocks(address));
                until_reached(&world, "10.65.2.1");
            }
            seen(&mut monitor);
            let (_, lost) = probe(&world, "10.65.2.1", || {
                for address in ["172.20.0.3", "172.20.0.2", "172.20.0.4"] {
                    assert_eq!(fib.put(blocks(address)).changed, 0);
                }
            });
            assert_eq!(lost, 0);
            let (now, objects) = kernel(&mut observer);
            assert_eq!((now, objects.len()), (routes, 1), "only the object was changed");
            // The kernel tells of each route, too, for programs that know no objects (`nexthop_compat_mode`).
            assert_eq!(seen(&mut monitor).1, 3);
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
fn another_metric_loses_no_packet() {
    let Some(world) = world() else { return };
    world
        .node
        .run(|| {
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let route = |prefix: &str, node, metric| margay_routing::Route { metric, ..via(prefix, &[node]) };
            let (v4, v6) = (("n2", "172.20.0.2"), ("n2", "fd20::2"));
            let all = |metric| [route("10.65.2.0/24", v4, metric), route("fd65::2:0/112", v6, metric)];
            fib.put(all(0));
            for to in ["10.65.2.1", "fd65::2:1"] {
                until_reached(&world, to);
                let (sent, lost) = probe(&world, to, || {
                    for metric in [77, 0, 1024, 5, 0].iter().cycle().take(100) {
                        fib.put(all(*metric));
                    }
                });
                assert_eq!(lost, 0, "{to}, of {sent}");
            }
            fib.put(all(77));
            let metrics =
                kernel(&mut Netlink::open().unwrap()).0.iter().map(|route| route.metric).collect::<Vec<_>>();
            assert_eq!(metrics, [77, 77], "one each");
        })
        .unwrap();
}
