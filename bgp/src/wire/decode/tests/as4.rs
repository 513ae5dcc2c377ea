//! Four-octet AS numbers through a two-octet session (RFC 6793 section 4.2.3).

use bytes::BufMut;

use super::*;

/// Decodes a path and aggregator as a two-octet peer sends them.
fn received(path: &[u8], more: &[Vec<u8>]) -> PathAttributes {
    let attributes = [
        good(desc::find(AttributeCode::ORIGIN).unwrap(), false),
        raw_attribute(0x40, AttributeCode::AS_PATH, path),
        good(desc::find(AttributeCode::NEXT_HOP).unwrap(), false),
        more.concat(),
    ]
    .concat();
    let bytes = raw_update(&[], &attributes, &PREFIX);
    let decoded = decode_bytes(&bytes, &Negotiated::minimal(PeerKind::External)).unwrap();
    let Message::Update(update) = decoded.message else { panic!("UPDATE") };
    update.attributes
}

fn as4_path(asns: &[u32]) -> Vec<u8> {
    let mut value = vec![2, u8::try_from(asns.len()).unwrap()];
    asns.iter().for_each(|asn| value.put_u32(*asn));
    raw_attribute(0xc0, AttributeCode::AS4_PATH, &value)
}

#[test]
fn the_newer_path_replaces_the_tail() {
    let path = received(&[2, 3, 0, 10, 91, 160, 91, 160], &[as4_path(&[70000, 80000])]).as_path;
    assert_eq!(path, AsPath::sequence([10, 70000, 80000]));
}

#[test]
fn a_longer_newer_path_is_ignored() {
    let path = received(&[2, 1, 0, 10], &[as4_path(&[70000, 80000])]).as_path;
    assert_eq!(path, AsPath::sequence([10]));
}

#[test]
fn a_set_counts_as_one() {
    // {1,2} 23456 with AS4_PATH 70000.
    let path = received(&[1, 2, 0, 1, 0, 2, 2, 1, 91, 160], &[as4_path(&[70000])]).as_path;
    assert_eq!(path.to_string(), "{1,2} 70000");
}

#[test]
fn an_aggregator_that_is_not_as_trans_discards_both() {
    let old = raw_attribute(0xc0, AttributeCode::AGGREGATOR, &[0, 10, 192, 0, 2, 1]);
    let new = raw_attribute(0xc0, AttributeCode::AS4_AGGREGATOR, &[0, 1, 0, 0, 192, 0, 2, 2]);
    let attributes = received(&[2, 1, 91, 160], &[old, new.clone(), as4_path(&[70000])]);
    assert_eq!(attributes.as_path, AsPath::sequence([23456]));
    assert_eq!(attributes.aggregator, Some(Aggregator { asn: 10, id: [192, 0, 2, 1].into() }));
    // One that needs no other number for itself says nothing of the path.
    let old = raw_attribute(0xc0, AttributeCode::AGGREGATOR, &[0, 10, 192, 0, 2, 1]);
    assert_eq!(received(&[2, 1, 91, 160], &[old, as4_path(&[70000])]).as_path, AsPath::sequence([70000]));
    let trans = raw_attribute(0xc0, AttributeCode::AGGREGATOR, &[91, 160, 192, 0, 2, 1]);
    let attributes = received(&[2, 1, 91, 160], &[trans, new, as4_path(&[70000])]);
    assert_eq!(attributes.as_path, AsPath::sequence([70000]));
    assert_eq!(attributes.aggregator, Some(Aggregator { asn: 65536, id: [192, 0, 2, 2].into() }));
}

#[test]
fn confederation_segments_vanish() {
    let value = [3, 1, 0, 0, 0, 9, 2, 1, 0, 1, 0x11, 0x70];
    let attribute = raw_attribute(0xc0, AttributeCode::AS4_PATH, &value);
    assert_eq!(received(&[2, 2, 0, 10, 91, 160], &[attribute]).as_path, AsPath::sequence([10, 70000]));
}
