//! Protection, draining, add-path and the other things that not every session has.

use super::rig::*;
use crate::config::{PeerConfig, PeerKind};
use crate::io::{Input, Log};
use crate::security::Password;
use crate::status::PeerState;

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
