//! The inputs that fuzzing found worth keeping (`fuzz/corpus`): what the targets check of them holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests")]
#![allow(unreachable_pub, reason = "a library's modules, read here as a program's")]

#[path = "../../fuzz/src/bfd.rs"]
mod bfd;
#[path = "../../fuzz/src/codec.rs"]
mod codec;
#[path = "../../fuzz/src/session.rs"]
mod session;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{}", path.display());
        inputs += 1;
    }
    assert!(inputs >= 5, "{} has {inputs} inputs", corpus.display());
}

#[test]
fn streams() {
    replay("bgp_framer", codec::framer);
}

#[test]
fn messages() {
    replay("bgp_message", codec::any_message);
    replay("bgp_update", codec::update);
    replay("bgp_open", codec::open);
    replay("bgp_nlri", codec::nlri);
}

#[test]
fn sessions() {
    replay("bgp_session", session::session);
}

#[test]
fn packets_of_bfd() {
    replay("bfd_packet", bfd::packet);
}
