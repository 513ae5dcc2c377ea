//! IPv6 next hops (RFC 2545): what neighbours on a link tell each other, and what becomes of it.

use super::rig::*;
use crate::config::{NextHopMode, Originated, PeerConfig, PeerKind};
use crate::io::{ConnId, Input, Link};
use crate::status::{Event, ForwardingHop};
use crate::wire::{Message, NextHop, Nlri, PathAttributes, Reach, Update};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const PREFIX: &str = "2001:db8:1::/48";

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn link(global: Option<&str>) -> Link {
    Link { interface: "eth0".into(), link_local: Some(v6("fe80::100")), global: global.map(v6) }
}

fn neighbour(remote: &str, kind: PeerKind) -> PeerConfig {
    let interface = v6(remote).is_unicast_link_local().then(|| "eth0".to_owned());
    PeerConfig { passive: true, interface, ..PeerConfig::new(IpAddr::V6(v6(remote)), AS, kind) }
}

/// A session between two addresses, on a link or not.
fn up(rig: &mut Rig, number: u64, remote: &str, local: &str, link: Option<Link>) -> ConnId {
    let conn = ConnId::accepted(number);
    rig.wires.insert(conn, Wire::default());
    let end = |address: &str, port| SocketAddr::new(IpAddr::V6(v6(address)), port);
    rig.input(Input::Accepted { conn, remote: end(remote, 5000), local: end(local, 179) });
    if let Some(link) = link {
        rig.input(Input::OnLink { conn, link });
    }
    rig.establish(conn, Rig::open(u8::try_from(number + 1).unwrap(), false));
    conn
}

fn announcement(global: &str, link_local: Option<&str>) -> Message {
    let next_hop = NextHop::V6 { global: v6(global), link_local: link_local.map(v6) };
    Message::Update(Update {
        mp_reach: Some(Reach { next_hop, nlri: vec![Nlri::new(net(PREFIX))].into() }),
        attributes: PathAttributes { local_pref: Some(100), ..Default::default() },
        ..Update::default()
    })
}

fn next_hops(messages: &[Message]) -> Vec<NextHop> {
    let reach = messages.iter().filter_map(|message| match message {
        Message::Update(update) => update.mp_reach.as_ref(),
        _ => None,
    });
    reach.map(|reach| reach.next_hop).collect()
}

#[test]
fn a_neighbour_is_told_both_addresses_and_others_the_global_one() {
    for (remote, local, link, expected) in [
        ("2001:db8::1", "2001:db8::100", Some(link(Some("2001:db8::100"))), Some("fe80::100")),
        ("2001:db8:9::1", "2001:db8::100", None, None),
        ("fe80::1", "fe80::100", Some(link(Some("2001:db8::100"))), Some("fe80::100")),
    ] {
        let mut rig = Rig::new(vec![neighbour(remote, PeerKind::Internal)]);
        // Named by its address or not at all: it is the same next hop.
        let own = Originated::new(net("2001:db8:5::/48"), Some(IpAddr::V6(v6("2001:db8::100"))));
        rig.input(Input::SetOriginated(vec![own, Originated::new(net("2001:db8:6::/48"), None)]));
        let conn = up(&mut rig, 0, remote, local, link);
        let said = rig.said(conn);
        let expected = NextHop::V6 { global: v6("2001:db8::100"), link_local: expected.map(v6) };
        let told = next_hops(&said);
        assert!(!told.is_empty() && told.iter().all(|next_hop| *next_hop == expected), "{remote}: {told:?}");
    }
}

#[test]
fn without_a_global_address_the_link_local_one_stands_alone() {
    let mut rig = Rig::new(vec![neighbour("fe80::1", PeerKind::Internal)]);
    rig.input(Input::SetOriginated(vec![Originated::new(net(PREFIX), None)]));
    let conn = up(&mut rig, 0, "fe80::1", "fe80::100", Some(link(None)));
    let said = rig.said(conn);
    assert_eq!(next_hops(&said), [NextHop::V6 { global: v6("fe80::100"), link_local: None }]);
}

#[test]
fn link_local_next_hops_reach_the_forwarding_with_their_interface_and_go_no_further() {
    for (global, link_local, on_link, address, passed_on) in [
        ("2001:db8::7", Some("fe80::7"), true, Some("2001:db8::7"), true),
        ("fe80::7", None, true, Some("fe80::7"), false),
        ("fe80::7", Some("fe80::7"), true, Some("fe80::7"), false),
        ("::", Some("fe80::7"), true, Some("fe80::7"), false),
        // Nobody on the way knows which link is meant.
        ("2001:db8::7", Some("fe80::7"), false, Some("2001:db8::7"), true),
        ("fe80::7", None, false, None, false),
        // Our own.
        ("fe80::100", None, true, None, false),
    ] {
        let keep =
            PeerConfig { next_hop: NextHopMode::Keep, ..neighbour("2001:db8::2", PeerKind::InternalClient) };
        let mut rig = Rig::new(vec![neighbour("2001:db8::1", PeerKind::InternalClient), keep]);
        let shared = || on_link.then(|| link(Some("2001:db8::100")));
        let one = up(&mut rig, 0, "2001:db8::1", "2001:db8::100", shared());
        let two = up(&mut rig, 1, "2001:db8::2", "2001:db8::100", shared());
        rig.said(two);
        rig.send(one, &announcement(global, link_local));
        rig.pass(std::time::Duration::from_secs(1));
        let case = format!("{global} {link_local:?} {on_link}");
        let told = rig.events.iter().rev().find_map(|event| match event {
            Event::RouteChanges(changes) => Some(changes[0].next_hops.clone()),
            _ => None,
        });
        let link_local = on_link.then(|| (v6("fe80::7"), "eth0".into()));
        let hop = address.map(|address| vec![ForwardingHop { address: IpAddr::V6(v6(address)), link_local }]);
        assert_eq!(told, hop, "{case}");
        let global = NextHop::V6 { global: v6("2001:db8::7"), link_local: None };
        let said = rig.said(two);
        assert_eq!(next_hops(&said), if passed_on { vec![global] } else { vec![] }, "{case}");
    }
}
