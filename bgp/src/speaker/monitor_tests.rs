//! What stations, recorders and watchers are told. That others understand it is tested in `tests/monitor.rs`.

use super::Speaker;
use super::rig::*;
use crate::config::{PeerConfig, PeerKind, SpeakerConfig};
use crate::family::Family;
use crate::io::Input;
use crate::monitor::{MonitorConfig, MonitoredRib, StationConfig, StationInput};
use crate::policy::{Action, CidrMatch, CidrOperator, Filter, Operation, Policy, Rule};
use crate::time::Time;
use crate::wire::{self, Framer, Message, Negotiated, Nlri, PathAttributes, Update};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const FLUSH: Duration = Duration::from_millis(100);

fn monitored(stations: Vec<StationConfig>, peers: Vec<PeerConfig>) -> Rig {
    let config = MonitorConfig { stations, record: true, ..MonitorConfig::default() };
    let speaker = Speaker::new(SpeakerConfig::new(router_id(100), AS), Time::ZERO);
    let mut rig = Rig::of(speaker.with_monitor(config.clone()), peers);
    rig.monitor = config;
    rig
}

fn station(ribs: &[MonitoredRib]) -> StationConfig {
    StationConfig { ribs: ribs.to_vec(), ..StationConfig::default() }
}

/// A client whose routes in 10.9.0.0/16 are rejected and others get LOCAL_PREF 300.
fn filtered(last: u8) -> PeerConfig {
    let inside = CidrMatch { cidr: net("10.9.0.0/16"), operator: CidrOperator::In, length: None };
    let rules = vec![
        Rule { action: Action::Reject, prefix: Some(inside), ..Rule::default() },
        Rule { operations: vec![Operation::SetLocalPref(300)], ..Rule::default() },
    ];
    let import = Policy { filters: vec![Filter { name: "f".to_owned(), rules }], default: Action::Accept };
    PeerConfig { import: Arc::new(import), ..passive(last, PeerKind::InternalClient) }
}

/// What the station holds: by view (header flags and type) and prefix the LOCAL_PREF; and the other messages, in words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    routes: BTreeMap<(&'static str, String), Option<u32>>,
    others: Vec<String>,
}

impl Seen {
    fn of(&self, view: &str) -> Vec<(&str, Option<u32>)> {
        let routes = self.routes.iter().filter(|((v, _), _)| *v == view);
        routes.map(|((_, prefix), pref)| (prefix.as_str(), *pref)).collect()
    }

    /// Reads what has been sent since the last call.
    fn read(&mut self, rig: &mut Rig) {
        rig.pass(FLUSH);
        let data: Vec<u8> =
            rig.told.drain(..).flat_map(|(_, data)| data.expect("not cut off").to_vec()).collect();
        let mut rest = data.as_slice();
        while let [3, a, b, c, d, kind, ..] = *rest {
            let (message, left) = rest.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
            rest = left;
            match kind {
                0 => self.update(&message[6..]),
                1 => self.others.push("statistics".to_owned()),
                2 => {
                    self.others.push(format!("peer down {}", message[48]));
                    self.routes.retain(|(view, _), _| *view == "loc");
                }
                3 => self.others.push(format!("peer up {}", if message[6] == 3 { "loc" } else { "in" })),
                4 => self.others.push("initiation".to_owned()),
                _ => self.others.push("termination".to_owned()),
            }
        }
        assert!(rest.is_empty());
    }

    fn update(&mut self, message: &[u8]) {
        let view = match message[..2] {
            [0, 0] => "pre",
            [0, 0x40] => "post",
            [3, 0] => "loc",
            _ => panic!("{:?}", &message[..2]),
        };
        let negotiated = Negotiated {
            four_octet_as: true,
            extended_message: true,
            families: wire::FamilySet::BOTH,
            ..Negotiated::minimal(wire::PeerKind::Internal)
        };
        let mut framer = Framer::new();
        framer.set_max_len(65_535);
        let frame = framer.next_frame(&mut &message[42..]).unwrap().unwrap();
        let Message::Update(update) = wire::decode(frame, &negotiated).unwrap().message else { panic!() };
        if let Some(family) = update.end_of_rib {
            self.others.push(format!("{view} {family} complete"));
        }
        for nlri in &update.withdrawn {
            assert!(self.routes.remove(&(view, nlri.prefix.to_string())).is_some(), "{view} {nlri}");
        }
        for (_, nlri) in update.announced() {
            self.routes.insert((view, nlri.prefix.to_string()), update.attributes.local_pref);
        }
    }
}

fn withdraw(prefix: &str) -> Message {
    Message::Update(Update { withdrawn: [Nlri::new(net(prefix))].into_iter().collect(), ..Update::default() })
}

/// The first peer's 10.1.0.0/24 with a LOCAL_PREF.
fn preferred(value: u32) -> Message {
    let Message::Update(update) = announce(1, &["10.1.0.0/24"], PathAttributes::default()) else { panic!() };
    let attributes = PathAttributes { local_pref: Some(value), ..PathAttributes::default() };
    Message::Update(Update { attributes, ..update })
}

const ALL: [MonitoredRib; 3] = [MonitoredRib::PrePolicy, MonitoredRib::PostPolicy, MonitoredRib::LocRib];

#[test]
fn live_and_dump_tell_the_same() {
    let mut rig = monitored(vec![station(&ALL)], vec![filtered(1), passive(2, PeerKind::InternalClient)]);
    rig.input(Input::Station(0, StationInput::Up));
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24", "10.1.1.0/24", "10.9.0.0/24"], PathAttributes::default()));
    rig.send(conn, &end_of_rib(Family::Ipv4));
    let second = rig.up(2);
    rig.send(second, &announce(2, &["10.1.0.0/24", "10.2.0.0/24"], PathAttributes::default()));
    rig.send(conn, &withdraw("10.1.1.0/24"));
    let mut live = Seen::default();
    live.read(&mut rig);
    assert_eq!(live.of("pre").len(), 3, "{live:?}");
    assert_eq!(live.of("pre")[2], ("10.9.0.0/24", Some(100)), "as received");
    assert_eq!(
        live.of("post"),
        [("10.1.0.0/24", Some(100)), ("10.2.0.0/24", Some(100))],
        "of the last peer told"
    );
    assert_eq!(live.of("loc"), [("10.1.0.0/24", Some(300)), ("10.2.0.0/24", Some(100))]);
    assert_eq!(
        live.others,
        [
            "initiation",
            "peer up loc",
            "loc ipv4-unicast complete",
            "loc ipv6-unicast complete",
            "peer up in",
            "pre ipv4-unicast complete",
            "post ipv4-unicast complete",
            "peer up in"
        ],
    );
    // A station that comes later is told the state, and no more than that.
    rig.input(Input::Station(0, StationInput::Down));
    rig.input(Input::Station(0, StationInput::Up));
    let mut late = Seen::default();
    late.read(&mut rig);
    assert_eq!(late.of("loc"), live.of("loc"));
    assert_eq!(late.of("pre").len(), 3);
    assert!(late.others.contains(&"post ipv4-unicast complete".to_owned()), "{late:?}");
}

#[test]
fn pre_policy_is_what_the_peer_said() {
    let mut rig = monitored(vec![station(&ALL)], vec![filtered(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.input(Input::Station(0, StationInput::Up));
    let mut seen = Seen::default();
    seen.read(&mut rig);
    assert_eq!(seen.of("pre"), [("10.1.0.0/24", Some(100))]);
    assert_eq!(seen.of("post"), [("10.1.0.0/24", Some(300))]);
    // Policy makes the same of it, so that the table does not change.
    for value in [200, 300] {
        rig.send(conn, &preferred(value));
        seen.read(&mut rig);
        assert_eq!(seen.of("pre"), [("10.1.0.0/24", Some(value))]);
        assert_eq!(seen.of("post"), [("10.1.0.0/24", Some(300))]);
    }
}

#[test]
fn a_lost_session_takes_its_routes_and_a_new_one_tells_them_again() {
    let mut rig = monitored(vec![station(&ALL)], vec![passive(1, PeerKind::InternalClient)]);
    rig.input(Input::Station(0, StationInput::Up));
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    let mut seen = Seen::default();
    seen.read(&mut rig);
    assert_eq!(seen.of("post").len(), 1);
    // Lost and back before anything is flushed; the route is kept over it (RFC 4724) and is the same.
    rig.input(Input::Closed { conn, reason: "gone".to_owned() });
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    seen.others.clear();
    seen.read(&mut rig);
    assert_eq!(seen.others, ["peer down 4", "peer up in"]);
    assert_eq!(seen.of("post").len(), 1, "told again for the new session");
    assert_eq!(seen.of("loc").len(), 1);
    rig.input(Input::RemovePeer(address(1)));
    seen.others.clear();
    seen.read(&mut rig);
    assert_eq!(seen.others, ["peer down 1"]);
    assert_eq!((seen.of("post").len(), seen.of("loc").len()), (0, 0));
}

#[test]
fn sessions_that_were_taken_over_are_told_as_before() {
    let mut rig = monitored(vec![station(&ALL)], vec![passive(1, PeerKind::InternalClient), filtered(2)]);
    let (first, second) = (rig.up(1), rig.up(2));
    rig.send(first, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.send(first, &end_of_rib(Family::Ipv4));
    rig.send(second, &announce(2, &["10.9.0.0/24", "10.2.0.0/24"], PathAttributes::default()));
    rig.pass(FLUSH);
    let look = |rig: &mut Rig| {
        rig.told.clear();
        rig.input(Input::Station(0, StationInput::Up));
        let mut seen = Seen::default();
        seen.read(rig);
        seen
    };
    let before = look(&mut rig);
    rig.said(first);
    rig.said(second);
    rig.hand_over();
    // What policy changed is asked for.
    let asked = rig.said(second);
    assert!(matches!(&asked[..], [Message::RouteRefresh(_), Message::RouteRefresh(_)]), "{asked:?}");
    assert_eq!(rig.said(first), []);
    rig.send(second, &announce(2, &["10.9.0.0/24", "10.2.0.0/24"], PathAttributes::default()));
    assert_eq!(look(&mut rig), before);
    assert_eq!(before.of("pre").len(), 3, "{before:?}");
}

#[test]
fn a_station_that_does_not_read_is_cut_off_and_delays_nobody() {
    let small = StationConfig { buffer: 4096, ..station(&[MonitoredRib::LocRib]) };
    let mut rig = monitored(vec![small], vec![passive(1, PeerKind::InternalClient)]);
    rig.input(Input::Station(0, StationInput::Up));
    let conn = rig.up(1);
    for round in 0..100_u8 {
        let attributes = PathAttributes { med: Some(round.into()), ..PathAttributes::default() };
        rig.send(conn, &announce(1, &["10.1.0.0/24"], attributes));
        rig.pass(FLUSH);
    }
    let cut = rig.told.iter().position(|(_, data)| data.is_none());
    assert_eq!(cut, Some(rig.told.len() - 1), "the last word");
    let bytes: usize = rig.told.iter().filter_map(|(_, data)| data.as_ref()).map(bytes::Bytes::len).sum();
    assert!(bytes <= 4096);
    assert_eq!(rig.speaker.stations()[0].cuts, 1);
    assert_eq!(rig.routes()[0].med, Some(99));
    // It comes back and reads.
    rig.told.clear();
    rig.input(Input::Station(0, StationInput::Up));
    let mut seen = Seen::default();
    seen.read(&mut rig);
    assert_eq!(seen.of("loc").len(), 1);
    assert!(rig.speaker.stations()[0].synchronised);
}

#[test]
fn a_large_dump_goes_as_fast_as_it_is_read() {
    let mut rig =
        monitored(vec![station(&[MonitoredRib::PostPolicy])], vec![passive(1, PeerKind::InternalClient)]);
    let conn = rig.up(1);
    for third in 0..40_u8 {
        for fourth in 0..=255_u8 {
            let attributes = PathAttributes { med: Some(fourth.into()), ..PathAttributes::default() };
            rig.send(conn, &announce(1, &[&format!("10.{third}.{fourth}.0/24")], attributes));
        }
    }
    rig.pass(FLUSH);
    rig.input(Input::Station(0, StationInput::Up));
    let mut seen = Seen::default();
    for turn in 0.. {
        let pending = rig.speaker.stations()[0].pending_bytes;
        assert!(pending < 2 << 20, "{pending}");
        seen.read(&mut rig);
        if rig.speaker.stations()[0].synchronised {
            assert!(turn > 0, "more than one window");
            break;
        }
        // A change meanwhile is not lost, whether its page was told or not.
        let prefix = if turn == 0 { "10.0.0.0/24" } else { "10.39.255.0/24" };
        rig.send(conn, &withdraw(prefix));
        rig.input(Input::Station(0, StationInput::Written(usize::MAX)));
    }
    seen.read(&mut rig);
    let held = rig.prefixes();
    assert_eq!(
        seen.of("post")
            .iter()
            .map(|(prefix, _)| (*prefix).to_owned())
            .collect::<std::collections::BTreeSet<_>>(),
        held.into_iter().collect()
    );
}

/// Policy makes the same of what a peer says now and said before, so that the table does not change.
#[test]
fn a_station_in_its_dump_is_told_what_policy_hides() {
    let mut rig = monitored(
        vec![station(&[MonitoredRib::PrePolicy])],
        vec![filtered(1), passive(2, PeerKind::InternalClient)],
    );
    let (conn, other) = (rig.up(1), rig.up(2));
    rig.send(conn, &preferred(100));
    rig.pass(FLUSH);
    for third in 0..20_u8 {
        for fourth in 0..=255_u8 {
            let attributes = PathAttributes { med: Some(fourth.into()), ..PathAttributes::default() };
            rig.send(other, &announce(2, &[&format!("10.2.{third}.{fourth}/32")], attributes));
        }
    }
    rig.pass(FLUSH);
    rig.input(Input::Station(0, StationInput::Up));
    let mut seen = Seen::default();
    seen.read(&mut rig);
    assert!(!rig.speaker.stations()[0].synchronised);
    assert_eq!(seen.of("pre")[0], ("10.1.0.0/24", Some(100)));
    rig.send(conn, &preferred(200));
    while !rig.speaker.stations()[0].synchronised {
        rig.input(Input::Station(0, StationInput::Written(usize::MAX)));
        seen.read(&mut rig);
    }
    assert_eq!(seen.of("pre")[0], ("10.1.0.0/24", Some(200)));
}

/// What comes and goes between two looks at the table was never there, for stations and in memory.
#[test]
fn what_policy_changes_and_the_peer_takes_back_at_once_leaves_nothing() {
    let mut rig = monitored(vec![station(&ALL)], vec![filtered(1)]);
    rig.input(Input::Station(0, StationInput::Up));
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.send(conn, &announce(1, &["10.1.1.0/24"], PathAttributes::default()));
    assert!(rig.speaker.next_deadline().is_some(), "a flush is to come");
    rig.send(conn, &withdraw("10.1.1.0/24"));
    let mut seen = Seen::default();
    seen.read(&mut rig);
    assert_eq!(seen.of("pre"), [("10.1.0.0/24", Some(100))]);
    rig.send(conn, &withdraw("10.1.0.0/24"));
    seen.read(&mut rig);
    assert_eq!(seen.of("pre"), []);
    let id = *rig.speaker.peers.keys().next().unwrap();
    assert!(!rig.speaker.has_originals(id));
}

#[test]
fn watchers_hear_of_changes_while_they_watch() {
    let mut rig = Rig::new(vec![passive(1, PeerKind::InternalClient)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.pass(FLUSH);
    assert!(rig.changed.is_empty());
    rig.input(Input::Watch(true));
    rig.send(conn, &withdraw("10.1.0.0/24"));
    rig.pass(FLUSH);
    assert_eq!(rig.changed, [net("10.1.0.0/24")]);
    assert!(rig.records.is_empty() && rig.told.is_empty());
}

#[test]
fn explains_rule_by_rule_and_step_by_step() {
    let mut rig =
        Rig::new(vec![filtered(1), passive(2, PeerKind::InternalClient), passive(3, PeerKind::Internal)]);
    let (one, two) = (rig.up(1), rig.up(2));
    rig.send(one, &announce(1, &["10.1.0.0/24", "10.9.0.0/24"], PathAttributes::default()));
    rig.send(two, &announce(2, &["10.1.0.0/24"], PathAttributes::default()));
    rig.pass(FLUSH);
    let why = rig.speaker.explain(net("10.1.0.0/24"));
    let decided = "  higher LOCAL_PREF: 300 against 100, which decides";
    assert!(why.steps.contains(&decided.to_owned()), "{:?}", why.steps);
    assert!(why.steps.contains(&"  originated here: no, the same".to_owned()), "{:?}", why.steps);
    assert_eq!(why.imported[0].trace.summary(), "accepted by rule 2 of filter f");
    assert!(why.advertised[2].reason.contains("the session is"), "{:?}", why.advertised);
    let why = rig.speaker.explain(net("10.9.0.0/24"));
    assert_eq!(why.imported[0].trace.summary(), "rejected by rule 1 of filter f");
    assert_eq!(why.steps, ["no path is eligible"]);
}
