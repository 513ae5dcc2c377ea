use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::IpNet;
use margay_bgp::PeerKind;
use proptest::prelude::*;

use super::*;

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// A node `n<last>`; from 100 on, a reflector.
fn peer(last: u8) -> Peer {
    let mut config = PeerConfig::new(ip(last), 64512, PeerKind::Internal);
    config.description = format!("n{last}");
    Peer { config: config.into(), node: Some(format!("n{last}")), reflector: last >= 100 }
}

fn want(lasts: &[u8]) -> BTreeMap<IpAddr, Change> {
    lasts.iter().map(|last| (ip(*last), Change::Want(peer(*last)))).collect()
}

fn leave(lasts: &[u8]) -> BTreeMap<IpAddr, Change> {
    lasts.iter().map(|last| (ip(*last), Change::Leave)).collect()
}

fn progress(in_sync: &[u8], missing: &[u8]) -> Replacement {
    let prefix = |last: &u8| IpNet::new(Ipv4Addr::new(10, 65, *last, 0).into(), 24).unwrap();
    Replacement {
        in_sync: in_sync.iter().map(|last| ip(*last)).collect(),
        missing: missing.iter().map(|last| (ip(*last), (prefix(last), 1))).collect(),
    }
}

fn released(ops: &[Op]) -> Vec<IpAddr> {
    ops.iter()
        .map(|op| match op {
            Op::Release(remote) => *remote,
            other => panic!("{other:?}"),
        })
        .collect()
}

const SECOND: Duration = Duration::from_secs(1);

/// A mesh of two that has been told to use two reflectors.
fn moving() -> Sessions {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.change(SECOND, want(&[1, 2])).len(), 2);
    let mut changes = want(&[101, 102]);
    changes.extend(leave(&[1, 2]));
    assert_eq!(sessions.change(SECOND, changes).len(), 2, "the reflectors are added, nobody is removed");
    sessions
}

#[test]
fn what_an_earlier_instance_held_is_held_until_it_is_replaced() {
    let mut sessions = Sessions::default();
    sessions.change(SECOND, want(&[101]));
    sessions.adopt(SECOND, [peer(1), peer(101)]);
    assert_eq!(sessions.held(), BTreeSet::from([ip(1)]));
    assert_eq!(sessions.configured().len(), 2);
    assert_eq!(sessions.review(SECOND, progress(&[101], &[1])), []);
    assert_eq!(released(&sessions.review(SECOND, progress(&[101], &[]))), [ip(1)]);
}

#[test]
fn the_mesh_is_left_when_every_reflector_has_told_every_route() {
    let mut sessions = moving();
    assert_eq!(sessions.configured().len(), 4);
    assert!(sessions.describe().unwrap().contains("the sessions with n1 and 1 more stay"));
    assert!(sessions.review(2 * SECOND, progress(&[1, 2, 101], &[])).is_empty(), "one is not in sync");
    assert!(sessions.describe().unwrap().ends_with("; n102 cannot yet"));
    let ops = sessions.review(3 * SECOND, progress(&[1, 2, 101, 102], &[2]));
    assert_eq!(released(&ops), [ip(1)], "n2's routes are known from n2 alone");
    assert!(sessions.describe().unwrap().contains("10.65.2.0/24 is known from 10.0.0.2 alone"));
    assert_eq!(released(&sessions.review(4 * SECOND, progress(&[2, 101, 102], &[]))), [ip(2)]);
    assert!(sessions.is_settled() && sessions.describe().is_none());
}

#[test]
fn a_reflector_that_never_comes_up_holds_nobody_for_ever() {
    let mut sessions = moving();
    assert!(sessions.review(PATIENCE, progress(&[1, 2, 101], &[])).is_empty());
    let later = PATIENCE + SECOND;
    assert!(sessions.review(later, progress(&[1, 2], &[])).is_empty(), "nobody at all is in sync");
    let ops = sessions.review(later, progress(&[1, 2, 101], &[1]));
    assert_eq!(released(&ops), [ip(2)], "but no route is given up");
    assert!(sessions.describe().is_some(), "and it is said for whom");
}

#[test]
fn what_is_wanted_again_is_not_touched() {
    let mut sessions = moving();
    let mut back = want(&[1, 2]);
    back.extend(leave(&[101, 102]));
    assert_eq!(sessions.change(2 * SECOND, back), []);
    assert_eq!(sessions.held(), [ip(101), ip(102)].into());
    let ops = sessions.review(2 * SECOND, progress(&[1, 2], &[]));
    assert_eq!(released(&ops), [ip(101), ip(102)]);
}

#[test]
fn what_must_end_ends_at_once() {
    let mut sessions = moving();
    let end = BTreeMap::from([(ip(1), Change::End), (ip(101), Change::End), (ip(9), Change::End)]);
    assert_eq!(sessions.change(SECOND, end), [Op::Remove(ip(1)), Op::Remove(ip(101))]);
    // Of the Nodes only n101 is left: n2's routes are its own, n102's are not.
    sessions.change(SECOND, leave(&[102]));
    assert_eq!(sessions.gone(|name| name == "n101"), [Op::Remove(ip(2))]);
    assert_eq!(sessions.held(), [ip(102)].into());
}

#[test]
fn without_anything_to_go_to_routes_are_kept() {
    let mut sessions = Sessions::default();
    sessions.change(SECOND, want(&[1, 2]));
    sessions.change(SECOND, leave(&[1, 2]));
    assert_eq!(released(&sessions.review(SECOND, progress(&[1, 2], &[1]))), [ip(2)], "it told nothing");
    assert!(sessions.review(10 * PATIENCE, progress(&[1], &[1])).is_empty());
    assert!(sessions.describe().unwrap().contains("n1"));
}

#[test]
fn routers_stand_for_the_nodes_only_where_there_is_nothing_else() {
    let router = || {
        let mut peer = peer(200);
        (peer.node, peer.reflector) = (None, false);
        BTreeMap::from([(ip(200), Change::Want(peer))])
    };
    let mut sessions = moving();
    sessions.change(SECOND, router());
    let ops = sessions.review(SECOND, progress(&[1, 2, 101, 102], &[]));
    assert_eq!(ops.len(), 2, "a router that is down is not waited for");
    let mut sessions = Sessions::default();
    sessions.change(SECOND, want(&[1]));
    sessions.change(SECOND, router());
    sessions.change(SECOND, leave(&[1]));
    assert!(sessions.review(SECOND, progress(&[1], &[])).is_empty());
    assert_eq!(sessions.review(SECOND, progress(&[1, 200], &[])).len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    /// Exactly these are wanted.
    Want(BTreeSet<u8>),
    /// Time passes; these are in sync, these bring routes nobody else has.
    Review(u64, Vec<u8>, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(1u8..8, 0..8);
    prop_oneof![
        prop::collection::btree_set(1u8..8, 0..8).prop_map(Step::Want),
        (0u64..40, some(), some()).prop_map(|(time, up, missing)| Step::Review(time, up, missing)),
    ]
}

proptest! {
    /// Whatever the wishes do, the speaker has what is wanted, loses no route that only one peer brings, and comes to
    /// exactly what is wanted once that brings everything.
    #[test]
    fn flapping_wishes_lose_nothing_and_settle(steps in prop::collection::vec(step(), 1..30)) {
        let mut sessions = Sessions::default();
        let (mut configured, mut wanted) = (BTreeSet::new(), BTreeSet::new());
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Want(next) => {
                    let mut changes = leave(&wanted.difference(&next).copied().collect::<Vec<u8>>());
                    changes.extend(want(&next.difference(&wanted).copied().collect::<Vec<u8>>()));
                    for op in sessions.change(now, changes) {
                        let Op::Set(config) = op else { panic!("{op:?}") };
                        prop_assert!(configured.insert(config.remote), "it was there");
                    }
                    wanted = next;
                }
                Step::Review(seconds, up, missing) => {
                    now += Duration::from_secs(seconds);
                    for remote in released(&sessions.review(now, progress(&up, &missing))) {
                        prop_assert!(configured.remove(&remote));
                        prop_assert!(!missing.iter().any(|last| ip(*last) == remote), "a route is lost");
                        prop_assert!(!wanted.iter().any(|last| ip(*last) == remote));
                    }
                }
            }
            let wanted: BTreeSet<IpAddr> = wanted.iter().map(|last| ip(*last)).collect();
            prop_assert!(configured.is_superset(&wanted));
            let all: BTreeSet<IpAddr> = sessions.configured().iter().map(|peer| peer.remote).collect();
            prop_assert_eq!(&all, &configured);
            prop_assert_eq!(sessions.expected(), configured.len());
            prop_assert_eq!(sessions.is_settled(), configured == wanted);
        }
        let up: Vec<u8> = wanted.iter().copied().collect();
        sessions.review(now, progress(&up, &[]));
        prop_assert!(sessions.is_settled());
    }
}
