//! Routes from peers: loop checks, authorisation, policy, limits.

use super::Speaker;
use super::peer::Slot;
use crate::config::{PeerConfig, PeerKind};
use crate::family::Family;
use crate::io::{Link, Log};
use crate::policy::{PeerType, RouteView, Verdict};
use crate::rib::{AttrId, FilterReason, SourceId};
use crate::session::fsm::Event as FsmEvent;
use crate::session::negotiate;
use crate::time::Time;
use crate::wire::{
    AfiSafi, CeaseSubcode, Community, NextHop, Nlri, Notification, NotificationCode, PathAttributes, Reach,
    Update,
};
use bytes::{BufMut, BytesMut};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// Whole seconds of virtual time, for ages.
pub(super) fn seconds(now: Time) -> u32 {
    u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX)
}

/// Whether a peer may announce a prefix.
pub(super) fn authorised(config: &PeerConfig, prefix: &IpNet) -> bool {
    config.authorised_origins.as_ref().is_none_or(|allowed| allowed.covers(prefix))
}

/// The route is about to go: it must lose against any other (RFC 8326 section 4.2).
fn leaves(attributes: &PathAttributes) -> bool {
    attributes.communities.has(&Community::GRACEFUL_SHUTDOWN)
}

/// The next hop as it counts here: a link-local address counts on the link of the session only. None if it cannot be
/// used at all.
fn usable(next_hop: NextHop, local: Option<IpAddr>, link: Option<&Link>) -> Option<NextHop> {
    let own_link_local = link.and_then(|link| link.link_local);
    let next_hop = match next_hop {
        NextHop::V6 { global, .. } if global.is_unicast_link_local() => {
            link?;
            NextHop::V6 { global, link_local: Some(global) }
        }
        NextHop::V6 { global, link_local } => {
            NextHop::V6 { global, link_local: link_local.filter(|_| link.is_some()) }
        }
        other => other,
    };
    let ours = matches!(next_hop, NextHop::V6 { link_local: Some(own), .. } if Some(own) == own_link_local);
    (!ours && is_foreign_host(next_hop.address(), local)).then_some(next_hop)
}

/// Whether a unicast route can lead to a prefix. None leads to multicast or class E addresses (RFC 4271 section 6.3), to a
/// host's own, or to those of one link.
fn is_routable(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.addr().octets()[0] < 224 && !prefix.addr().is_loopback(),
        IpNet::V6(prefix) => {
            let address = prefix.addr();
            !address.is_multicast() && !address.is_unicast_link_local() && !address.is_loopback()
        }
    }
}

/// Counts what is refused of an announcement, and remembers the first.
#[derive(Default)]
struct Refused {
    first: Option<IpNet>,
    count: usize,
}

impl Refused {
    fn note(&mut self, prefix: IpNet) {
        self.first.get_or_insert(prefix);
        self.count += 1;
    }
}

fn is_foreign_host(address: IpAddr, local: Option<IpAddr>) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback_of(local)
        && Some(address) != local
}

/// Loopback next hops are of use only to sessions over loopback (tests, labs on one machine).
trait LoopbackOf {
    fn is_loopback_of(&self, local: Option<IpAddr>) -> bool;
}

impl LoopbackOf for IpAddr {
    fn is_loopback_of(&self, local: Option<IpAddr>) -> bool {
        self.is_loopback() && !local.is_some_and(|local| local.is_loopback())
    }
}

impl Speaker {
    pub(super) fn update_received(&mut self, id: SourceId, update: &Update) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let config = Arc::clone(&peer.config);
        let announced = update.mp_reach.iter().chain(&update.reach).map(|reach| reach.nlri.len());
        let changes = update.withdrawn.len() + announced.sum::<usize>();
        let routes: u32 = Family::ALL.iter().map(|family| self.rib.counts(id, *family).received).sum();
        if let Some(changes) =
            peer.churn.note(self.now, changes, usize::try_from(routes).unwrap_or(usize::MAX))
        {
            self.log(Log::Churn(config.remote, changes));
        }
        self.withdraw_received(id, &update.withdrawn);
        for reach in update.mp_reach.iter().chain(&update.reach) {
            self.reach_received(id, &config, reach, &update.attributes);
        }
        if let Some(family) = update.end_of_rib.and_then(Family::from_wire) {
            self.end_of_rib_received(id, family);
        }
        if update.announces() {
            self.check_limit(id);
        }
    }

    fn withdraw_received(&mut self, id: SourceId, routes: &[Nlri]) {
        for nlri in routes {
            self.watchers.withdrawn(&self.rib, id, nlri);
            self.rib.withdraw(id, nlri.prefix, nlri.path_id.unwrap_or(0));
        }
    }

    /// Why every route of an announcement is filtered, if it is.
    fn loop_check(&self, config: &PeerConfig, attributes: &PathAttributes) -> Option<FilterReason> {
        let own_as = negotiate::local_as(&self.config, config);
        if attributes.originator_id == Some(self.config.router_id) {
            Some(FilterReason::OriginatorLoop)
        } else if attributes.cluster_list.contains(&self.config.cluster()) {
            Some(FilterReason::ClusterLoop)
        } else if self.own_as_count(own_as, attributes) > usize::from(config.allow_own_as) {
            Some(FilterReason::AsLoop)
        } else if config.kind == PeerKind::External
            && config.enforce_first_as
            && attributes.as_path.first() != Some(config.remote_as)
        {
            Some(FilterReason::FirstAs)
        } else if config.lacks(&config.import) {
            Some(FilterReason::NoPolicy)
        } else {
            None
        }
    }

    /// Occurrences of our AS, whichever of the two the peer knows (RFC 7705).
    fn own_as_count(&self, shown: u32, attributes: &PathAttributes) -> usize {
        let own = self.config.local_as;
        let hidden = if own == shown { 0 } else { attributes.as_path.count(own) };
        attributes.as_path.count(shown) + hidden
    }

    fn reach_received(
        &mut self,
        id: SourceId,
        config: &PeerConfig,
        reach: &Reach,
        received: &PathAttributes,
    ) {
        let now = seconds(self.now);
        let Some(conn) = self.peers.get(&id).map(|peer| &peer.main) else { return };
        let usable = usable(reach.next_hop, conn.local, conn.link.as_ref());
        let next_hop = usable.unwrap_or(reach.next_hop);
        let looped =
            self.loop_check(config, received).or_else(|| usable.is_none().then_some(FilterReason::NextHop));
        if looped == Some(FilterReason::OriginatorLoop) {
            // Our own routes, reflected back: as good as a withdrawal, and not worth keeping.
            self.withdraw_received(id, &reach.nlri);
            return;
        }
        let lowered = leaves(received).then(|| PathAttributes { local_pref: Some(0), ..received.clone() });
        let attributes = lowered.as_ref().unwrap_or(received);
        let shared = self.rib.attrs.intern(Some(next_hop), attributes);
        let (mut unroutable, mut unauthorised) = (Refused::default(), Refused::default());
        for nlri in &reach.nlri {
            if !is_routable(&nlri.prefix) {
                unroutable.note(nlri.prefix);
                continue;
            }
            let mut filtered = looped;
            if filtered.is_none() && !authorised(config, &nlri.prefix) {
                filtered = Some(FilterReason::Unauthorised);
                unauthorised.note(nlri.prefix);
            }
            let attrs = if filtered.is_none() {
                self.import(config, nlri.prefix, next_hop, attributes, shared, &mut filtered)
            } else {
                self.rib.attrs.acquire(shared);
                shared
            };
            let changed = attrs != shared || lowered.is_some();
            let original = (received, reach.next_hop);
            self.watchers.imported(self.now, &self.rib, id, nlri, original, changed);
            self.rib.announce(id, nlri.prefix, nlri.path_id.unwrap_or(0), attrs, filtered, now);
        }
        self.rib.attrs.release(shared);
        self.rib.forget_unused();
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.counters.unroutable += unroutable.count as u64;
            peer.counters.unauthorised += unauthorised.count as u64;
        }
        if let Some(first) = unroutable.first {
            self.log(Log::Unroutable(config.remote, first, unroutable.count));
        }
        if let Some(first) = unauthorised.first {
            self.log(Log::Unauthorised(config.remote, first, unauthorised.count));
        }
    }

    /// Runs the import policy; returns one reference to the attributes to keep.
    fn import(
        &mut self,
        config: &PeerConfig,
        prefix: IpNet,
        next_hop: NextHop,
        attributes: &PathAttributes,
        shared: AttrId,
        filtered: &mut Option<FilterReason>,
    ) -> AttrId {
        let peer_type =
            if config.kind == PeerKind::External { PeerType::External } else { PeerType::Internal };
        let view =
            RouteView { prefix, next_hop: Some(next_hop.address()), attributes, learned: true, peer_type };
        match config.import.apply(&view) {
            Verdict::Accept => {}
            Verdict::Reject => *filtered = Some(FilterReason::Policy),
            Verdict::Change(mut attributes) => {
                if leaves(&attributes) {
                    attributes.local_pref = Some(0);
                }
                return self.rib.attrs.intern(Some(next_hop), &attributes);
            }
        }
        self.rib.attrs.acquire(shared);
        shared
    }

    fn check_limit(&mut self, id: SourceId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(limit) = peer.config.max_prefix else { return };
        for family in Family::ALL {
            let held = self.rib.counts(id, family).received;
            let state = &mut peer.families[family.index()];
            let remote = peer.config.remote;
            if held > limit.limit {
                let wire = AfiSafi::from(family);
                let mut data = BytesMut::new();
                data.put_u16(wire.afi());
                data.put_u8(wire.safi());
                data.put_u32(limit.limit);
                peer.barred_until = Some(self.now + limit.restart);
                let note = Notification::with_data(
                    NotificationCode::Cease(CeaseSubcode::MaximumPrefixes),
                    data.freeze(),
                );
                let text = format!("{held} prefixes of {family}, the limit is {}", limit.limit);
                peer.counters.over_limit += 1;
                self.outputs.push_back(crate::io::Output::Log(Log::OverLimit(remote, held, limit.limit)));
                // Its routes must not outlive it: without RFC 8538 they never do.
                let session = peer.main.session.as_ref();
                let n_bit = session
                    .and_then(|session| session.restart.as_ref())
                    .is_some_and(|restart| restart.notification);
                let note = if n_bit { note.into_hard_reset() } else { note };
                // Else it would take the place of the one that ends.
                let rejected = Notification::cease(CeaseSubcode::ConnectionRejected);
                self.reset(id, Slot::Rival, FsmEvent::Stop, rejected, text.clone());
                self.reset(id, Slot::Main, FsmEvent::UpdateError, note, text);
                return;
            }
            let near = u64::from(held) * 100 >= u64::from(limit.limit) * u64::from(limit.warn_percent);
            if !std::mem::replace(&mut state.near_limit, near) && near {
                self.outputs.push_back(crate::io::Output::Log(Log::NearLimit(remote, held, limit.limit)));
            }
        }
    }
}
