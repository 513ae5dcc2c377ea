//! What the codec's tests share: strategies for every message and a builder of raw UPDATEs.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*};

use super::*;

/// Decodes one whole message.
pub(super) fn decode_bytes(mut bytes: &[u8], negotiated: &Negotiated) -> Result<Decoded, SessionReset> {
    let mut framer = Framer::new();
    framer.set_max_len(negotiated.max_message_len());
    let frame = framer.next_frame(&mut bytes)?.expect("a whole message");
    decode(frame, negotiated)
}

/// Every message in `bytes`, none of which may have faults or be too long.
pub(super) fn decode_all(mut bytes: &[u8], negotiated: &Negotiated) -> Vec<Message> {
    let mut framer = Framer::new();
    framer.set_max_len(negotiated.max_message_len());
    let mut messages = Vec::new();
    while let Some(frame) = framer.next_frame(&mut bytes).expect("good headers") {
        let decoded = decode(frame, negotiated).expect("good messages");
        assert_eq!(decoded.faults, []);
        messages.push(decoded.message);
    }
    assert_eq!(framer.buffered(), 0);
    messages
}

pub(super) fn session(peer: PeerKind) -> Negotiated {
    Negotiated { four_octet_as: true, families: FamilySet::BOTH, ..Negotiated::minimal(peer) }
}

/// A message of this type around a body.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; MARKER_LEN];
    bytes.put_u16((HEADER_LEN + body.len()).try_into().expect("fits"));
    bytes.put_u8(kind);
    bytes.put_slice(body);
    bytes
}

/// An UPDATE from its three fields.
pub(super) fn raw_update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u16(withdrawn.len().try_into().expect("fits"));
    body.put_slice(withdrawn);
    body.put_u16(attributes.len().try_into().expect("fits"));
    body.put_slice(attributes);
    body.put_slice(nlri);
    message(2, &body)
}

/// An attribute with these flags, with the extended length where needed.
pub(super) fn raw_attribute(flags: u8, code: AttributeCode, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match u8::try_from(value.len()) {
        Ok(len) => bytes.put_slice(&[flags & !0x10, code.0, len]),
        Err(_) => {
            bytes.put_slice(&[flags | 0x10, code.0]);
            bytes.put_u16(value.len().try_into().expect("fits"));
        }
    }
    bytes.put_slice(value);
    bytes
}

pub(super) fn any_bool_families() -> impl Strategy<Value = FamilySet> {
    any::<(bool, bool)>().prop_map(|(ipv4, ipv6)| FamilySet { ipv4, ipv6 })
}

/// Every combination, with the same path identifiers in both directions so that what is sent can be received.
pub(super) fn negotiated() -> impl Strategy<Value = Negotiated> {
    (any::<[bool; 5]>(), any_bool_families()).prop_map(
        |([external, four_octet_as, extended_message, extended_next_hop, only_ipv6], paths)| Negotiated {
            peer: if external { PeerKind::External } else { PeerKind::Internal },
            four_octet_as,
            extended_message,
            extended_next_hop,
            families: FamilySet { ipv4: !only_ipv6, ipv6: true },
            add_path_receive: paths,
            add_path_send: paths,
        },
    )
}

pub(super) fn ipv4_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0..=32_u8).prop_map(|(bits, len)| {
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits), len).expect("length").trunc())
    })
}

pub(super) fn ipv6_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0..=128_u8).prop_map(|(bits, len)| {
        IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(bits), len).expect("length").trunc())
    })
}

/// Prefixes of a family, with path identifiers as negotiated.
pub(super) fn prefixes(
    negotiated: Negotiated,
    ipv6: bool,
    count: std::ops::Range<usize>,
) -> BoxedStrategy<Vec<Nlri>> {
    let prefix = if ipv6 { ipv6_prefix().boxed() } else { ipv4_prefix().boxed() };
    let with_id = negotiated.sends_path_id(if ipv6 { AfiSafi::Ipv6Unicast } else { AfiSafi::Ipv4Unicast });
    vec((prefix, any::<u32>()), count)
        .prop_map(move |list| {
            list.into_iter().map(|(prefix, id)| Nlri { prefix, path_id: with_id.then_some(id) }).collect()
        })
        .boxed()
}

pub(super) fn ipv4_next_hop() -> impl Strategy<Value = Ipv4Addr> {
    (1..0xe000_0000_u32).prop_map(Ipv4Addr::from_bits)
}

pub(super) fn ipv6_next_hop() -> impl Strategy<Value = NextHop> {
    (1..u128::MAX >> 8, option::of(any::<u64>())).prop_map(|(global, local)| NextHop::V6 {
        global: Ipv6Addr::from_bits(global),
        link_local: local.map(|id| Ipv6Addr::from_bits((0xfe80_u128 << 112) | u128::from(id))),
    })
}

fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1..=65535_u32, 65536..=u32::MAX]
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let sequence = vec(asn(), 0..300).prop_map(|asns| (SegmentKind::Sequence, asns));
    let short = vec(asn(), 0..4).prop_map(|asns| (SegmentKind::Sequence, asns));
    let set = vec(asn(), 0..6).prop_map(|asns| (SegmentKind::Set, asns));
    vec(prop_oneof![1 => sequence, 6 => short, 3 => set], 0..4).prop_map(AsPath::from_segments)
}

prop_compose! {
    fn unknown()(
        attributes in proptest::collection::btree_map(
            any::<u8>().prop_filter("not understood", |code| attr::desc::find(AttributeCode(*code)).is_none()),
            vec(any::<u8>(), 0..300),
            0..3,
        ),
    ) -> List<UnknownAttribute> {
        attributes
            .into_iter()
            .map(|(code, value)| UnknownAttribute { code: AttributeCode(code), value: value.into() })
            .collect()
    }
}

prop_compose! {
    /// Attributes that such a peer may send and that survive the way through such a session.
    pub(super) fn path_attributes(negotiated: Negotiated)(
        (origin, as_path) in (0..3_u8, as_path()),
        (med, local_pref, originator_id) in any::<(Option<u32>, Option<u32>, Option<u32>)>(),
        atomic_aggregate in any::<bool>(),
        aggregator in option::of((asn(), any::<u32>())),
        communities in vec(any::<u32>(), 0..100),
        cluster_list in vec(any::<u32>(), 0..5),
        extended in vec(any::<[u8; 8]>(), 0..4),
        large in vec(any::<[u32; 3]>(), 0..4),
        unknown in unknown(),
    ) -> PathAttributes {
        let internal = negotiated.peer == PeerKind::Internal;
        // RFC 6793 section 4.2.3: a two-octet AGGREGATOR says that AS4_PATH is of the past.
        let wide_path = as_path.asns().any(|asn| asn > 65535);
        let kept = |asn: u32| negotiated.four_octet_as || !wide_path || asn > 65535;
        PathAttributes {
            origin: Origin::new(origin).expect("in range"),
            as_path,
            med,
            local_pref: local_pref.filter(|_| internal),
            atomic_aggregate,
            aggregator: aggregator
                .filter(|(asn, _)| kept(*asn))
                .map(|(asn, id)| Aggregator { asn, id: Ipv4Addr::from_bits(id) }),
            communities: communities.into_iter().map(Community).collect(),
            originator_id: originator_id.filter(|_| internal).map(Ipv4Addr::from_bits),
            cluster_list: cluster_list.into_iter().filter(|_| internal).map(Ipv4Addr::from_bits).collect(),
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            large_communities: large
                .into_iter()
                .map(|[global, local1, local2]| LargeCommunity { global, local1, local2 })
                .collect(),
            unknown,
        }
    }
}

prop_compose! {
    /// An UPDATE in the form that decoding gives.
    pub(super) fn update(negotiated: Negotiated)(
        attributes in path_attributes(negotiated),
        next_hop in ipv4_next_hop(),
        mp_next_hop in ipv6_next_hop(),
        ipv4_via_ipv6 in any::<bool>(),
        withdrawn in prefixes(negotiated, false, 0..4),
        mp_withdrawn in prefixes(negotiated, true, 0..4),
        classic in prefixes(negotiated, false, 0..4),
        ipv6 in prefixes(negotiated, true, 0..4),
        ipv4 in prefixes(negotiated, false, 0..4),
        end_of_rib in any::<bool>(),
    ) -> Update {
        let has_ipv4 = negotiated.families.ipv4;
        let mp_nlri = if ipv4_via_ipv6 && negotiated.extended_next_hop && has_ipv4 { ipv4 } else { ipv6 };
        let reach = |next_hop, nlri: Vec<Nlri>| (!nlri.is_empty()).then(|| Reach { next_hop, nlri: nlri.into() });
        let mut update = Update {
            withdrawn: mp_withdrawn.into_iter().chain(withdrawn.into_iter().filter(|_| has_ipv4)).collect(),
            mp_reach: reach(mp_next_hop, mp_nlri),
            reach: if has_ipv4 { reach(NextHop::V4(next_hop), classic) } else { None },
            attributes,
            end_of_rib: None,
        };
        if !update.announces() {
            update.attributes = PathAttributes::default();
            if update.withdrawn.is_empty() {
                let ipv4 = end_of_rib && has_ipv4;
                return Update::end_of_rib(if ipv4 { AfiSafi::Ipv4Unicast } else { AfiSafi::Ipv6Unicast });
            }
        }
        update
    }
}

fn afi_safi() -> impl Strategy<Value = AfiSafi> {
    prop_oneof![
        Just(AfiSafi::Ipv4Unicast),
        Just(AfiSafi::Ipv6Unicast),
        any::<(u16, u8)>().prop_map(|(afi, safi)| AfiSafi::new(afi, safi)),
    ]
}

fn capability() -> impl Strategy<Value = Capability> {
    let mode = prop_oneof![Just(AddPathMode::Receive), Just(AddPathMode::Send), Just(AddPathMode::Both)];
    let known = [1, 2, 5, 6, 64, 65, 69, 70, 71, 73];
    prop_oneof![
        afi_safi().prop_map(Capability::MultiProtocol),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        Just(Capability::EnhancedRouteRefresh),
        (1..=u32::MAX).prop_map(Capability::FourOctetAs),
        vec((afi_safi(), any::<u16>()), 0..4).prop_map(Capability::ExtendedNextHop),
        (any::<(bool, bool)>(), 0..4096_u16, vec((afi_safi(), any::<bool>()), 0..4)).prop_map(
            |((restarted, notification), time, families)| {
                let families = families
                    .into_iter()
                    .map(|(family, forwarding)| GracefulRestartFamily { family, forwarding })
                    .collect();
                Capability::GracefulRestart(GracefulRestart { restarted, notification, time, families })
            }
        ),
        vec((afi_safi(), mode), 0..4).prop_map(|families| {
            Capability::AddPath(
                families.into_iter().map(|(family, mode)| AddPathFamily { family, mode }).collect(),
            )
        }),
        vec((afi_safi(), any::<bool>(), 0..1_u32 << 24), 0..4).prop_map(|families| {
            let entry = |(family, forwarding, stale_time)| LongLivedFamily { family, forwarding, stale_time };
            Capability::LongLivedGracefulRestart(families.into_iter().map(entry).collect())
        }),
        ("[a-zé.-]{0,60}", "[a-z.]{0,60}").prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        (any::<u8>(), vec(any::<u8>(), 0..255))
            .prop_filter("unknown", move |(code, _)| !known.contains(code))
            .prop_map(|(code, value)| Capability::Unknown { code, value: value.into() }),
    ]
}

/// An OPEN whose capabilities take up to some thousand octets: both forms of the optional parameters.
pub(super) fn open() -> impl Strategy<Value = Open> {
    (1..=u32::MAX, prop_oneof![Just(0), 3..=u16::MAX], 1..=u32::MAX, vec(capability(), 0..14)).prop_map(
        |(asn, hold_time, id, list)| {
            let mut capabilities = Vec::new();
            for capability in list {
                let second_as = matches!(capability, Capability::FourOctetAs(_));
                if !second_as && !capabilities.contains(&capability) {
                    capabilities.push(capability);
                }
            }
            capabilities.push(Capability::FourOctetAs(asn));
            Open::new(asn, hold_time, Ipv4Addr::from_bits(id), capabilities)
        },
    )
}

pub(super) fn notification() -> impl Strategy<Value = Notification> {
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..300)).prop_map(|(code, subcode, data)| {
        Notification::with_data(NotificationCode::new(code, subcode), Bytes::from(data))
    })
}

pub(super) fn route_refresh() -> impl Strategy<Value = RouteRefresh> {
    (afi_safi(), any::<u8>()).prop_map(|(family, subtype)| RouteRefresh {
        family,
        kind: match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::BeginOfRefresh,
            2 => RefreshKind::EndOfRefresh,
            other => RefreshKind::Other(other),
        },
    })
}

/// Any message, and the session on which it is sent.
pub(super) fn any_message() -> impl Strategy<Value = (Negotiated, Message)> {
    negotiated().prop_flat_map(|negotiated| {
        let message = prop_oneof![
            5 => update(negotiated).prop_map(Message::Update),
            2 => open().prop_map(Message::Open),
            1 => notification().prop_map(Message::Notification),
            1 => route_refresh().prop_map(Message::RouteRefresh),
            1 => Just(Message::Keepalive),
        ];
        (Just(negotiated), message)
    })
}

/// The message as octets.
pub(super) fn encoded(message: &Message, negotiated: &Negotiated) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(negotiated, &mut out).expect("fits");
    out
}
