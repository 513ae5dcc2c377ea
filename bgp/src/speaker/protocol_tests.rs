//! Protection, draining, add-path and the other things that not every session has.

use super::rig::*;
use crate::config::{PeerConfig, PeerKind, PeerRange, SpeakerConfig};
use crate::io::{ConnId, Input, Log};
use crate::security::Password;
use crate::session::negotiate;
use crate::status::{Event, PeerState};
use crate::wire::{
    AddPathFamily, AddPathMode, AfiSafi, AsPath, Capability, Community, Message, NextHop, Nlri,
    PathAttributes, Reach, Update,
};
use std::sync::Arc;

fn client(last: u8) -> PeerConfig {
    passive(last, PeerKind::InternalClient)
}

#[test]
fn keys_reach_the_listener_and_leave_it_with_the_peer() {
    let safe = PeerConfig { password: Password::new(b"secret").ok(), ..client(1) };
    let mut rig = Rig::new(vec![safe.clone(), client(2)]);
    assert_eq!(rig.keys, [("10.0.0.1/32".to_owned(), true)]);
    let (one, two) = (rig.up(1), rig.up(2));
    assert_eq!(rig.protected, [one]);
    rig.input(Input::SetPeer(Arc::new(PeerConfig { password: Password::new(b"new").ok(), ..safe.clone() })));
    assert!(rig.wires[&one].closed, "a session goes on under its own key only");
    assert!(!rig.wires[&two].closed);
    rig.input(Input::SetPeer(Arc::new(PeerConfig { password: None, ..safe.clone() })));
    rig.input(Input::SetPeer(Arc::new(safe)));
    rig.input(Input::SetPeers(vec![client(2).into()]));
    assert_eq!(rig.keys.iter().map(|(_, set)| *set).collect::<Vec<_>>(), [true, true, false, true, false]);
}

#[test]
fn keys_of_tcp_ao_roll_over_under_a_session() {
    let with = |keys: &str| PeerConfig {
        password: Password::parse(format!("tcp-ao\n{keys}").as_bytes()).ok(),
        ..client(1)
    };
    let mut rig = Rig::new(vec![with("1 hmac-sha-1-96 x")]);
    let conn = rig.up(1);
    for keys in ["1 hmac-sha-1-96 x\n2 hmac-sha-1-96 y", "2 hmac-sha-1-96 y"] {
        rig.input(Input::SetPeer(Arc::new(with(keys))));
    }
    assert_eq!((rig.rekeyed.as_slice(), rig.peer(1).established_count), ([conn, conn].as_slice(), 1));
    assert_eq!(rig.keys.len(), 3, "new connections, too");
    rig.input(Input::SetPeer(Arc::new(with("3 hmac-sha-1-96 z"))));
    assert!(rig.wires[&conn].closed, "no key stays");
}

#[test]
fn a_connection_that_waited_unsigned_is_not_admitted_by_a_peer_with_a_password() {
    let mut rig = Rig::new(vec![]);
    let conn = rig.accept(1);
    rig.input(Input::SetPeers(vec![
        PeerConfig { password: Password::new(b"secret").ok(), ..client(1) }.into(),
    ]));
    assert!(rig.wires[&conn].closed);
    assert!(rig.logs.iter().any(|log| matches!(log, Log::ParkedDropped(..))));
    assert_ne!(rig.peer(1).state, PeerState::Established);
}

fn updates(messages: &[Message]) -> impl Iterator<Item = &Update> {
    messages.iter().filter_map(|message| match message {
        Message::Update(update) => Some(update),
        _ => None,
    })
}

fn leaving() -> PathAttributes {
    PathAttributes { communities: [Community::GRACEFUL_SHUTDOWN].into_iter().collect(), ..Default::default() }
}

#[test]
fn routes_of_a_peer_that_drains_lose_against_any_other() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (one, two) = (rig.up(1), rig.up(2));
    rig.send(one, &announce(1, &["10.1.0.0/24", "10.2.0.0/24"], PathAttributes::default()));
    rig.send(two, &announce(2, &["10.1.0.0/24"], PathAttributes::default()));
    let best = |rig: &mut Rig| {
        let routes = rig.routes();
        let best: Vec<_> = routes.into_iter().filter(|route| route.best).collect();
        best.iter().map(|route| (route.next_hop, route.local_pref)).collect::<Vec<_>>()
    };
    assert_eq!(best(&mut rig)[0], (Some(address(1)), Some(100)));
    rig.send(one, &announce(1, &["10.1.0.0/24", "10.2.0.0/24"], leaving()));
    let after = best(&mut rig);
    assert_eq!(after[0], (Some(address(2)), Some(100)));
    assert_eq!(after[1], (Some(address(1)), Some(0)), "and is used where there is no other");
}

#[test]
fn draining_says_so_to_everyone_and_can_be_taken_back() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (one, two) = (rig.up(1), rig.up(2));
    rig.send(one, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.pass(std::time::Duration::from_secs(1));
    rig.said(two);
    for draining in [true, false] {
        rig.input(Input::Drain(draining));
        rig.input(Input::Drain(draining));
        let said = rig.said(two);
        let said: Vec<&Update> = updates(&said).collect();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].attributes.communities.has(&Community::GRACEFUL_SHUTDOWN), draining);
        assert_eq!(said[0].attributes.local_pref, Some(if draining { 0 } else { 100 }));
        assert!(said[0].withdrawn.is_empty());
    }
}

pub(super) fn external(last: u8) -> PeerConfig {
    PeerConfig { remote_as: AS + 1, ..passive(last, PeerKind::External) }
}

pub(super) fn path(asns: &[u32]) -> PathAttributes {
    PathAttributes { as_path: AsPath::sequence(asns.iter().copied()), ..Default::default() }
}

/// A session with AS + 1.
pub(super) fn up_external(rig: &mut Rig, last: u8) -> ConnId {
    let conn = rig.accept(last);
    let ours = SpeakerConfig::new(router_id(last), AS + 1);
    let peer = PeerConfig { remote_as: AS, ..PeerConfig::new(address(100), AS, PeerKind::External) };
    rig.establish(conn, negotiate::open(&ours, &peer, false));
    rig.renegotiate(conn, |wire| wire.peer = crate::wire::PeerKind::External);
    assert_eq!(rig.peer(last).state, PeerState::Established);
    conn
}

#[test]
fn an_external_peer_without_policy_exchanges_nothing() {
    let mut rig = Rig::new(vec![external(1), client(2)]);
    let (router, node) = (up_external(&mut rig, 1), rig.up(2));
    rig.send(router, &announce(1, &["192.0.2.0/24"], path(&[AS + 1])));
    rig.send(node, &announce(2, &["10.1.0.0/24"], PathAttributes::default()));
    assert_eq!(rig.prefixes(), ["10.1.0.0/24"]);
    let filtered = rig.routes().into_iter().find(|route| route.filtered).unwrap();
    assert!(filtered.reason.contains("RFC 8212"), "{}", filtered.reason);
    assert!(rig.speaker.advertised(address(1)).is_empty());
    let explained = rig.speaker.explain(net("10.1.0.0/24"));
    assert!(explained.advertised.iter().any(|to| to.reason.contains("RFC 8212")), "{explained:?}");
    // A policy, even one that accepts everything, is one; the change needs no new session.
    rig.said(router);
    rig.input(Input::SetPeer(Arc::new(PeerConfig { policy_required: false, ..external(1) })));
    let said = rig.said(router);
    assert!(said.iter().any(|message| matches!(message, Message::RouteRefresh(_))), "{said:?}");
    assert_eq!(rig.speaker.advertised(address(1)).len(), 1);
    rig.send(router, &announce(1, &["192.0.2.0/24"], path(&[AS + 1])));
    assert_eq!(rig.prefixes().len(), 2);
    assert_eq!(rig.peer(1).established_count, 1);
}

#[test]
fn the_path_of_an_external_peer_begins_with_its_as() {
    let open = PeerConfig { policy_required: false, ..external(1) };
    let mut rig = Rig::new(vec![open.clone()]);
    let router = up_external(&mut rig, 1);
    rig.send(router, &announce(1, &["192.0.2.0/24"], path(&[AS + 2, AS + 1])));
    rig.send(router, &announce(1, &["198.51.100.0/24"], path(&[AS + 1, AS + 2])));
    assert_eq!(rig.prefixes(), ["198.51.100.0/24"]);
    rig.input(Input::SetPeer(Arc::new(PeerConfig { enforce_first_as: false, ..open })));
    rig.send(router, &announce(1, &["192.0.2.0/24"], path(&[AS + 2, AS + 1])));
    assert_eq!(rig.prefixes().len(), 2);
}

#[test]
fn a_hidden_as_counts_in_loops_too() {
    let hidden = PeerConfig { local_as: Some(65010), policy_required: false, ..external(1) };
    let mut rig = Rig::new(vec![hidden]);
    let router = up_external(&mut rig, 1);
    rig.send(router, &announce(1, &["192.0.2.0/24"], path(&[AS + 1, AS])));
    rig.send(router, &announce(1, &["198.51.100.0/24"], path(&[AS + 1, 65010])));
    assert!(rig.prefixes().is_empty());
}

#[test]
fn several_paths_of_one_peer_are_told_apart_by_their_identifiers() {
    let mut rig = Rig::new(vec![PeerConfig { add_path_receive: true, ..client(1) }]);
    let conn = rig.accept(1);
    let mut open = Rig::open(1, false);
    let family = AddPathFamily { family: AfiSafi::Ipv4Unicast, mode: AddPathMode::Send };
    open.capabilities.push(Capability::AddPath(vec![family]));
    rig.establish(conn, open);
    rig.renegotiate(conn, |wire| wire.add_path_send = [AfiSafi::Ipv4Unicast].into_iter().collect());
    let announce = |id: u32, via: u8| {
        Message::Update(Update {
            reach: Some(Reach {
                next_hop: NextHop::from(address(via)),
                nlri: vec![Nlri { prefix: net("10.1.0.0/24"), path_id: Some(id) }].into(),
            }),
            attributes: PathAttributes { local_pref: Some(100), ..Default::default() },
            ..Update::default()
        })
    };
    rig.send(conn, &announce(1, 11));
    rig.send(conn, &announce(2, 12));
    let hops = |rig: &mut Rig| rig.routes().iter().filter_map(|route| route.next_hop).collect::<Vec<_>>();
    assert_eq!(hops(&mut rig), [address(11), address(12)]);
    let multipath = rig.events.iter().any(|event| {
        matches!(event, Event::RouteChanges(changes)
        if changes.iter().any(|change| change.next_hops == [address(11).into(), address(12).into()]))
    });
    assert!(multipath, "both are used");
    rig.send(conn, &announce(2, 13));
    assert_eq!(hops(&mut rig), [address(11), address(13)], "the same identifier replaces");
    let gone = Nlri { prefix: net("10.1.0.0/24"), path_id: Some(1) };
    rig.send(conn, &Message::Update(Update { withdrawn: vec![gone].into(), ..Update::default() }));
    assert_eq!(hops(&mut rig), [address(13)]);
    assert_eq!(rig.peer(1).families[0].received, 1);
}

#[test]
fn end_of_rib_comes_after_everything_that_was_known_when_the_session_came_up() {
    let mut rig = Rig::new(vec![client(1), client(2), client(3)]);
    // The first joiner's snapshot is empty; what follows is in the log only.
    let (one, _two) = (rig.up(1), rig.up(2));
    rig.send(one, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.pass(std::time::Duration::from_secs(1));
    let three = rig.up(3);
    let said = rig.said(three);
    let order: Vec<_> =
        updates(&said).map(|update| (update.announces(), update.end_of_rib.is_some())).collect();
    assert_eq!(order, [(true, false), (false, true), (false, true)]);
}

fn range(prefix: &str, template: PeerConfig) -> PeerRange {
    PeerRange { prefix: net(prefix), template, max: 3 }
}

#[test]
fn whoever_connects_from_a_range_is_a_peer_until_it_is_gone() {
    let mut rig = Rig::new(vec![client(1)]);
    let early = rig.accept(7);
    rig.input(Input::SetRanges(vec![range("10.0.0.0/24", client(0))]));
    rig.establish(early, Rig::open(7, false));
    let two = rig.up(2);
    let remotes = |rig: &Rig| rig.speaker.peers().iter().map(|peer| peer.remote).collect::<Vec<_>>();
    assert_eq!(remotes(&rig), [address(1), address(2), address(7)]);
    rig.send(two, &announce(2, &["10.1.0.0/24"], PathAttributes::default()));
    assert_eq!(rig.prefixes(), ["10.1.0.0/24"]);
    rig.input(Input::SetPeers(vec![client(1).into()]));
    assert_eq!(rig.peer(2).state, PeerState::Established, "the list of peers is of the configured ones");
    // Gone, but its routes are kept for its return; then it is forgotten with them.
    rig.input(Input::Closed { conn: two, reason: "reset".to_owned() });
    assert_eq!(rig.prefixes(), ["10.1.0.0/24"]);
    assert!(remotes(&rig).contains(&address(2)));
    rig.pass(std::time::Duration::from_secs(200_000));
    assert!(!remotes(&rig).contains(&address(2)));
    rig.input(Input::SetRanges(Vec::new()));
    assert_eq!(remotes(&rig), [address(1)]);
    assert!(rig.wires[&early].closed);
}

#[test]
fn a_range_has_one_key_a_longest_prefix_and_an_end() {
    let password = Password::new(b"secret").ok();
    let wide = range("10.0.0.0/8", PeerConfig { password, ..client(0) });
    let narrow = range("10.0.0.4/30", PeerConfig { remote_as: AS + 1, ..passive(0, PeerKind::External) });
    let mut rig = Rig::new(vec![]);
    rig.input(Input::SetRanges(vec![wide.clone(), narrow]));
    assert_eq!(rig.keys, [("10.0.0.0/8".to_owned(), true)]);
    up_external(&mut rig, 5);
    for last in 1..4 {
        rig.up(last);
    }
    let refused = rig.accept(9);
    rig.establish(refused, Rig::open(9, false));
    assert_eq!(rig.speaker.peers().len(), 4, "the wide range is full");
    assert!(rig.logs.iter().any(|log| matches!(log, Log::Refused(..))));
    // One that is configured from now on keeps its session and gets a key of its own.
    let own = PeerConfig { remote: address(1), passive: true, ..wide.template };
    rig.input(Input::SetPeer(Arc::new(own)));
    assert_eq!(rig.peer(1).established_count, 1);
    rig.input(Input::SetRanges(Vec::new()));
    let keys: Vec<(&str, bool)> = rig.keys.iter().map(|(from, set)| (from.as_str(), *set)).collect();
    assert_eq!(keys, [("10.0.0.0/8", true), ("10.0.0.1/32", true), ("10.0.0.0/8", false)]);
    assert_eq!(rig.speaker.peers().len(), 1);
}
