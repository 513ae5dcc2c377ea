//! What becomes of BGP when BFD says something (RFC 5882).

use super::*;
use crate::bfd::{SessionConfig, SessionStatus, State};
use crate::config::BfdConfig;

fn watched(strict: bool) -> PeerConfig {
    let session = SessionConfig { multiplier: 5, ..SessionConfig::default() };
    PeerConfig { bfd: Some(BfdConfig { session, strict }), ..client(1) }
}

fn status(state: State, failures: u64) -> SessionStatus {
    SessionStatus { state, failures, ..SessionStatus::default() }
}

impl Rig {
    fn bfd(&mut self, status: SessionStatus) {
        self.input(Input::Bfd(address(1), status));
    }

    /// A session with a route, BFD up; LLGR as the OPEN says.
    fn watched(open: crate::wire::Open) -> (Self, crate::io::ConnId) {
        let mut rig = Self::new(vec![watched(false), client(2)]);
        let conn = rig.accept(1);
        rig.establish(conn, open);
        rig.send(conn, &announce(1, &["10.1.0.0/24"], plain()));
        rig.send(conn, &end_of_rib(Family::Ipv4));
        rig.bfd(status(State::Up, 0));
        rig.said(conn);
        (rig, conn)
    }
}

/// An OPEN without long-lived graceful restart.
fn short_lived() -> crate::wire::Open {
    let mut open = Rig::open(1, false);
    open.capabilities.retain(|capability| !matches!(capability, Capability::LongLivedGracefulRestart(_)));
    open
}

#[test]
fn sessions_are_asked_for_changed_and_given_up() {
    let mut rig = Rig::new(vec![watched(false), client(2)]);
    let wanted = watched(false).bfd_session();
    assert_eq!(rig.bfd, [(address(1), wanted)]);
    assert_eq!(rig.peer(1).bfd, Some(SessionStatus::default()));
    assert_eq!(rig.peer(2).bfd, None);
    let conn = rig.up(1);
    // Other timers are no reason to touch BGP.
    let mut slower = watched(false);
    slower.bfd.as_mut().unwrap().session.min_tx = SECOND;
    rig.input(Input::SetPeer(Arc::new(slower.clone())));
    rig.input(Input::SetPeer(Arc::new(client(1))));
    rig.input(Input::SetPeer(Arc::new(slower.clone())));
    rig.input(Input::RemovePeer(address(1)));
    let asked: Vec<_> = rig.bfd.iter().skip(1).map(|(_, session)| *session).collect();
    assert_eq!(asked, [slower.bfd_session(), None, slower.bfd_session(), None]);
    assert!(rig.wires[&conn].closed);
}

#[test]
fn without_bfd_on_the_other_side_bgp_goes_on() {
    let mut rig = Rig::new(vec![watched(false)]);
    rig.up(1);
    for n in 0..5 {
        rig.bfd(status([State::Down, State::Init][n % 2], 0));
    }
    assert_eq!(rig.peer(1).state, PeerState::Established);
}

#[test]
fn a_failure_ends_the_session_and_the_routes() {
    let (mut rig, conn) = Rig::watched(short_lived());
    assert_eq!(rig.prefixes(), ["10.1.0.0/24"]);
    rig.bfd(status(State::Down, 1));
    let said = rig.said(conn);
    assert_eq!(notification(&said), Some(NotificationCode::Cease(CeaseSubcode::BfdDown)));
    assert!(rig.wires[&conn].closed);
    assert_eq!(rig.prefixes(), Vec::<String>::new(), "no restart time for a path that is gone");
    let peer = rig.peer(1);
    assert!(peer.last_error.unwrap().contains("BFD failed"), "{:?}", rig.events);
    let seen =
        |state| rig.events.iter().any(|e| matches!(e, Event::BfdChanged { state: s, .. } if *s == state));
    assert!(seen(State::Up) && seen(State::Down));
    // The next session needs no BFD.
    rig.pass(SECOND * 3);
    rig.up(1);
}

#[test]
fn a_failure_that_was_over_before_it_was_told_is_one_all_the_same() {
    let (mut rig, conn) = Rig::watched(short_lived());
    rig.bfd(status(State::Up, 1));
    assert!(rig.wires[&conn].closed);
}

#[test]
fn routes_of_a_failed_path_are_the_last_resort_where_both_know_long_lived_graceful_restart() {
    let (mut rig, conn) = Rig::watched(Rig::open(1, false));
    rig.bfd(status(State::Down, 1));
    assert!(rig.wires[&conn].closed);
    let routes = rig.routes();
    assert!(routes[0].long_lived_stale, "{routes:?}");
    let other = rig.up(2);
    rig.send(other, &announce(2, &["10.1.0.0/24"], plain()));
    let best = rig.routes().into_iter().find(|route| route.best).unwrap();
    assert_eq!(best.next_hop, Some(address(2)), "any other path is better");
}

#[test]
fn an_administrator_may_take_bfd_down() {
    let (mut rig, conn) = Rig::watched(short_lived());
    rig.bfd(SessionStatus { remote_state: State::AdminDown, ..status(State::Down, 0) });
    assert!(!rig.wires[&conn].closed);
    assert_eq!(rig.peer(1).state, PeerState::Established);
}

#[test]
fn a_graceful_restart_is_aborted_only_by_a_bfd_that_outlives_the_peers_process() {
    for independent in [false, true] {
        let (mut rig, conn) = Rig::watched(short_lived());
        rig.bfd(SessionStatus { remote_independent: independent, ..status(State::Up, 0) });
        rig.input(Input::Closed { conn, reason: "the process died".to_owned() });
        assert_eq!(rig.prefixes(), ["10.1.0.0/24"], "kept for the restart");
        rig.bfd(status(State::Down, 1));
        assert_eq!(rig.prefixes().is_empty(), independent);
    }
}

#[test]
fn a_strict_peer_waits_for_bfd() {
    let dialling = PeerConfig { passive: false, ..watched(true) };
    let mut rig = Rig::new(vec![dialling]);
    rig.pass(SECOND * 60);
    assert_eq!((rig.dials.len(), rig.peer(1).state), (0, PeerState::Idle));
    let conn = rig.accept(1);
    assert!(rig.wires[&conn].closed);
    assert!(matches!(rig.logs.last(), Some(Log::Refused(_, why)) if why.contains("BFD")));
    rig.bfd(status(State::Up, 0));
    assert_eq!(rig.dials.len(), 1);
    // Lost again before BGP is up: nothing is dialled until it is back.
    rig.bfd(status(State::Down, 1));
    rig.pass(SECOND * 60);
    assert_eq!((rig.dials.len(), rig.peer(1).state), (1, PeerState::Idle));
    rig.bfd(status(State::Up, 1));
    assert_eq!(rig.dials.len(), 2);
    // And one that is strict no more does not wait.
    rig.bfd(status(State::Down, 2));
    rig.input(Input::SetPeer(Arc::new(PeerConfig { passive: false, ..watched(false) })));
    rig.pass(SECOND * 60);
    assert!(rig.dials.len() > 2);
}

/// Whoever connects from a range becomes a peer with a BFD session; BGP begins when that is up.
#[test]
fn a_strict_peer_of_a_range_has_time_for_bfd() {
    let template = PeerConfig { remote: address(0), ..watched(true) };
    let range = crate::config::PeerRange { prefix: net("10.0.0.0/28"), template, max: 1 };
    let mut rig = Rig::new(Vec::new());
    let wait = SpeakerConfig::new(router_id(100), AS).pending.timeout;
    rig.input(Input::SetRanges(vec![range]));
    let conn = rig.accept(1);
    assert!(rig.wires[&conn].closed);
    rig.pass(SECOND);
    rig.bfd(status(State::Up, 0));
    rig.pass(2 * wait);
    let conn = rig.up(1);
    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    rig.pass(SECOND);
    assert_eq!(rig.bfd, [(address(1), watched(true).bfd_session())], "its BFD goes on");
    rig.bfd(status(State::Down, 1));
    assert!(rig.speaker.peers().is_empty());
    assert_eq!(rig.bfd.last(), Some(&(address(1), None)));
    // Where BFD never comes up the place is another's after a time, of which a successor knows.
    rig.accept(1);
    rig.pass(wait / 2);
    rig.hand_over();
    rig.pass(wait / 2 - SECOND);
    assert_eq!(rig.speaker.peers().len(), 1);
    rig.pass(2 * SECOND);
    assert!(rig.speaker.peers().is_empty());
}
