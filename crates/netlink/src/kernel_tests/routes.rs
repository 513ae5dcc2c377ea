use std::net::IpAddr;

use ipnet::IpNet;

use super::{join, namespaces};
use crate::{
    Address, AddressOptions, Nexthop, NexthopChange, NexthopTarget, Path, Route, RouteChange, RouteFilter,
    RouteTarget, UnmarkedRule,
};

const POD: u8 = 180;
const CLUSTER: u8 = 181;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ours(protocol: u8) -> RouteFilter {
    RouteFilter { protocol: Some(protocol), ..RouteFilter::default() }
}

#[test]
fn every_kind_of_route_reads_back_as_written() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    let device = link.index;
    let source = Address { index: device, net: net("10.9.9.9/24") };
    n.add_address(&source, AddressOptions::default()).unwrap();
    n.add_address(&Address { index: device, net: net("fd09::9/64") }, AddressOptions::default()).unwrap();
    let via = |gateway: &str, onlink| RouteTarget::Via {
        gateway: gateway.parse().unwrap(),
        device: Some(device),
        onlink,
    };
    let routes = [
        Route::new(net("10.0.0.1/32"), RouteTarget::Device { device }, CLUSTER),
        Route {
            source: Some(source.net.addr()),
            ..Route::new(net("10.0.1.0/24"), via("10.9.9.1", false), CLUSTER)
        },
        Route::new(net("10.0.2.0/24"), via("172.16.0.1", true), CLUSTER),
        Route::new(net("10.0.3.0/24"), RouteTarget::Blackhole, CLUSTER),
        Route { metric: 512, ..Route::new(net("10.0.4.0/24"), RouteTarget::Unreachable, CLUSTER) },
        Route::new(net("10.0.5.0/24"), via("fe80::1", false), CLUSTER),
        Route::new(net("0.0.0.0/0"), via("10.9.9.1", false), CLUSTER),
        Route::new(net("fd00::1/128"), RouteTarget::Device { device }, CLUSTER),
        Route::new(net("fd00:1::/64"), via("fd09::1", false), CLUSTER),
        Route::new(net("fd00:2::/64"), via("fd77::1", true), CLUSTER),
        Route { metric: 77, ..Route::new(net("fd00:4::/64"), RouteTarget::Blackhole, CLUSTER) },
    ];
    for route in &routes {
        n.add_route(route).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut wanted: Vec<Route> = routes.iter().cloned().map(Route::normalised).collect();
    wanted.sort();
    let mut found = n.routes(ours(CLUSTER)).unwrap();
    for route in &mut found {
        // The kernel puts IPv6 blackholes on the loopback device but shows no nexthop for them.
        route.source = route.source.filter(|_| route.destination == net("10.0.1.0/24"));
    }
    assert_eq!(found, wanted);
    assert!(n.add_route(&routes[0]).unwrap_err().is_exists());
    assert_eq!(n.routes(ours(POD)).unwrap(), []);
    for route in &routes {
        n.delete_route(route).unwrap();
        assert!(n.delete_route(route).unwrap_err().is_not_found());
    }
    assert_eq!(n.routes(ours(CLUSTER)).unwrap(), []);
}

#[test]
fn a_batch_reports_each_error_at_its_route() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    let route = |n: u32, device| {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        Route::new(IpNet::new(address, 32).unwrap(), RouteTarget::Device { device }, POD)
    };
    // Several writes' worth, with a missing device here and there, first and last included.
    let bad = [0u32, 1, 511, 512, 700, 1499];
    let changes: Vec<RouteChange> = (0..1500)
        .map(|n| RouteChange::Replace(route(n, if bad.contains(&n) { 4242 } else { link.index })))
        .collect();
    let results = n.apply_routes(&changes);
    let failed: Vec<usize> = results.iter().enumerate().filter(|(_, r)| r.is_err()).map(|(n, _)| n).collect();
    assert_eq!(failed, bad.map(|n| n as usize));
    let error = results[700].as_ref().unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().contains("10.0.2.188/32"), "{error}");
    assert_eq!(n.routes(ours(POD)).unwrap().len(), 1494);
    let all: Vec<RouteChange> = n.routes(ours(POD)).unwrap().into_iter().map(RouteChange::Delete).collect();
    assert!(n.apply_routes(&all).iter().all(Result::is_ok));
    assert_eq!(n.routes(ours(POD)).unwrap(), []);
}

#[test]
fn fifty_thousand_failures_in_one_call_lose_no_answer() {
    let Some([a]) = namespaces() else { return };
    let mut n = crate::Netlink::open_in(&a).unwrap();
    let changes: Vec<RouteChange> = (0..50_000u32)
        .map(|n| {
            let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            RouteChange::Delete(Route::new(IpNet::new(address, 32).unwrap(), RouteTarget::Blackhole, POD))
        })
        .collect();
    let results = n.apply_routes(&changes);
    assert!(results.iter().all(|r| r.as_ref().is_err_and(crate::Error::is_not_found)));
}

#[test]
fn moving_a_nexthop_object_moves_its_routes() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    n.add_address(&Address { index: link.index, net: net("10.9.9.9/24") }, AddressOptions::default())
        .unwrap();
    let via = |last| Nexthop {
        id: 7,
        protocol: CLUSTER,
        target: NexthopTarget::Via {
            gateway: IpAddr::from([10, 9, 9, last]),
            device: link.index,
            onlink: false,
        },
    };
    let apply = |n: &mut crate::Netlink, change| n.apply_nexthops(&[change]).remove(0);
    apply(&mut n, NexthopChange::Add(via(1))).unwrap();
    assert!(apply(&mut n, NexthopChange::Add(via(2))).unwrap_err().is_exists());
    let route = Route::new(net("10.0.1.0/24"), RouteTarget::Nexthop(7), CLUSTER);
    n.add_route(&route).unwrap();
    assert_eq!(n.routes(ours(CLUSTER)).unwrap(), [route]);
    apply(&mut n, NexthopChange::Replace(via(2))).unwrap();
    assert_eq!(n.nexthops(Some(CLUSTER)).unwrap(), [via(2)]);
    assert_eq!(n.nexthops(Some(POD)).unwrap(), []);
    let nowhere =
        Nexthop { id: 8, protocol: CLUSTER, target: NexthopTarget::Device { device: 4242, ipv6: false } };
    let error = apply(&mut n, NexthopChange::Add(nowhere)).unwrap_err();
    assert!(error.to_string().contains("add nexthop 8"), "{error}");
    apply(&mut n, NexthopChange::Delete(7)).unwrap();
    assert_eq!(n.routes(ours(CLUSTER)).unwrap(), []);
    assert!(apply(&mut n, NexthopChange::Delete(7)).unwrap_err().is_not_found());
}

#[test]
fn groups_serve_both_families_and_lose_members_that_are_deleted() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    n.add_address(&Address { index: link.index, net: net("10.9.9.9/24") }, AddressOptions::default())
        .unwrap();
    n.add_address(&Address { index: link.index, net: net("fd09::9/64") }, AddressOptions::default()).unwrap();
    let hop = |id, gateway: &str| Nexthop {
        id,
        protocol: CLUSTER,
        target: NexthopTarget::Via { gateway: gateway.parse().unwrap(), device: link.index, onlink: false },
    };
    let group = |id, members: &[u32]| Nexthop {
        id,
        protocol: CLUSTER,
        target: NexthopTarget::Group(members.iter().map(|member| (*member, 1)).collect()),
    };
    let changes = [
        hop(1, "10.9.9.1"),
        hop(2, "10.9.9.2"),
        hop(3, "fd09::1"),
        hop(4, "fd09::2"),
        group(5, &[1, 2]),
        group(6, &[3, 4]),
    ];
    let added = n.apply_nexthops(&changes.clone().map(NexthopChange::Add));
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    assert_eq!(n.nexthops(Some(CLUSTER)).unwrap(), changes);
    // IPv4 by way of IPv6 next hops (RFC 8950), too.
    let routes = [("10.0.1.0/24", 5), ("10.0.2.0/24", 6), ("fd00:1::/64", 6)]
        .map(|(prefix, id)| Route::new(net(prefix), RouteTarget::Nexthop(id), CLUSTER).normalised());
    for route in &routes {
        n.add_route(route).unwrap();
    }
    assert_eq!(n.routes(ours(CLUSTER)).unwrap(), routes);
    n.apply_nexthops(&[NexthopChange::Delete(3)]).remove(0).unwrap();
    assert!(n.nexthops(Some(CLUSTER)).unwrap().contains(&group(6, &[4])));
    assert_eq!(n.routes(ours(CLUSTER)).unwrap(), routes);
    n.apply_nexthops(&[NexthopChange::Delete(4)]).remove(0).unwrap();
    assert_eq!(n.routes(ours(CLUSTER)).unwrap(), routes[..1], "its last member takes the group along");
    // Between the kinds of target, without a moment in between.
    let path = |gateway: &str| Path {
        gateway: Some(gateway.parse().unwrap()),
        device: link.index,
        weight: 1,
        onlink: false,
    };
    let several = RouteTarget::Multipath(vec![path("10.9.9.1"), path("10.9.9.2")]);
    for target in [several, RouteTarget::Nexthop(1), RouteTarget::Blackhole, RouteTarget::Nexthop(5)] {
        let route = Route::new(net("10.0.1.0/24"), target, CLUSTER);
        n.replace_route(&route).unwrap();
        assert_eq!(n.routes(ours(CLUSTER)).unwrap(), [route]);
    }
    let several = RouteTarget::Multipath(vec![path("fd09::1"), path("fd09::2")]);
    n.apply_nexthops(&[NexthopChange::Add(hop(7, "fd09::7"))]).remove(0).unwrap();
    for target in [RouteTarget::Nexthop(7), several, RouteTarget::Blackhole, RouteTarget::Nexthop(7)] {
        let route = Route::new(net("fd00:1::/64"), target, CLUSTER).normalised();
        n.replace_route(&route).unwrap();
        let found = n.routes(RouteFilter { ipv4: Some(false), ..ours(CLUSTER) }).unwrap();
        assert_eq!(found, [route]);
    }
}

#[test]
fn kernels_own_words_reach_the_error() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    let target =
        RouteTarget::Via { gateway: IpAddr::from([192, 0, 2, 1]), device: Some(link.index), onlink: false };
    let error = n.add_route(&Route::new(net("10.0.1.0/24"), target, CLUSTER)).unwrap_err();
    assert!(error.to_string().contains("Nexthop has invalid gateway"), "{error}");
}

#[test]
fn unmarked_packets_are_looked_up_in_a_table_of_their_own() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    let rules = [false, true].map(|v6| UnmarkedRule {
        v6,
        mark: 0x10_0000,
        table: 181,
        priority: 99,
        protocol: CLUSTER,
    });
    for rule in &rules {
        n.add_unmarked_rule(rule).unwrap();
        assert!(n.add_unmarked_rule(rule).unwrap_err().is_exists());
    }
    assert_eq!(n.unmarked_rules(CLUSTER).unwrap(), rules);
    assert_eq!(n.unmarked_rules(CLUSTER + 1).unwrap(), []);
    let target = RouteTarget::Device { device: link.index };
    n.add_route(&Route { table: 181, ..Route::new(net("192.0.2.7/32"), target, CLUSTER) }).unwrap();
    let way = |mark: &str| {
        let get = ["route", "get", "192.0.2.7", "mark", mark];
        a.run(|| std::process::Command::new("ip").args(get).output().unwrap().status.success()).unwrap()
    };
    assert!(way("0") && way("0x20000") && !way("0x100000"), "with the mark there is no way");
    for rule in &rules {
        n.delete_unmarked_rule(rule).unwrap();
        assert!(n.delete_unmarked_rule(rule).unwrap_err().is_not_found());
    }
    assert!(!way("0"));
}
