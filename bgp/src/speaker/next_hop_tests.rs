//! Next hops: which are asked for, and what becomes of routes as the ways to them change.

use super::protocol_tests;
use super::rig::*;
use crate::config::{NextHopMode, PeerConfig, PeerKind, SpeakerConfig};
use crate::io::Input;
use crate::status::{Event, ForwardingHop, NextHopState, NextHopUse};
use crate::wire::{Message, Nlri, PathAttributes, Update};
use std::net::IpAddr;

fn tracking(peers: Vec<PeerConfig>) -> Rig {
    Rig::with(SpeakerConfig { track_next_hops: true, ..SpeakerConfig::new(router_id(100), AS) }, peers)
}

fn neighbours() -> Vec<PeerConfig> {
    vec![passive(1, PeerKind::Internal), passive(2, PeerKind::Internal)]
}

fn set(rig: &mut Rig, last: u8, cost: Option<u32>) {
    rig.input(Input::SetNextHops(vec![NextHopState { address: address(last), cost }]));
}

/// What was asked for since the last call.
fn asked(rig: &mut Rig) -> Vec<(IpAddr, bool)> {
    rig.pass(std::time::Duration::from_millis(100));
    let events = std::mem::take(&mut rig.events);
    let uses = events.into_iter().filter_map(|event| match event {
        Event::NextHops(uses) => Some(uses),
        _ => None,
    });
    uses.flatten().map(|NextHopUse { address, used }| (address, used)).collect()
}

/// What the forwarding table was last told about 10.1.0.0/24.
fn told(rig: &mut Rig) -> Option<Vec<IpAddr>> {
    rig.pass(std::time::Duration::from_millis(100));
    let events = std::mem::take(&mut rig.events);
    let changes = events.into_iter().filter_map(|event| match event {
        Event::RouteChanges(changes) => Some(changes),
        _ => None,
    });
    let hops = |hops: Vec<ForwardingHop>| hops.into_iter().map(|hop| hop.address).collect();
    changes.flatten().last().map(|change| hops(change.next_hops))
}

#[test]
fn next_hops_are_asked_for_once_and_forgotten_with_their_last_route() {
    let mut rig = tracking(neighbours());
    let (one, two) = (rig.up(1), rig.up(2));
    rig.send(one, &announce(7, &["10.1.0.0/24", "10.2.0.0/24"], PathAttributes::default()));
    assert_eq!(asked(&mut rig), [(address(7), true)]);
    rig.send(two, &announce(7, &["10.3.0.0/24"], PathAttributes { med: Some(1), ..Default::default() }));
    assert_eq!(asked(&mut rig), [], "known already");
    rig.input(Input::RemovePeer(address(1)));
    assert_eq!(asked(&mut rig), [], "one route is left");
    let gone = vec![Nlri::new(net("10.3.0.0/24"))];
    rig.send(two, &Message::Update(Update { withdrawn: gone.into(), ..Update::default() }));
    assert_eq!(asked(&mut rig), [(address(7), false)]);
    let mut plain = Rig::new(neighbours());
    let one = plain.up(1);
    plain.send(one, &announce(7, &["10.1.0.0/24"], PathAttributes::default()));
    assert_eq!(asked(&mut plain), [], "only who is asked to tracks");
}

#[test]
fn routes_follow_the_ways_to_their_next_hops() {
    let mut rig = tracking(neighbours());
    let (one, two) = (rig.up(1), rig.up(2));
    rig.send(one, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    rig.send(two, &announce(2, &["10.1.0.0/24"], PathAttributes::default()));
    assert_eq!(told(&mut rig), Some(vec![address(1), address(2)]), "equal as long as nobody knows");
    set(&mut rig, 1, Some(20));
    set(&mut rig, 2, Some(10));
    assert_eq!(told(&mut rig), Some(vec![address(2)]));
    let step = rig.speaker.explain(net("10.1.0.0/24")).steps.remove(0);
    assert!(step.contains("nearer next hop"), "{step}");
    set(&mut rig, 2, None);
    assert_eq!(told(&mut rig), Some(vec![address(1)]));
    set(&mut rig, 1, None);
    assert_eq!(told(&mut rig), Some(vec![]));
    assert!(rig.prefixes().is_empty());
    let reason = rig.routes().remove(0).reason;
    assert!(reason.contains("cannot be reached"), "{reason}");
    set(&mut rig, 1, None);
    assert_eq!(told(&mut rig), None, "nothing new");
    // A repeated announcement changes nothing either.
    rig.send(one, &announce(1, &["10.1.0.0/24"], PathAttributes::default()));
    assert_eq!(told(&mut rig), None);
    set(&mut rig, 1, Some(20));
    assert_eq!(told(&mut rig), Some(vec![address(1)]));
}

#[test]
fn what_cannot_be_reached_is_passed_on_only_where_its_next_hop_is_kept() {
    let client = |last| passive(last, PeerKind::InternalClient);
    let keeps = PeerConfig { next_hop: NextHopMode::Keep, ..client(2) };
    let mut rig = tracking(vec![client(1), keeps, client(3)]);
    let one = rig.up(1);
    let others = [rig.up(2), rig.up(3)];
    rig.send(one, &announce(7, &["10.1.0.0/24"], PathAttributes::default()));
    rig.pass(std::time::Duration::from_secs(1));
    let sent = |rig: &Rig| [2, 3].map(|last| rig.speaker.advertised(address(last)).len());
    assert_eq!(sent(&rig), [1, 1]);
    for conn in others {
        rig.said(conn);
    }
    set(&mut rig, 7, None);
    rig.pass(std::time::Duration::from_secs(1));
    assert_eq!(sent(&rig), [1, 0]);
    let withdrawn = others.map(|conn| {
        rig.said(conn).iter().any(|message| matches!(message, Message::Update(u) if !u.withdrawn.is_empty()))
    });
    assert_eq!(withdrawn, [false, true]);
    set(&mut rig, 7, Some(1));
    rig.pass(std::time::Duration::from_secs(1));
    assert_eq!(sent(&rig), [1, 1]);
}

#[test]
fn others_reach_by_us_what_a_peer_on_this_host_tells() {
    let external = |last| PeerConfig { policy_required: false, ..protocol_tests::external(last) };
    let pod = PeerConfig { on_host: true, ..external(1) };
    let keeps = PeerConfig { next_hop: NextHopMode::Keep, ..passive(4, PeerKind::Internal) };
    let mut rig = Rig::new(vec![pod, external(2), passive(3, PeerKind::Internal), keeps]);
    let (pod, router) = (protocol_tests::up_external(&mut rig, 1), protocol_tests::up_external(&mut rig, 2));
    let _nodes = [rig.up(3), rig.up(4)];
    rig.send(pod, &announce(1, &["10.1.0.0/24"], protocol_tests::path(&[AS + 1])));
    rig.send(router, &announce(2, &["10.2.0.0/24"], protocol_tests::path(&[AS + 1])));
    rig.pass(std::time::Duration::from_secs(1));
    let told = |last| -> Vec<(String, IpAddr)> {
        let routes = rig.speaker.advertised(address(last)).into_iter();
        routes.map(|route| (route.prefix.to_string(), route.next_hop.unwrap())).collect()
    };
    let [of_pod, of_router] = ["10.1.0.0/24", "10.2.0.0/24"].map(str::to_owned);
    assert_eq!(told(3), [(of_pod.clone(), address(100)), (of_router.clone(), address(2))]);
    assert_eq!(told(4), [(of_pod, address(1)), (of_router, address(2))]);
}
