//! What peers are sent, how it is packed, and what becomes of those that lag.

use super::table::Table;
use super::*;

#[test]
fn a_change_of_export_policy_is_soft() {
    let mut rig = Rig::new(vec![client(1), client(2), client(3)]);
    let (source, changed, other) = (rig.up(1), rig.up(2), rig.up(3));
    rig.send(source, &announce(1, &["10.1.1.0/24", "10.1.2.0/24"], plain()));
    rig.pass(SECOND);
    rig.said(changed);
    rig.said(other);
    let reject = Rule {
        action: Action::Reject,
        prefix: Some(CidrMatch { cidr: net("10.1.2.0/24"), operator: CidrOperator::Equal, length: None }),
        ..Rule::default()
    };
    let filters = vec![Filter { name: "no-second".to_owned(), rules: vec![reject] }];
    let export = Arc::new(Policy { filters, default: Action::Accept });
    rig.input(Input::SetPeer(Arc::new(PeerConfig { export, ..client(2) })));
    let said = rig.said(changed);
    assert_eq!(
        (withdrawn(&said), announced(&said)),
        (vec!["10.1.2.0/24".to_owned()], vec!["10.1.1.0/24".to_owned()])
    );
    assert!(rig.said(other).is_empty());
    assert_eq!(rig.peer(2).established_count, 1);
    assert_ne!(rig.peer(2).group, rig.peer(3).group);
    rig.input(Input::SetPeer(Arc::new(client(2))));
    assert_eq!(rig.peer(2).group, rig.peer(3).group);
    assert_eq!(announced(&rig.said(changed)), ["10.1.1.0/24", "10.1.2.0/24"]);
}

#[test]
fn withdrawals_go_first_and_equal_attributes_share_a_message() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (source, sink) = (rig.up(1), rig.up(2));
    rig.send(source, &announce(1, &["10.1.1.0/24"], plain()));
    rig.pass(SECOND);
    let said = rig.said(sink);
    assert_eq!(announced(&said), ["10.1.1.0/24"]);
    // The first change is flushed at once and opens a batch, the rest waits for it.
    rig.send(source, &announce(1, &["10.1.9.0/24"], plain()));
    rig.said(sink);
    rig.send(source, &announce(1, &["10.1.2.0/24"], plain()));
    rig.send(source, &announce(1, &["10.1.3.0/24"], plain()));
    let withdrawal = Update {
        withdrawn: [crate::wire::Nlri::new(net("10.1.1.0/24"))].into_iter().collect(),
        ..Update::default()
    };
    rig.send(source, &Message::Update(withdrawal));
    rig.pass(SECOND);
    let said = rig.said(sink);
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(withdrawn(&said[..1]), ["10.1.1.0/24"]);
    assert_eq!(announced(&said[1..]), ["10.1.2.0/24", "10.1.3.0/24"]);
}

#[test]
fn what_changes_while_it_is_busy_is_told_once() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (source, sink) = (rig.up(1), rig.up(2));
    rig.pass(SECOND);
    rig.said(sink);
    let change = |med| announce(1, &["10.1.1.0/24"], PathAttributes { med: Some(med), ..plain() });
    for med in 1..=9 {
        rig.send(source, &change(med));
    }
    rig.pass(SECOND);
    let meds: Vec<Option<u32>> = rig
        .said(sink)
        .iter()
        .filter_map(|message| match message {
            Message::Update(update) if update.announces() => Some(update.attributes.med),
            _ => None,
        })
        .collect();
    assert_eq!(meds, [Some(1), Some(9)], "the first at once, the last when the others have come");
}

#[test]
fn changes_that_trickle_in_wait_the_shortest_time_and_floods_longer() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (source, sink) = (rig.up(1), rig.up(2));
    rig.pass(SECOND);
    rig.said(sink);
    let shortest = EgressLimits::default().batch_min;
    let with = |med| PathAttributes { med: Some(med), ..plain() };
    for med in 1..=50 {
        rig.send(source, &announce(1, &["10.1.1.0/24"], with(med)));
        rig.pass(shortest);
        assert_eq!(announced(&rig.said(sink)), ["10.1.1.0/24"], "change {med} waits for nothing");
    }
    let prefixes: Vec<String> = (0..100).map(|n| format!("10.2.{n}.0/24")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let mut flushes = 0;
    for med in 1..=200 {
        rig.send(source, &announce(1, &prefixes, with(med)));
        rig.pass(Duration::from_millis(1));
        flushes += usize::from(!rig.said(sink).is_empty());
    }
    assert!((2..=12).contains(&flushes), "{flushes} in 200 ms");
}

#[test]
fn a_refresh_request_brings_everything_between_its_markers() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (source, asks) = (rig.up(1), rig.up(2));
    rig.send(source, &announce(1, &["10.1.1.0/24"], plain()));
    rig.pass(SECOND);
    rig.said(asks);
    let request = RouteRefresh { family: Family::Ipv4.into(), kind: RefreshKind::Request };
    rig.send(asks, &Message::RouteRefresh(request));
    let said = rig.said(asks);
    let kinds: Vec<Option<RefreshKind>> = said
        .iter()
        .map(|message| match message {
            Message::RouteRefresh(refresh) => Some(refresh.kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [Some(RefreshKind::BeginOfRefresh), None, Some(RefreshKind::EndOfRefresh)]);
    assert_eq!(announced(&said), ["10.1.1.0/24"]);
}

#[test]
fn a_refresh_by_the_peer_removes_what_it_does_not_repeat() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24", "10.1.2.0/24"], plain()));
    let marker = |kind| Message::RouteRefresh(RouteRefresh { family: Family::Ipv4.into(), kind });
    rig.send(conn, &marker(RefreshKind::EndOfRefresh));
    assert_eq!(rig.prefixes().len(), 2, "an end without a beginning means nothing");
    rig.send(conn, &marker(RefreshKind::BeginOfRefresh));
    rig.send(conn, &marker(RefreshKind::EndOfRefresh));
    assert_eq!(rig.prefixes().len(), 2, "nothing is old before End-of-RIB");
    assert!(rig.logs.iter().any(|log| matches!(log, Log::EarlyRefresh(_))), "{:?}", rig.logs);
    rig.send(conn, &end_of_rib(Family::Ipv4));
    rig.send(conn, &marker(RefreshKind::BeginOfRefresh));
    rig.send(conn, &announce(1, &["10.1.2.0/24"], plain()));
    assert_eq!(rig.prefixes().len(), 2);
    rig.send(conn, &marker(RefreshKind::EndOfRefresh));
    assert_eq!(rig.prefixes(), ["10.1.2.0/24"]);
}

#[test]
fn a_refresh_that_is_never_finished_ends_by_itself() {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    rig.send(conn, &announce(1, &["10.1.1.0/24", "10.1.2.0/24"], plain()));
    rig.send(conn, &end_of_rib(Family::Ipv4));
    let begin = RouteRefresh { family: Family::Ipv4.into(), kind: RefreshKind::BeginOfRefresh };
    rig.send(conn, &Message::RouteRefresh(begin));
    rig.send(conn, &announce(1, &["10.1.2.0/24"], plain()));
    let wait = client(1).graceful_restart.stale_path_time;
    let mut waited = Duration::ZERO;
    while waited < wait {
        assert_eq!(rig.prefixes().len(), 2);
        let step = Duration::from_secs(45);
        rig.pass(step);
        waited += step;
        rig.send(conn, &Message::Keepalive);
    }
    assert_eq!(rig.prefixes(), ["10.1.2.0/24"]);
    assert!(rig.logs.iter().any(|log| matches!(log, Log::RefreshUnfinished(_))), "{:?}", rig.logs);
}

/// A peer that reads nothing while the log turns over, with and without enhanced refresh.
#[test]
fn a_peer_that_lags_ends_with_the_right_table() {
    for enhanced in [true, false] {
        let config = SpeakerConfig {
            egress: EgressLimits { log_bytes: 1, window: 1024, ..EgressLimits::default() },
            ..SpeakerConfig::new(router_id(100), AS)
        };
        let mut rig = Rig::with(config, vec![client(1), client(2)]);
        let source = rig.up(1);
        let slow = rig.accept(2);
        let mut open = Rig::open(2, false);
        if !enhanced {
            open.capabilities.retain(|c| *c != Capability::EnhancedRouteRefresh);
        }
        rig.establish(slow, open);
        rig.pass(SECOND);
        let mut table = Table::default();
        table.hear(&rig.said(slow));
        rig.reading = false;
        rig.send(source, &announce(1, &["10.1.255.0/24"], plain()));
        rig.pass(SECOND);
        // Prefixes come and go, each with attributes of its own; two of them stay.
        for round in 0..90u32 {
            let prefixes: Vec<String> =
                (0..100).map(|n| format!("10.{}.{}.0/24", 2 + round / 2, n + 100 * (round % 2))).collect();
            for (n, prefix) in (0u32..).zip(&prefixes) {
                let med = Some(round * 100 + n);
                rig.send(source, &announce(1, &[prefix], PathAttributes { med, ..plain() }));
            }
            rig.pass(Duration::from_millis(60));
            let gone =
                prefixes.iter().filter(|prefix| *prefix != "10.9.7.0/24" && *prefix != "10.33.50.0/24");
            let withdrawn = gone.map(|prefix| crate::wire::Nlri::new(net(prefix))).collect();
            rig.send(source, &Message::Update(Update { withdrawn, ..Update::default() }));
            rig.pass(Duration::from_millis(60));
            // Only the slow peer doesn't read.
            let sent = rig.wires.get_mut(&source).map(|wire| std::mem::take(&mut wire.sent)).unwrap();
            rig.input(Input::Written { conn: source, bytes: sent.len() });
        }
        rig.pass(SECOND);
        assert!(rig.speaker.log_bytes() <= 256 << 10, "{}", rig.speaker.log_bytes());
        loop {
            let said = rig.said(slow);
            let in_flight = rig.peer(2).lag_bytes;
            if said.is_empty() && in_flight == 0 {
                break;
            }
            table.hear(&said);
            rig.input(Input::Written { conn: slow, bytes: usize::try_from(in_flight).unwrap() });
        }
        assert_eq!(table.prefixes(), rig.prefixes(), "enhanced refresh: {enhanced}");
        assert_eq!(rig.peer(2).established_count, 1);
        assert!(rig.peer(2).resyncs >= 1);
    }
}

#[test]
fn routes_of_a_peer_that_returns_with_another_identifier_are_told_anew() {
    let mut rig = Rig::new(vec![client(1), client(2)]);
    let (source, sink) = (rig.up(1), rig.up(2));
    rig.send(source, &announce(1, &["10.1.1.0/24"], plain()));
    rig.pass(SECOND);
    let originators = |said: &[Message]| -> Vec<_> {
        let updates = said.iter().filter_map(|message| match message {
            Message::Update(update) if update.announces() => update.attributes.originator_id,
            _ => None,
        });
        updates.collect()
    };
    assert_eq!(originators(&rig.said(sink)), [router_id(1)]);
    // Graceful restart keeps the route, and it comes back as it was.
    rig.input(Input::Closed { conn: source, reason: "reset".to_owned() });
    let source = rig.accept(1);
    rig.establish(source, crate::wire::Open { bgp_id: router_id(77), ..Rig::open(1, true) });
    rig.send(source, &announce(1, &["10.1.1.0/24"], plain()));
    rig.send(source, &end_of_rib(Family::Ipv4));
    rig.pass(SECOND);
    assert_eq!(originators(&rig.said(sink)), [router_id(77)], "ORIGINATOR_ID is the new identifier");
}
