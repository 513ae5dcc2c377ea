use super::rig::*;
use crate::config::{EgressLimits, MaxPrefix, PeerConfig, PeerKind, PendingLimits, SpeakerConfig, Timers};
use crate::family::Family;
use crate::io::{Input, Log, StopMode};
use crate::policy::{Action, CidrMatch, CidrOperator, Filter, Policy, Rule};
use crate::status::{Event, MessageTypes, PeerState};
use crate::wire::{
    AsPath, Capability, CeaseSubcode, Community, Message, Notification, NotificationCode, OpenSubcode,
    PathAttributes, RefreshKind, RouteRefresh, Update,
};
use std::sync::Arc;
use std::time::Duration;

mod bfd;
mod differential;
mod egress;
mod restart;
mod table;

const SECOND: Duration = Duration::from_secs(1);

fn client(last: u8) -> PeerConfig {
    passive(last, PeerKind::InternalClient)
}

fn plain() -> PathAttributes {
    PathAttributes::default()
}

fn notification(messages: &[Message]) -> Option<NotificationCode> {
    match messages.last() {
        Some(Message::Notification(notification)) => Some(notification.code),
        _ => None,
    }
}

fn withdrawn(messages: &[Message]) -> Vec<String> {
    updates(messages).flat_map(|update| update.withdrawn.iter()).map(|nlri| nlri.prefix.to_string()).collect()
}

fn announced(messages: &[Message]) -> Vec<String> {
    updates(messages).flat_map(Update::announced).map(|(_, nlri)| nlri.prefix.to_string()).collect()
}

fn updates(messages: &[Message]) -> impl Iterator<Item = &Update> {
    messages.iter().filter_map(|message| match message {
        Message::Update(update) => Some(update),
        _ => None,
    })
}

#[test]
fn a_peer_with_another_as_is_refused() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.accept(1);
    let open = crate::wire::Open::new(64999, 90, router_id(1), vec![]);
    rig.send(conn, &Message::Open(open));
    let said = rig.said(conn);
    assert_eq!(notification(&said), Some(NotificationCode::Open(OpenSubcode::BadPeerAs)));
    assert!(rig.wires[&conn].closed);
    assert!(rig.peer(1).last_error.unwrap().contains("64999"));
    // What becomes of the next connection does not hide why.
    rig.pass(Duration::from_secs(120));
    let conn = rig.accept(1);
    rig.input(Input::Closed { conn, reason: "gone".to_owned() });
    assert_eq!(rig.peer(1).last_error.unwrap(), "gone");
    assert!(rig.peer(1).last_reset.unwrap().contains("64999"));
}

#[test]
fn messages_are_counted_by_type() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24"], plain()));
    rig.send(conn, &Message::Notification(Notification::cease(CeaseSubcode::HardReset)));
    let counters = rig.peer(1).messages;
    let once = MessageTypes { open: 1, update: 1, notification: 1, keepalive: 1, route_refresh: 0 };
    assert_eq!((counters.received, counters.received.total()), (once, 4));
    assert_eq!(counters.sent, MessageTypes { update: 0, notification: 0, ..once });
}

#[test]
fn prefixes_that_no_route_can_lead_to_are_ignored() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    let bad = ["224.0.0.0/24", "240.0.0.0/4", "255.255.255.255/32", "127.0.0.0/8"];
    let four = [&bad[..], &["0.0.0.0/0", "192.0.0.0/2"]].concat();
    rig.send(conn, &announce(1, &four, plain()));
    assert!(matches!(rig.logs.last(), Some(Log::Unroutable(_, first, 4)) if *first == net(bad[0])));
    let six = ["ff0e::/16", "fe80::/64", "::1/128", "::/0", "2001:db8::/32"]
        .map(|text| crate::wire::Nlri::new(net(text)));
    let update = Update {
        mp_reach: Some(crate::wire::Reach {
            next_hop: crate::wire::NextHop::from("2001:db8::1".parse::<std::net::IpAddr>().unwrap()),
            nlri: six.into_iter().collect(),
        }),
        attributes: plain(),
        ..Update::default()
    };
    rig.send(conn, &Message::Update(update));
    assert_eq!(rig.prefixes(), ["0.0.0.0/0", "192.0.0.0/2", "::/0", "2001:db8::/32"]);
    assert_eq!(rig.peer(1).messages.unroutable, 7);
    assert_eq!(rig.peer(1).state, PeerState::Established);
}

#[test]
fn a_refresh_of_an_unknown_kind_is_ignored() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.said(conn);
    let refresh = RouteRefresh { family: Family::Ipv4.into(), kind: RefreshKind::Other(7) };
    rig.send(conn, &Message::RouteRefresh(refresh));
    assert!(matches!(rig.logs.last(), Some(Log::UnknownRefresh(_, 7))));
    assert!(rig.said(conn).is_empty());
}

#[test]
fn prefixes_of_others_are_filtered_until_the_peer_may_announce_them() {
    let config =
        PeerConfig { authorised_origins: Some([net("10.1.0.0/16")].into_iter().collect()), ..client(1) };
    let mut rig = Rig::new(vec![config.clone()]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.7.0/24", "10.2.0.0/24"], plain()));
    assert_eq!(rig.prefixes(), ["10.1.7.0/24"]);
    assert_eq!((rig.peer(1).messages.unauthorised, rig.peer(1).families[0].filtered), (1, 1));
    assert!(
        matches!(rig.logs.last(), Some(Log::Unauthorised(_, prefix, 1)) if *prefix == net("10.2.0.0/24"))
    );
    let wider =
        PeerConfig { authorised_origins: Some([net("10.0.0.0/8")].into_iter().collect()), ..config.clone() };
    rig.input(Input::SetPeer(Arc::new(wider)));
    assert_eq!(rig.prefixes(), ["10.1.7.0/24", "10.2.0.0/24"]);
    rig.input(Input::SetPeer(Arc::new(config)));
    assert_eq!(rig.prefixes(), ["10.1.7.0/24"]);
    assert_eq!(rig.peer(1).established_count, 1, "the session went on");
}

#[test]
fn too_many_prefixes_end_the_session_and_bar_the_peer() {
    let max_prefix = Some(MaxPrefix { limit: 2, warn_percent: 50, restart: 60 * SECOND });
    let mut rig = Rig::new(vec![PeerConfig { max_prefix, ..client(1) }]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24"], plain()));
    assert!(rig.logs.contains(&Log::NearLimit(address(1), 1, 2)));
    rig.send(conn, &announce(1, &["10.1.2.0/24", "10.1.3.0/24"], plain()));
    let said = rig.said(conn);
    let Some(Message::Notification(reset)) = said.last() else { panic!("{said:?}") };
    let cause = reset.hard_reset_cause().expect("a Hard Reset");
    assert_eq!(cause.code, NotificationCode::Cease(CeaseSubcode::MaximumPrefixes));
    assert_eq!(cause.data[..], [0, 1, 1, 0, 0, 0, 2], "family and limit (RFC 4486 section 4)");
    assert!(rig.prefixes().is_empty(), "not even graceful restart keeps them");
    let again = rig.accept(1);
    assert!(rig.wires[&again].closed, "barred");
    rig.pass(61 * SECOND);
    let again = rig.accept(1);
    assert!(!rig.wires[&again].closed);
}

/// Neither a connection that was there before nor a change of its settings lets a barred peer in.
#[test]
fn a_bar_has_no_way_around_it() {
    let max_prefix = Some(MaxPrefix { limit: 1, warn_percent: 50, restart: 60 * SECOND });
    let config = PeerConfig { max_prefix, passive: false, ..client(1) };
    let mut rig = Rig::new(vec![config.clone()]);
    let conn = rig.up(1);
    let second = rig.accept(1);
    assert!(!rig.wires[&second].closed);
    let dials = rig.dials.len();
    rig.send(conn, &announce(1, &["10.1.2.0/24", "10.1.3.0/24"], plain()));
    assert!(rig.wires[&second].closed);
    assert_eq!(
        notification(&rig.said(second)),
        Some(NotificationCode::Cease(CeaseSubcode::ConnectionRejected))
    );
    assert_eq!(rig.peer(1).state, PeerState::Idle);
    rig.pass(30 * SECOND);
    let other_port = PeerConfig { port: 1790, ..config };
    rig.input(Input::SetPeer(Arc::new(other_port.clone())));
    rig.pass(29 * SECOND);
    assert_eq!((rig.peer(1).state, rig.dials.len()), (PeerState::Idle, dials));
    rig.pass(2 * SECOND);
    assert!(rig.dials.len() > dials);
    // Another limit is another chance.
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.2.0/24", "10.1.3.0/24"], plain()));
    let dials = rig.dials.len();
    let max_prefix = Some(MaxPrefix { limit: 2, warn_percent: 50, restart: 60 * SECOND });
    rig.input(Input::SetPeer(Arc::new(PeerConfig { max_prefix, ..other_port })));
    assert_eq!(rig.dials.len(), dials + 1);
}

#[test]
fn attributes_of_what_is_ignored_are_forgotten() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.pass(SECOND);
    let before = rig.speaker.attribute_sets();
    for med in 0..100 {
        rig.send(conn, &announce(1, &["224.0.0.0/24"], PathAttributes { med: Some(med), ..plain() }));
        assert_eq!(rig.speaker.attribute_sets(), before);
    }
}

/// Both connect at once; the connection of the higher identifier stays.
#[test]
fn collisions_leave_the_connection_of_the_higher_identifier() {
    for (last, ours_stays) in [(1, true), (200, false)] {
        let mut rig = Rig::new(vec![PeerConfig::new(address(last), AS, PeerKind::Internal)]);
        let (ours, _) = rig.dials[0];
        rig.wires.entry(ours).or_default();
        let local = std::net::SocketAddr::new(address(100), 4000);
        rig.input(Input::Connected { conn: ours, local });
        let theirs = rig.accept(last);
        let open = Message::Open(Rig::open(last, false));
        rig.send(ours, &open);
        rig.send(theirs, &open);
        let (stays, goes) = if ours_stays { (ours, theirs) } else { (theirs, ours) };
        assert!(rig.wires[&goes].closed && !rig.wires[&stays].closed);
        let cease = NotificationCode::Cease(CeaseSubcode::ConnectionCollision);
        assert_eq!(notification(&rig.said(goes)), Some(cease));
        rig.send(stays, &Message::Keepalive);
        assert_eq!(rig.peer(last).state, PeerState::Established);
        assert_eq!(rig.peer(last).local, Some(address(100)));
    }
}

#[test]
fn an_incoming_session_wins_over_a_dial_that_hangs() {
    let mut rig = Rig::new(vec![PeerConfig::new(address(1), AS, PeerKind::Internal)]);
    let (dial, _) = rig.dials[0];
    let conn = rig.accept(1);
    rig.establish(conn, Rig::open(1, false));
    assert_eq!(rig.peer(1).state, PeerState::Established);
    assert!(rig.wires[&dial].closed, "the dial is given up");
    rig.pass(60 * SECOND);
    assert_eq!(rig.dials.len(), 1);
}

#[test]
fn a_change_of_one_peer_touches_only_that_peer() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (first, second) = (rig.up(1), rig.up(2));
    rig.said(first);
    rig.said(second);
    rig.events.clear();
    let slower = PeerConfig { timers: Timers { hold: 30 * SECOND, ..Timers::default() }, ..client(1) };
    rig.input(Input::SetPeers(vec![slower.into(), client(2).into()]));
    let cease = NotificationCode::Cease(CeaseSubcode::OtherConfigurationChange);
    assert_eq!(notification(&rig.said(first)), Some(cease));
    assert!(rig.said(second).is_empty() && !rig.wires[&second].closed);
    let touched = rig
        .events
        .iter()
        .all(|event| matches!(event, Event::PeerChanged { remote, .. } if *remote == address(1)));
    assert!(touched);
    rig.input(Input::SetPeers(vec![client(2).into()]));
    assert_eq!(rig.speaker.peers().len(), 1);
    assert!(rig.said(second).is_empty());
}

#[test]
fn non_clients_hear_of_clients_and_not_of_each_other() {
    let mut rig = Rig::new(vec![client(1), passive(2, PeerKind::Internal), passive(3, PeerKind::Internal)]);
    let (from_client, from_other, listens) = (rig.up(1), rig.up(2), rig.up(3));
    rig.send(from_client, &announce(1, &["10.1.1.0/24"], plain()));
    rig.send(from_other, &announce(2, &["10.1.2.0/24"], plain()));
    rig.pass(SECOND);
    assert_eq!(announced(&rig.said(listens)), ["10.1.1.0/24"]);
    assert_eq!(announced(&rig.said(from_client)), ["10.1.1.0/24", "10.1.2.0/24"], "its own comes back too");
    let explained = rig.speaker.explain(net("10.1.2.0/24"));
    let sent: Vec<bool> = explained.advertised.iter().map(|verdict| verdict.sent).collect();
    assert_eq!(sent, [true, false, false]);
}

#[test]
fn a_peer_that_never_reads_is_ended_by_the_send_hold_timer() {
    let timers = Timers { send_hold: 100 * SECOND, ..Timers::default() };
    let mut rig = Rig::new(vec![PeerConfig { timers, ..client(1) }]);
    let conn = rig.up(1);
    rig.reading = false;
    for _ in 0..4 {
        rig.pass(30 * SECOND);
        rig.send(conn, &Message::Keepalive);
    }
    rig.pass(30 * SECOND);
    assert_eq!(notification(&rig.said(conn)), Some(NotificationCode::SendHoldTimerExpired));
    assert!(rig.wires[&conn].closed);
}

#[test]
fn a_peer_that_reads_slowly_keeps_its_session() {
    let timers = Timers { send_hold: 100 * SECOND, ..Timers::default() };
    let mut rig = Rig::new(vec![PeerConfig { timers, ..client(1) }]);
    let conn = rig.up(1);
    rig.reading = false;
    for _ in 0..20 {
        rig.pass(60 * SECOND);
        rig.input(Input::Written { conn, bytes: 1 });
        rig.send(conn, &Message::Keepalive);
    }
    assert_eq!(rig.peer(1).state, PeerState::Established);
}

#[test]
fn an_administrators_words_are_heard_at_the_other_end() {
    // More than the 128 octets of RFC 8203: RFC 9003 has 255.
    let words = "Rack 7 is moved to hall B: ".to_owned() + &"ä".repeat(100);
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.input(Input::Stop(StopMode::Shutdown(words.clone())));
    let said = rig.said(conn);
    let Some(Message::Notification(note)) = said.last() else { panic!("{said:?}") };
    assert_eq!(note.shutdown_communication().as_ref(), Some(&words));
    for hard in [false, true] {
        let mut rig = Rig::new(vec![client(1)]);
        let conn = rig.up(1);
        let note = Notification::cease_with_text(CeaseSubcode::AdministrativeReset, &words);
        rig.send(conn, &Message::Notification(if hard { note.into_hard_reset() } else { note }));
        let error = rig.peer(1).last_error.unwrap();
        assert!(error.contains("administrative reset") && error.contains(&words), "{error}");
    }
}

#[test]
fn who_changes_without_end_is_named_once_a_minute() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    let announce = |rig: &mut Rig, net: u32, med| {
        let prefixes: Vec<String> =
            (0..250).map(|n| format!("10.{}.{n}.{}/32", net % 256, net / 256)).collect();
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        rig.send(conn, &announce(1, &prefixes, PathAttributes { med: Some(med), ..plain() }));
    };
    let named = |rig: &Rig| {
        rig.logs.iter().filter(|log| matches!(log, Log::Churn(peer, _) if *peer == address(1))).count()
    };
    (0..500).for_each(|net| announce(&mut rig, net, 0));
    assert_eq!(named(&rig), 0, "a large table is none");
    (0..500).for_each(|net| announce(&mut rig, net, 1));
    assert_eq!(named(&rig), 0, "nor is one that is told again");
    let flood = |rig: &mut Rig| (0..2000).for_each(|med| announce(rig, 1, med));
    flood(&mut rig);
    assert_eq!(named(&rig), 1);
    rig.pass(20 * SECOND);
    flood(&mut rig);
    assert_eq!(named(&rig), 1);
    rig.pass(41 * SECOND);
    flood(&mut rig);
    assert_eq!(named(&rig), 2);
}

#[test]
fn strangers_wait_within_bounds() {
    let pending = PendingLimits { max: 2, timeout: 10 * SECOND };
    let mut rig = Rig::with(SpeakerConfig { pending, ..SpeakerConfig::new(router_id(100), AS) }, vec![]);
    let (first, second, third) = (rig.accept(1), rig.accept(2), rig.accept(3));
    assert!(rig.wires[&first].closed, "the oldest gives way");
    assert_eq!(rig.speaker.pending(), [address(2), address(3)]);
    rig.send_raw(second, &[0; 5000]);
    assert!(rig.wires[&second].closed, "a stranger may say an OPEN, not more");
    rig.pass(11 * SECOND);
    assert!(rig.wires[&third].closed);
    assert!(rig.speaker.pending().is_empty());
}

#[test]
fn a_stranger_that_becomes_known_goes_on_where_it_was() {
    let mut rig = Rig::new(vec![]);
    let conn = rig.accept(1);
    rig.send(conn, &Message::Open(Rig::open(1, false)));
    assert!(rig.said(conn).is_empty(), "strangers are told nothing");
    rig.input(Input::SetPeer(Arc::new(client(1))));
    let said = rig.said(conn);
    assert!(matches!(said[..], [Message::Open(_), Message::Keepalive]), "{said:?}");
}

#[test]
fn own_routes_that_come_back_are_dropped() {
    let mut rig = Rig::new(vec![passive(1, PeerKind::Internal)]);
    let conn = rig.up(1);
    let mine = PathAttributes { originator_id: Some(router_id(100)), ..plain() };
    rig.send(conn, &announce(1, &["10.1.1.0/24"], mine));
    assert!(rig.routes().is_empty());
    let looped = PathAttributes { cluster_list: [router_id(100)].into_iter().collect(), ..plain() };
    rig.send(conn, &announce(1, &["10.1.2.0/24"], looped));
    let routes = rig.routes();
    assert!(routes.len() == 1 && routes[0].filtered && !routes[0].best, "{routes:?}");
}
