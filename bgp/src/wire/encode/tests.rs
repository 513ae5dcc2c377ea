use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::wire::{
    testing::{
        any_message, decode_all, decode_bytes, encoded, ipv4_next_hop, ipv6_next_hop, negotiated,
        path_attributes, prefixes, session,
    },
    *,
};

#[test]
fn notification_data_that_does_not_fit_is_cut() {
    let code = NotificationCode::RouteRefresh(RefreshSubcode::InvalidMessageLength);
    let notification = Notification::with_data(code, Bytes::from(vec![7; 5000]));
    let session = session(PeerKind::Internal);
    let bytes = encoded(&Message::Notification(notification), &session);
    assert_eq!(bytes.len(), MAX_MESSAGE_LEN);
    assert_eq!(decode_all(&bytes, &session).len(), 1);
}

#[test]
fn what_fails_leaves_the_output_alone() {
    let session = session(PeerKind::Internal);
    let mut out = BytesMut::from(&b"before"[..]);
    let long = Capability::Unknown { code: 200, value: Bytes::from(vec![0; 256]) };
    let open = Open::new(64512, 90, [192, 0, 2, 1].into(), vec![long]);
    let error = Message::Open(open).encode(&session, &mut out);
    assert_eq!(error, Err(EncodeError::CapabilityTooLong { code: 200, needed: 256 }));

    let many = vec![Capability::Unknown { code: 200, value: Bytes::from(vec![0; 250]) }; 20];
    let open = Open::new(64512, 90, [192, 0, 2, 1].into(), many);
    let error = Message::Open(open).encode(&session, &mut out);
    assert!(matches!(error, Err(EncodeError::MessageTooLong { max: 4096, .. })), "{error:?}");

    let ipv6 = Nlri::new("2001:db8::/32".parse().expect("prefix"));
    let ipv4 = Nlri::new("192.0.2.0/24".parse().expect("prefix"));
    let next_hop = NextHop::V4([192, 0, 2, 1].into());
    let reach = Reach { next_hop, nlri: [ipv6].into_iter().collect() };
    let update = Update { mp_reach: Some(reach.clone()), ..Update::default() };
    let error = Message::Update(update).encode(&session, &mut out);
    assert_eq!(error, Err(EncodeError::NextHopFamily(AfiSafi::Ipv6Unicast)));
    let update = Update { reach: Some(reach), ..Update::default() };
    let error = Message::Update(update).encode(&session, &mut out);
    assert_eq!(error, Err(EncodeError::MixedFamilies));

    assert_eq!(Message::Update(Update::default()).encode(&session, &mut out), Err(EncodeError::Empty));

    let mut encoder = UpdateEncoder::new(session);
    let attributes = PathAttributes::default();
    let error = encoder.announce(&attributes, &next_hop, [ipv4, ipv6], &mut out);
    assert_eq!(error, Err(EncodeError::NextHopFamily(AfiSafi::Ipv6Unicast)));
    let over_ipv6 = NextHop::V6 { global: "2001:db8::1".parse().expect("address"), link_local: None };
    let error = encoder.announce(&attributes, &over_ipv6, [ipv6, ipv4], &mut out);
    assert_eq!(error, Err(EncodeError::NextHopFamily(AfiSafi::Ipv4Unicast)));
    assert_eq!(&out[..], b"before");
}

#[test]
fn the_extended_form_of_open_is_used_only_where_the_classic_one_ends() {
    // Capabilities of 252 and 253 octets: with the parameter's own header 254 and 255, which is the mark of RFC 9072.
    for (value, lengths) in [(250, &[254, 2, 252][..]), (251, &[255, 255, 1, 0, 2, 0, 253])] {
        let capabilities = vec![Capability::Unknown { code: 200, value: Bytes::from(vec![0; value]) }];
        let open = Open::new(64512, 90, [192, 0, 2, 1].into(), capabilities);
        let bytes = encoded(&Message::Open(open.clone()), &session(PeerKind::Internal));
        assert_eq!(bytes[HEADER_LEN + 9..][..lengths.len()], *lengths);
        assert_eq!(decode_all(&bytes, &session(PeerKind::Internal)), [Message::Open(open)]);
    }
}

#[test]
fn an_old_speaker_is_told_as_trans_and_the_true_path_beside_it() {
    let attributes = PathAttributes {
        as_path: AsPath::sequence([70000, 10]),
        aggregator: Some(Aggregator { asn: 70000, id: [192, 0, 2, 1].into() }),
        ..PathAttributes::default()
    };
    let prefix = Nlri::new("10.1.2.0/24".parse().expect("prefix"));
    let mut out = BytesMut::new();
    let old = Negotiated::minimal(PeerKind::External);
    let next_hop = NextHop::V4([192, 0, 2, 1].into());
    assert_eq!(UpdateEncoder::new(old).announce(&attributes, &next_hop, [prefix], &mut out), Ok(1));
    let has = |octets: &[u8]| out.windows(octets.len()).any(|window| window == octets);
    assert!(has(&[0x40, 2, 6, 2, 2, 0x5b, 0xa0, 0, 10]), "AS_PATH");
    assert!(has(&[0xc0, 17, 10, 2, 2, 0, 1, 0x11, 0x70, 0, 0, 0, 10]), "AS4_PATH");
    assert!(has(&[0xc0, 7, 6, 0x5b, 0xa0, 192, 0, 2, 1]), "AGGREGATOR");
    assert!(has(&[0xc0, 18, 8, 0, 1, 0x11, 0x70, 192, 0, 2, 1]), "AS4_AGGREGATOR");
}

/// RFC 7606 section 5.1: one field with prefixes per UPDATE, the attributes that have some first.
#[test]
fn an_update_has_one_kind_of_prefixes_and_they_come_first() {
    let four = Nlri::new("10.1.2.0/24".parse().expect("prefix"));
    let six = Nlri::new("2001:db8::/32".parse().expect("prefix"));
    let session = session(PeerKind::Internal);
    let mut encoder = UpdateEncoder::new(session);
    let mut out = BytesMut::new();
    encoder.withdraw([four, six], &mut out);
    let attributes = PathAttributes { med: Some(1), local_pref: Some(100), ..PathAttributes::default() };
    let by_six = NextHop::V6 { global: "2001:db8::1".parse().expect("address"), link_local: None };
    encoder.announce(&attributes, &NextHop::V4([192, 0, 2, 1].into()), [four], &mut out).expect("fits");
    encoder.announce(&attributes, &by_six, [six], &mut out).expect("fits");
    let mut rest = &out[..];
    let mut seen = Vec::new();
    while let [_, ..] = rest {
        let (message, tail) = rest.split_at(usize::from(u16::from_be_bytes([rest[16], rest[17]])));
        rest = tail;
        let body = &message[HEADER_LEN..];
        let withdrawn = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let list = &body[2 + withdrawn..];
        let (list, nlri) = list[2..].split_at(usize::from(u16::from_be_bytes([list[0], list[1]])));
        let first = list.get(1).copied().filter(|code| matches!(code, 14 | 15));
        seen.push((withdrawn > 0, first, !nlri.is_empty()));
    }
    let only = [(true, None, false), (false, Some(15), false), (false, None, true), (false, Some(14), false)];
    assert_eq!(seen, only);
}

#[test]
fn attributes_that_leave_no_room_are_refused_at_the_exact_limit() {
    let prefix = Nlri::new("2001:db8::1/128".parse().expect("prefix"));
    let next_hop = NextHop::V6 { global: "2001:db8::1".parse().expect("address"), link_local: None };
    let mut with_id = session(PeerKind::Internal);
    with_id.add_path_send = FamilySet::BOTH;
    let mut encoder = UpdateEncoder::new(with_id);
    let mut accepted = 0;
    for len in 3900..4096 {
        let value = List::from(vec![0; len]);
        let attributes = PathAttributes {
            unknown: [UnknownAttribute { code: AttributeCode(200), value }].into_iter().collect(),
            ..PathAttributes::default()
        };
        let mut out = BytesMut::new();
        match encoder.announce(&attributes, &next_hop, [Nlri { path_id: Some(1), ..prefix }], &mut out) {
            Ok(messages) => {
                assert_eq!(messages, 1);
                accepted = out.len();
            }
            Err(EncodeError::AttributesTooLong { needed, max: 4096 }) => {
                assert!(needed > 4096 && out.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(accepted, 4096, "the last accepted one fills the message");
}

#[test]
fn a_prefix_of_a_full_reflected_route_has_62_octets() {
    let attributes = PathAttributes { local_pref: Some(100), ..PathAttributes::default() }
        .reflected([192, 0, 2, 1].into(), [10, 0, 0, 1].into());
    let mut out = BytesMut::new();
    let next_hop = NextHop::V4([192, 0, 2, 1].into());
    let prefix = Nlri::new("10.1.2.0/24".parse().expect("prefix"));
    let mut encoder = UpdateEncoder::new(session(PeerKind::Internal));
    assert_eq!(encoder.announce(&attributes, &next_hop, [prefix], &mut out), Ok(1));
    assert_eq!(out.len(), 62);
}

#[test]
fn equal_attributes_are_packed_up_to_the_limit() {
    let prefixes = |count: u32| {
        (0..count).map(|n| {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + (n << 8));
            Nlri::new(ipnet::Ipv4Net::new(address, 24).expect("length").into())
        })
    };
    for (extended_message, fewest) in [(false, 50), (true, 4)] {
        let session = Negotiated { extended_message, ..session(PeerKind::Internal) };
        let mut encoder = UpdateEncoder::new(session);
        let mut out = BytesMut::new();
        let next_hop = NextHop::V4([192, 0, 2, 1].into());
        let sent = encoder.announce(&PathAttributes::default(), &next_hop, prefixes(50_000), &mut out);
        assert_eq!(sent, Ok(fewest));
        assert_eq!(decode_all(&out, &session).len(), fewest);
        out.clear();
        assert_eq!(encoder.withdraw(prefixes(50_000), &mut out), fewest);
        assert_eq!(decode_all(&out, &session).len(), fewest);
    }
}

fn flat(messages: Vec<Message>) -> (Vec<Nlri>, Vec<(PathAttributes, NextHop, Nlri)>) {
    let (mut withdrawn, mut announced) = (Vec::new(), Vec::new());
    for message in messages {
        let Message::Update(update) = message else { panic!("{message:?}") };
        withdrawn.extend_from_slice(&update.withdrawn);
        announced
            .extend(update.announced().map(|(next_hop, nlri)| (update.attributes.clone(), *next_hop, *nlri)));
    }
    (withdrawn, announced)
}

/// The session and both families' prefixes, enough for several messages.
fn routes() -> impl Strategy<Value = (Negotiated, PathAttributes, Vec<Nlri>, Vec<Nlri>)> {
    negotiated().prop_map(|it| Negotiated { families: FamilySet::BOTH, ..it }).prop_flat_map(|it| {
        (Just(it), path_attributes(it), prefixes(it, false, 0..900), prefixes(it, true, 0..400))
    })
}

proptest! {
    #[test]
    fn every_message_comes_back((negotiated, message) in any_message()) {
        let mut out = BytesMut::new();
        match message.encode(&negotiated, &mut out) {
            Ok(()) => {
                prop_assert!(out.len() <= negotiated.max_message_len());
                let decoded = decode_bytes(&out, &negotiated).expect("decodes");
                prop_assert_eq!(decoded.faults, []);
                prop_assert_eq!(decoded.message, message);
            }
            Err(EncodeError::MessageTooLong { needed, max }) => {
                prop_assert!(needed > max && out.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// What egress sends is what the peer has afterwards, in order, and no message is too long.
    #[test]
    fn packed_routes_come_back(
        (negotiated, attributes, ipv4, ipv6) in routes(),
        next_hop in ipv4_next_hop(),
        mp_next_hop in ipv6_next_hop(),
    ) {
        let mut encoder = UpdateEncoder::new(negotiated);
        let mut out = BytesMut::new();
        let both: Vec<Nlri> = ipv4.iter().chain(&ipv6).copied().collect();
        let mut messages = encoder.withdraw(both.iter().copied(), &mut out);
        let mut expected = Vec::new();
        for (next_hop, list) in [(NextHop::V4(next_hop), &ipv4), (mp_next_hop, &ipv6), (mp_next_hop, &ipv4)] {
            match encoder.announce(&attributes, &next_hop, list.iter().copied(), &mut out) {
                Ok(sent) => {
                    messages += sent;
                    expected.extend(list.iter().map(|nlri| (attributes.clone(), next_hop, *nlri)));
                }
                Err(EncodeError::AttributesTooLong { needed, max }) => prop_assert!(needed > max),
                Err(EncodeError::NextHopFamily(AfiSafi::Ipv4Unicast)) => {
                    prop_assert!(!negotiated.extended_next_hop);
                }
                Err(other) => panic!("{other}"),
            }
        }
        let decoded = decode_all(&out, &negotiated);
        prop_assert_eq!(decoded.len(), messages);
        let (withdrawn, announced) = flat(decoded);
        prop_assert_eq!(withdrawn, both);
        prop_assert_eq!(announced, expected);
    }

    #[test]
    fn end_of_rib_comes_back(negotiated in negotiated()) {
        let encoder = UpdateEncoder::new(negotiated);
        let mut out = BytesMut::new();
        for family in negotiated.families.iter() {
            encoder.end_of_rib(family, &mut out);
        }
        let expected: Vec<_> = negotiated.families.iter().map(|f| Message::Update(Update::end_of_rib(f))).collect();
        prop_assert_eq!(decode_all(&out, &negotiated), expected);
    }

    #[test]
    fn shutdown_communication_comes_back(text in ".{0,200}", hard in any::<bool>()) {
        let mut notification = Notification::cease_with_text(CeaseSubcode::AdministrativeShutdown, &text);
        prop_assert!(notification.data.len() <= 256);
        if hard {
            notification = notification.into_hard_reset();
        }
        let shown = notification.shutdown_communication().unwrap_or_default();
        let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        prop_assert!(clean.starts_with(&shown));
        prop_assert!(shown.len() == clean.len() || text.len() > 252);
    }

    #[test]
    fn sets_are_canonical(items in vec(any::<u32>(), 0..40)) {
        let mut reversed = items.clone();
        reversed.reverse();
        let set: SortedSet<u32> = items.iter().copied().collect();
        prop_assert_eq!(&set, &reversed.into_iter().collect());
        prop_assert_eq!(&set, &items.iter().fold(SortedSet::EMPTY, |set, item| set.with(*item)));
        prop_assert!(set.is_sorted_by(|a, b| a < b));
    }
}
