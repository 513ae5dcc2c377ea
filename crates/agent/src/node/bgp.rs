//! BGP as part of the node: sessions follow the topology, routes feed the forwarding.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_bgp::policy::preference;
use margay_bgp::{Event, ForwardingHop, NextHopState, Originated};
use margay_control::status::Problem;
use margay_daemon::secrets;
use margay_daemon::speaker::SpeakerError;
use margay_daemon::topology::{
    Way, node_addresses, service_routes, unknown_configuration, with_pod_addresses,
};
use margay_routing::{Backend, BgpRoute, NextHop, UnderlayRoute};

use super::Node;

/// Of routes of which BGPConfiguration says nothing (`ipv4NormalRoutePriority`, `ipv6NormalRoutePriority`).
const NORMAL_PRIORITY: u32 = 1024;

impl Node {
    /// Sessions are this node's business.
    pub(super) fn speaks_bgp(&self) -> bool {
        self.config.backend == Backend::Bgp
    }

    /// Brings the sessions in line with the datastore; starts the speaker when the node has an address.
    pub(super) async fn update_sessions(&mut self) {
        if !self.speaks_bgp() {
            self.health.set("bgp", true, format!("off (backend: {})", self.config.backend));
            // Nobody follows them.
            drop(self.cluster.bgp.take_changes());
            return;
        }
        let unreadable = self.cluster.unreadable.keys();
        if let Some(key) = unknown_configuration(&self.config.node, &self.cluster.bgp, unreadable) {
            return self.report_bgp_error(&SpeakerError::Unreadable(key.clone()));
        }
        self.read_secrets();
        self.look_for_ways();
        let starts = self.speaker.starts();
        let outcome = self.speaker.follow(&self.config.node, &mut self.cluster.bgp).await;
        if self.speaker.starts() != starts {
            self.router.doubt_bgp();
        }
        if let Some(wanted) = self.speaker.topology() {
            self.advertisements.clone_from(&wanted.advertisements);
            self.router.set_gateways(&wanted.gateways);
            self.router.set_workload_peering(&wanted.workload_peering);
            self.update_routes();
            self.follow_next_hops().await;
        }
        match outcome {
            Ok(()) => {
                self.originate().await;
                self.report_sessions();
            }
            Err(error) => self.report_bgp_error(&error),
        }
    }

    /// Tells BGPFilters of this node's interfaces; true if that makes others of them.
    pub(super) fn look_for_ways(&mut self) -> bool {
        let underlay = self.forwarding.underlay();
        let way = |route: &UnderlayRoute| Way {
            prefix: route.prefix,
            metric: route.metric,
            dev: route.dev.clone(),
        };
        self.cluster.bgp.set_ways(underlay.routes.iter().map(way))
    }

    /// Ends sessions that others have replaced.
    pub(super) async fn review_sessions(&mut self) {
        match self.speaker.review().await {
            Ok(()) => self.report_sessions(),
            Err(error) => self.report_bgp_error(&error),
        }
    }

    fn report_bgp_error(&self, error: &SpeakerError) {
        self.health.set_problems("bgp", self.speaker.problems());
        self.health.set("bgp", false, error.to_string());
    }

    /// Reads the passwords that sessions need; true if one has changed.
    pub(super) fn read_secrets(&mut self) -> bool {
        let wanted = margay_daemon::topology::secrets(&self.cluster.bgp);
        let found = secrets::read(&self.config.secrets_dir, &wanted);
        self.cluster.bgp.set_secrets(found)
    }

    /// Advertises this node's blocks, ranges and addresses of pods in no block, and what it serves of services. That a pool is not
    /// exported is for the sessions to say, after their filters.
    pub(super) async fn originate(&mut self) {
        let (ranges, single) = self.follow_ranges();
        let own_node = self.cluster.bgp.nodes.get(&self.config.node);
        let own = own_node.and_then(|node| node.spec.bgp.as_ref());
        let next_hop = |block: &IpNet| -> Option<IpAddr> {
            match block {
                IpNet::V4(_) => own?.ipv4_address.map(|net| net.addr().into()),
                IpNet::V6(_) => own?.ipv6_address.map(|net| net.addr().into()),
            }
        };
        let pools = self.cluster.bgp.pools_in_force();
        let in_force = |block: &IpNet| pools.iter().any(|pool| pool.spec.cidr.contains(block));
        let settings = self.cluster.bgp.settings();
        let priority = |block: &IpNet| {
            let given = settings.and_then(|spec| match block {
                IpNet::V4(_) => spec.ipv4_normal_route_priority,
                IpNet::V6(_) => spec.ipv6_normal_route_priority,
            });
            given.unwrap_or(NORMAL_PRIORITY)
        };
        // One that was lost to another node is that node's to advertise, whoever of ours still lives in it.
        let blocks =
            self.addresses.allocator().blocks().filter(|block| !self.is_others(block)).filter(in_force);
        // A range is announced whether a pool has it or not, as by Calico with USE_POD_CIDR; an address if a pool has it.
        let single: BTreeSet<IpNet> = single.into_iter().filter(in_force).collect();
        let blocks = blocks.chain(ranges).chain(single.iter().copied());
        let services = service_routes(&self.config.node, &self.cluster.bgp);
        let services = services.into_iter().filter(|route| next_hop(route).is_some());
        let routes = blocks
            .chain(services)
            .map(|block| {
                let mut route = Originated::new(block, next_hop(&block));
                route.local_pref = Some(preference(priority(&block)));
                for part in self.advertisements.iter().filter(|part| part.cidr.contains(&block)) {
                    route.communities.extend(&part.communities);
                    route.large_communities.extend(&part.large_communities);
                }
                route
            })
            .collect();
        // Before it is announced: reflectors tell no route of whom they do not know whose it is.
        let named = own_node.and_then(|own| with_pod_addresses(own, &single));
        if let Some(named) = named {
            self.write_own_node(named);
        }
        if let Err(error) = self.speaker.originate(routes).await {
            self.health.set("bgp", false, error.to_string());
        }
    }

    /// What is to be announced beside blocks; of a range what no pod has must not go back to where it came from.
    fn follow_ranges(&mut self) -> (BTreeSet<IpNet>, BTreeSet<IpNet>) {
        if !self.speaks_bgp() {
            return Default::default();
        }
        let (ranges, single) = self.beside_blocks();
        let name = |range: &IpNet| format!("podcidr-{}", margay_ipam::block_name(range));
        for range in self.own_ranges.difference(&ranges) {
            self.router.remove_block(&name(range));
        }
        for range in ranges.difference(&self.own_ranges) {
            self.router.set_own_range(&name(range), *range);
        }
        self.own_ranges.clone_from(&ranges);
        (ranges, single)
    }

    /// Takes what the speaker reports.
    pub(super) async fn on_bgp(&mut self, event: Event) {
        match event {
            Event::RouteChanges(changes) => {
                for change in changes {
                    self.router.set_bgp(BgpRoute {
                        prefix: change.prefix,
                        next_hops: change.next_hops.into_iter().map(next_hop).collect(),
                        stale: change.stale,
                    });
                }
                self.update_routes();
            }
            Event::NextHops(uses) => {
                let mut states = Vec::new();
                for one in uses {
                    if one.used {
                        let cost = self.router.cost(one.address);
                        self.next_hops.insert(one.address, cost);
                        states.push(NextHopState { address: one.address, cost });
                    } else {
                        self.next_hops.remove(&one.address);
                    }
                }
                self.tell_next_hops(states).await;
            }
            Event::InSync => {
                self.router.trust_bgp();
                self.update_routes();
            }
            Event::PeerChanged { .. } => self.report_sessions(),
            // What it means for routes comes as such.
            Event::BfdChanged { .. } => {}
        }
    }

    async fn tell_next_hops(&self, states: Vec<NextHopState>) {
        if states.is_empty() {
            return;
        }
        if let Err(error) = self.speaker.set_next_hops(states).await {
            self.health.set("bgp", false, error.to_string());
        }
    }

    /// Tells the speaker which next hops are nearer or farther than it was told.
    pub(super) async fn follow_next_hops(&mut self) {
        let mut changed = Vec::new();
        for (address, told) in &mut self.next_hops {
            let cost = self.router.cost(*address);
            if std::mem::replace(told, cost) != cost {
                changed.push(NextHopState { address: *address, cost });
            }
        }
        self.tell_next_hops(changed).await;
    }

    /// Says how many sessions are up. One is enough to be ready; none is wanted in a cluster of one.
    fn report_sessions(&self) {
        self.health.set_problems("bgp", self.speaker.problems());
        if let Some((up, all)) = self.speaker.sessions() {
            self.health.set("bgp", up > 0 || all == 0, format!("{up} of {all} sessions established"));
        }
    }

    /// The node's address, IPv4 first.
    pub(super) fn own_address(&self) -> Option<IpAddr> {
        self.cluster.bgp.nodes.get(&self.config.node).and_then(|node| node_addresses(node).next())
    }

    /// Problems of the forwarding side, beside those of the sessions.
    pub(super) fn report_route_problems(&self) {
        let problems = self.router.problems().into_iter();
        let problems = problems.map(|problem| Problem { object: problem.object, message: problem.message });
        self.health.set_problems("routes", problems.collect());
    }
}

fn next_hop(hop: ForwardingHop) -> NextHop {
    let link_local = hop.link_local.map(|(address, interface)| (address, interface.to_string()));
    NextHop { address: hop.address, link_local }
}
