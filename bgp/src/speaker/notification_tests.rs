//! Every subcode of NOTIFICATION that this speaker sends, provoked in a speaker, and those that it never sends.

use super::rig::*;
use crate::bfd::SessionStatus;
use crate::config::{BfdConfig, EgressLimits, MaxPrefix, PeerConfig, PeerKind, SpeakerConfig, Timers};
use crate::family::Family;
use crate::io::{ConnId, Input, StopMode};
use crate::wire::{
    Capability, CeaseSubcode, FsmSubcode, HeaderSubcode, Message, Nlri, NotificationCode, OpenSubcode,
    PathAttributes, RefreshSubcode, Update, UpdateSubcode,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn client(last: u8) -> PeerConfig {
    passive(last, PeerKind::InternalClient)
}

fn raw(rig: &mut Rig, conn: ConnId, data: Vec<u8>) {
    rig.input(Input::Received { conn, data: data.into() });
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &len, &[kind], body].concat()
}

/// What the speaker ended a connection with; a Hard Reset counts as what it stands for.
fn last_word(rig: &mut Rig, conn: ConnId) -> Vec<NotificationCode> {
    assert!(rig.wires[&conn].closed, "the connection goes on");
    match rig.said(conn).last() {
        Some(Message::Notification(note)) => {
            let cause = note.hard_reset_cause().map(|cause| cause.code);
            std::iter::once(note.code).chain(cause).collect()
        }
        other => panic!("closed after {other:?}"),
    }
}

/// A subcode and what was said where it is due.
fn due(code: NotificationCode, said: Vec<NotificationCode>) -> NotificationCode {
    assert!(said.contains(&code), "{code} is due, said was {said:?}");
    code
}

/// The answer to octets on a new connection.
fn before_open(data: Vec<u8>) -> Vec<NotificationCode> {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.accept(1);
    raw(&mut rig, conn, data);
    last_word(&mut rig, conn)
}

/// The answer to octets in a session that is up.
fn in_session(data: Vec<u8>) -> Vec<NotificationCode> {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.up(1);
    raw(&mut rig, conn, data);
    last_word(&mut rig, conn)
}

/// The answer to an UPDATE with these attributes and nothing announced: RFC 7606 section 5.2 leaves no other way.
fn update(attributes: &[u8]) -> Vec<NotificationCode> {
    let len = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    in_session(message(2, &[&[0, 0][..], &len, attributes].concat()))
}

fn open(body: &[u8]) -> Vec<NotificationCode> {
    before_open(message(1, body))
}

/// The answer to what happens to a session that is up.
fn after(config: PeerConfig, happens: impl FnOnce(&mut Rig, ConnId)) -> Vec<NotificationCode> {
    let mut rig = Rig::new(vec![config]);
    let conn = rig.up(1);
    happens(&mut rig, conn);
    last_word(&mut rig, conn)
}

fn header() -> Vec<NotificationCode> {
    let mut wrong_marker = message(4, &[]);
    wrong_marker[3] = 0;
    let subcode = NotificationCode::Header;
    vec![
        due(subcode(HeaderSubcode::ConnectionNotSynchronized), before_open(wrong_marker)),
        due(subcode(HeaderSubcode::BadMessageLength), before_open(message(4, &[0]))),
        due(subcode(HeaderSubcode::BadMessageType), in_session(message(9, &[]))),
    ]
}

fn opens() -> Vec<NotificationCode> {
    // Version, AS 64512, hold time, identifier, length of parameters.
    let fixed = |version, asn: u8, hold, id| [version, 0xfc, asn, 0, hold, 10, 0, 0, id].to_vec();
    let with = |head: Vec<u8>, parameters: &[u8]| {
        open(&[&head[..], &[u8::try_from(parameters.len()).unwrap()], parameters].concat())
    };
    let mut needs_ipv4 = client(1);
    needs_ipv4.families = vec![Family::Ipv4];
    let mut rig = Rig::new(vec![needs_ipv4]);
    let conn = rig.accept(1);
    let ipv6_only: Vec<u8> = [&fixed(4, 0, 90, 1)[..], &[8, 2, 6, 1, 4, 0, 2, 0, 1]].concat();
    raw(&mut rig, conn, message(1, &ipv6_only));
    let subcode = NotificationCode::Open;
    vec![
        due(subcode(OpenSubcode::UnsupportedVersion), with(fixed(3, 0, 90, 1), &[])),
        due(subcode(OpenSubcode::BadPeerAs), with(fixed(4, 7, 90, 1), &[])),
        due(subcode(OpenSubcode::BadBgpIdentifier), with([4, 0xfc, 0, 0, 90, 0, 0, 0, 0].to_vec(), &[])),
        due(subcode(OpenSubcode::UnacceptableHoldTime), with(fixed(4, 0, 2, 1), &[])),
        due(subcode(OpenSubcode::UnsupportedOptionalParameter), with(fixed(4, 0, 90, 1), &[1, 0])),
        // A parameter that runs past the end.
        due(subcode(OpenSubcode::Unspecific), with(fixed(4, 0, 90, 1), &[2, 9, 0])),
        due(subcode(OpenSubcode::UnsupportedCapability), last_word(&mut rig, conn)),
    ]
}

fn updates() -> Vec<NotificationCode> {
    let subcode = NotificationCode::Update;
    let long_prefix = message(2, &[0, 0, 0, 0, 33, 10, 0, 0, 0, 0]);
    vec![
        due(subcode(UpdateSubcode::MalformedAttributeList), in_session(message(2, &[0, 9, 0, 0]))),
        due(subcode(UpdateSubcode::UnrecognizedWellKnownAttribute), update(&[0x40, 99, 0])),
        due(subcode(UpdateSubcode::AttributeFlags), update(&[0xc0, 1, 1, 0])),
        due(subcode(UpdateSubcode::AttributeLength), update(&[0x80, 4, 3, 0, 0, 0])),
        due(subcode(UpdateSubcode::InvalidOrigin), update(&[0x40, 1, 1, 9])),
        due(subcode(UpdateSubcode::InvalidNextHop), update(&[0x40, 3, 4, 0, 0, 0, 0])),
        due(subcode(UpdateSubcode::OptionalAttribute), update(&[0x80, 14, 5, 0, 2, 1, 3, 0])),
        due(subcode(UpdateSubcode::InvalidNetworkField), in_session(long_prefix)),
        due(subcode(UpdateSubcode::MalformedAsPath), update(&[0x40, 2, 2, 9, 1])),
    ]
}

fn machine() -> Vec<NotificationCode> {
    let mut rig = Rig::new(vec![client(1)]);
    let conn = rig.accept(1);
    rig.send(conn, &Message::Open(Rig::open(1, false)));
    raw(&mut rig, conn, message(2, &[0, 0, 0, 0]));
    let in_open_confirm = last_word(&mut rig, conn);
    let hello = message(1, &[4, 0xfc, 0, 0, 90, 10, 0, 0, 1, 0]);
    let subcode = NotificationCode::Fsm;
    vec![
        due(subcode(FsmSubcode::UnexpectedInOpenSent), before_open(message(4, &[]))),
        due(subcode(FsmSubcode::UnexpectedInOpenConfirm), in_open_confirm),
        due(subcode(FsmSubcode::UnexpectedInEstablished), in_session(hello)),
    ]
}

fn ceases() -> Vec<NotificationCode> {
    let limit = Some(MaxPrefix { limit: 1, warn_percent: 80, restart: SECOND });
    let too_many = after(PeerConfig { max_prefix: limit, ..client(1) }, |rig, conn| {
        rig.send(conn, &announce(1, &["10.1.1.0/24", "10.1.2.0/24"], PathAttributes::default()));
    });
    let shut_down =
        after(client(1), |rig, _| rig.input(Input::Stop(StopMode::Shutdown("maintenance".to_owned()))));
    let removed = after(client(1), |rig, _| rig.input(Input::RemovePeer(address(1))));
    let changed = after(client(1), |rig, _| {
        rig.input(Input::SetPeer(Arc::new(PeerConfig { families: vec![Family::Ipv4], ..client(1) })));
    });
    let bfd = Some(BfdConfig::default());
    let path_failed = after(PeerConfig { bfd, ..client(1) }, |rig, _| {
        rig.input(Input::Bfd(address(1), SessionStatus { failures: 1, ..SessionStatus::default() }));
    });
    let subcode = NotificationCode::Cease;
    vec![
        due(subcode(CeaseSubcode::MaximumPrefixes), too_many.clone()),
        due(subcode(CeaseSubcode::HardReset), too_many),
        due(subcode(CeaseSubcode::AdministrativeShutdown), shut_down),
        due(subcode(CeaseSubcode::PeerDeconfigured), removed),
        due(subcode(CeaseSubcode::OtherConfigurationChange), changed),
        due(subcode(CeaseSubcode::BfdDown), path_failed),
        due(subcode(CeaseSubcode::ConnectionCollision), collision()),
        due(subcode(CeaseSubcode::OutOfResources), out_of_resources()),
        due(subcode(CeaseSubcode::ConnectionRejected), rejected()),
    ]
}

/// Another connection of a peer that exceeds its limit. Strangers are told nothing: a node that comes before it is known
/// must not back off.
fn rejected() -> Vec<NotificationCode> {
    let max_prefix = Some(MaxPrefix { limit: 1, warn_percent: 80, restart: SECOND });
    let mut rig = Rig::new(vec![PeerConfig { max_prefix, ..client(1) }]);
    let (conn, other) = (rig.up(1), rig.accept(1));
    rig.send(conn, &announce(1, &["10.1.1.0/24", "10.1.2.0/24"], PathAttributes::default()));
    last_word(&mut rig, other)
}

/// Two connections at once: one of them loses.
fn collision() -> Vec<NotificationCode> {
    let mut rig = Rig::new(vec![PeerConfig::new(address(1), AS, PeerKind::Internal)]);
    let (ours, _) = rig.dials[0];
    rig.wires.entry(ours).or_default();
    let local = std::net::SocketAddr::new(address(100), 40_000);
    rig.input(Input::Connected { conn: ours, local });
    let theirs = rig.accept(1);
    rig.send(ours, &Message::Open(Rig::open(1, false)));
    rig.send(theirs, &Message::Open(Rig::open(1, false)));
    // 10.0.0.100 is the higher identifier.
    last_word(&mut rig, theirs)
}

/// A peer without enhanced refresh that misses more withdrawals than are remembered.
fn out_of_resources() -> Vec<NotificationCode> {
    let egress = EgressLimits { log_bytes: 1, window: 1024, ..EgressLimits::default() };
    let config = SpeakerConfig { egress, ..SpeakerConfig::new(router_id(100), AS) };
    let mut rig = Rig::with(config, vec![client(1), client(2)]);
    let source = rig.up(1);
    let slow = rig.accept(2);
    let mut open = Rig::open(2, false);
    open.capabilities.retain(|capability| *capability != Capability::EnhancedRouteRefresh);
    rig.establish(slow, open);
    rig.pass(SECOND);
    rig.reading = false;
    for high in 0..70u8 {
        let prefixes: Vec<String> =
            (0..1000u32).map(|n| format!("10.{high}.{}.{}/32", n / 250, n % 250)).collect();
        let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        for some in prefixes.chunks(500) {
            rig.send(source, &announce(1, some, PathAttributes::default()));
        }
        rig.pass(SECOND);
        for some in prefixes.chunks(500) {
            let withdrawn = some.iter().map(|prefix| Nlri::new(net(prefix))).collect();
            rig.send(source, &Message::Update(Update { withdrawn, ..Update::default() }));
        }
        rig.pass(SECOND);
        let sent = rig.wires.get_mut(&source).map(|wire| std::mem::take(&mut wire.sent)).unwrap();
        rig.input(Input::Written { conn: source, bytes: sent.len() });
        rig.send(slow, &Message::Keepalive);
    }
    let lag = usize::try_from(rig.peer(2).lag_bytes).unwrap();
    rig.input(Input::Written { conn: slow, bytes: lag });
    last_word(&mut rig, slow)
}

fn timers() -> Vec<NotificationCode> {
    let silence = after(client(1), |rig, _| rig.pass(91 * SECOND));
    let timers = Timers { send_hold: 40 * SECOND, ..Timers::default() };
    let deaf = after(PeerConfig { timers, ..client(1) }, |rig, conn| {
        rig.reading = false;
        for _ in 0..3 {
            rig.pass(30 * SECOND);
            if !rig.wires[&conn].closed {
                rig.send(conn, &Message::Keepalive);
            }
        }
    });
    vec![due(NotificationCode::HoldTimerExpired, silence), due(NotificationCode::SendHoldTimerExpired, deaf)]
}

#[test]
fn a_message_at_the_wrong_moment_is_named_by_its_type() {
    let hello = message(1, &[4, 0xfc, 0, 0, 90, 10, 0, 0, 1, 0]);
    for (up, data) in [
        (false, message(4, &[])),
        (false, message(2, &[0, 0, 0, 0])),
        (false, message(5, &[0, 1, 0, 1])),
        (true, hello),
    ] {
        let mut rig = Rig::new(vec![client(1)]);
        let conn = if up { rig.up(1) } else { rig.accept(1) };
        let kind = data[18];
        raw(&mut rig, conn, data);
        let said = rig.said(conn);
        let Some(Message::Notification(note)) = said.last() else { panic!("{said:?}") };
        assert!(matches!(note.code, NotificationCode::Fsm(_)), "{note}");
        assert_eq!(note.data[..], [kind]);
    }
}

#[test]
fn every_subcode_is_provoked_or_never_sent() {
    let length = NotificationCode::RouteRefresh(RefreshSubcode::InvalidMessageLength);
    let refresh = vec![due(length, in_session(message(5, &[0, 1, 1, 1, 0])))];
    let provoked: BTreeSet<NotificationCode> =
        [header(), opens(), updates(), machine(), ceases(), timers(), refresh].concat().into_iter().collect();
    let never = [
        // Nothing is unspecific here but a malformed OPEN.
        NotificationCode::Header(HeaderSubcode::Unspecific),
        NotificationCode::Update(UpdateSubcode::Unspecific),
        NotificationCode::Fsm(FsmSubcode::Unspecified),
        NotificationCode::Cease(CeaseSubcode::Unspecific),
        NotificationCode::RouteRefresh(RefreshSubcode::Reserved),
        // Deprecated by RFC 4271.
        NotificationCode::Open(OpenSubcode::AuthenticationFailure),
        NotificationCode::Update(UpdateSubcode::AsRoutingLoop),
        // Roles (RFC 9234) are not offered.
        NotificationCode::Open(OpenSubcode::RoleMismatch),
        // RFC 7606 section 3 d treats these routes as withdrawn.
        NotificationCode::Update(UpdateSubcode::MissingWellKnownAttribute),
        // A session is reset by changing its configuration.
        NotificationCode::Cease(CeaseSubcode::AdministrativeReset),
    ];
    let all = HeaderSubcode::ALL.iter().map(|subcode| NotificationCode::Header(*subcode));
    let all = all
        .chain(OpenSubcode::ALL.iter().map(|subcode| NotificationCode::Open(*subcode)))
        .chain(UpdateSubcode::ALL.iter().map(|subcode| NotificationCode::Update(*subcode)))
        .chain(FsmSubcode::ALL.iter().map(|subcode| NotificationCode::Fsm(*subcode)))
        .chain(CeaseSubcode::ALL.iter().map(|subcode| NotificationCode::Cease(*subcode)))
        .chain(RefreshSubcode::ALL.iter().map(|subcode| NotificationCode::RouteRefresh(*subcode)))
        .chain([NotificationCode::HoldTimerExpired, NotificationCode::SendHoldTimerExpired]);
    for code in all {
        assert_ne!(provoked.contains(&code), never.contains(&code), "{code}");
    }
}
