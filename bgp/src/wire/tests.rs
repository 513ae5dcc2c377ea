//! The types on their own: canonical forms, text, JSON.

use serde_json::json;

use super::{SegmentKind::*, testing::session, *};

#[test]
fn paths_have_one_form() {
    let path = AsPath::sequence([64512, 65001]);
    assert_eq!(path, AsPath::from_segments([(Sequence, vec![64512]), (Sequence, vec![65001])]));
    assert_eq!(
        path,
        AsPath::from_segments([(Sequence, vec![]), (Sequence, vec![64512, 65001]), (Set, vec![])])
    );
    assert_eq!(
        AsPath::from_segments([(Set, vec![3, 1, 3, 2])]),
        AsPath::from_segments([(Set, vec![1, 2, 3])])
    );
    assert_ne!(AsPath::from_segments([(Set, vec![1])]), AsPath::sequence([1]));
    assert_eq!(AsPath::sequence([]), AsPath::EMPTY);
}

#[test]
fn paths_answer_what_policy_and_decision_ask() {
    let path = AsPath::from_segments([(Sequence, vec![10, 20, 10]), (Set, vec![7, 8]), (Sequence, vec![30])]);
    assert_eq!(path.to_string(), "10 20 10 {7,8} 30");
    assert_eq!((path.length(), path.count(10), path.first(), path.origin()), (5, 2, Some(10), Some(30)));
    assert_eq!(path.prepended(5, 2).to_string(), "5 5 10 20 10 {7,8} 30");
    assert_eq!(path.prepended(5, 0), path);
    let set = AsPath::from_segments([(Set, vec![7])]);
    assert_eq!((set.first(), set.origin(), set.length()), (None, None, 1));
    assert_eq!(set.prepended(1, 1).to_string(), "1 {7}");
}

#[test]
fn a_path_longer_than_a_segment_is_split_and_joined() {
    let path = AsPath::sequence(1..=600);
    let attributes = PathAttributes { as_path: path, ..PathAttributes::default() };
    let session = session(PeerKind::External);
    let mut out = bytes::BytesMut::new();
    let prefix = Nlri::new("10.0.0.0/8".parse().unwrap());
    let next_hop = NextHop::V4([192, 0, 2, 1].into());
    UpdateEncoder::new(session).announce(&attributes, &next_hop, [prefix], &mut out).unwrap();
    let [Message::Update(update)] = &testing::decode_all(&out, &session)[..] else { panic!("one UPDATE") };
    assert_eq!(update.attributes, attributes);
}

#[test]
fn communities_are_read_and_written() {
    for text in ["64512:100", "0:0", "no-export", "graceful-shutdown", "llgr-stale", "no-llgr", "blackhole"] {
        assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
    }
    assert_eq!("65535:65281".parse(), Ok(Community::NO_EXPORT));
    for text in ["", "1", "1:", "1:65536", "+1:2", "1:2:3", "no-such"] {
        let error = text.parse::<Community>().unwrap_err().to_string();
        assert!(error.contains(&format!("`{text}`")) && error.contains("64512:100"), "{error}");
    }
    assert_eq!("4200000001:0:7".parse::<LargeCommunity>().unwrap().to_string(), "4200000001:0:7");
    for text in ["1:2", "1:2:3:4", "1:2:4294967296", "-1:2:3"] {
        assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
    }
    for (octets, text) in [
        ([0, 2, 0xfc, 0, 0, 0, 0, 7], "rt:64512:7"),
        ([1, 3, 192, 0, 2, 1, 0, 5], "soo:192.0.2.1:5"),
        ([2, 2, 0xfa, 0x56, 0xea, 1, 0, 5], "rt:4200000001:5"),
        ([0x43, 2, 0, 0, 0, 0, 0, 1], "0x4302000000000001"),
    ] {
        assert_eq!(ExtendedCommunity(octets).to_string(), text);
    }
    assert!(ExtendedCommunity([0; 8]).is_transitive() && !ExtendedCommunity([0x40; 8]).is_transitive());
}

#[test]
fn every_pair_of_notification_numbers_survives() {
    for code in 0..=255 {
        for subcode in 0..=255 {
            let known = NotificationCode::new(code, subcode);
            assert_eq!((known.code(), known.subcode()), (code, subcode));
        }
    }
    let named = HeaderSubcode::ALL.len()
        + OpenSubcode::ALL.len()
        + UpdateSubcode::ALL.len()
        + FsmSubcode::ALL.len()
        + CeaseSubcode::ALL.len()
        + RefreshSubcode::ALL.len();
    assert_eq!(named, 4 + 9 + 12 + 4 + 11 + 2);
}

#[test]
fn hard_resets_unwrap() {
    let inner = Notification::cease_with_text(CeaseSubcode::AdministrativeShutdown, "bye\u{1b}[31m");
    let hard = inner.clone().into_hard_reset();
    assert_eq!(hard.hard_reset_cause(), Some(inner.clone()));
    assert_eq!(inner.hard_reset_cause(), None);
    let text = "cease: hard reset (cease: administrative shutdown), \"bye\u{fffd}[31m\"";
    assert_eq!(hard.to_string(), text);
    assert_eq!(hard.into_hard_reset().shutdown_communication(), None, "no reset in a reset");
    assert_eq!(Notification::cease(CeaseSubcode::HardReset).hard_reset_cause(), None);
    // A length beyond the data is no communication.
    let code = NotificationCode::Cease(CeaseSubcode::AdministrativeReset);
    assert_eq!(Notification::with_data(code, &b"\x05hi"[..]).shutdown_communication(), None);
}

#[test]
fn reflection_keeps_the_originator_and_grows_the_cluster_list() {
    let (first, second) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let once = PathAttributes::default().reflected([192, 0, 2, 1].into(), first);
    let twice = once.reflected([192, 0, 2, 2].into(), second);
    assert_eq!(twice.originator_id, Some([192, 0, 2, 1].into()));
    assert_eq!(twice.cluster_list[..], [second, first]);
}

#[test]
fn sets_are_changed_without_losing_their_order() {
    let set: SortedSet<u32> = [3, 1, 2, 3].into_iter().collect();
    assert_eq!(set[..], [1, 2, 3]);
    assert_eq!(set.with(0)[..], [0, 1, 2, 3]);
    assert_eq!(set.with(2), set);
    assert_eq!(set.filtered(|item| *item != 2)[..], [1, 3]);
    assert!(set.has(&3) && !set.has(&4));
}

#[test]
fn messages_are_json() {
    let attributes = PathAttributes {
        as_path: AsPath::from_segments([(Sequence, vec![64512]), (Set, vec![1, 2])]),
        local_pref: Some(100),
        communities: [Community::NO_EXPORT].into_iter().collect(),
        unknown: List::from(vec![UnknownAttribute {
            code: AttributeCode(99),
            value: List::from(vec![0xab]),
        }]),
        ..PathAttributes::default()
    };
    let nlri = Nlri { path_id: Some(7), ..Nlri::new("2001:db8::/32".parse().unwrap()) };
    let next_hop = NextHop::V6 { global: "2001:db8::1".parse().unwrap(), link_local: None };
    let reach = Reach { next_hop, nlri: [nlri].into_iter().collect() };
    let update = Message::Update(Update { mp_reach: Some(reach), attributes, ..Update::default() });
    let expected = json!({ "update": {
        "mp_reach": {
            "next_hop": { "global": "2001:db8::1" },
            "nlri": [{ "prefix": "2001:db8::/32", "path_id": 7 }],
        },
        "attributes": {
            "origin": "igp",
            "as_path": [64512, [1, 2]],
            "local_pref": 100,
            "communities": ["no-export"],
            "unknown": [{ "code": 99, "value": "ab" }],
        },
    }});
    assert_eq!(serde_json::to_value(&update).unwrap(), expected);
    let open = Message::Open(Open::new(
        64512,
        90,
        [192, 0, 2, 1].into(),
        vec![
            Capability::MultiProtocol(AfiSafi::Ipv4Unicast),
            Capability::RouteRefresh,
            Capability::Unknown { code: 200, value: vec![1, 2].into() },
        ],
    ));
    let expected = json!({ "open": {
        "version": 4, "my_as": 64512, "hold_time": 90, "bgp_id": "192.0.2.1",
        "capabilities": [
            { "multi-protocol": "ipv4-unicast" }, "route-refresh", { "unknown": { "code": 200, "value": "0102" } },
        ],
    }});
    assert_eq!(serde_json::to_value(&open).unwrap(), expected);
    let fault = AttributeFault {
        attribute: AttributeCode::ORIGIN,
        reason: FaultReason::Length(2),
        action: FaultAction::TreatAsWithdraw,
        position: 23,
    };
    let expected = json!({
        "attribute": "ORIGIN", "reason": { "length": 2 }, "action": "treat-as-withdraw", "position": 23,
    });
    assert_eq!(serde_json::to_value(fault).unwrap(), expected);
}
