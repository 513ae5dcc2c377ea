//! A speaker that has taken another's place does what that one would have done.

use super::rig::{AS, Rig, address, announce, end_of_rib, net, passive, router_id};
use crate::config::{PeerConfig, PeerKind, PeerRange, SpeakerConfig};
use crate::family::Family;
use crate::io::{ConnId, Input, Log};
use crate::monitor::MonitorConfig;
use crate::security::Password;
use crate::status::{PeerState, PeerStatus};
use crate::wire::{
    CeaseSubcode, Message, NotificationCode, PathAttributes, RefreshKind, RouteRefresh, Update,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn clients(count: u8) -> Vec<PeerConfig> {
    (1..=count).map(|last| passive(last, PeerKind::InternalClient)).collect()
}

fn refresh(kind: RefreshKind) -> Message {
    Message::RouteRefresh(RouteRefresh { family: Family::Ipv4.into(), kind })
}

fn med(med: u32) -> PathAttributes {
    PathAttributes { med: Some(med), ..PathAttributes::default() }
}

/// Two clients that know each other's block, and a third that is restarting.
fn cluster() -> (Rig, ConnId, ConnId) {
    let mut rig = Rig::new(clients(3));
    let conns: Vec<ConnId> = (1..=3).map(|last| rig.up(last)).collect();
    for (last, conn) in (1..).zip(&conns) {
        rig.send(*conn, &announce(last, &[&format!("10.1.{last}.0/24")], med(last.into())));
        rig.send(*conn, &end_of_rib(Family::Ipv4));
        rig.send(*conn, &end_of_rib(Family::Ipv6));
    }
    rig.pass(Duration::from_secs(1));
    rig.input(Input::Closed { conn: conns[2], reason: "reset".to_owned() });
    rig.pass(Duration::from_secs(1));
    for conn in &conns[..2] {
        rig.said(*conn);
    }
    (rig, conns[0], conns[1])
}

#[test]
fn clients_see_nothing() {
    let (mut rig, first, second) = cluster();
    let (peers, routes) = (rig.speaker.peers(), rig.routes());
    rig.hand_over();
    assert_eq!(rig.routes(), routes);
    assert_eq!((rig.said(first), rig.said(second)), (vec![], vec![]));
    for (before, after) in peers.iter().zip(rig.speaker.peers()) {
        let uptime = |peer: &PeerStatus| (peer.established_count, peer.families.clone());
        assert_eq!(
            (before.remote, before.state == PeerState::Established),
            (after.remote, after.state == PeerState::Established)
        );
        assert_eq!(uptime(before), uptime(&after));
    }
    // Sessions live: what comes goes on, and what the third had told goes when its time is over.
    rig.send(first, &announce(1, &["10.2.0.0/16"], PathAttributes::default()));
    assert!(matches!(&rig.said(second)[..], [Message::Update(update)] if update.announces()));
    rig.pass(Duration::from_secs(20));
    rig.send(first, &Message::Keepalive);
    assert!(rig.peer(1).state == PeerState::Established && rig.peer(3).state == PeerState::Active);
    assert_eq!(rig.peer(3).families[0].stale, 1);
}

#[test]
fn timers_and_broken_messages_go_on() {
    let (mut rig, first, second) = cluster();
    rig.pass(Duration::from_secs(60));
    rig.send(second, &Message::Keepalive);
    // A client in the middle of a message, and silent since 60 s.
    rig.send_raw(first, &[0xff; 16]);
    rig.hand_over();
    rig.pass(Duration::from_secs(1));
    rig.send_raw(first, &[0, 19, 4]);
    rig.pass(Duration::from_secs(35));
    assert_eq!((rig.peer(1).state, rig.peer(2).state), (PeerState::Established, PeerState::Established));
    rig.said(second);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.peer(2).state, PeerState::Active);
    assert!(matches!(rig.said(second).last(), Some(Message::Notification(_))), "hold time");
}

#[test]
fn who_had_to_wait_after_an_error_goes_on_waiting() {
    let mut rig = Rig::new(vec![PeerConfig { passive: false, ..passive(1, PeerKind::InternalClient) }]);
    let [(conn, _)] = rig.dials[..] else { panic!("{:?}", rig.dials) };
    rig.input(Input::Connected { conn, local: (address(100), 5000).into() });
    rig.send_raw(conn, &[0; 19]);
    assert_eq!(rig.peer(1).state, PeerState::Idle);
    rig.hand_over();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.dials.len(), 1, "it waits for two seconds, or three quarters of that");
    rig.pass(Duration::from_secs(2));
    assert!(rig.dials.len() > 1);
}

#[test]
fn what_changed_meanwhile_is_an_ordinary_change() {
    let password = Password::new(b"secret").unwrap();
    let mut peers = clients(3);
    peers[0].password = Some(password);
    let mut rig = Rig::new(peers.clone());
    let conns: Vec<ConnId> = (1..=3).map(|last| rig.up(last)).collect();
    rig.hand_over();
    assert_eq!(rig.keys.last(), Some(&("10.0.0.1/32".to_owned(), true)));
    for conn in &conns {
        rig.said(*conn);
    }
    // The second has been removed; the third's hold time is another.
    peers[2].timers.hold = Duration::from_secs(30);
    let changed = vec![peers[0].clone(), peers[2].clone()];
    rig.input(Input::SetPeers(changed.into_iter().map(Into::into).collect()));
    assert_eq!(rig.said(conns[0]), []);
    assert_eq!(rig.peer(1).state, PeerState::Established);
    for (conn, cease) in [(1, CeaseSubcode::PeerDeconfigured), (2, CeaseSubcode::OtherConfigurationChange)] {
        let said = rig.said(conns[conn]);
        let [Message::Notification(note)] = &said[..] else { panic!("{said:?}") };
        let code =
            if note.is_hard_reset() { NotificationCode::new(note.data[0], note.data[1]) } else { note.code };
        assert_eq!(code, NotificationCode::Cease(cease));
    }
}

#[test]
fn a_slow_reader_is_sent_the_table_again() {
    let (mut rig, first, second) = cluster();
    rig.reading = false;
    for third in 0..200_u32 {
        for block in 0..8 {
            let prefixes: Vec<String> =
                (0..256).map(|last| format!("10.{block}.{last}.{}/30", third % 64 * 4)).collect();
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            rig.send(first, &announce(1, &prefixes, med(third)));
        }
        rig.pass(Duration::from_millis(60));
    }
    rig.hand_over();
    assert!(rig.logs.contains(&Log::Resync(address(2))), "{:?}", rig.logs);
    rig.reading = true;
    let sent: Vec<(ConnId, usize)> = [first, second].map(|conn| (conn, rig.wires[&conn].sent.len())).to_vec();
    for (conn, bytes) in sent {
        rig.input(Input::Written { conn, bytes });
    }
    rig.pass(Duration::from_secs(1));
    let own = rig.speaker.advertised(address(2)).len();
    assert_eq!(tale(&mut rig, second).len(), own);
    assert_eq!(rig.peer(2).established_count, 1);
}

/// What a client holds that goes by RFC 7313 section 4: before End-of-RIB a refresh begins nothing.
fn held(messages: Vec<Message>) -> BTreeSet<IpNet> {
    let (mut held, mut complete, mut unrefreshed) = (BTreeSet::new(), false, None);
    for message in messages {
        match message {
            Message::Update(update) => {
                for nlri in &update.withdrawn {
                    held.remove(&nlri.prefix);
                }
                for (_, nlri) in update.announced() {
                    held.insert(nlri.prefix);
                    unrefreshed.as_mut().map(|set: &mut BTreeSet<IpNet>| set.remove(&nlri.prefix));
                }
                complete |= update.end_of_rib == Some(Family::Ipv4.into());
            }
            message if complete && message == refresh(RefreshKind::BeginOfRefresh) => {
                unrefreshed = Some(held.clone());
            }
            message if message == refresh(RefreshKind::EndOfRefresh) => {
                for gone in unrefreshed.take().unwrap_or_default() {
                    held.remove(&gone);
                }
            }
            _ => {}
        }
    }
    assert!(complete, "End-of-RIB");
    held
}

/// Its table is a snapshot, in which a route is that is gone, and the log since, which tells so.
#[test]
fn a_client_that_is_handed_over_in_its_initial_table_ends_with_the_right_one() {
    let mut rig = Rig::new(clients(3));
    let first = rig.up(1);
    for index in 0..8000_u32 {
        let prefix = format!("10.{}.{}.0/24", index / 250, index % 250);
        rig.send(first, &announce(1, &[&prefix], med(index)));
    }
    rig.pass(Duration::from_secs(1));
    rig.up(3);
    let withdrawn = vec![crate::wire::Nlri::new(net("10.0.0.0/24"))].into();
    rig.send(first, &Message::Update(Update { withdrawn, ..Update::default() }));
    rig.pass(Duration::from_secs(1));
    let second = rig.accept(2);
    rig.reading = false;
    rig.establish(second, Rig::open(2, false));
    rig.hand_over();
    assert!(rig.logs.contains(&Log::Resync(address(2))), "{:?}", rig.logs);
    rig.reading = true;
    let bytes = rig.wires[&second].sent.len();
    rig.input(Input::Written { conn: second, bytes });
    rig.pass(Duration::from_secs(1));
    let told = held(rig.said(second));
    assert_eq!(told.len(), 7999);
    assert!(!told.contains(&net("10.0.0.0/24")));
}

#[test]
fn peers_of_ranges_keep_their_sessions() {
    let template = PeerConfig { passive: true, ..PeerConfig::new(address(0), AS, PeerKind::InternalClient) };
    let range = PeerRange { prefix: net("10.0.0.0/28"), template, max: 4 };
    let mut rig = Rig::new(Vec::new());
    rig.input(Input::SetRanges(vec![range.clone()]));
    let conn = rig.up(1);
    rig.hand_over();
    rig.input(Input::SetPeers(Vec::new()));
    rig.input(Input::SetRanges(vec![range]));
    rig.said(conn);
    rig.pass(Duration::from_secs(31));
    assert_eq!(rig.said(conn), [Message::Keepalive]);
}

#[test]
fn others_are_refused() {
    let (mut rig, ..) = cluster();
    let state = rig.speaker.hand_over(BTreeMap::new());
    let text = serde_json::to_string(&state).unwrap();
    let refusal = |text: &str, id| {
        let state = serde_json::from_str(text).unwrap();
        super::Speaker::restore(SpeakerConfig::new(router_id(id), AS), MonitorConfig::default(), state)
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(&text, 99).contains("another speaker"));
    let newer = text.replacen("\"version\":2", "\"version\":3", 1);
    assert!(refusal(&newer, 100).contains("version 3"));
}

#[derive(Debug, Clone)]
enum Step {
    Announce(u8, u8, u32),
    Withdraw(u8, u8),
    Keepalive(u8),
    Leave(u8),
    Return(u8),
    Refresh(u8),
    Begin(u8),
    End(u8),
    Pass(u64),
    HandOver,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 1..5_u8;
    prop_oneof![
        8 => (client.clone(), 0..12_u8, 0..4_u32).prop_map(|(c, p, m)| Step::Announce(c, p, m)),
        4 => (client.clone(), 0..12_u8).prop_map(|(c, p)| Step::Withdraw(c, p)),
        1 => client.clone().prop_map(Step::Keepalive),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.clone().prop_map(Step::Return),
        1 => client.clone().prop_map(Step::Refresh),
        1 => client.clone().prop_map(Step::Begin),
        1 => client.prop_map(Step::End),
        3 => (0..200_u64).prop_map(Step::Pass),
        1 => (10_000..70_000_u64).prop_map(Step::Pass),
        2 => Just(Step::HandOver),
    ]
}

struct Play {
    rig: Rig,
    conns: BTreeMap<u8, ConnId>,
    hands_over: bool,
}

impl Play {
    fn new(hands_over: bool) -> Self {
        let mut rig = Rig::new(clients(4));
        let conns = (1..=4).map(|last| (last, rig.up(last))).collect();
        Self { rig, conns, hands_over }
    }

    fn say(&mut self, client: u8, message: &Message) {
        if let Some(conn) =
            self.conns.get(&client).filter(|_| self.rig.peer(client).state == PeerState::Established)
        {
            self.rig.send(*conn, message);
        }
    }

    fn play(&mut self, step: &Step) {
        let prefix = |number: u8| format!("10.9.{number}.0/24");
        match *step {
            Step::Announce(client, number, value) => {
                self.say(client, &announce(client, &[&prefix(number)], med(value)));
            }
            Step::Withdraw(client, number) => {
                let withdrawn = vec![crate::wire::Nlri::new(net(&prefix(number)))].into();
                self.say(client, &Message::Update(Update { withdrawn, ..Update::default() }));
            }
            Step::Keepalive(client) => self.say(client, &Message::Keepalive),
            Step::Leave(client) => {
                if let Some(conn) = self.conns.remove(&client) {
                    self.rig.input(Input::Closed { conn, reason: "reset".to_owned() });
                }
            }
            Step::Return(client) => {
                if self.rig.peer(client).state != PeerState::Established {
                    let conn = self.rig.up(client);
                    self.conns.insert(client, conn);
                }
            }
            Step::Refresh(client) => self.say(client, &refresh(RefreshKind::Request)),
            Step::Begin(client) => self.say(client, &refresh(RefreshKind::BeginOfRefresh)),
            Step::End(client) => self.say(client, &refresh(RefreshKind::EndOfRefresh)),
            Step::Pass(millis) => self.rig.pass(Duration::from_millis(millis)),
            Step::HandOver if self.hands_over => self.rig.hand_over(),
            Step::HandOver => {
                // A speaker that hands over sends what it has.
                self.rig.speaker.flush();
                self.rig.drain();
            }
        }
    }
}

/// What a client was told of each prefix, in order.
fn tale(rig: &mut Rig, conn: ConnId) -> BTreeMap<IpNet, Vec<Option<PathAttributes>>> {
    let mut tale: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in rig.said(conn) {
        let Message::Update(update) = message else { continue };
        for nlri in &update.withdrawn {
            tale.entry(nlri.prefix).or_default().push(None);
        }
        for nlri in update.reach.iter().chain(&update.mp_reach).flat_map(|reach| &reach.nlri) {
            tale.entry(nlri.prefix).or_default().push(Some(update.attributes.clone()));
        }
    }
    tale
}

fn compare(steps: &[Step], whole_tales: bool) -> Result<(), TestCaseError> {
    let (mut one, mut other) = (Play::new(true), Play::new(false));
    let repeats = |step: &&Step| whole_tales && matches!(step, Step::Return(_) | Step::Refresh(_));
    for step in steps.iter().filter(|step| !repeats(step)) {
        one.play(step);
        other.play(step);
    }
    for play in [&mut one, &mut other] {
        play.rig.pass(Duration::from_secs(1));
    }
    prop_assert_eq!(one.rig.routes(), other.rig.routes());
    for conn in other.rig.wires.keys().copied().collect::<Vec<_>>() {
        let (one, other) = (tale(&mut one.rig, conn), tale(&mut other.rig, conn));
        if whole_tales {
            prop_assert_eq!(one, other);
        } else {
            let ends = |tale: BTreeMap<IpNet, Vec<_>>| -> BTreeMap<_, _> {
                tale.into_iter()
                    .filter_map(|(prefix, told)| Some((prefix, told.into_iter().next_back()??)))
                    .collect()
            };
            prop_assert_eq!(ends(one), ends(other));
        }
    }
    let established = |rig: &Rig| {
        let peers = rig.speaker.peers().into_iter();
        // Of a session that is down only that is told: whoever takes over begins at once, without the wait after an error.
        let is_up = |peer: &PeerStatus| peer.state == PeerState::Established;
        peers
            .map(|peer| (peer.remote, is_up(&peer), peer.established_count, peer.families))
            .collect::<Vec<_>>()
    };
    prop_assert_eq!(established(&one.rig), established(&other.rig));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Also with snapshots, of which one may be older than another.
    #[test]
    fn tables_are_the_same(steps in prop::collection::vec(step(), 1..60)) {
        compare(&steps, false)?;
    }

    /// In messages that may be ordered otherwise, as places in a table that was built anew are.
    #[test]
    fn prefixes_are_told_the_same(steps in prop::collection::vec(step(), 1..60)) {
        compare(&steps, true)?;
    }
}
