//! Shared streams against separate ones, octet for octet. Comparable are the streams of clients that were up before the
//! first route and read all the time: who joins later gets a snapshot, which a shared group cuts at another place.

use super::*;
use ipnet::IpNet;
use proptest::prelude::*;

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

/// Everything that each client was sent.
fn streams(steps: &[Step], ungrouped: bool) -> Vec<Vec<u8>> {
    let mut rig = Rig::new((1..6).map(client).collect());
    if ungrouped {
        rig.speaker.set_ungrouped();
    }
    let conns: Vec<_> = (1..6).map(|last| rig.up(last)).collect();
    rig.pass(SECOND);
    let conn = |client: u8| conns[usize::from(client) - 1];
    let mut gone = std::collections::BTreeSet::new();
    for step in steps {
        match step {
            Step::Pass(millis) => rig.pass(Duration::from_millis(*millis)),
            Step::Announce(client, ..)
            | Step::Withdraw(client, _)
            | Step::Refresh(client)
            | Step::Leave(client)
                if gone.contains(client) => {}
            Step::Announce(client, which, med) => {
                let prefixes: Vec<String> =
                    prefixes(*client, *which).iter().map(ToString::to_string).collect();
                let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
                if !prefixes.is_empty() {
                    let attributes = PathAttributes { med: Some(*med), ..plain() };
                    rig.send(conn(*client), &announce(*client, &prefixes, attributes));
                }
            }
            Step::Withdraw(client, which) => {
                let withdrawn = prefixes(*client, *which).into_iter().map(Into::into).collect();
                let update = Update { withdrawn, ..Update::default() };
                if !update.withdrawn.is_empty() {
                    rig.send(conn(*client), &Message::Update(update));
                }
            }
            Step::Refresh(client) => {
                let refresh = RouteRefresh { family: Family::Ipv4.into(), kind: RefreshKind::Request };
                rig.send(conn(*client), &Message::RouteRefresh(refresh));
            }
            Step::Leave(client) => {
                gone.insert(*client);
                rig.input(Input::Closed { conn: conn(*client), reason: "reset".to_owned() });
            }
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
