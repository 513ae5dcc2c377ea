//! The inputs of the fuzz targets that were found worth keeping (`fuzz/corpus`): what holds of everything holds of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

#[allow(unreachable_pub, reason = "the fuzz targets use it too")]
#[path = "../../fuzz/src/policy.rs"]
mod policy;

use std::path::Path;

/// Runs every input of a target, as octets and as text where it is one.
fn replay(target: &str, check: impl Fn(&[u8], Option<&str>)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let octets = std::fs::read(entry.unwrap().path()).unwrap();
        check(&octets, std::str::from_utf8(&octets).ok());
        count += 1;
    }
    assert!(count >= 10, "{count} inputs in {}", folder.display());
}

#[test]
fn selectors() {
    replay("selector", |_, text| text.into_iter().for_each(policy::selector));
}

#[test]
fn objects_of_every_kind() {
    replay("objects", |_, text| text.into_iter().for_each(policy::objects));
}

#[test]
fn iptables_save() {
    replay("iptables_save", |_, text| text.into_iter().for_each(policy::iptables_save));
}

#[test]
fn netfilter_events() {
    replay("netfilter_events", |octets, _| policy::netfilter_events(octets));
}
