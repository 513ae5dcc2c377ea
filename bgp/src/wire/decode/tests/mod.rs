mod as4;
mod garbage;
mod open;
mod rfc7606;

use super::*;
use crate::wire::{
    attr::desc::{self, ATTRIBUTES, AttributeDesc},
    testing::*,
    *,
};

const PREFIX: [u8; 4] = [24, 10, 1, 2];

/// Prefix 10.1.2.0/24.
fn nlri() -> Nlri {
    Nlri::new("10.1.2.0/24".parse().unwrap())
}

/// A value that the attribute may have.
fn good_value(code: AttributeCode, four_octet_as: bool) -> Vec<u8> {
    match code {
        AttributeCode::ORIGIN => vec![0],
        AttributeCode::AS_PATH if four_octet_as => vec![2, 1, 0, 0, 0xfc, 0],
        AttributeCode::AS_PATH => vec![2, 1, 0xfc, 0],
        AttributeCode::AS4_PATH => vec![2, 1, 0, 1, 0, 0],
        AttributeCode::ATOMIC_AGGREGATE => vec![],
        AttributeCode::AGGREGATOR if !four_octet_as => vec![0xfc, 0, 192, 0, 2, 1],
        AttributeCode::AGGREGATOR | AttributeCode::AS4_AGGREGATOR | AttributeCode::EXTENDED_COMMUNITIES => {
            vec![0, 2, 0xfc, 0, 192, 0, 2, 1]
        }
        AttributeCode::LARGE_COMMUNITIES => vec![1; 12],
        AttributeCode::MP_REACH_NLRI => [&[0, 2, 1, 16][..], &[0x20; 16], &[0, 16, 0x20, 1]].concat(),
        AttributeCode::MP_UNREACH_NLRI => vec![0, 2, 1, 16, 0x20, 2],
        _ => vec![192, 0, 2, 1],
    }
}

fn good(desc: &AttributeDesc, four_octet_as: bool) -> Vec<u8> {
    raw_attribute(desc.flags, desc.code, &good_value(desc.code, four_octet_as))
}

#[test]
fn route_refresh_lengths() {
    let session = session(PeerKind::Internal);
    for subtype in [1, 2] {
        let bytes = message(5, &[0, 1, subtype, 1, 0]);
        let reset = decode_bytes(&bytes, &session).unwrap_err();
        let code = NotificationCode::RouteRefresh(RefreshSubcode::InvalidMessageLength);
        assert_eq!(reset.notification, Notification::with_data(code, bytes));
    }
    // A request with route filters, which are not negotiated: a plain request.
    let decoded = decode_bytes(&message(5, &[0, 1, 0, 1, 1, 64, 0, 0]), &session).unwrap();
    let request = RouteRefresh { family: AfiSafi::Ipv4Unicast, kind: RefreshKind::Request };
    assert_eq!(decoded.message, Message::RouteRefresh(request));
}

#[test]
fn a_prefix_in_both_fields_is_announced() {
    let attributes: Vec<u8> =
        ATTRIBUTES.iter().filter(|desc| desc.missing.is_some()).flat_map(|desc| good(desc, true)).collect();
    let bytes = raw_update(&PREFIX, &attributes, &PREFIX);
    let decoded = decode_bytes(&bytes, &session(PeerKind::External)).unwrap();
    let Message::Update(update) = decoded.message else { panic!("UPDATE") };
    assert_eq!(update.withdrawn[..], [nlri()]);
    assert_eq!(update.announced().count(), 1);
}

#[test]
fn insignificant_bits_of_a_prefix_are_cleared() {
    let bytes = raw_update(&[20, 10, 1, 0xff], &[], &[]);
    let decoded = decode_bytes(&bytes, &session(PeerKind::External)).unwrap();
    let Message::Update(update) = decoded.message else { panic!("UPDATE") };
    assert_eq!(update.withdrawn[0].to_string(), "10.1.240.0/20");
}
