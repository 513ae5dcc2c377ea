//! Shared streams against separate ones, octet for octet. Comparable are the streams of clients that were up before the
//! first route and read all the time: who joins later gets a snapshot, which a shared group cuts at another place.

use super::table::Table;
use super::*;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    /// A client announces some of its prefixes with this MULTI_EXIT_DISC.
    Announce(u8, u8, u32),
    Withdraw(u8, u8),
    Pass(u64),
    Refresh(u8),
    Leave(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 1..6u8;
    prop_oneof![
        6 => (client.clone(), any::<u8>(), 0..4u32).prop_map(|(c, which, med)| Step::Announce(c, which, med)),
        3 => (client.clone(), any::<u8>()).prop_map(|(c, which)| Step::Withdraw(c, which)),
        6 => (0..80u64).prop_map(Step::Pass),
        1 => client.clone().prop_map(Step::Refresh),
        1 => client.prop_map(Step::Leave),
    ]
}

/// The prefixes that the bits stand for: half of them belong to the client, half may come from several.
fn prefixes(client: u8, which: u8) -> Vec<IpNet> {
    (0..8u8)
        .filter(|bit| which & (1 << bit) != 0)
        .map(|bit| {
            net(&if bit < 4 { format!("10.{client}.{bit}.0/24") } else { format!("10.99.{bit}.0/24") })
        })
        .collect()
}

/// A step of a client that is there.
fn play<F: Fn(u8) -> Option<crate::io::ConnId>>(rig: &mut Rig, step: &Step, conn: F) {
    let (client, message) = match step {
        Step::Pass(millis) => return rig.pass(Duration::from_millis(*millis)),
        Step::Announce(client, which, med) => {
            let prefixes: Vec<String> = prefixes(*client, *which).iter().map(ToString::to_string).collect();
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let attributes = PathAttributes { med: Some(*med), ..plain() };
            (client, (!prefixes.is_empty()).then(|| announce(*client, &prefixes, attributes)))
        }
        Step::Withdraw(client, which) => {
            let withdrawn: Vec<_> = prefixes(*client, *which).into_iter().map(Into::into).collect();
            let some = !withdrawn.is_empty();
            (
                client,
                some.then(|| Message::Update(Update { withdrawn: withdrawn.into(), ..Update::default() })),
            )
        }
        Step::Refresh(client) => {
            let refresh = RouteRefresh { family: Family::Ipv4.into(), kind: RefreshKind::Request };
            (client, Some(Message::RouteRefresh(refresh)))
        }
        Step::Leave(client) => {
            if let Some(conn) = conn(*client) {
                rig.input(Input::Closed { conn, reason: "reset".to_owned() });
            }
            return;
        }
    };
    if let (Some(conn), Some(message)) = (conn(*client), message) {
        rig.send(conn, &message);
    }
}

/// Everything that each client was sent.
fn streams(steps: &[Step], ungrouped: bool) -> Vec<Vec<u8>> {
    let mut rig = Rig::new((1..6).map(client).collect());
    if ungrouped {
        rig.speaker.set_ungrouped();
    }
    let conns: Vec<_> = (1..6).map(|last| rig.up(last)).collect();
    rig.pass(SECOND);
    let mut gone = std::collections::BTreeSet::new();
    for step in steps {
        play(&mut rig, step, |client| {
            conns.get(usize::from(client) - 1).filter(|_| !gone.contains(&client)).copied()
        });
        if let Step::Leave(client) = step {
            gone.insert(*client);
        }
    }
    rig.pass(SECOND);
    conns.iter().map(|conn| rig.wires[conn].sent.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn shared_streams_are_the_octets_of_separate_ones(steps in prop::collection::vec(step(), 1..60)) {
        prop_assert_eq!(streams(&steps, false), streams(&steps, true));
    }
}

/// The comparison compares something.
#[test]
fn the_streams_carry_routes() {
    let steps =
        [Step::Announce(1, 0xff, 7), Step::Pass(60), Step::Withdraw(1, 0x0f), Step::Announce(2, 0xf0, 1)];
    let streams = streams(&steps, true);
    assert!(
        streams.iter().all(|stream| stream.len() > 200),
        "{:?}",
        streams.iter().map(Vec::len).collect::<Vec<_>>()
    );
}

/// What clients do beside announcing: who comes, lags, or comes under another policy is told otherwise in a group than
/// alone, yet has the same table in the end.
#[derive(Debug, Clone)]
enum Turn {
    Route(Step),
    Join(u8),
    Stall(u8),
    Read(u8),
    /// Tells the client nothing of another one's block.
    Export(u8, u8),
}

fn turn() -> impl Strategy<Value = Turn> {
    let client = 1..6u8;
    prop_oneof![
        10 => step().prop_map(Turn::Route),
        2 => client.clone().prop_map(Turn::Join),
        2 => client.clone().prop_map(Turn::Stall),
        2 => client.clone().prop_map(Turn::Read),
        2 => (client, 0..3u8).prop_map(|(c, hidden)| Turn::Export(c, hidden)),
    ]
}

fn hiding(last: u8, hidden: u8) -> PeerConfig {
    let cidr = net(&format!("10.{hidden}.0.0/16"));
    let inside = CidrMatch { cidr, operator: CidrOperator::In, length: None };
    let rule = Rule { action: Action::Reject, prefix: Some(inside), ..Rule::default() };
    let filter = Filter { name: hidden.to_string(), rules: vec![rule] };
    PeerConfig { export: Arc::new(Policy { filters: vec![filter], default: Action::Accept }), ..client(last) }
}

/// The table of every client that is there in the end, and how often one was told everything again.
fn tables(turns: &[Turn], ungrouped: bool) -> (BTreeMap<u8, BTreeMap<IpNet, String>>, u64) {
    let egress = EgressLimits { log_bytes: 1, log_min: 256, window: 512, ..EgressLimits::default() };
    let config = SpeakerConfig { egress, ..SpeakerConfig::new(router_id(100), AS) };
    let mut rig = Rig::with(config, (1..6).map(client).collect());
    if ungrouped {
        rig.speaker.set_ungrouped();
    }
    // The last one has not come yet.
    let mut conns: BTreeMap<u8, _> = (1..5).map(|last| (last, rig.up(last))).collect();
    rig.pass(SECOND);
    for turn in turns {
        match turn {
            Turn::Join(last) if !conns.contains_key(last) => {
                conns.insert(*last, rig.up(*last));
            }
            Turn::Join(_) => {}
            Turn::Stall(last) => {
                if let Some(conn) = conns.get(last) {
                    rig.deaf.entry(*conn).or_default();
                }
            }
            Turn::Read(last) => {
                if let Some(conn) = conns.get(last) {
                    rig.hears(*conn);
                }
            }
            Turn::Export(last, hidden) => rig.input(Input::SetPeer(Arc::new(hiding(*last, *hidden)))),
            Turn::Route(Step::Leave(last)) => {
                if let Some(conn) = conns.remove(last) {
                    rig.deaf.remove(&conn);
                    rig.input(Input::Closed { conn, reason: "reset".to_owned() });
                }
            }
            Turn::Route(step) => play(&mut rig, step, |last| conns.get(&last).copied()),
        }
    }
    conns.values().for_each(|conn| rig.hears(*conn));
    rig.pass(5 * SECOND);
    let resyncs = conns.keys().map(|last| rig.peer(*last).resyncs).sum();
    let mut table = |conn| {
        let mut table = Table::default();
        table.hear(&rig.said(conn));
        table.routes()
    };
    (conns.into_iter().map(|(last, conn)| (last, table(conn))).collect(), resyncs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn shared_tables_are_those_of_separate_streams(turns in prop::collection::vec(turn(), 1..80)) {
        prop_assert_eq!(tables(&turns, false).0, tables(&turns, true).0);
    }
}

/// Here, too: somebody falls behind, is told everything again, and has what the others have.
#[test]
fn the_tables_are_of_clients_that_lag() {
    let mut turns = vec![Turn::Route(Step::Pass(80)), Turn::Stall(2)];
    for med in 0..40 {
        turns.extend([Step::Announce(1, 0xff, med), Step::Pass(60)].map(Turn::Route));
    }
    for ungrouped in [false, true] {
        let (tables, resyncs) = tables(&turns, ungrouped);
        assert!(resyncs > 0, "{ungrouped}");
        assert_eq!(tables[&2].len(), 8);
        assert_eq!(tables[&2], tables[&3]);
    }
}
