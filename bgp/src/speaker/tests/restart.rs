//! Restarts on either side, and what becomes of routes meanwhile (RFC 4724, 8538, 9494).

use super::*;

#[test]
fn silence_ends_the_session_and_keeps_the_routes() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
    rig.said(conn);
    rig.pass(89 * SECOND);
    assert_eq!(rig.peer(1).state, PeerState::Established);
    assert!(rig.said(conn).iter().filter(|message| **message == Message::Keepalive).count() >= 2);
    rig.pass(2 * SECOND);
    assert_eq!(notification(&rig.said(conn)), Some(NotificationCode::HoldTimerExpired));
    assert!(rig.routes().iter().all(|route| route.stale && route.best));
    rig.pass(118 * SECOND);
    assert!(!rig.routes()[0].long_lived_stale);
    rig.pass(2 * SECOND);
    assert!(rig.routes()[0].long_lived_stale, "after the restart time");
    rig.pass(86_400 * SECOND);
    assert!(rig.routes().is_empty());
}

#[test]
fn without_graceful_restart_routes_go_with_the_session() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.accept(1);
    let open = crate::wire::Open::new(AS, 90, router_id(1), vec![]);
    rig.establish(conn, open);
    rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
    assert_eq!(rig.prefixes().len(), 1);
    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    assert!(rig.routes().is_empty());
}

#[test]
fn a_notification_keeps_routes_and_a_hard_reset_does_not() {
    for (hard, kept) in [(false, 1), (true, 0)] {
        let mut rig = Rig::new(vec![client(1)]);
        let conn = rig.up(1);
        rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
        let note = Notification::cease(CeaseSubcode::AdministrativeReset);
        let note = if hard { note.into_hard_reset() } else { note };
        rig.send(conn, &Message::Notification(note));
        assert!(rig.said(conn).iter().all(|message| !matches!(message, Message::Notification(_))));
        assert_eq!(rig.routes().len(), kept);
    }
}

#[test]
fn no_llgr_routes_end_with_the_restart_time() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    let attributes = PathAttributes { communities: [Community::NO_LLGR].into_iter().collect(), ..plain() };
    rig.send(conn, &announce(1, &["10.1.1.0/24"], attributes));
    rig.send(conn, &announce(1, &["10.1.2.0/24"], plain()));
    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    rig.pass(121 * SECOND);
    assert_eq!(rig.prefixes(), ["10.1.2.0/24"]);
}

/// A peer that comes up again and again and never tells its table keeps nothing alive (RFC 9494 section 4.2).
#[test]
fn the_long_lived_stale_time_begins_once() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    for _ in 0..3 {
        rig.pass(20_000 * SECOND);
        let conn = rig.accept(1);
        rig.establish(conn, Rig::open(1, true));
        assert_eq!(rig.prefixes(), ["10.1.1.0/24"]);
        rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    }
    rig.pass(26_000 * SECOND);
    assert_eq!(rig.prefixes(), ["10.1.1.0/24"]);
    rig.pass(1_000 * SECOND);
    assert!(rig.prefixes().is_empty(), "a day and the restart time are over");
}

#[test]
fn long_lived_stale_routes_go_only_to_peers_that_know_them() {
    let mut rig = Rig::new(vec![client(1), client(2), client(3)]);
    let source = rig.up(1);
    let knows = rig.up(2);
    let unaware = rig.accept(3);
    let mut open = Rig::open(3, false);
    open.capabilities.retain(|c| !matches!(c, Capability::LongLivedGracefulRestart(_)));
    rig.establish(unaware, open);
    rig.send(source, &announce(1, &["10.1.1.0/24"], plain()));
    rig.pass(SECOND);
    assert_eq!(announced(&rig.said(unaware)), ["10.1.1.0/24"]);
    rig.said(knows);
    rig.input(Input::Closed { conn: source, reason: "reset".to_owned() });
    for _ in 0..13 {
        rig.pass(10 * SECOND);
        rig.send(knows, &Message::Keepalive);
        rig.send(unaware, &Message::Keepalive);
    }
    assert_eq!(withdrawn(&rig.said(unaware)), ["10.1.1.0/24"]);
    let said = rig.said(knows);
    let update = updates(&said).next().unwrap();
    assert!(update.attributes.communities.has(&Community::LLGR_STALE));
}

#[test]
fn routes_that_are_stale_elsewhere_are_the_last_resort_here() {
    let mut rig = Rig::new(vec![client(1), client(2), client(3), client(4)]);
    let (one, two, knows) = (rig.up(1), rig.up(2), rig.up(3));
    let unaware = rig.accept(4);
    let mut open = Rig::open(4, false);
    open.capabilities.retain(|c| !matches!(c, Capability::LongLivedGracefulRestart(_)));
    rig.establish(unaware, open);
    let marked = PathAttributes { communities: [Community::LLGR_STALE].into_iter().collect(), ..plain() };
    rig.send(one, &announce(1, &["10.1.1.0/24"], marked));
    rig.pass(SECOND);
    assert!(announced(&rig.said(unaware)).is_empty());
    let said = rig.said(knows);
    let told = updates(&said).find(|update| update.announces()).unwrap();
    assert!(told.attributes.communities.has(&Community::LLGR_STALE));
    // Whatever else speaks for it.
    let far = PathAttributes { as_path: AsPath::sequence([1, 2, 3]), ..plain() };
    rig.send(two, &announce(2, &["10.1.1.0/24"], far));
    rig.pass(SECOND);
    assert_eq!(announced(&rig.said(unaware)), ["10.1.1.0/24"]);
    assert_eq!(rig.routes()[0].next_hop, Some(address(2)));
    let step = rig.speaker.explain(net("10.1.1.0/24")).steps.remove(0);
    assert!(step.contains("not long-lived stale"), "{step}");
}

#[test]
fn a_restarted_peer_takes_over_its_own_session() {
    let mut rig = Rig::new(vec![client(1)]);
    let old = rig.up(1);
    rig.send(old, &announce(1, &["10.1.1.0/24", "10.1.2.0/24"], plain()));
    rig.send(old, &end_of_rib(Family::Ipv4));
    rig.pass(20 * SECOND);
    rig.said(old);
    let new = rig.accept(1);
    assert!(!rig.wires[&old].closed, "a mere connection ends nothing");
    rig.establish(new, Rig::open(1, true));
    assert!(rig.wires[&old].closed);
    assert_eq!(notification(&rig.said(old)), None);
    assert_eq!(rig.peer(1).established_count, 2);
    assert!(rig.routes().iter().all(|route| route.stale));
    rig.send(new, &announce(1, &["10.1.1.0/24"], plain()));
    rig.send(new, &end_of_rib(Family::Ipv4));
    assert_eq!(rig.prefixes(), ["10.1.1.0/24"]);
    assert!(rig.routes().iter().all(|route| !route.stale));
}

#[test]
fn a_restarting_reflector_waits_for_its_peers_before_it_speaks() {
    let config = SpeakerConfig { restarting: true, ..SpeakerConfig::new(router_id(100), AS) };
    let mut rig = Rig::with(config, vec![client(1), client(2)]);
    let first = rig.up(1);
    rig.send(first, &announce(1, &["10.1.1.0/24"], plain()));
    for family in Family::ALL {
        rig.send(first, &end_of_rib(family));
    }
    rig.pass(SECOND);
    let said = rig.said(first);
    let Message::Open(open) = &said[0] else { panic!("{said:?}") };
    assert!(open.capabilities.iter().any(|c| matches!(c, Capability::GracefulRestart(gr) if gr.restarted)));
    assert_eq!(updates(&said).count(), 0, "End-of-RIB now would make clients drop the others' routes");
    let second = rig.up(2);
    for family in Family::ALL {
        rig.send(second, &end_of_rib(family));
    }
    let said = rig.said(first);
    assert_eq!((announced(&said).len(), updates(&said).count()), (1, 3), "table and two End-of-RIBs");
    let mut rig = Rig::with(
        SpeakerConfig { restarting: true, ..SpeakerConfig::new(router_id(100), AS) },
        vec![client(1), client(2)],
    );
    let first = rig.up(1);
    rig.pass(31 * SECOND);
    assert_eq!(updates(&rig.said(first)).count(), 2, "the deferral time ends the wait");
}

#[test]
fn the_restart_bit_is_in_the_first_open_only() {
    let config = SpeakerConfig { restarting: true, ..SpeakerConfig::new(router_id(100), AS) };
    let mut rig = Rig::with(config, vec![passive(1, PeerKind::Internal)]);
    for expected in [true, false] {
        let conn = rig.up(1);
        let said = rig.said(conn);
        let Message::Open(open) = &said[0] else { panic!("{said:?}") };
        let bits = open.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart(gr) => Some((gr.restarted, gr.families.iter().all(|f| f.forwarding))),
            _ => None,
        });
        assert_eq!(bits, Some((expected, true)), "forwarding is preserved in any case");
        rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    }
}

/// What a peer has told anew is as fresh as on the first day, also where it does not say End-of-RIB.
#[test]
fn a_long_lived_stale_time_that_is_over_is_not_remembered() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    rig.pass(86_000 * SECOND);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
    for _ in 0..10 {
        rig.pass(40 * SECOND);
        rig.send(conn, &Message::Keepalive);
    }
    assert_eq!(rig.peer(1).state, PeerState::Established);
    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
    rig.pass(1_000 * SECOND);
    assert_eq!(rig.prefixes(), ["10.1.1.0/24"]);
}

/// Within the restart time the F bit of graceful restart counts (RFC 4724 section 4.2); of long-lived stale routes, and
/// where there is no restart time, that of long-lived graceful restart (RFC 9494 section 4.2).
#[test]
fn each_capability_has_its_own_bit_for_forwarding() {
    let (at_once, later) = (SECOND, 121 * SECOND);
    for (restart, long_lived, away, kept) in [
        (None, true, at_once, true),
        (None, false, at_once, false),
        (Some(false), true, at_once, false),
        (Some(false), true, later, true),
        (Some(true), false, at_once, true),
        (Some(true), false, later, false),
    ] {
        let mut open = Rig::open(1, false);
        for capability in &mut open.capabilities {
            match capability {
                Capability::GracefulRestart(capability) => {
                    capability.families.retain(|_| restart.is_some());
                    capability.families.iter_mut().for_each(|f| f.forwarding = restart.unwrap());
                }
                Capability::LongLivedGracefulRestart(families) => {
                    families.iter_mut().for_each(|family| family.forwarding = long_lived);
                }
                _ => {}
            }
        }
        let mut rig = Rig::new(vec![client(1)]);
        let conn = rig.accept(1);
        rig.establish(conn, open.clone());
        rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
        rig.input(Input::Closed { conn, reason: "reset".to_owned() });
        rig.pass(away);
        assert_eq!(rig.prefixes(), ["10.1.1.0/24"]);
        let conn = rig.accept(1);
        rig.establish(conn, open);
        assert_eq!(rig.prefixes().len(), usize::from(kept), "{restart:?} {long_lived} {away:?}");
    }
}
