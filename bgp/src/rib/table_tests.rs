use super::*;
use crate::config::PeerKind;
use crate::status::RouteSource;
use crate::wire::PathAttributes;
use std::net::{IpAddr, Ipv4Addr};

fn rib() -> Rib {
    let mut rib = Rib::default();
    for number in 1..4u8 {
        rib.sources.insert(
            SourceId(u32::from(number)),
            SourceInfo {
                source: RouteSource::Peer(IpAddr::from([10, 0, 0, number])),
                kind: Some(PeerKind::Internal),
                id: Ipv4Addr::new(10, 0, 0, number),
                on_host: false,
            },
        );
    }
    rib
}

fn announce(rib: &mut Rib, source: u32, prefix: &str, pref: u32) -> Announced {
    let attrs =
        rib.attrs.intern(None, &PathAttributes { local_pref: Some(pref), ..PathAttributes::default() });
    rib.announce(SourceId(source), prefix.parse().unwrap(), 0, attrs, None, 0)
}

fn best(rib: &Rib, prefix: &str) -> Option<u32> {
    rib.find(&prefix.parse().unwrap()).and_then(|entry| entry.best().copied()).map(|path| path.source.0)
}

#[test]
fn an_announcement_replaces_the_earlier_one_of_its_source() {
    let mut rib = rib();
    assert_eq!(announce(&mut rib, 1, "10.0.0.0/24", 100), Announced::New);
    assert_eq!(announce(&mut rib, 2, "10.0.0.0/24", 200), Announced::New);
    assert_eq!(rib.settle().len(), 1);
    assert_eq!(best(&rib, "10.0.0.0/24"), Some(2));
    assert_eq!(announce(&mut rib, 2, "10.0.0.0/24", 200), Announced::Same);
    assert!(!rib.is_dirty(), "the same announcement changes nothing");
    assert_eq!(announce(&mut rib, 2, "10.0.0.0/24", 50), Announced::Changed);
    rib.settle();
    assert_eq!(best(&rib, "10.0.0.0/24"), Some(1));
    assert_eq!(rib.counts(SourceId(2), Family::Ipv4).received, 1);
}

#[test]
fn everything_is_given_back_when_the_last_path_goes() {
    let mut rib = rib();
    for third in 0..50 {
        announce(&mut rib, 1, &format!("10.0.{third}.0/24"), 100);
    }
    let settled = rib.settle();
    rib.sweep(&settled);
    assert_eq!(rib.update_source(SourceId(1), Family::Ipv4, |_, _, _| false), 50);
    let settled = rib.settle();
    assert_eq!(settled.len(), 50);
    assert!(rib.entry(settled[0]).is_some(), "kept until swept, so that others can withdraw it");
    rib.sweep(&settled);
    assert_eq!((rib.iter().count(), rib.attrs.len()), (0, 0));
    assert_eq!(rib.counts(SourceId(1), Family::Ipv4), Counts::default());
    announce(&mut rib, 1, "10.9.0.0/24", 100);
    assert_eq!(rib.iter().count(), 1);
    assert_eq!(rib.slots.len(), 50, "slots are reused");
}

#[test]
fn staleness_is_counted_and_ends_with_a_new_announcement() {
    let mut rib = rib();
    announce(&mut rib, 1, "10.0.0.0/24", 100);
    announce(&mut rib, 1, "10.0.1.0/24", 100);
    let settled = rib.settle();
    rib.sweep(&settled);
    rib.update_source(SourceId(1), Family::Ipv4, |_, path, _| {
        path.stale = true;
        true
    });
    assert_eq!(rib.counts(SourceId(1), Family::Ipv4).stale, 2);
    announce(&mut rib, 1, "10.0.0.0/24", 100);
    assert_eq!(rib.counts(SourceId(1), Family::Ipv4).stale, 1);
    assert_eq!(rib.update_source(SourceId(1), Family::Ipv4, |_, path, _| !path.stale), 1);
    rib.settle();
    assert_eq!(best(&rib, "10.0.0.0/24"), Some(1));
    assert_eq!(best(&rib, "10.0.1.0/24"), None);
}

#[test]
fn withdrawing_what_is_not_there_changes_nothing() {
    let mut rib = rib();
    assert!(!rib.withdraw(SourceId(1), "10.0.0.0/24".parse().unwrap(), 0));
    announce(&mut rib, 1, "10.0.0.0/24", 100);
    assert!(!rib.withdraw(SourceId(2), "10.0.0.0/24".parse().unwrap(), 0));
    assert!(rib.withdraw(SourceId(1), "10.0.0.0/24".parse().unwrap(), 0));
}
