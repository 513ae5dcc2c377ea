//! What a node needs to be a router, and keeps.

use std::net::{Ipv6Addr, SocketAddrV6};

use margay_netlink::sysctl;
use margay_routing::IpipDevice;
use socket2::{Domain, Protocol, Socket, Type};

use super::*;

const FORWARDING: [&str; 5] = ["net", "ipv6", "conf", "all", "forwarding"];

/// The other end of `up0` calls itself a router for half an hour (RFC 4861, section 4.2).
fn advertise(world: &World) {
    let send = || {
        let index = Netlink::open().unwrap().link_index("up0").unwrap();
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        socket.set_multicast_hops_v6(255).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        let mut message = vec![134, 0, 0, 0, 64, 0];
        message.extend(1800_u16.to_be_bytes());
        message.extend([0; 8]);
        let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        // Its link-local address may not be usable yet.
        socket.send_to(&message, &all_nodes.into())
    };
    let _tried_again = world.others.run(send).unwrap();
}

fn has_default_route(netlink: &mut Netlink) -> bool {
    let filter = RouteFilter { ipv4: Some(false), ..RouteFilter::default() };
    netlink.routes(filter).unwrap().iter().any(|route| route.destination.prefix_len() == 0)
}

#[test]
fn forwarding_costs_no_advertised_route_and_is_repaired() {
    let Some(world) = world() else { return };
    let node = || {
        let mut other = Netlink::open().unwrap();
        let deadline = Instant::now() + PATIENCE * 3;
        while !has_default_route(&mut other) {
            assert!(Instant::now() < deadline, "no route was learned");
            advertise(&world);
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut fib = Fib::open(std::env::temp_dir()).unwrap();
        fib.want_routes(wish([via("10.65.2.0/24", &[("n2", "172.20.0.2")])]));
        assert!(fib.apply(true).errors.is_empty());
        assert_eq!(sysctl::read(&["net", "ipv4", "ip_forward"]).unwrap(), "1");
        assert_eq!(sysctl::read(&FORWARDING).unwrap(), "0", "nothing is routed with IPv6");

        fib.want_routes(wish([via("fd65::2:0/112", &[("n2", "fd20::2")])]));
        assert!(fib.apply(true).errors.is_empty());
        assert_eq!(sysctl::read(&FORWARDING).unwrap(), "1");
        assert!(has_default_route(&mut other), "what a router has told is kept");

        sysctl::write(&["net", "ipv4", "ip_forward"], "0").unwrap();
        fib.doubt();
        fib.apply(true);
        assert_eq!(sysctl::read(&["net", "ipv4", "ip_forward"]).unwrap(), "1");
    };
    world.node.run(node).unwrap();
}

/// Red Hat's default; what comes beside a tunnel would be dropped.
#[test]
fn strict_reverse_path_filters_are_loosened_where_tunnels_end() {
    let Some(world) = world() else { return };
    let node = || {
        let of = |name: &str| sysctl::read(&["net", "ipv4", "conf", name, "rp_filter"]).unwrap();
        let mut fib = Fib::open(std::env::temp_dir()).unwrap();
        for (value, expected) in [("1", "2"), ("0", "0")] {
            for name in ["all", "up0"] {
                sysctl::write(&["net", "ipv4", "conf", name, "rp_filter"], value).unwrap();
            }
            fib.apply(true);
            assert_eq!(of("up0"), value, "there is no tunnel");
            let ipip = IpipDevice {
                name: "tunl.mgy".to_owned(),
                local: [172, 20, 0, 1].into(),
                address: None,
                mtu: 1480,
            };
            // Whether or not this kernel has IPIP.
            fib.want_tunnels(Arc::new(Tunnels { ipip: Some(ipip), ..Tunnels::default() }));
            fib.apply(true);
            assert_eq!(of("up0"), expected);
            fib.want_tunnels(Arc::default());
        }
    };
    world.node.run(node).unwrap();
}
