//! What the bytes sent to a peer depend on, and how a route becomes what that peer is sent.

use crate::config::{NextHopMode, PeerKind};
use crate::family::Family;
use crate::io::Link;
use crate::policy::{PeerType, Policy, RouteView, Trace, Verdict};
use crate::rib::{AttrId, Path, Rib};
use crate::wire::{AfiSafi, Community, Negotiated, NextHop, PathAttributes};
use ipnet::IpNet;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// LOCAL_PREF given to routes that have none on their way to internal peers.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// Everything that the stream towards a peer depends on. Peers with equal profiles share one stream: a setting that is
/// not in here does not influence what is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EgressProfile {
    pub(crate) kind: PeerKind,
    /// How messages are encoded; the receiving direction is set to a constant.
    pub(crate) negotiated: Negotiated,
    /// Paths per prefix in the families with path identifiers (RFC 7911); 0 without.
    pub(crate) paths: u8,
    /// AS that this peer sees us as.
    pub(crate) local_as: u32,
    pub(crate) next_hop: NextHopMode,
    /// Our address of the session.
    pub(crate) local: IpAddr,
    /// Our address of the other family.
    pub(crate) local_other: Option<IpAddr>,
    /// The link that we share with the peer, where what is sent depends on it.
    pub(crate) link: Option<Link>,
    pub(crate) export: Arc<Policy>,
    /// The peer knows long-lived stale routes (RFC 9494).
    pub(crate) long_lived: bool,
    /// Enhanced route refresh (RFC 7313): how the stream is repeated.
    pub(crate) enhanced_refresh: bool,
    /// External, and nobody gave a policy (RFC 8212): nothing is sent.
    pub(crate) no_policy: bool,
    /// We are about to go (RFC 8326).
    pub(crate) draining: bool,
    /// Not zero: a group of its own. Lets tests compare shared streams with separate ones.
    pub(crate) alone: u32,
}

/// This speaker, as far as what it sends depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) cluster: Ipv4Addr,
}

/// A path as far as what peers are sent depends on it: under one profile, equal ones are sent alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    attrs: AttrId,
    /// BGP identifier of its source: ORIGINATOR_ID where it has none.
    originator: Ipv4Addr,
    /// What its source is; `None` is this speaker.
    from: Option<PeerKind>,
    unreachable: bool,
    long_lived: bool,
    /// Its source is on this host, and so are its next hops.
    on_host: bool,
}

// Groups keep one per prefix.
const _: () = assert!(size_of::<Option<Told>>() == 12);

impl Told {
    pub(crate) fn of(path: &Path, rib: &Rib) -> Self {
        let source = rib.sources.get(&path.source);
        Self {
            attrs: path.attrs,
            originator: source.map_or(Ipv4Addr::UNSPECIFIED, |source| source.id),
            from: source.and_then(|source| source.kind),
            unreachable: path.unreachable,
            long_lived: path.is_last_resort(&rib.attrs.get(path.attrs).attributes),
            on_host: source.is_some_and(|source| source.on_host),
        }
    }
}

/// A route as a peer is sent it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Outgoing {
    pub(crate) next_hop: NextHop,
    pub(crate) attributes: PathAttributes,
}

/// Why a route isn't sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suppressed {
    Family,
    NoAdvertise,
    NoExport,
    NotReflected,
    LongLived,
    Policy,
    NoPolicy,
    NextHop,
    Unreachable,
}

impl Suppressed {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Family => "the peer did not negotiate this family",
            Self::NoAdvertise => "it carries the community no-advertise",
            Self::NoExport => "it carries the community no-export",
            Self::NotReflected => {
                "it came from an internal peer that is not a client, and this peer is not a client either"
            }
            Self::LongLived => "it is long-lived stale and the peer did not negotiate that",
            Self::Policy => "export policy rejects it",
            Self::NoPolicy => "an external peer needs an export policy (RFC 8212)",
            Self::Unreachable => "its next hop cannot be reached, and is not kept towards this peer",
            Self::NextHop => "there is no next hop of the right family for this session",
        }
    }
}

impl EgressProfile {
    fn peer_type(&self) -> PeerType {
        if self.kind == PeerKind::External { PeerType::External } else { PeerType::Internal }
    }

    /// Whether several paths to a prefix are told apart (RFC 7911).
    pub(crate) fn sends_paths(&self, prefix: &IpNet) -> bool {
        self.negotiated.sends_path_id(AfiSafi::of(prefix))
    }

    fn view<'a>(
        &self,
        prefix: IpNet,
        told: Told,
        next_hop: Option<NextHop>,
        attributes: &'a PathAttributes,
    ) -> RouteView<'a> {
        RouteView {
            prefix,
            next_hop: next_hop.filter(|_| told.from.is_some()).map(|next_hop| next_hop.address()),
            attributes,
            learned: told.from.is_some(),
            peer_type: self.peer_type(),
        }
    }

    /// What export policy makes of a path, rule by rule.
    pub(crate) fn trace(&self, rib: &Rib, prefix: IpNet, path: &Path) -> Trace {
        let route = rib.attrs.get(path.attrs);
        self.export.explain(&self.view(prefix, Told::of(path, rib), route.next_hop, &route.attributes))
    }

    /// What this profile's peers are sent for a path, or why nothing.
    pub(crate) fn outgoing(
        &self,
        rib: &Rib,
        us: Identity,
        prefix: IpNet,
        told: Told,
    ) -> Result<Outgoing, Suppressed> {
        let next_hop = self.sends(rib, Family::of(&prefix), told)?;
        let route = rib.attrs.get(told.attrs);
        let mut attributes = Cow::Borrowed(&route.attributes);
        // RFC 4271 section 5.1.4: what was received goes no further. What policy sets does.
        if self.kind == PeerKind::External && told.from.is_some() && attributes.med.is_some() {
            attributes.to_mut().med = None;
        }
        let mut attributes = match self.export.apply(&self.view(prefix, told, route.next_hop, &attributes)) {
            Verdict::Reject => return Err(Suppressed::Policy),
            Verdict::Accept => attributes.into_owned(),
            Verdict::Change(changed) => *changed,
        };
        if told.long_lived {
            attributes.communities = attributes.communities.with(Community::LLGR_STALE);
        }
        if self.draining {
            attributes.communities = attributes.communities.with(Community::GRACEFUL_SHUTDOWN);
            attributes.local_pref = Some(0);
        }
        if self.kind == PeerKind::External {
            self.towards_external(&mut attributes);
        } else {
            attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
            if told.from.is_some_and(|kind| kind != PeerKind::External) {
                attributes.reflect(told.originator, us.cluster);
            }
        }
        Ok(Outgoing { next_hop, attributes })
    }

    /// The next hop that a path is sent with, or why it isn't sent whatever the policy says.
    pub(crate) fn sends(&self, rib: &Rib, family: Family, told: Told) -> Result<NextHop, Suppressed> {
        let route = rib.attrs.get(told.attrs);
        let communities = &route.attributes.communities;
        if !self.negotiated.families.has(family.into()) {
            return Err(Suppressed::Family);
        }
        if self.no_policy {
            return Err(Suppressed::NoPolicy);
        }
        if communities.has(&Community::NO_ADVERTISE) {
            return Err(Suppressed::NoAdvertise);
        }
        let kept_inside =
            communities.has(&Community::NO_EXPORT) || communities.has(&Community::NO_EXPORT_SUBCONFED);
        if self.kind == PeerKind::External && kept_inside {
            return Err(Suppressed::NoExport);
        }
        // With ourselves as next hop, packets would come here and go no further. Where it is kept, the peer may know a
        // way that we don't (as BIRD does with `next hop keep`).
        if told.unreachable && self.next_hop != NextHopMode::Keep {
            return Err(Suppressed::Unreachable);
        }
        if told.long_lived && !self.long_lived {
            return Err(Suppressed::LongLived);
        }
        // RFC 4271 section 9.2, RFC 4456 section 6.
        if told.from == Some(PeerKind::Internal) && self.kind == PeerKind::Internal {
            return Err(Suppressed::NotReflected);
        }
        self.next_hop(route.next_hop, family, told.on_host)
    }

    /// Our address of the session as next hop, with the link-local one for a neighbour (RFC 2545 section 3). Over a
    /// link-local session the global address of the link, if there is one.
    fn own(&self) -> NextHop {
        match (self.local, &self.link) {
            (IpAddr::V6(local), Some(link)) if local.is_unicast_link_local() => match link.global {
                Some(global) => NextHop::V6 { global, link_local: Some(local) },
                None => NextHop::from(self.local),
            },
            (IpAddr::V6(global), Some(link)) => NextHop::V6 { global, link_local: link.link_local },
            _ => NextHop::from(self.local),
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        let global = self.link.as_ref().and_then(|link| link.global).map(IpAddr::V6);
        address == self.local || Some(address) == global
    }

    fn next_hop(
        &self,
        received: Option<NextHop>,
        family: Family,
        on_host: bool,
    ) -> Result<NextHop, Suppressed> {
        let to_self = match self.next_hop {
            NextHopMode::Auto => self.kind == PeerKind::External || on_host,
            NextHopMode::SelfAddress => true,
            NextHopMode::Keep => false,
        };
        let local = || {
            let fits = (family == Family::Ipv4) == self.local.is_ipv4()
                || (family == Family::Ipv4 && self.negotiated.extended_next_hop);
            let other = self.local_other.filter(|other| other.is_ipv4() == (family == Family::Ipv4));
            if fits { Some(self.own()) } else { other.map(NextHop::from) }
        };
        // A link-local address means nothing beyond its link (RFC 2545 section 3).
        let beyond = |received| match received {
            NextHop::V6 { global, .. } => NextHop::V6 { global, link_local: None },
            v4 @ NextHop::V4(_) => v4,
        };
        let next_hop = match received {
            // A route of the other family than the session keeps its next hop where ours is not known.
            Some(received) if to_self => local().unwrap_or_else(|| beyond(received)),
            Some(received) if self.is_own(received.address()) => self.own(),
            Some(received) => beyond(received),
            None => local().ok_or(Suppressed::NextHop)?,
        };
        if matches!(next_hop, NextHop::V6 { global, .. } if global.is_unicast_link_local())
            && !self.is_own(next_hop.address())
        {
            return Err(Suppressed::NextHop);
        }
        let sendable = match (family, next_hop) {
            (Family::Ipv4, NextHop::V6 { .. }) => self.negotiated.extended_next_hop,
            (Family::Ipv6, NextHop::V4(_)) => false,
            _ => true,
        };
        if sendable { Ok(next_hop) } else { Err(Suppressed::NextHop) }
    }

    fn towards_external(&self, attributes: &mut PathAttributes) {
        attributes.as_path = attributes.as_path.prepended(self.local_as, 1);
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list = crate::wire::List::EMPTY;
        attributes.extended_communities =
            attributes.extended_communities.filtered(|community| community.is_transitive());
    }
}
