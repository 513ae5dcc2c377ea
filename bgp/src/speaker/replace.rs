//! Sessions that others are to take the place of: whether they have, and how to leave.

use super::Speaker;
use super::peer::{Conn, Peer, Slot};
use crate::config::PeerKind;
use crate::family::Family;
use crate::rib::{Path, SourceId};
use crate::status::Replacement;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Speaker {
    /// How far other peers have taken the place of those `leaving`. A route by way of a next hop in `gone` is missed
    /// by nobody.
    #[must_use]
    pub fn replacement(&self, leaving: &BTreeSet<IpAddr>, gone: &BTreeSet<IpAddr>) -> Replacement {
        let ids: BTreeMap<SourceId, IpAddr> =
            leaving.iter().filter_map(|remote| Some((*self.by_address.get(remote)?, *remote))).collect();
        let mut out = Replacement {
            in_sync: self
                .peers
                .values()
                .filter(|peer| told_all(peer))
                .map(|peer| peer.config.remote)
                .collect(),
            missing: BTreeMap::new(),
        };
        for (_, entry) in self.rib.iter() {
            let eligible = entry.paths.iter().filter(|path| path.filtered.is_none());
            if eligible.clone().any(|path| !path.stale && !ids.contains_key(&path.source)) {
                continue;
            }
            for path in eligible {
                let Some(remote) = ids.get(&path.source) else { continue };
                let next_hop = self.rib.attrs.get(path.attrs).next_hop.map(|next_hop| next_hop.address());
                if !next_hop.is_some_and(|address| gone.contains(&address)) {
                    out.missing.entry(*remote).or_insert((entry.prefix, 0)).1 += 1;
                }
            }
        }
        out
    }

    /// Those of `others` that are up have told of every prefix that our clients announce, whichever of them: where nodes are spread,
    /// each serves some. What is filtered here counts, too: reflectors of one cluster don't use each other's routes, but
    /// hold them.
    #[must_use]
    pub fn is_covered_by(&self, others: &BTreeSet<IpAddr>) -> bool {
        let known = others.iter().filter_map(|remote| self.by_address.get(remote));
        let is_up = |id: &&SourceId| self.peers.get(id).is_some_and(|peer| told_all(peer));
        let covering: BTreeSet<SourceId> = known.filter(is_up).copied().collect();
        let is_client = |id: &SourceId| {
            self.peers.get(id).is_some_and(|peer| peer.config.kind == PeerKind::InternalClient)
        };
        !covering.is_empty()
            && self.rib.iter().all(|(_, entry)| {
                let any = |of: &dyn Fn(&Path) -> bool| entry.paths.iter().any(of);
                !any(&|path| path.filtered.is_none() && is_client(&path.source))
                    || any(&|path| !path.stale && covering.contains(&path.source))
            })
    }

    /// Forgets a peer that others have replaced for us. They may not have replaced us for it yet, so its connection
    /// closes without a word and it keeps our routes (RFC 4724).
    pub(super) fn release_peer(&mut self, remote: IpAddr) {
        let Some(id) = self.by_address.get(&remote.to_canonical()).copied() else { return };
        for slot in [Slot::Main, Slot::Rival] {
            let conn =
                self.peers.get_mut(&id).and_then(|peer| peer.conn_mut(slot)).and_then(Conn::disconnect);
            if let Some(conn) = conn {
                self.close(conn);
            }
        }
        self.remove_peer(remote);
    }
}

/// Whether a peer is up and has sent its whole table.
pub(super) fn told_all(peer: &Peer) -> bool {
    peer.session().is_some_and(|session| {
        Family::ALL.into_iter().all(|family| !session.has(family) || peer.families[family.index()].end_of_rib)
    })
}

#[cfg(test)]
mod tests {
    use super::super::rig::{Rig, address, announce, end_of_rib, passive};
    use crate::config::{PeerConfig, PeerKind, SpeakerConfig};
    use crate::family::Family;
    use crate::io::Input;
    use crate::wire::{Message, PathAttributes};
    use std::collections::BTreeSet;

    fn set(lasts: &[u8]) -> BTreeSet<std::net::IpAddr> {
        lasts.iter().map(|last| address(*last)).collect()
    }

    fn tell(rig: &mut Rig, conn: crate::io::ConnId, last: u8, prefixes: &[&str]) {
        rig.send(conn, &announce(last, prefixes, PathAttributes::default()));
        for family in Family::ALL {
            rig.send(conn, &end_of_rib(family));
        }
    }

    #[test]
    fn a_peer_is_replaced_when_others_have_all_it_told() {
        let internal = |last| passive(last, PeerKind::Internal);
        let mut rig = Rig::new(vec![internal(1), internal(2)]);
        let old = rig.up(1);
        tell(&mut rig, old, 1, &["10.1.1.0/24", "10.1.2.0/24"]);
        let new = rig.up(2);
        rig.send(new, &announce(1, &["10.1.1.0/24"], PathAttributes::default()));
        let now = rig.speaker.replacement(&set(&[1]), &set(&[]));
        assert_eq!(now.in_sync, set(&[1]));
        assert_eq!(now.missing[&address(1)], ("10.1.2.0/24".parse().unwrap(), 1));
        assert!(rig.speaker.replacement(&set(&[1]), &set(&[1])).missing.is_empty(), "its next hop is gone");
        tell(&mut rig, new, 1, &["10.1.2.0/24"]);
        let now = rig.speaker.replacement(&set(&[1]), &set(&[]));
        assert_eq!((now.in_sync, now.missing.len()), (set(&[1, 2]), 0));
        assert_eq!(rig.speaker.replacement(&set(&[1, 2]), &set(&[])).missing.len(), 2, "both leave");
        // It is left without a word, and nothing changes for the forwarding table.
        rig.prefixes();
        let (events, said) = (rig.events.len(), rig.said(old).len());
        rig.input(Input::ReleasePeer(address(1)));
        assert_eq!(rig.prefixes(), ["10.1.1.0/24", "10.1.2.0/24"]);
        assert!(said > 0 && rig.wires[&old].closed);
        assert!(!rig.said(old).iter().any(|message| matches!(message, Message::Notification(_))));
        let routes = |event: &crate::Event| matches!(event, crate::Event::RouteChanges(_));
        assert!(!rig.events[events..].iter().any(routes), "{:?}", &rig.events[events..]);
        assert!(rig.speaker.peers().iter().all(|peer| peer.remote != address(1)));
    }

    /// Nodes announce the ranges of services all alike, and some announce what is not theirs.
    #[test]
    fn another_reflector_covers_prefixes_not_paths() {
        let client = |last| passive(last, PeerKind::InternalClient);
        let mut strict = client(3);
        strict.authorised_origins = Some(std::iter::empty::<ipnet::IpNet>().collect());
        let mut rig = Rig::new(vec![
            client(1),
            client(2),
            strict,
            passive(4, PeerKind::Internal),
            passive(5, PeerKind::Internal),
        ]);
        let others = set(&[4, 5]);
        for last in [1, 2] {
            let conn = rig.up(last);
            tell(&mut rig, conn, last, &[&format!("10.1.{last}.0/24"), "10.96.0.0/12"]);
        }
        let conn = rig.up(3);
        tell(&mut rig, conn, 3, &["10.9.9.0/24"]);
        assert!(!rig.speaker.is_covered_by(&others), "it is not up");
        let other = rig.up(4);
        tell(&mut rig, other, 1, &["10.1.1.0/24", "10.96.0.0/12"]);
        assert!(!rig.speaker.is_covered_by(&others), "10.1.2.0/24 is missing");
        // Of four reflectors each serves some of the nodes.
        let fourth = rig.up(5);
        tell(&mut rig, fourth, 2, &["10.1.2.0/24"]);
        assert!(rig.speaker.is_covered_by(&others), "each has its part");
        assert!(!rig.speaker.is_covered_by(&set(&[4])) && !rig.speaker.is_covered_by(&set(&[5])));
        tell(&mut rig, other, 2, &["10.1.2.0/24"]);
        assert!(rig.speaker.is_covered_by(&set(&[4])));
        assert!(!rig.speaker.is_covered_by(&set(&[6])) && !rig.speaker.is_covered_by(&set(&[])));
    }

    #[test]
    fn who_need_not_connect_is_not_waited_for() {
        let mut config = SpeakerConfig::new(super::super::rig::router_id(100), super::super::rig::AS);
        config.restarting = true;
        let client = |last| passive(last, PeerKind::InternalClient);
        let maybe = PeerConfig { expected: false, ..client(2) };
        let mut rig = Rig::with(config, vec![client(1), maybe]);
        let conn = rig.up(1);
        assert!(rig.speaker.is_withholding());
        tell(&mut rig, conn, 1, &["10.1.1.0/24"]);
        assert!(!rig.speaker.is_withholding() && rig.speaker.in_sync());
    }
}
