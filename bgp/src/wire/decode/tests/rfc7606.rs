//! RFC 7606, from the table and clause by clause.

use std::collections::BTreeSet;

use super::*;

/// An UPDATE announcing one classic prefix with the mandatory attributes, `code` replaced by `instead`.
fn update_with(code: AttributeCode, instead: &[u8], four_octet_as: bool) -> Vec<u8> {
    let mut attributes = Vec::new();
    for desc in ATTRIBUTES.iter().filter(|desc| desc.missing.is_some() && desc.code != code) {
        attributes.extend(good(desc, four_octet_as));
    }
    attributes.extend_from_slice(instead);
    raw_update(&[], &attributes, &PREFIX)
}

/// What became of an UPDATE, to compare with the table.
#[derive(Debug, PartialEq)]
enum Outcome {
    Accepted,
    Fault(AttributeCode, FaultReason, FaultAction),
    Reset(NotificationCode),
}

fn outcome(bytes: &[u8], session: &Negotiated) -> Outcome {
    match decode_bytes(bytes, session) {
        Err(reset) => {
            assert!(reset.position >= HEADER_LEN && reset.position <= bytes.len());
            Outcome::Reset(reset.notification.code)
        }
        Ok(Decoded { message: Message::Update(update), faults }) => {
            let worst = faults.iter().max_by_key(|fault| fault.action);
            // The action must have been applied, and nothing lost.
            let withdraw = worst.is_some_and(|fault| fault.action == FaultAction::TreatAsWithdraw);
            assert_eq!(update.withdrawn.contains(&nlri()), withdraw, "{faults:?}");
            assert_eq!(update.announced().any(|(_, announced)| *announced == nlri()), !withdraw);
            if withdraw {
                assert!(!update.announces());
                assert_eq!(update.attributes, PathAttributes::default());
            }
            match worst {
                None => Outcome::Accepted,
                Some(fault) => {
                    assert_eq!(bytes[fault.position + 1], fault.attribute.0, "position of {fault}");
                    Outcome::Fault(fault.attribute, fault.reason, fault.action)
                }
            }
        }
        Ok(other) => panic!("{other:?}"),
    }
}

/// The outcome that a row's action means.
fn expected(desc: &AttributeDesc, reason: FaultReason, action: FaultAction) -> Outcome {
    match (action, reason) {
        (FaultAction::SessionReset, FaultReason::Duplicate) => {
            Outcome::Reset(NotificationCode::Update(UpdateSubcode::MalformedAttributeList))
        }
        (FaultAction::SessionReset, _) => {
            Outcome::Reset(NotificationCode::Update(UpdateSubcode::OptionalAttribute))
        }
        _ => Outcome::Fault(desc.code, reason, action),
    }
}

/// Every row of the table with every kind of session.
fn each_case(mut check: impl FnMut(&'static AttributeDesc, Negotiated)) {
    for peer in [PeerKind::Internal, PeerKind::External] {
        for four_octet_as in [true, false] {
            for desc in &ATTRIBUTES {
                check(desc, Negotiated { four_octet_as, ..session(peer) });
            }
        }
    }
}

fn is_allowed(desc: &AttributeDesc, session: &Negotiated) -> bool {
    let old = matches!(desc.code, AttributeCode::AS4_PATH | AttributeCode::AS4_AGGREGATOR);
    desc.allowed.get(session.peer) && !(old && session.four_octet_as)
}

fn not_allowed(desc: &AttributeDesc) -> Outcome {
    Outcome::Fault(desc.code, FaultReason::NotAllowed, FaultAction::Discard)
}

#[test]
fn the_table_is_sorted_and_complete() {
    let codes: Vec<u8> = ATTRIBUTES.iter().map(|desc| desc.code.0).collect();
    assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32]);
    for desc in &ATTRIBUTES {
        assert_eq!(desc::find(desc.code).map(|found| found.name), Some(desc.name));
        assert!(desc.section.starts_with("RFC "));
    }
    assert!(desc::find(AttributeCode(33)).is_none() && desc::find(AttributeCode(11)).is_none());
}

/// The table again, written from the RFCs' texts and not from ours: what follows from a malformed attribute, from wrong
/// flags, from a second one (section 3 g), and what of an external peer's (where it may only come from an internal one).
#[test]
fn the_table_says_what_the_rfcs_say() {
    use FaultAction::{Discard, SessionReset, TreatAsWithdraw};
    let rows = [
        // RFC 7606 sections 7.1 to 7.3.
        (1, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0x40),
        (2, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0x40),
        (3, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0x40),
        // 7.4; 7.5, which an external peer's LOCAL_PREF is discarded by.
        (4, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0x80),
        (5, TreatAsWithdraw, TreatAsWithdraw, Discard, false, 0x40),
        // 7.6 and 7.7: nothing is decided by them.
        (6, Discard, Discard, Discard, true, 0x40),
        (7, Discard, Discard, Discard, true, 0xc0),
        // 7.8; 7.9 and 7.10, discarded from external peers.
        (8, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0xc0),
        (9, TreatAsWithdraw, TreatAsWithdraw, Discard, false, 0x80),
        (10, TreatAsWithdraw, TreatAsWithdraw, Discard, false, 0x80),
        // 7.11 and 7.12: prefixes would be lost, so that the session is. Flags are no matter of finding them (3 c).
        (14, SessionReset, TreatAsWithdraw, SessionReset, true, 0x80),
        (15, SessionReset, TreatAsWithdraw, SessionReset, true, 0x80),
        // 7.14.
        (16, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0xc0),
        // RFC 6793 section 6.
        (17, Discard, Discard, Discard, true, 0xc0),
        (18, Discard, Discard, Discard, true, 0xc0),
        // RFC 8092 section 6.
        (32, TreatAsWithdraw, TreatAsWithdraw, Discard, true, 0xc0),
    ];
    let ours = ATTRIBUTES.map(|desc| {
        assert!(desc.allowed.internal, "{}", desc.name);
        (desc.code.0, desc.malformed, desc.bad_flags, desc.duplicate, desc.allowed.external, desc.flags)
    });
    assert_eq!(ours, rows);
    // Lengths that may be: of the value, with four octets for an AS and with two.
    let lengths = [
        (1, &[1][..], &[1][..]),
        (3, &[4], &[4]),
        (4, &[4], &[4]),
        (5, &[4], &[4]),
        (6, &[0], &[0]),
        (7, &[8], &[6]),
        (8, &[4, 8, 12, 16], &[4, 8, 12, 16]),
        (9, &[4], &[4]),
        (10, &[4, 8, 12, 16], &[4, 8, 12, 16]),
        (16, &[8, 16], &[8, 16]),
        (18, &[8], &[8]),
        (32, &[12], &[12]),
    ];
    for (code, four, two) in lengths {
        let desc = desc::find(AttributeCode(code)).unwrap();
        for (four_octet_as, expected) in [(true, four), (false, two)] {
            let allowed = desc.lengths(four_octet_as);
            let some: Vec<usize> = (0..17).filter(|len| allowed.allow(*len)).collect();
            assert_eq!(some, expected, "{} {four_octet_as}", desc.name);
        }
    }
}

#[test]
fn a_good_attribute_is_accepted_where_it_is_allowed() {
    each_case(|desc, session| {
        let bytes = update_with(desc.code, &good(desc, session.four_octet_as), session.four_octet_as);
        let expected = if is_allowed(desc, &session) { Outcome::Accepted } else { not_allowed(desc) };
        assert_eq!(outcome(&bytes, &session), expected, "{}", desc.name);
    });
}

#[test]
fn bad_flags() {
    each_case(|desc, session| {
        for wrong in [0x80, 0x40, 0xc0] {
            let flags = desc.flags ^ wrong;
            let attribute = raw_attribute(flags, desc.code, &good_value(desc.code, session.four_octet_as));
            let got = outcome(&update_with(desc.code, &attribute, session.four_octet_as), &session);
            let wanted = if is_allowed(desc, &session) {
                Outcome::Fault(desc.code, FaultReason::Flags(flags), desc.bad_flags)
            } else {
                not_allowed(desc)
            };
            assert_eq!(got, wanted, "{} {flags:#x}", desc.name);
        }
        // RFC 7606 section 3 c knows no other conflict: the partial bit and the unused ones are nobody's fault.
        let attribute =
            raw_attribute(desc.flags | 0x2f, desc.code, &good_value(desc.code, session.four_octet_as));
        let got = outcome(&update_with(desc.code, &attribute, session.four_octet_as), &session);
        assert_eq!(got, if is_allowed(desc, &session) { Outcome::Accepted } else { not_allowed(desc) });
    });
}

#[test]
fn bad_lengths() {
    each_case(|desc, session| {
        let lengths = desc.lengths(session.four_octet_as);
        for len in (0..40_u16).filter(|len| !lengths.allow(usize::from(*len))) {
            let attribute = raw_attribute(desc.flags, desc.code, &vec![1; usize::from(len)]);
            let got = outcome(&update_with(desc.code, &attribute, session.four_octet_as), &session);
            let wanted = if is_allowed(desc, &session) {
                expected(desc, FaultReason::Length(len), desc.malformed)
            } else {
                not_allowed(desc)
            };
            assert_eq!(got, wanted, "{} of {len}", desc.name);
        }
    });
}

#[test]
fn bad_values() {
    let reach = |next_hop_len: u8, tail: &[u8]| {
        [&[0, 2, 1, next_hop_len][..], &vec![0x20; usize::from(next_hop_len)], &[0], tail].concat()
    };
    let cases: Vec<(AttributeCode, Vec<u8>)> = vec![
        (AttributeCode::ORIGIN, vec![3]),
        (AttributeCode::ORIGIN, vec![255]),
        // Unknown kind of segment, confederation, no AS, cut off, one octet left over, AS 0.
        (AttributeCode::AS_PATH, vec![0, 1, 0, 0, 0xfc, 0]),
        (AttributeCode::AS_PATH, vec![3, 1, 0, 0, 0xfc, 0]),
        (AttributeCode::AS_PATH, vec![5, 1, 0, 0, 0xfc, 0]),
        (AttributeCode::AS_PATH, vec![2, 0]),
        (AttributeCode::AS_PATH, vec![2, 2, 0, 0, 0xfc, 0]),
        (AttributeCode::AS_PATH, vec![2, 1, 0, 0, 0xfc, 0, 2]),
        (AttributeCode::AS_PATH, vec![2, 1, 0, 0, 0, 0]),
        (AttributeCode::NEXT_HOP, vec![0, 0, 0, 0]),
        (AttributeCode::NEXT_HOP, vec![224, 0, 0, 1]),
        (AttributeCode::NEXT_HOP, vec![255, 255, 255, 255]),
        (AttributeCode::AGGREGATOR, vec![0, 0, 0, 0, 192, 0, 2, 1]),
        // Lengths of the next hop that IPv6 has not, and prefixes that are too long or cut off.
        (AttributeCode::MP_REACH_NLRI, reach(0, &[16, 0x20, 1])),
        (AttributeCode::MP_REACH_NLRI, reach(4, &[16, 0x20, 1])),
        (AttributeCode::MP_REACH_NLRI, reach(24, &[16, 0x20, 1])),
        (AttributeCode::MP_REACH_NLRI, reach(200, &[])[..20].to_vec()),
        (AttributeCode::MP_REACH_NLRI, reach(16, &[129, 0x20, 1])),
        (AttributeCode::MP_REACH_NLRI, reach(16, &[32, 0x20, 1])),
        (AttributeCode::MP_UNREACH_NLRI, vec![0, 2, 1, 129, 0x20, 1]),
        (AttributeCode::MP_UNREACH_NLRI, vec![0, 2, 1, 32, 0x20, 1]),
    ];
    for peer in [PeerKind::Internal, PeerKind::External] {
        for (code, value) in &cases {
            let desc = desc::find(*code).unwrap();
            let attribute = raw_attribute(desc.flags, *code, value);
            let got = outcome(&update_with(*code, &attribute, true), &session(peer));
            assert_eq!(got, expected(desc, FaultReason::Value, desc.malformed), "{code} {value:?}");
        }
    }
    // On a two-octet session only: a malformed AS4_PATH or AS4_AGGREGATOR is dropped (RFC 6793 section 6).
    let two_octet = Negotiated { four_octet_as: false, ..session(PeerKind::External) };
    for (code, value) in
        [(AttributeCode::AS4_PATH, vec![7, 1, 0, 1, 0, 0]), (AttributeCode::AS4_AGGREGATOR, vec![0; 8])]
    {
        let desc = desc::find(code).unwrap();
        let attribute = raw_attribute(desc.flags, code, &value);
        let got = outcome(&update_with(code, &attribute, false), &two_octet);
        assert_eq!(got, Outcome::Fault(code, FaultReason::Value, FaultAction::Discard));
    }
}

#[test]
fn an_unusable_ipv6_next_hop_withdraws_its_prefixes() {
    for global in [[0; 16], [0xff; 16]] {
        let value = [&[0, 2, 1, 16][..], &global, &[0, 16, 0x20, 1]].concat();
        let desc = desc::find(AttributeCode::MP_REACH_NLRI).unwrap();
        let attribute = raw_attribute(desc.flags, desc.code, &value);
        let bytes = update_with(desc.code, &attribute, true);
        let Decoded { message: Message::Update(update), .. } =
            decode_bytes(&bytes, &session(PeerKind::Internal)).unwrap()
        else {
            panic!("UPDATE")
        };
        assert_eq!(update.withdrawn[..], [Nlri::new("2001::/16".parse().unwrap()), nlri()]);
    }
}

#[test]
fn duplicates() {
    each_case(|desc, session| {
        let mut twice = good(desc, session.four_octet_as);
        // The second one may be nonsense: it is not looked at.
        twice.extend(raw_attribute(desc.flags, desc.code, &[9; 3]));
        let got = outcome(&update_with(desc.code, &twice, session.four_octet_as), &session);
        let second_fault = expected(desc, FaultReason::Duplicate, desc.duplicate);
        let wanted = if is_allowed(desc, &session) {
            second_fault
        } else {
            // Both are discarded; the first fault is that it came at all, the last one is compared.
            Outcome::Fault(desc.code, FaultReason::Duplicate, FaultAction::Discard)
        };
        assert_eq!(got, wanted, "{}", desc.name);
    });
}

#[test]
fn the_first_of_two_counts() {
    let med = |n: u8| raw_attribute(0x80, AttributeCode::MULTI_EXIT_DISC, &[0, 0, 0, n]);
    let unknown = |n: u8| raw_attribute(0xc0, AttributeCode(99), &[n]);
    let both = [med(1), unknown(1), med(2), unknown(2)].concat();
    let bytes = update_with(AttributeCode::MULTI_EXIT_DISC, &both, true);
    let decoded = decode_bytes(&bytes, &session(PeerKind::External)).unwrap();
    assert_eq!(decoded.faults.len(), 2);
    let Message::Update(update) = decoded.message else { panic!("UPDATE") };
    assert_eq!(update.attributes.med, Some(1));
    assert_eq!(update.attributes.unknown[0].value[..], [1]);
}

#[test]
fn missing_mandatory_attributes() {
    for peer in [PeerKind::Internal, PeerKind::External] {
        let session = session(peer);
        for desc in &ATTRIBUTES {
            let decoded = decode_bytes(&update_with(desc.code, &[], true), &session).unwrap();
            match desc.missing {
                None => assert_eq!(decoded.faults, []),
                Some(action) => {
                    let [fault] = decoded.faults[..] else { panic!("{:?}", decoded.faults) };
                    assert_eq!(
                        (fault.attribute, fault.reason, fault.action),
                        (desc.code, FaultReason::Missing, action)
                    );
                    let Message::Update(update) = decoded.message else { panic!("UPDATE") };
                    assert_eq!(update.withdrawn[..], [nlri()]);
                }
            }
        }
        // MP_REACH_NLRI has its own next hop and needs the others.
        let mp = good(desc::find(AttributeCode::MP_REACH_NLRI).unwrap(), true);
        let decoded = decode_bytes(&raw_update(&[], &mp, &[]), &session).unwrap();
        let missing: BTreeSet<_> = decoded.faults.iter().map(|fault| fault.attribute).collect();
        assert_eq!(missing, BTreeSet::from([AttributeCode::ORIGIN, AttributeCode::AS_PATH]));
    }
}

#[test]
fn without_prefixes_a_fault_that_withdraws_resets() {
    // RFC 7606 section 5.2: attributes but nothing reachable, and a fault stronger than a discarded attribute.
    let session = session(PeerKind::External);
    let origin = raw_attribute(0x40, AttributeCode::ORIGIN, &[7]);
    let reset = decode_bytes(&raw_update(&[], &origin, &[]), &session).unwrap_err();
    assert_eq!(reset.notification.code, NotificationCode::Update(UpdateSubcode::InvalidOrigin));
    assert_eq!(reset.notification.data[..], origin);
    let withdrawal = raw_update(&PREFIX, &origin, &[]);
    assert!(decode_bytes(&withdrawal, &session).is_err());
    let discarded = raw_attribute(0x40, AttributeCode::ATOMIC_AGGREGATE, &[7]);
    let decoded = decode_bytes(&raw_update(&PREFIX, &discarded, &[]), &session).unwrap();
    assert_eq!(decoded.faults.len(), 1);
}

#[test]
fn attributes_that_run_past_the_end() {
    let session = session(PeerKind::Internal);
    let withdrawn = |tail: &[u8]| {
        let bytes = update_with(AttributeCode::MULTI_EXIT_DISC, tail, true);
        let decoded = decode_bytes(&bytes, &session).unwrap();
        let Message::Update(update) = decoded.message else { panic!("UPDATE") };
        let [fault] = decoded.faults[..] else { panic!("{:?}", decoded.faults) };
        assert_eq!(fault.reason, FaultReason::Overrun);
        update.withdrawn[..] == [nlri()]
    };
    // RFC 7606 section 4: too long a length; fewer octets than a header; than an extended header.
    assert!(withdrawn(&[0x80, 4, 5, 0, 0, 0, 0]));
    assert!(withdrawn(&[0x80]));
    assert!(withdrawn(&[0x80, 4]));
    assert!(withdrawn(&[0x90, 4, 0]));
    // Where prefixes are lost, withdrawing what is left would not do.
    for code in [14, 15] {
        let bytes = update_with(AttributeCode(code), &[0x80, code, 200, 0, 2, 1], true);
        let reset = decode_bytes(&bytes, &session).unwrap_err();
        assert_eq!(reset.notification.code, NotificationCode::Update(UpdateSubcode::MalformedAttributeList));
    }
}

#[test]
fn lengths_that_contradict_the_message() {
    let session = session(PeerKind::Internal);
    for body in [&[0, 5, 0, 0][..], &[0, 0, 0, 1], &[0, 1, 0, 0], &[0xff, 0xff, 0, 0, 0]] {
        let reset = decode_bytes(&message(2, body), &session).unwrap_err();
        assert_eq!(reset.notification.code, NotificationCode::Update(UpdateSubcode::MalformedAttributeList));
    }
    // RFC 7606 section 3 j and 5.3: prefixes that cannot be told apart.
    for field in [&[33, 1, 2, 3, 4, 5][..], &[24, 10, 1], &[255]] {
        for bytes in [raw_update(field, &[], &[]), raw_update(&[], &[], field)] {
            let reset = decode_bytes(&bytes, &session).unwrap_err();
            assert_eq!(reset.notification.code, NotificationCode::Update(UpdateSubcode::InvalidNetworkField));
        }
    }
}

#[test]
fn unknown_attributes() {
    let session = session(PeerKind::External);
    let code = AttributeCode(99);
    let well_known = raw_attribute(0x40, code, &[1, 2, 3]);
    let reset = decode_bytes(&update_with(code, &well_known, true), &session).unwrap_err();
    let subcode = UpdateSubcode::UnrecognizedWellKnownAttribute;
    assert_eq!(reset.notification.code, NotificationCode::Update(subcode));
    assert_eq!(reset.notification.data[..], well_known);
    let attributes = |flags| {
        let bytes = update_with(code, &raw_attribute(flags, code, &[1, 2, 3]), true);
        let decoded = decode_bytes(&bytes, &session).unwrap();
        assert_eq!(decoded.faults, []);
        let Message::Update(update) = decoded.message else { panic!("UPDATE") };
        update.attributes
    };
    assert!(attributes(0x80).unknown.is_empty());
    assert_eq!(attributes(0xc0).unknown.len(), 1);
    assert_eq!(attributes(0xe0), attributes(0xc0), "partial or not, it goes out partial");
}

#[test]
fn families_that_are_not_negotiated_are_ignored() {
    let mut only_ipv4 = session(PeerKind::Internal);
    only_ipv4.families.ipv6 = false;
    for code in [AttributeCode::MP_REACH_NLRI, AttributeCode::MP_UNREACH_NLRI] {
        let desc = desc::find(code).unwrap();
        let bytes = update_with(code, &good(desc, true), true);
        let family = FaultReason::Family(AfiSafi::Ipv6Unicast);
        assert_eq!(outcome(&bytes, &only_ipv4), Outcome::Fault(code, family, FaultAction::Discard));
    }
    let mut only_ipv6 = session(PeerKind::Internal);
    only_ipv6.families.ipv4 = false;
    let bytes = update_with(AttributeCode::MULTI_EXIT_DISC, &[], true);
    let decoded = decode_bytes(&bytes, &only_ipv6).unwrap();
    assert_eq!(decoded.message, Message::Update(Update::default()));
    assert_eq!(decoded.faults.len(), 1);
}

#[test]
fn many_faults_are_counted_no_further() {
    let session = Negotiated { extended_message: true, ..session(PeerKind::Internal) };
    let duplicates = raw_attribute(0xc0, AttributeCode(99), &[]).repeat(20_000);
    let decoded = decode_bytes(&update_with(AttributeCode(99), &duplicates, true), &session).unwrap();
    assert_eq!(decoded.faults.len(), 32);
}

#[test]
fn ipv4_over_ipv6_needs_negotiation() {
    for len in [16_u8, 32] {
        let next_hop = [&[0xfd; 16][..], &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
        let value = [&[0, 1, 1, len][..], &next_hop[..usize::from(len)], &[0], &PREFIX].concat();
        let attributes = [
            good(desc::find(AttributeCode::ORIGIN).unwrap(), true),
            good(desc::find(AttributeCode::AS_PATH).unwrap(), true),
            raw_attribute(0x80, AttributeCode::MP_REACH_NLRI, &value),
        ]
        .concat();
        let bytes = raw_update(&[], &attributes, &[]);
        let without = session(PeerKind::Internal);
        assert!(decode_bytes(&bytes, &without).is_err());
        let with = Negotiated { extended_next_hop: true, ..without };
        let decoded = decode_bytes(&bytes, &with).unwrap();
        let Message::Update(update) = decoded.message else { panic!("UPDATE") };
        let (next_hop, announced) = update.announced().next().unwrap();
        assert_eq!(*announced, nlri());
        assert!(matches!(next_hop, NextHop::V6 { link_local, .. } if link_local.is_some() == (len == 32)));
    }
}
