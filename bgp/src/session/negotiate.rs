//! Our OPEN, and what follows from the peer's (RFC 4271 section 4.2, RFC 5492 and the capabilities' own RFCs).

use crate::config::{PeerConfig, PeerKind, SpeakerConfig};
use crate::family::Family;
use crate::status::NegotiatedStatus;
use crate::wire::{
    AddPathFamily, AddPathMode, AfiSafi, Capability, FamilySet, GracefulRestart, GracefulRestartFamily,
    LongLivedFamily, Negotiated, Notification, NotificationCode, Open, OpenSubcode, PeerKind as WireKind,
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Graceful restart as the peer announced it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerRestart {
    /// R bit.
    pub(crate) restarted: bool,
    /// N bit, on both sides.
    pub(crate) notification: bool,
    pub(crate) time: Duration,
    /// Per family: whether it is in the capability, and its F bit.
    pub(crate) families: [Option<bool>; 2],
}

/// What both OPENs together mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) negotiated: Negotiated,
    pub(crate) remote_id: Ipv4Addr,
    /// Zero is off.
    pub(crate) hold: Duration,
    pub(crate) keepalive: Duration,
    pub(crate) route_refresh: bool,
    pub(crate) enhanced_refresh: bool,
    pub(crate) restart: Option<PeerRestart>,
    /// Long-lived stale time per family.
    pub(crate) long_lived: [Option<Duration>; 2],
    /// F bit per family of the capability that has the stale times (RFC 9494 section 3).
    #[serde(default)]
    pub(crate) long_lived_forwarding: [bool; 2],
}

impl Session {
    pub(crate) fn has(&self, family: Family) -> bool {
        self.negotiated.families.has(family.into())
    }

    pub(crate) fn status(&self) -> NegotiatedStatus {
        NegotiatedStatus {
            hold_secs: self.hold.as_secs(),
            keepalive_secs: self.keepalive.as_secs(),
            families: Family::ALL.into_iter().filter(|family| self.has(*family)).collect(),
            four_octet_as: self.negotiated.four_octet_as,
            route_refresh: self.route_refresh,
            enhanced_refresh: self.enhanced_refresh,
            extended_message: self.negotiated.extended_message,
            extended_next_hop: self.negotiated.extended_next_hop,
            add_path_receive: self.negotiated.add_path_receive != FamilySet::NONE,
            add_path_send: self.negotiated.add_path_send != FamilySet::NONE,
            graceful_restart_secs: self.restart.as_ref().map(|restart| restart.time.as_secs()),
            notification_gr: self.restart.as_ref().is_some_and(|restart| restart.notification),
            long_lived_gr: self.long_lived.iter().any(Option::is_some),
        }
    }
}

/// Our AS as a peer sees it.
pub(crate) fn local_as(speaker: &SpeakerConfig, peer: &PeerConfig) -> u32 {
    peer.local_as.unwrap_or(speaker.local_as)
}

fn wire_kind(peer: &PeerConfig) -> WireKind {
    if peer.kind == PeerKind::External { WireKind::External } else { WireKind::Internal }
}

/// The encoding of messages before and without negotiation.
pub(crate) fn before_open(peer: &PeerConfig) -> Negotiated {
    Negotiated::minimal(wire_kind(peer))
}

/// The OPEN for a peer.
pub(crate) fn open(speaker: &SpeakerConfig, peer: &PeerConfig, restarting: bool) -> Open {
    let asn = local_as(speaker, peer);
    let mut families = peer.families.clone();
    families.sort_unstable();
    families.dedup();
    let mut capabilities: Vec<Capability> =
        families.iter().map(|family| Capability::MultiProtocol((*family).into())).collect();
    capabilities.extend([
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::FourOctetAs(asn),
        Capability::EnhancedRouteRefresh,
    ]);
    let mode = match (peer.add_path_receive, sends_paths(peer)) {
        (true, true) => Some(AddPathMode::Both),
        (true, false) => Some(AddPathMode::Receive),
        (false, true) => Some(AddPathMode::Send),
        (false, false) => None,
    };
    if let Some(mode) = mode {
        let listed = families.iter().map(|family| AddPathFamily { family: (*family).into(), mode });
        capabilities.push(Capability::AddPath(listed.collect()));
    }
    if offers_extended_next_hop(peer) {
        capabilities.push(Capability::ExtendedNextHop(vec![IPV4_OVER_IPV6]));
    }
    let restart = &peer.graceful_restart;
    if restart.enabled {
        let forwarding = restart.forwarding_preserved;
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted: restarting,
            notification: restart.notification,
            time: u16::try_from(restart.restart_time.as_secs()).unwrap_or(4095).min(4095),
            families: families
                .iter()
                .map(|family| GracefulRestartFamily { family: (*family).into(), forwarding })
                .collect(),
        }));
        if let Some(stale_time) = restart.long_lived {
            let stale_time = u32::try_from(stale_time.as_secs()).unwrap_or(u32::MAX).min(0x00ff_ffff);
            capabilities.push(Capability::LongLivedGracefulRestart(
                families
                    .iter()
                    .map(|family| LongLivedFamily { family: (*family).into(), forwarding, stale_time })
                    .collect(),
            ));
        }
    }
    let hold = u16::try_from(peer.timers.hold.as_secs()).unwrap_or(u16::MAX);
    Open::new(asn, hold, speaker.router_id, capabilities)
}

/// IPv4 unicast with next hops of AFI 2 (RFC 8950 section 4).
const IPV4_OVER_IPV6: (AfiSafi, u16) = (AfiSafi::Ipv4Unicast, 2);

/// Code of the multiprotocol capability (RFC 4760 section 8).
const MULTI_PROTOCOL: u8 = 1;

fn offers_extended_next_hop(peer: &PeerConfig) -> bool {
    peer.extended_next_hop && peer.families.contains(&Family::Ipv4)
}

fn sends_paths(peer: &PeerConfig) -> bool {
    peer.add_path_send > 1
}

/// Families in which we want one direction of path identifiers and the peer the same (RFC 7911 section 4).
fn add_path(wanted: bool, theirs: &Open, agrees: impl Fn(AddPathMode) -> bool) -> FamilySet {
    if !wanted {
        return FamilySet::NONE;
    }
    let offered = theirs.capabilities.iter().filter_map(|capability| match capability {
        Capability::AddPath(families) => Some(families),
        _ => None,
    });
    offered.flatten().filter(|entry| agrees(entry.mode)).map(|entry| entry.family).collect()
}

fn refuse(subcode: OpenSubcode) -> Notification {
    Notification::new(NotificationCode::Open(subcode))
}

/// Combines our OPEN with the peer's.
///
/// # Errors
/// The NOTIFICATION that refuses the peer (RFC 4271 section 6.2), with the reason in words.
pub(crate) fn negotiate(
    speaker: &SpeakerConfig,
    peer: &PeerConfig,
    theirs: &Open,
) -> Result<Session, (Notification, String)> {
    let asn = theirs.asn();
    if asn != peer.remote_as {
        let reason = format!("the peer has AS {asn}, configured is {}", peer.remote_as);
        return Err((refuse(OpenSubcode::BadPeerAs), reason));
    }
    let internal = peer.kind != PeerKind::External;
    let same_id = theirs.bgp_id == speaker.router_id && (internal || asn == local_as(speaker, peer));
    if same_id || theirs.bgp_id.is_unspecified() {
        let reason = format!("the peer's router id {} is ours", theirs.bgp_id);
        return Err((refuse(OpenSubcode::BadBgpIdentifier), reason));
    }
    let offered = offered_families(theirs);
    let families: FamilySet =
        peer.families.iter().map(|family| AfiSafi::from(*family)).filter(|f| offered.has(*f)).collect();
    if families == FamilySet::NONE {
        let reason = "no address family in common".to_owned();
        let code = NotificationCode::Open(OpenSubcode::UnsupportedCapability);
        return Err((Notification::with_data(code, lacking(peer)), reason));
    }
    let has = |wanted: &Capability| theirs.capabilities.contains(wanted);
    let theirs_hold = Duration::from_secs(u64::from(theirs.hold_time));
    let hold = theirs_hold.min(peer.timers.hold);
    // RFC 4271 section 4.4: not more often than once a second, and not at all only where nobody holds a timer.
    let wanted = peer.timers.keepalive.filter(|wanted| !wanted.is_zero());
    let keepalive = wanted.map_or(hold / 3, |wanted| wanted.max(Duration::from_secs(1)).min(hold / 3));
    let negotiated = Negotiated {
        families,
        four_octet_as: theirs.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_))),
        extended_message: has(&Capability::ExtendedMessage),
        extended_next_hop: offers_extended_next_hop(peer)
            && theirs.capabilities.iter().any(|capability| {
                matches!(capability, Capability::ExtendedNextHop(list) if list.contains(&IPV4_OVER_IPV6))
            }),
        add_path_receive: add_path(peer.add_path_receive, theirs, AddPathMode::sends),
        add_path_send: add_path(sends_paths(peer), theirs, AddPathMode::receives),
        ..before_open(peer)
    };
    let restart = peer_restart(peer, theirs);
    let (long_lived, long_lived_forwarding) =
        restart.as_ref().map(|_| long_lived(peer, theirs)).unwrap_or_default();
    Ok(Session {
        negotiated,
        remote_id: theirs.bgp_id,
        hold,
        keepalive,
        route_refresh: has(&Capability::RouteRefresh),
        enhanced_refresh: has(&Capability::RouteRefresh) && has(&Capability::EnhancedRouteRefresh),
        long_lived,
        long_lived_forwarding,
        restart,
    })
}

/// The capabilities of which the peer would have needed one, as OPEN has them (RFC 5492 section 5).
fn lacking(peer: &PeerConfig) -> Vec<u8> {
    let families = peer.families.iter().map(|family| AfiSafi::from(*family));
    let one = |family: AfiSafi| {
        let [high, low] = family.afi().to_be_bytes();
        [MULTI_PROTOCOL, 4, high, low, 0, family.safi()]
    };
    families.flat_map(one).collect()
}

/// Families in the OPEN; IPv4 unicast if it has none (RFC 4760 section 8).
fn offered_families(open: &Open) -> FamilySet {
    let mut listed = open
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::MultiProtocol(family) => Some(*family),
            _ => None,
        })
        .peekable();
    if listed.peek().is_none() {
        return [AfiSafi::Ipv4Unicast].into_iter().collect();
    }
    listed.collect()
}

fn peer_restart(peer: &PeerConfig, theirs: &Open) -> Option<PeerRestart> {
    if !peer.graceful_restart.enabled {
        return None;
    }
    let capability = theirs.capabilities.iter().find_map(|capability| match capability {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    })?;
    let mut families = [None; 2];
    for entry in &capability.families {
        if let Some(family) = Family::from_wire(entry.family) {
            families[family.index()] = Some(entry.forwarding);
        }
    }
    Some(PeerRestart {
        restarted: capability.restarted,
        notification: capability.notification && peer.graceful_restart.notification,
        time: Duration::from_secs(u64::from(capability.time)),
        families,
    })
}

/// Stale times and F bits.
fn long_lived(peer: &PeerConfig, theirs: &Open) -> ([Option<Duration>; 2], [bool; 2]) {
    let (mut times, mut forwarding) = ([None; 2], [false; 2]);
    let Some(limit) = peer.graceful_restart.long_lived else { return (times, forwarding) };
    for capability in &theirs.capabilities {
        let Capability::LongLivedGracefulRestart(families) = capability else { continue };
        for entry in families {
            if let Some(family) = Family::from_wire(entry.family) {
                let time = Duration::from_secs(u64::from(entry.stale_time)).min(limit);
                times[family.index()] = Some(time).filter(|time| !time.is_zero());
                forwarding[family.index()] = entry.forwarding;
            }
        }
    }
    (times, forwarding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn speaker(last: u8) -> SpeakerConfig {
        SpeakerConfig::new(Ipv4Addr::new(10, 0, 0, last), 64512)
    }

    fn peer() -> PeerConfig {
        PeerConfig::new(IpAddr::from([10, 0, 0, 2]), 64512, PeerKind::Internal)
    }

    #[test]
    fn two_of_ours_agree_on_everything() {
        let theirs = open(&speaker(2), &peer(), true);
        let session = negotiate(&speaker(1), &peer(), &theirs).unwrap();
        assert_eq!(session.negotiated.families, FamilySet::BOTH);
        assert!(session.negotiated.four_octet_as && session.negotiated.extended_message);
        assert!(session.enhanced_refresh);
        assert_eq!((session.hold.as_secs(), session.keepalive.as_secs()), (90, 30));
        let restart = session.restart.unwrap();
        assert!(restart.restarted && restart.notification);
        assert_eq!(restart.families, [Some(true); 2]);
        assert_eq!(session.long_lived[0], Some(Duration::from_secs(86_400)));
    }

    #[test]
    fn add_path_and_extended_next_hops_need_both_sides() {
        let wanted = PeerConfig { add_path_receive: true, ..peer() };
        let without = PeerConfig { extended_next_hop: false, ..peer() };
        let ours = open(&speaker(2), &wanted, false);
        let session = negotiate(&speaker(1), &wanted, &ours).unwrap();
        assert_eq!(session.negotiated.add_path_receive, FamilySet::NONE, "both only receive");
        assert!(session.negotiated.extended_next_hop);
        let session = negotiate(&speaker(1), &without, &ours).unwrap();
        assert!(!session.negotiated.extended_next_hop);
        let mut sends = open(&speaker(2), &without, false);
        let family = AddPathFamily { family: AfiSafi::Ipv4Unicast, mode: AddPathMode::Both };
        sends.capabilities.push(Capability::AddPath(vec![family]));
        let session = negotiate(&speaker(1), &wanted, &sends).unwrap();
        assert_eq!(session.negotiated.add_path_receive, FamilySet { ipv4: true, ipv6: false });
        assert!(!session.negotiated.extended_next_hop);
        assert_eq!(
            negotiate(&speaker(1), &peer(), &sends).unwrap().negotiated.add_path_receive,
            FamilySet::NONE
        );
    }

    #[test]
    fn a_peer_without_capabilities_gets_ipv4_only() {
        let theirs = Open::new(64512, 9, Ipv4Addr::new(1, 1, 1, 1), vec![]);
        let session = negotiate(&speaker(1), &peer(), &theirs).unwrap();
        assert_eq!(session.negotiated.families, FamilySet { ipv4: true, ipv6: false });
        assert_eq!((session.hold.as_secs(), session.keepalive.as_secs()), (9, 3));
        assert!(session.restart.is_none() && !session.route_refresh && !session.negotiated.four_octet_as);
    }

    #[test]
    fn refusals_name_their_reason() {
        let subcode = |open: &Open, peer: &PeerConfig| match negotiate(&speaker(1), peer, open) {
            Err((notification, _)) => notification.code,
            Ok(_) => panic!("accepted"),
        };
        let id = Ipv4Addr::new(1, 1, 1, 1);
        let wrong_as = Open::new(64513, 90, id, vec![]);
        assert_eq!(subcode(&wrong_as, &peer()), NotificationCode::Open(OpenSubcode::BadPeerAs));
        let same_id = Open::new(64512, 90, Ipv4Addr::new(10, 0, 0, 1), vec![]);
        assert_eq!(subcode(&same_id, &peer()), NotificationCode::Open(OpenSubcode::BadBgpIdentifier));
        let ipv6 = PeerConfig { families: vec![Family::Ipv6], ..peer() };
        let ipv4_only = Open::new(64512, 90, id, vec![]);
        let (refusal, _) = negotiate(&speaker(1), &ipv6, &ipv4_only).unwrap_err();
        assert_eq!(refusal.code, NotificationCode::Open(OpenSubcode::UnsupportedCapability));
        assert_eq!(refusal.data[..], [1, 4, 0, 2, 0, 1], "IPv6 unicast is what it lacks");
    }
}
