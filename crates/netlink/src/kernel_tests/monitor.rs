use std::time::{Duration, Instant};

use super::namespaces;
use crate::monitor::{Event, Monitor};
use crate::{Netlink, Nexthop, NexthopChange, NexthopTarget, Route, RouteChange, RouteTarget};

/// Waits for an event.
fn until(monitor: &mut Monitor, mut wanted: impl FnMut(&Event) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut seen = Vec::new();
    while !seen.iter().any(&mut wanted) {
        assert!(Instant::now() < deadline, "{seen:?}");
        monitor.read(|event| seen.push(event)).unwrap();
        std::thread::yield_now();
    }
}

fn blackhole(n: u32) -> Route {
    let prefix = ipnet::Ipv4Net::from(std::net::Ipv4Addr::from(0x0a00_0000 + n));
    Route::new(prefix.into(), RouteTarget::Blackhole, 181)
}

#[test]
fn changes_by_others_are_seen_and_one_s_own_are_not() {
    let Some([netns]) = namespaces() else { return };
    let mut other = Netlink::open_in(&netns).unwrap();
    let mut own = Netlink::open_in(&netns).unwrap();
    let mut second = Netlink::open_in(&netns).unwrap();
    let mut monitor = netns.run(|| Monitor::open([&own, &second]).unwrap()).unwrap();
    other.add_bridge("sw1").unwrap();
    until(&mut monitor, |event| matches!(event, Event::LinkSet(link) if link.name == "sw1"));
    let index = other.link_index("sw1").unwrap();
    other.set_up(index, true).unwrap();
    let address = crate::Address { index, net: "10.9.9.9/24".parse().unwrap() };
    other.add_address(&address, crate::AddressOptions::default()).unwrap();
    until(&mut monitor, |event| *event == Event::Addresses(index));
    other.set_neighbour(index, [10, 9, 9, 1].into(), crate::Mac([2; 6])).unwrap();
    until(&mut monitor, |event| *event == Event::Neighbours(index));

    own.add_route(&blackhole(1)).unwrap();
    second.add_route(&blackhole(3)).unwrap();
    other.add_route(&blackhole(2)).unwrap();
    until(&mut monitor, |event| {
        let made_by_us = [1, 3].map(|number| Event::RouteSet(blackhole(number), false));
        assert!(!made_by_us.contains(event), "{event:?}");
        *event == Event::RouteSet(blackhole(2), false)
    });
    let replaced = Route { target: RouteTarget::Unreachable, ..blackhole(1) };
    other.replace_route(&replaced).unwrap();
    until(&mut monitor, |event| *event == Event::RouteSet(replaced.clone(), true));
    other.delete_route(&replaced).unwrap();
    until(&mut monitor, |event| *event == Event::RouteGone(replaced.clone()));

    let nexthop =
        Nexthop { id: 7, protocol: 181, target: NexthopTarget::Device { device: index, ipv6: false } };
    other.apply_nexthops(&[NexthopChange::Add(nexthop.clone())]).remove(0).unwrap();
    until(&mut monitor, |event| *event == Event::NexthopSet(nexthop.clone()));
    other.apply_nexthops(&[NexthopChange::Delete(7)]).remove(0).unwrap();
    until(&mut monitor, |event| *event == Event::NexthopGone(7));
    other.delete_link_named("sw1").unwrap();
    until(&mut monitor, |event| matches!(event, Event::LinkGone(link) if link.index == index));
}

#[test]
fn a_flood_that_nobody_reads_ends_in_a_resync() {
    let Some([netns]) = namespaces() else { return };
    let (mut other, own) = (Netlink::open_in(&netns).unwrap(), Netlink::open_in(&netns).unwrap());
    let mut monitor = netns.run(|| Monitor::open([&own]).unwrap()).unwrap();
    let add: Vec<RouteChange> = (0..30_000).map(|n| RouteChange::Add(blackhole(n))).collect();
    let delete: Vec<RouteChange> = (0..30_000).map(|n| RouteChange::Delete(blackhole(n))).collect();
    assert!(other.apply_routes(&add).iter().chain(&other.apply_routes(&delete)).all(Result::is_ok));
    until(&mut monitor, |event| *event == Event::Resync);
}
