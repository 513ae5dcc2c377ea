//! Several paths per prefix towards a peer (RFC 7911).

use super::rig::*;
use crate::config::{PeerConfig, PeerKind};
use crate::io::{ConnId, Input};
use crate::status::{NegotiatedStatus, RouteInfo};
use crate::wire::{
    AddPathFamily, AddPathMode, AfiSafi, Capability, FamilySet, Message, Nlri, PathAttributes, Update,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The peer that is told several paths.
const READER: u8 = 9;

fn reader(paths: u8) -> PeerConfig {
    PeerConfig { add_path_send: paths, ..passive(READER, PeerKind::InternalClient) }
}

/// What the reader has been told: next hops by prefix and identifier.
#[derive(Debug, Default)]
struct Table(BTreeMap<(IpNet, u32), IpAddr>);

impl Table {
    fn read(&mut self, messages: Vec<Message>) {
        for message in messages {
            let Message::Update(update) = message else { continue };
            for nlri in update.withdrawn.iter() {
                assert!(
                    self.0.remove(&(nlri.prefix, nlri.path_id.unwrap())).is_some(),
                    "{nlri} is not there"
                );
            }
            for reach in update.mp_reach.iter().chain(&update.reach) {
                let hop = reach.next_hop.address();
                self.0.extend(reach.nlri.iter().map(|nlri| ((nlri.prefix, nlri.path_id.unwrap()), hop)));
            }
        }
    }

    fn of(&self, prefix: &str) -> Vec<(u32, IpAddr)> {
        let of = |((at, id), hop): (&(IpNet, u32), &IpAddr)| (*at == net(prefix)).then_some((*id, *hop));
        self.0.iter().filter_map(of).collect()
    }
}

fn up_reader(rig: &mut Rig) -> ConnId {
    let conn = rig.accept(READER);
    let mut open = Rig::open(READER, false);
    let receive = |family| AddPathFamily { family, mode: AddPathMode::Receive };
    let families = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].map(receive);
    open.capabilities.push(Capability::AddPath(families.to_vec()));
    rig.establish(conn, open);
    rig.renegotiate(conn, |wire| wire.add_path_receive = FamilySet::BOTH);
    conn
}

fn negotiated(rig: &Rig) -> NegotiatedStatus {
    rig.peer(READER).negotiated.unwrap()
}

fn med(med: u32) -> PathAttributes {
    PathAttributes { med: Some(med), ..Default::default() }
}

#[test]
fn a_peer_is_told_the_best_paths_each_under_its_own_identifier() {
    let mut rig = Rig::new((1..4).map(|n| passive(n, PeerKind::InternalClient)).chain([reader(2)]).collect());
    let sources = [1, 2, 3].map(|last| rig.up(last));
    let mut table = Table::default();
    let say = |rig: &mut Rig, last: u8, value| {
        rig.send(sources[usize::from(last) - 1], &announce(last, &["10.1.0.0/24"], med(value)));
        rig.pass(std::time::Duration::from_secs(1));
    };
    say(&mut rig, 1, 10);
    let conn = up_reader(&mut rig);
    assert!(negotiated(&rig).add_path_send && !negotiated(&rig).add_path_receive);
    table.read(rig.said(conn));
    assert_eq!(table.of("10.1.0.0/24"), [(1, address(1))], "the snapshot has identifiers");
    say(&mut rig, 2, 10);
    say(&mut rig, 3, 30);
    table.read(rig.said(conn));
    assert_eq!(table.of("10.1.0.0/24"), [(1, address(1)), (2, address(2))], "two, and no more");
    assert_eq!(rig.peer(READER).families[0].advertised, 2);
    let shown = rig.speaker.advertised(address(READER));
    let shown: Vec<_> = shown.iter().map(|route| (route.path_id.unwrap(), route.next_hop.unwrap())).collect();
    assert_eq!(shown, table.of("10.1.0.0/24"));
    let explained = rig.speaker.explain(net("10.1.0.0/24")).advertised;
    let towards = explained.iter().filter(|to| to.peer == address(READER));
    let towards: Vec<_> = towards.map(|to| (to.sent, to.reason.as_str())).collect();
    assert_eq!(
        towards,
        [
            (true, "the path from 10.0.0.1: as path 1, next hop 10.0.0.1"),
            (true, "the path from 10.0.0.2: as path 2, next hop 10.0.0.2"),
            (false, "the path from 10.0.0.3: 2 better paths are enough"),
        ]
    );
    // A better one takes the place of the last; the one that stays keeps its identifier.
    say(&mut rig, 3, 1);
    table.read(rig.said(conn));
    assert_eq!(table.of("10.1.0.0/24"), [(1, address(1)), (2, address(3))]);
    rig.input(Input::SetPeer(Arc::new(reader(3))));
    table.read(rig.said(conn));
    assert_eq!(table.0.len(), 3, "more are wanted: {table:?}");
    assert_eq!(rig.peer(READER).established_count, 1);
    rig.input(Input::RemovePeer(address(2)));
    rig.pass(std::time::Duration::from_secs(1));
    table.read(rig.said(conn));
    assert_eq!(table.0.len(), 2, "{table:?}");
}

#[test]
fn without_the_capability_there_is_one_path_without_identifier() {
    let mut rig = Rig::new(vec![passive(1, PeerKind::InternalClient), reader(2)]);
    let (one, conn) = (rig.up(1), rig.up(READER));
    assert!(!negotiated(&rig).add_path_send);
    rig.send(one, &announce(1, &["10.1.0.0/24"], med(1)));
    rig.pass(std::time::Duration::from_secs(1));
    let said = rig.said(conn);
    let told = said.iter().any(|message| {
        matches!(message, Message::Update(Update { reach: Some(reach), .. }) if reach.nlri[0].path_id.is_none())
    });
    assert!(told, "{said:?}");
}

/// A source that returns under another BGP identifier, as a node does whose address changed, is another ORIGINATOR_ID.
#[test]
fn readers_are_told_the_present_identifier_of_a_source() {
    let mut rig = Rig::new(vec![passive(1, PeerKind::InternalClient), reader(2)]);
    let source = rig.up(1);
    let conn = up_reader(&mut rig);
    let originators = |rig: &mut Rig| -> Vec<Option<Ipv4Addr>> {
        rig.pass(std::time::Duration::from_secs(1));
        let said = rig.said(conn).into_iter();
        let announced = said.filter_map(|message| match message {
            Message::Update(update) if update.announces() => Some(update.attributes.originator_id),
            _ => None,
        });
        announced.collect()
    };
    rig.send(source, &announce(1, &["10.1.0.0/24"], med(1)));
    assert_eq!(originators(&mut rig), [Some(router_id(1))]);
    rig.input(Input::Closed { conn: source, reason: "gone".to_owned() });
    let source = rig.accept(1);
    rig.establish(source, Rig::open(77, true));
    rig.send(source, &announce(1, &["10.1.0.0/24"], med(1)));
    assert_eq!(originators(&mut rig), [Some(router_id(77))]);
}

#[derive(Debug, Clone)]
enum Step {
    Announce(u8, u8, u32),
    Withdraw(u8, u8),
    Leave(u8),
    Refresh,
    Paths(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..5u8, 0..3u8, 0..3u32).prop_map(|(who, what, med)| Step::Announce(who, what, med)),
        3 => (1..5u8, 0..3u8).prop_map(|(who, what)| Step::Withdraw(who, what)),
        1 => (1..5u8).prop_map(Step::Leave),
        1 => Just(Step::Refresh),
        1 => (2..5u8).prop_map(Step::Paths),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, the reader ends with the best paths of each prefix, and is never told to withdraw what it
    /// does not have.
    #[test]
    fn the_reader_has_the_best_paths(steps in prop::collection::vec(step(), 1..40)) {
        let client = |last| PeerConfig {
            graceful_restart: crate::GracefulRestart { enabled: false, ..Default::default() },
            ..passive(last, PeerKind::InternalClient)
        };
        let mut rig = Rig::new((1..5).map(client).chain([reader(2)]).collect());
        let mut conns: BTreeMap<u8, ConnId> = BTreeMap::new();
        let conn = up_reader(&mut rig);
        let (mut table, mut limit) = (Table::default(), 2);
        for step in steps {
            match step {
                Step::Announce(who, what, value) => {
                    let from = *conns.entry(who).or_insert_with(|| rig.up(who));
                    rig.send(from, &announce(who, &[&format!("10.1.{what}.0/24")], med(value)));
                }
                Step::Withdraw(who, what) => {
                    let from = *conns.entry(who).or_insert_with(|| rig.up(who));
                    let gone = vec![Nlri::new(net(&format!("10.1.{what}.0/24")))];
                    let gone = Update { withdrawn: gone.into(), ..Update::default() };
                    rig.send(from, &Message::Update(gone));
                }
                Step::Leave(who) => {
                    if let Some(conn) = conns.remove(&who) {
                        rig.input(Input::Closed { conn, reason: "gone".to_owned() });
                    }
                }
                Step::Refresh => {
                    let kind = crate::wire::RefreshKind::Request;
                    let refresh = crate::wire::RouteRefresh { family: AfiSafi::Ipv4Unicast, kind };
                    rig.send(conn, &Message::RouteRefresh(refresh));
                }
                Step::Paths(paths) => {
                    limit = usize::from(paths);
                    rig.input(Input::SetPeer(Arc::new(reader(paths))));
                }
            }
            rig.pass(std::time::Duration::from_secs(1));
            table.read(rig.said(conn));
        }
        let mut best: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
        for RouteInfo { prefix, next_hop, .. } in rig.routes() {
            let hops = best.entry(prefix).or_default();
            if hops.len() < limit {
                hops.extend(next_hop);
            }
        }
        let mut told: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
        for ((prefix, _), hop) in table.0 {
            told.entry(prefix).or_default().push(hop);
        }
        for hops in best.values_mut().chain(told.values_mut()) {
            hops.sort_unstable();
        }
        prop_assert_eq!(told, best);
    }
}
