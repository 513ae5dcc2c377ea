//! Protection, draining, add-path and the other things that not every session has.

use super::rig::*;
use crate::config::{PeerConfig, PeerKind};
use crate::io::{Input, Log};
use crate::security::Password;
use crate::status::PeerState;
use crate::wire::{Community, Message, PathAttributes, Update};

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
    rig.input(Input::SetPeer(Box::new(PeerConfig { password: Password::new(b"new").ok(), ..safe.clone() })));
    assert!(rig.wires[&one].closed, "a session goes on under its own key only");
    assert!(!rig.wires[&two].closed);
    rig.input(Input::SetPeer(Box::new(PeerConfig { password: None, ..safe.clone() })));
    rig.input(Input::SetPeer(Box::new(safe)));
    rig.input(Input::SetPeers(vec![client(2)]));
    assert_eq!(rig.keys.iter().map(|(_, set)| *set).collect::<Vec<_>>(), [true, true, false, true, false]);
}

#[test]
fn a_connection_that_waited_unsigned_is_not_admitted_by_a_peer_with_a_password() {
    let mut rig = Rig::new(vec![]);
    let conn = rig.accept(1);
    rig.input(Input::SetPeers(vec![PeerConfig { password: Password::new(b"secret").ok(), ..client(1) }]));
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
