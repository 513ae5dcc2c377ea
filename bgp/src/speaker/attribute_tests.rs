//! Attributes on their way through the speaker: communities of every kind, and next hops of the other family.

use super::protocol_tests::{external, path, up_external};
use super::rig::*;
use crate::config::{Originated, PeerConfig, PeerKind};
use crate::io::{ConnId, Input};
use crate::policy::{Action, CidrMatch, CidrOperator, Filter, Operation, Policy, Rule};
use crate::wire::{
    Community, ExtendedCommunity, LargeCommunity, Message, Negotiated, NextHop, PathAttributes, Update,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

fn client(last: u8) -> PeerConfig {
    passive(last, PeerKind::InternalClient)
}

fn open_external(last: u8) -> PeerConfig {
    PeerConfig { policy_required: false, ..external(last) }
}

fn with(community: Community) -> PathAttributes {
    PathAttributes { communities: [community].into_iter().collect(), ..Default::default() }
}

/// RFC 1997: where the well-known communities let a route go.
#[test]
fn well_known_communities_keep_routes_where_they_belong() {
    let mut rig = Rig::new(vec![client(1), client(2), open_external(3)]);
    let one = rig.up(1);
    rig.up(2);
    up_external(&mut rig, 3);
    let sent = |rig: &mut Rig, community| {
        rig.send(one, &announce(1, &["10.1.0.0/24"], with(community)));
        rig.pass(std::time::Duration::from_secs(1));
        [2, 3].map(|last| rig.speaker.advertised(address(last)).len())
    };
    assert_eq!(sent(&mut rig, Community::new(64512, 1)), [1, 1]);
    assert_eq!(sent(&mut rig, Community::NO_EXPORT), [1, 0]);
    assert_eq!(sent(&mut rig, Community::NO_EXPORT_SUBCONFED), [1, 0]);
    assert_eq!(sent(&mut rig, Community::NO_ADVERTISE), [0, 0]);
}

/// RFC 4360: extended communities without the T bit clear stay in the AS. RFC 8092: large ones go everywhere.
#[test]
fn extended_and_large_communities_go_as_far_as_they_may() {
    let mut rig = Rig::new(vec![client(1), client(2), open_external(3)]);
    let (one, two) = (rig.up(1), rig.up(2));
    let three = up_external(&mut rig, 3);
    let transitive = ExtendedCommunity([0x00, 0x02, 0, 1, 0, 0, 0, 1]);
    let local = ExtendedCommunity([0x40, 0x04, 0, 1, 0, 0, 0, 1]);
    let large = LargeCommunity { global: 64512, local1: 1, local2: 2 };
    let attributes = PathAttributes {
        extended_communities: [transitive, local].into_iter().collect(),
        large_communities: [large].into_iter().collect(),
        ..Default::default()
    };
    rig.send(one, &announce(1, &["10.1.0.0/24"], attributes));
    rig.pass(std::time::Duration::from_secs(1));
    for (conn, extended) in [(two, vec![transitive, local]), (three, vec![transitive])] {
        let said = rig.said(conn);
        let attributes = said.iter().find_map(|message| match message {
            Message::Update(update) if update.announces() => Some(&update.attributes),
            _ => None,
        });
        let attributes = attributes.unwrap();
        assert_eq!(attributes.extended_communities.to_vec(), extended);
        assert_eq!(attributes.large_communities.to_vec(), [large]);
    }
}

/// The announcements said on a connection: prefix family and next hop.
fn next_hops(rig: &mut Rig, conn: ConnId) -> Vec<(bool, IpAddr)> {
    let said = rig.said(conn);
    let updates = said.iter().filter_map(|message| match message {
        Message::Update(Update { reach, mp_reach, .. }) => Some(reach.iter().chain(mp_reach)),
        _ => None,
    });
    updates.flatten().map(|reach| (reach.nlri[0].prefix.addr().is_ipv4(), reach.next_hop.address())).collect()
}

/// RFC 8950: on an IPv6 session with the capability, IPv4 prefixes have our IPv6 address as next hop; without it our
/// IPv4 address where it is known, else they are not sent.
#[test]
fn an_ipv6_session_carries_ipv4_prefixes_with_ipv6_next_hops() {
    let four = address(100);
    for (capable, local_other) in [(true, None), (true, Some(four)), (false, None), (false, Some(four))] {
        let remote: IpAddr = "2001:db8::1".parse().unwrap();
        let local: IpAddr = "2001:db8::100".parse().unwrap();
        let peer = PeerConfig {
            passive: true,
            extended_next_hop: capable,
            local_other,
            ..PeerConfig::new(remote, AS, PeerKind::Internal)
        };
        let mut rig = Rig::new(vec![peer]);
        rig.input(Input::SetOriginated(vec![
            Originated::new(net("10.1.0.0/24"), None),
            Originated::new(net("2001:db8:1::/48"), None),
        ]));
        let conn = ConnId::accepted(9);
        rig.wires.insert(conn, Wire::default());
        let (remote, at) = (SocketAddr::new(remote, 5000), SocketAddr::new(local, 179));
        rig.input(Input::Accepted { conn, remote, local: at });
        rig.establish(conn, Rig::open(1, false));
        rig.renegotiate(conn, |wire: &mut Negotiated| wire.extended_next_hop = capable);
        let mut told = next_hops(&mut rig, conn);
        told.sort_unstable();
        let of_ipv4 = if capable { Some(local) } else { local_other };
        let expected: Vec<_> =
            std::iter::once((false, local)).chain(of_ipv4.map(|address| (true, address))).collect();
        assert_eq!(told, expected);
    }
}

/// RFC 4271 section 5.1: what an external peer is told and not told.
#[test]
fn external_peers_are_told_our_as_and_next_hop_and_nothing_internal() {
    let mut rig = Rig::new(vec![client(1), open_external(2), open_external(3)]);
    let one = rig.up(1);
    let two = up_external(&mut rig, 2);
    let three = up_external(&mut rig, 3);
    let internal = PathAttributes { med: Some(5), ..Default::default() };
    rig.send(one, &announce(1, &["10.1.0.0/24"], internal));
    rig.send(two, &announce(2, &["192.0.2.0/24"], path(&[AS + 1, 7])));
    rig.pass(std::time::Duration::from_secs(1));
    let said = rig.said(three);
    let updates: Vec<_> = said
        .iter()
        .filter_map(|message| match message {
            Message::Update(update) if update.announces() => Some(update),
            _ => None,
        })
        .collect();
    // The other external peer is in the same AS: it will drop it by itself.
    assert_eq!(updates.len(), 2);
    for update in updates {
        let attributes = &update.attributes;
        assert_eq!(update.reach.as_ref().unwrap().next_hop, NextHop::from(address(100)));
        assert_eq!(attributes.as_path.first(), Some(AS));
        assert_eq!((attributes.local_pref, attributes.med, attributes.originator_id), (None, None, None));
        assert!(attributes.cluster_list.to_vec().is_empty());
    }
}

/// RFC 4271 section 5.1.4: what one neighbour says of the ways in goes to no other; what we say does.
#[test]
fn external_peers_are_told_the_med_of_policy_and_none_that_was_received() {
    let inside = CidrMatch { cidr: net("10.1.0.0/16"), operator: CidrOperator::In, length: None };
    let rules = vec![
        Rule { prefix: Some(inside), operations: vec![Operation::SetMed(7)], ..Rule::default() },
        Rule { operations: vec![Operation::SetLocalPref(1)], ..Rule::default() },
    ];
    let export = Policy { filters: vec![Filter { name: "f".to_owned(), rules }], default: Action::Accept };
    let mut rig = Rig::new(vec![client(1), PeerConfig { export: Arc::new(export), ..open_external(2) }]);
    let (one, two) = (rig.up(1), up_external(&mut rig, 2));
    let received = PathAttributes { med: Some(7), ..Default::default() };
    rig.send(one, &announce(1, &["10.1.0.0/24", "10.2.0.0/24"], received));
    rig.pass(std::time::Duration::from_secs(1));
    let said = rig.said(two);
    let told: BTreeMap<IpNet, Option<u32>> = said
        .iter()
        .filter_map(|message| match message {
            Message::Update(update) => Some(update),
            _ => None,
        })
        .flat_map(|update| update.announced().map(|(_, nlri)| (nlri.prefix, update.attributes.med)))
        .collect();
    assert_eq!(told, BTreeMap::from([(net("10.1.0.0/24"), Some(7)), (net("10.2.0.0/24"), None)]));
}
