//! OPEN and its optional parameters.

use super::*;

fn opened(body: &[u8]) -> Result<Open, SessionReset> {
    decode_bytes(&message(1, body), &Negotiated::minimal(PeerKind::External)).map(|decoded| {
        let Message::Open(open) = decoded.message else { panic!("OPEN") };
        open
    })
}

fn refused(body: &[u8]) -> (OpenSubcode, Vec<u8>) {
    let SessionReset { notification: sent, .. } = opened(body).unwrap_err();
    match sent.code {
        NotificationCode::Open(subcode) => (subcode, sent.data.to_vec()),
        other => panic!("{other}"),
    }
}

const GOOD: [u8; 10] = [4, 0xfc, 0, 0, 90, 192, 0, 2, 1, 0];

fn with(at: usize, octets: &[u8]) -> Vec<u8> {
    let mut body = GOOD.to_vec();
    body[at..at + octets.len()].copy_from_slice(octets);
    body
}

fn with_parameters(parameters: &[u8]) -> Vec<u8> {
    let mut body = GOOD[..9].to_vec();
    body.push(u8::try_from(parameters.len()).unwrap());
    body.extend_from_slice(parameters);
    body
}

#[test]
fn each_fault_has_its_subcode() {
    assert_eq!(opened(&GOOD).unwrap().asn(), 64512);
    assert_eq!(refused(&with(0, &[3])), (OpenSubcode::UnsupportedVersion, vec![0, 4]));
    assert_eq!(refused(&with(1, &[0, 0])).0, OpenSubcode::BadPeerAs);
    assert_eq!(refused(&with(3, &[0, 1])).0, OpenSubcode::UnacceptableHoldTime);
    assert_eq!(refused(&with(3, &[0, 2])).0, OpenSubcode::UnacceptableHoldTime);
    assert_eq!(opened(&with(3, &[0, 0])).unwrap().hold_time, 0);
    assert_eq!(refused(&with(5, &[0; 4])).0, OpenSubcode::BadBgpIdentifier);
    assert_eq!(refused(&with_parameters(&[1, 2, 0, 0])).0, OpenSubcode::UnsupportedOptionalParameter);
    assert_eq!(refused(&with_parameters(&[2, 6, 65, 4, 0, 0, 0, 0])).0, OpenSubcode::BadPeerAs);
    // Lengths that do not add up: of the parameters, of a parameter, of a capability, of what must be exact.
    assert_eq!(refused(&with(9, &[1])).0, OpenSubcode::Unspecific);
    assert_eq!(refused(&[&GOOD[..], &[0]].concat()).0, OpenSubcode::Unspecific);
    for parameters in [&[2][..], &[2, 1], &[2, 2, 1, 4], &[2, 5, 65, 3, 0, 0, 1], &[2, 3, 1, 1, 0]] {
        assert_eq!(refused(&with_parameters(parameters)).0, OpenSubcode::Unspecific, "{parameters:?}");
    }
}

#[test]
fn capabilities_are_found_in_one_parameter_and_in_many() {
    let capabilities = [[1, 4, 0, 1, 0, 1], [1, 4, 0, 2, 0, 1], [65, 4, 0, 1, 0, 0]];
    let together = [&[2, 18][..], &capabilities.concat()].concat();
    let apart: Vec<u8> = capabilities.iter().flat_map(|one| [&[2, 6][..], one].concat()).collect();
    let open = opened(&with_parameters(&together)).unwrap();
    assert_eq!(open, opened(&with_parameters(&apart)).unwrap());
    assert_eq!((open.asn(), open.capabilities.len()), (65536, 3));
}

#[test]
fn a_misspelled_optional_capability_is_done_without() {
    let open = opened(&with_parameters(&[2, 5, 64, 1, 0, 70, 0])).unwrap();
    let [unknown, refresh] = &open.capabilities[..] else { panic!("{open:?}") };
    assert!(matches!(unknown, Capability::Unknown { code: 64, .. }));
    assert_eq!(*refresh, Capability::EnhancedRouteRefresh);
}

#[test]
fn extended_parameters_are_told_by_the_type_alone() {
    // RFC 9072 section 2: the first length is to be 255, but any other than 0 counts as well.
    for first in [255, 7] {
        let mut body = GOOD[..9].to_vec();
        body.extend([first, 255, 0, 9, 2, 0, 6, 65, 4, 0, 1, 0, 0]);
        assert_eq!(opened(&body).unwrap().asn(), 65536);
    }
}
