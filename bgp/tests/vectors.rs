//! Messages of other speakers and messages written by hand from the RFCs, with what they must decode to.
//!
//! A file under `vectors/` is a list of cases, empty lines between them, `#` before a comment:
//!
//! ```text
//! session internal as4 add-path-ipv4   what was negotiated; stays until the next such line
//! ffff...                              the message in hexadecimal, blanks and line ends allowed
//! = UPDATE ...                         it decodes to this text
//! == UPDATE ...                        the same, and our encoder makes the same octets of it
//! ! 3 10 0a0b                          it ends the session with this code, subcode and data
//! ```

#![expect(clippy::panic, reason = "a test: what it cannot read is its failure")]

use bytes::BytesMut;
use margay_bgp::wire::{FamilySet, Framer, Message, Negotiated, PeerKind, SessionReset, decode};

/// One message and the line that says what is expected.
struct Case<'a> {
    session: Negotiated,
    octets: Vec<u8>,
    expected: &'a str,
    line: usize,
}

fn session(words: &str) -> Negotiated {
    let mut session = Negotiated::minimal(PeerKind::External);
    session.families = FamilySet::BOTH;
    for word in words.split_whitespace() {
        match word {
            "internal" => session.peer = PeerKind::Internal,
            "external" => session.peer = PeerKind::External,
            "as4" => session.four_octet_as = true,
            "extended-message" => session.extended_message = true,
            "extended-next-hop" => session.extended_next_hop = true,
            "add-path-ipv4" => session.add_path_receive.ipv4 = true,
            "add-path-ipv6" => session.add_path_receive.ipv6 = true,
            other => panic!("unknown word `{other}` in a session line"),
        }
    }
    session.add_path_send = session.add_path_receive;
    session
}

fn octets(text: &str, line: usize) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    assert!(digits.len().is_multiple_of(2), "line {line}: half an octet");
    let octet = |at| u8::from_str_radix(digits.get(at..at + 2).unwrap_or_default(), 16);
    (0..digits.len())
        .step_by(2)
        .map(|at| octet(at).unwrap_or_else(|error| panic!("line {line}, digit {at}: {error}")))
        .collect()
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let mut current = session("");
    let mut hex = String::new();
    let mut cases = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let number = at + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(words) = line.strip_prefix("session ") {
            current = session(words);
        } else if line.starts_with(['=', '!']) {
            let octets = octets(&std::mem::take(&mut hex), number);
            cases.push(Case { session: current, octets, expected: line, line: number });
        } else {
            hex.push_str(line);
        }
    }
    assert!(hex.is_empty(), "octets without expectation at the end");
    cases
}

fn receive(case: &Case<'_>) -> Result<(Message, String), SessionReset> {
    let mut framer = Framer::new();
    framer.set_max_len(case.session.max_message_len());
    let mut input = &case.octets[..];
    let frame =
        framer.next_frame(&mut input)?.unwrap_or_else(|| panic!("line {}: not a whole message", case.line));
    assert!(input.is_empty(), "line {}: more than a message", case.line);
    let decoded = decode(frame, &case.session)?;
    let text = decoded.to_string();
    Ok((decoded.message, text))
}

fn check(case: &Case<'_>) {
    let line = case.line;
    match receive(case) {
        Err(reset) => {
            let data: String = reset.notification.data.iter().map(|octet| format!("{octet:02x}")).collect();
            let code = reset.notification.code;
            let got = format!("! {} {} {data}", code.code(), code.subcode());
            assert_eq!(got.trim_end(), case.expected, "line {line}: {reset}");
        }
        Ok((message, text)) => {
            let expected = case.expected.trim_start_matches('=').trim();
            assert_eq!(text, expected, "line {line}");
            // Where everything is discarded, nothing is left to be sent on.
            if text.starts_with("UPDATE (") {
                return;
            }
            let mut again = BytesMut::new();
            message.encode(&case.session, &mut again).unwrap_or_else(|error| panic!("line {line}: {error}"));
            if case.expected.starts_with("==") {
                assert_eq!(again, case.octets, "line {line}: {again:x}");
            }
            let second = Case { octets: again.to_vec(), ..*case };
            let (second, _) = receive(&second).unwrap_or_else(|reset| panic!("line {line}: {reset}"));
            assert_eq!(second, message, "line {line}: sent on");
        }
    }
}

fn check_file(text: &str, least: usize) {
    let cases = cases(text);
    assert!(cases.len() >= least, "{} cases, at least {least} were there once", cases.len());
    cases.iter().for_each(check);
}

#[test]
fn messages_of_bird() {
    check_file(include_str!("vectors/bird.vec"), 12);
}

#[test]
fn messages_from_the_rfcs() {
    check_file(include_str!("vectors/rfc.vec"), 26);
}

#[test]
fn messages_from_tests_of_gobgp() {
    check_file(include_str!("vectors/gobgp.vec"), 12);
}

#[test]
fn messages_from_tests_of_netgauze() {
    check_file(include_str!("vectors/netgauze.vec"), 20);
}

#[test]
fn messages_from_tests_of_bgpkit() {
    check_file(include_str!("vectors/bgpkit.vec"), 11);
}
