//! Sessions with others than nodes.

use std::net::IpAddr;
use std::sync::Arc;

use margay_api::Node;
use margay_api::types::PeerAddress;
use margay_bgp::{Family, MaxPrefix, PeerConfig, PeerKind, PeerRange};

use super::builder::{Builder, Origin, Outcome, Rule};
use super::{ListenRange, Peer, as_of, cluster_id, limits, node_addresses, problem};

impl<'a> Builder<'a> {
    /// A session with something that is no node: a top-of-rack router, a foreign reflector.
    pub(super) fn with_router(&mut self, rule: Rule<'a>, address: &PeerAddress) -> Outcome {
        let (spec, remote) = (&rule.peer.spec, address.ip);
        let mut config = self.outside(rule, remote, limits::ROUTER);
        config.port = address.port.unwrap_or(margay_bgp::BGP_PORT);
        rule.name.clone_into(&mut config.description);
        config.interface.clone_from(&address.zone);
        // As Calico's `add paths on`: several paths both ways with routers that want them.
        config.add_path_receive = true;
        config.add_path_send = 8;
        // Of a link, the system knows the right one.
        config.local_other = node_addresses(self.me).find(|own| own.is_ipv4() != remote.is_ipv4());
        let own = node_addresses(self.me).filter(|_| address.zone.is_none());
        config.local = own.filter(|own| own.is_ipv4() == remote.is_ipv4()).last();
        if !self.adjust(&mut config, rule, true) {
            return Outcome::Unusable;
        }
        let peer = Peer { config: Arc::new(config), node: None, reflector: false };
        Outcome::Session(peer, spec.reachable_by)
    }

    /// A session with a workload of this node, which may speak BGP and need not.
    pub(super) fn with_workload(
        &mut self,
        rule: Rule<'a>,
        name: &str,
        remote: IpAddr,
        local: IpAddr,
    ) -> Outcome {
        let mut config = self.outside(rule, remote, limits::WORKLOAD);
        name.clone_into(&mut config.description);
        config.families = vec![if remote.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }];
        config.expected = false;
        config.on_host = true;
        if !self.adjust(&mut config, rule, true) {
            return Outcome::Unusable;
        }
        // Whatever `sourceAddress` says: it is the one the workload knows.
        config.local = Some(local);
        Outcome::Session(Peer { config: Arc::new(config), node: None, reflector: false }, None)
    }

    /// The ranges that neighbours may come from whom no object names.
    pub(super) fn ranges(&mut self) -> Vec<PeerRange> {
        let cluster = self.cluster;
        cluster.ranges().iter().filter_map(|range| self.range(range)).collect()
    }

    fn range(&mut self, range: &'a ListenRange) -> Option<PeerRange> {
        let peer = &range.peer;
        let rule =
            Rule { name: &peer.metadata.name, peer, origin: Origin::Range, here: true, reverse: false };
        let remote = range.prefix.addr();
        let mut template = self.outside(rule, remote, range.max_prefixes);
        if !range.client && template.kind == PeerKind::InternalClient {
            template.kind = PeerKind::Internal;
        }
        template.description = format!("range {}", rule.name);
        template.families.clone_from(&range.families);
        template.expected = false;
        template.local_other = node_addresses(self.me).find(|own| own.is_ipv4() != remote.is_ipv4());
        let usable = self.adjust(&mut template, rule, true);
        usable.then_some(PeerRange { prefix: range.prefix, template, max: range.max_peers })
    }

    /// Says of ranges that a node is in them: who is let in from a range is not parked until its Node is known.
    pub(super) fn in_ranges(&mut self, there: &Node) {
        let cluster = self.cluster;
        for range in cluster.ranges() {
            if node_addresses(there).any(|address| range.prefix.contains(&address)) {
                let message = "nodes have addresses in it: one that connects before its Node object is known is taken \
                               for a neighbour of the range, and its session begins anew when it is known. Take a \
                               range without nodes";
                self.report(problem(format!("listenRanges({})", range.prefix), message));
            }
        }
    }

    /// What sessions with others than nodes have in common.
    fn outside(&mut self, rule: Rule<'a>, remote: IpAddr, prefixes: u32) -> PeerConfig {
        let spec = &rule.peer.spec;
        let max_prefix = limits::of_other(&rule.peer.metadata, prefixes).unwrap_or_else(|message| {
            self.report(problem(rule.object(), message));
            MaxPrefix::new(prefixes)
        });
        let local_as = spec.local_as_number.map(|number| number.0);
        let own_as = local_as.unwrap_or_else(|| as_of(self.me, self.cluster));
        let their_as = spec.as_number.map_or(own_as, |number| number.0);
        let kind = match cluster_id(self.me) {
            _ if their_as != own_as => PeerKind::External,
            Some(_) => PeerKind::InternalClient,
            None => PeerKind::Internal,
        };
        let export = Arc::clone(&self.export_own);
        PeerConfig {
            local_as,
            export,
            max_prefix: Some(max_prefix),
            ..PeerConfig::new(remote, their_as, kind)
        }
    }
}
